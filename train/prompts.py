"""Prompts: two templates, one builder for training, evaluation and serving.

An item reads ``title, <soft separator>, <one fused token>``. The builder returns token ids in which the
two soft places hold codes instead of ids, so nothing that stands in a title can shift, add or remove one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundlecache.errors import RecipeError
from bundlecache.recipes import Prompt

from .tokens import ALPHABET, Packed, clean, encode_control, encode_many, letter_ids, reserved

SEPARATOR = -1
"""The code of a soft separator; ``-2 - r`` is the fused token of item row r."""


@dataclass(frozen=True)
class Template:
    """The pieces of a prompt, in order; ``{number}``, ``{letter}`` and the words of the recipe are filled in."""

    opening: str
    given_label: str
    option_label: str
    pre_soft: str  # between title and separator, only where a fused token follows
    after_item: str
    between: str
    closing: str


TEMPLATES = {
    "brief": Template("Bundle:", "", " {letter}", "", ";", "\nOptions:", "\nAnswer:"),
    # The wording of the paper's experiments, with the answer one space behind the colon.
    "paper": Template(
        opening="You are a helpful and honest assistant. The following are multiple choice questions about {task}."
        " You should directly answer the question by choosing the letter of the correct option. Only provide the"
        " letter of your answer, without any explanation or mentioning the option content. Question: Given the"
        " partial {bundle}:",
        given_label=" {number}.",
        option_label=" {letter}.",
        pre_soft=",",
        after_item=";",
        between=" , which candidate {item} should be included into this {bundle}?\nOptions:",
        closing=" \nYour answer should indicate your choice with a single letter (e.g., “A,” “B,” “C,” etc.).\nChoice:",
    ),
}


@dataclass(frozen=True)
class Batch:
    """Prompts of b questions, right-padded. Codes below zero are soft places (see :data:`SEPARATOR`)."""

    ids: np.ndarray  # int64 [b, L]
    last: np.ndarray  # int64 [b]: position of the last token, behind which the answer stands
    items: np.ndarray  # int64 [u]: the item of each row, distinct


class PromptBuilder:
    """Builds prompts over one catalogue with one tokenizer.

    ``letters`` holds the answers' token ids, as many as the tokenizer has, ``at_least`` so many.

    Raises
    ------
    RecipeError
        When the template is unknown or the tokenizer lacks a token for an option letter.
    """

    def __init__(self, tokenizer: Any, titles: Sequence[str], settings: Prompt, at_least: int = 2) -> None:
        if settings.template not in TEMPLATES:
            raise RecipeError(f"There is no prompt template {settings.template!r}; there are {', '.join(TEMPLATES)}.")
        self.settings = settings
        self.letters = letter_ids(tokenizer, at_least)  # [letters]
        self.items = len(titles)
        words = {"task": settings.task, "bundle": settings.bundle, "item": settings.item}
        template = TEMPLATES[settings.template]
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        opening = tokenizer([template.opening.format(**words)], add_special_tokens=False)["input_ids"][0]
        between, closing = encode_many(tokenizer, [p.format(**words) for p in (template.between, template.closing)])
        given = encode_many(tokenizer, [template.given_label.format(number=k + 1) for k in range(settings.max_given)])
        options = encode_many(
            tokenizer, [template.option_label.format(letter=letter) for letter in ALPHABET[: len(self.letters)]]
        )
        before, after, hard = encode_many(tokenizer, [template.pre_soft, template.after_item, settings.separator_words])
        control = reserved(tokenizer)
        plain = [clean(title, control) for title in titles]
        title_ids = encode_many(tokenizer, [f" {t}" if t else "" for t in plain], settings.max_title_tokens)
        between_title_and_token = {"soft": [*before, SEPARATOR], "hard": hard, "none": before}[settings.separator]
        parts = [[*bos, *opening], between, closing, *given, *options]
        self._pools = {
            "mm": Packed.of([[*t, *between_title_and_token, -2 - i, *after] for i, t in enumerate(title_ids)] + parts),
            "text": Packed.of([[*t, *after] for t in title_ids] + parts),
        }  # list i < I is an item, then come opening, between, closing and the labels
        self._opening, self._between, self._closing = range(self.items, self.items + 3)
        self._given = np.arange(self.items + 3, self.items + 3 + len(given))
        self._option = np.arange(self.items + 3 + len(given), self.items + 3 + len(given) + len(options))

    def _chain(self, given: np.ndarray, options: np.ndarray) -> np.ndarray:
        """The pieces of one question, as rows of the pool."""
        given = given[: self.settings.max_given]
        k, n = len(given), len(options)
        if n > len(self._option):
            raise RecipeError(
                f"A question has {n} options, but this base model's tokenizer has letters for {len(self._option)}.",
                hint=f"ask at most {len(self._option)} options",
            )
        chain = np.empty(3 + 2 * (k + n), np.int64)
        chain[0], chain[1 + 2 * k], chain[-1] = self._opening, self._between, self._closing
        chain[1 : 1 + 2 * k : 2], chain[2 : 2 + 2 * k : 2] = self._given[:k], given
        chain[2 + 2 * k : -1 : 2], chain[3 + 2 * k : -1 : 2] = self._option[:n], options
        return chain

    def lengths(self, given: Sequence[np.ndarray], options: Sequence[np.ndarray], mode: str) -> np.ndarray:
        """int64 [b]: tokens of each question's prompt."""
        length = self._pools[mode].length
        return np.array([length[self._chain(g, o)].sum() for g, o in zip(given, options, strict=True)], np.int64)

    def build(self, given: Sequence[np.ndarray], options: Sequence[np.ndarray], mode: str) -> Batch:
        """Prompts of b questions from the item indices of their partial bundles and options.

        ``mode`` is ``"mm"`` (titles and fused tokens) or ``"text"`` (titles only).
        """
        pool = self._pools[mode]
        chains = [self._chain(g, o) for g, o in zip(given, options, strict=True)]
        flat = pool.gather(np.concatenate(chains))
        length = np.array([pool.length[chain].sum() for chain in chains], np.int64)  # [b]
        ids = np.zeros((len(chains), int(length.max())), np.int64)  # causal attention never looks at the padding
        real = np.arange(ids.shape[1]) < length[:, None]  # [b, L]
        slots = flat <= -2
        items, row = np.unique(-2 - flat[slots], return_inverse=True)
        flat = flat.astype(np.int64)
        flat[slots] = -2 - row
        ids[real] = flat
        return Batch(ids, length - 1, items.astype(np.int64))


def separator_ids(tokenizer: Any, settings: Prompt) -> list[int]:
    """Ids whose mean embedding starts the soft separator; empty when the recipe names none."""
    return encode_control(tokenizer, settings.separator_init) if settings.separator_init else []
