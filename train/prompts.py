"""Prompts: a few wordings, one builder for training, evaluation and serving.

An item reads ``title, <soft separator>, <one fused token>``. The builder returns token ids in which the
two soft places hold codes instead of ids, so nothing that stands in a title can shift, add or remove one.

The ids are those of the whole text between two soft places, tokenised at once (:meth:`PromptBuilder.spell`),
but they are copied together from pieces that begin at a space: see `train.titles` for when that is exact,
and for what happens when it is not. In the chat form the question is the user's message, and around it stands
what the tokenizer's own template puts there (`train.chat`): titles alone give the very ids of the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.errors import RecipeError
from bundlecache.recipes import Prompt

from .chat import Frame, frame, letter_spellings
from .titles import Ending, read
from .tokens import ALPHABET, ANCHOR, Packed, Pieces, encode_control, encode_many, encode_text, letter_ids

SEPARATOR = -1
"""The code of a soft separator."""
ITEM = -2
"""``ITEM - r`` is the code of the fused token of item row r."""


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
    gap: str = ""  # in front of everything soft
    apart: bool = False  # texts between soft places are tokenised as if nothing stood before them

    def filled(self, words: Mapping[str, str]) -> Template:
        """The template with the words of the recipe; numbers and letters are still to come."""
        return replace(
            self, **{name: getattr(self, name).format(**words) for name in ("opening", "between", "closing")}
        )


# The wording of the paper's experiments, with the answer one space behind the colon.
PAPER = Template(
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
)
TEMPLATES = {
    "brief": Template("Bundle:", "", " {letter}", "", ";", "\nOptions:", "\nAnswer:"),
    "paper": PAPER,
    "chat": replace(PAPER, closing=PAPER.closing.removesuffix("\nChoice:")),
    # The public code's: a space in front of everything soft and of the answer, each text tokenised by itself.
    "public-code": replace(PAPER, closing=f"{PAPER.closing} ", gap=" ", apart=True),
}


@dataclass(frozen=True)
class Batch:
    """Prompts of b questions, right-padded. Codes below zero are soft places (see :data:`SEPARATOR`)."""

    ids: np.ndarray  # int64 [b, L]
    last: np.ndarray  # int64 [b]: position of the last token, behind which the answer stands
    items: np.ndarray  # int64 [u]: the item of each row, distinct


class PromptBuilder:
    """Builds prompts over one catalogue with one tokenizer.

    ``letters`` holds the answers' token ids, as many as the tokenizer has, ``at_least`` so many. ``cache`` is
    the folder in which titles' ids are kept; ``fresh`` says how many titles had to be tokenised.

    Raises
    ------
    RecipeError
        When the template is unknown or the tokenizer lacks a token for an option letter.
    """

    def __init__(
        self, tokenizer: Any, titles: Sequence[str], settings: Prompt, at_least: int = 2, cache: Path | None = None
    ) -> None:
        name = settings.template
        if name == "auto":
            name = "chat" if getattr(tokenizer, "chat_template", None) else "paper"
        if name not in TEMPLATES:
            raise RecipeError(f"There is no prompt template {name!r}; there are {', '.join(TEMPLATES)}, auto.")
        self.settings, self.tokenizer = settings, tokenizer
        self._frame = frame(tokenizer) if name == "chat" else Frame()
        spellings = letter_spellings(tokenizer, self._frame) if self._frame else None
        self.letters = letter_ids(tokenizer, at_least, spellings)  # [letters]
        self.items = len(titles)
        words = {"task": settings.task, "bundle": settings.bundle, "item": settings.item}
        self._wording = wording = TEMPLATES[name].filled(words)
        self._given_labels = [wording.given_label.format(number=k + 1) for k in range(settings.max_given)]
        self._option_labels = [wording.option_label.format(letter=letter) for letter in ALPHABET[: len(self.letters)]]
        self._bos = [] if self._frame or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._before = (settings.separator_words if settings.separator == "hard" else wording.pre_soft) + wording.gap
        self._soft = [SEPARATOR, ITEM] if settings.separator == "soft" else [ITEM]

        after = [wording.after_item, wording.after_item + wording.between, wording.after_item + wording.closing]
        ends = {"mm": [_at_space(self._before)] * 3, "text": [_at_space(text) for text in after]}
        texts = sorted({ending for pairs in ends.values() for ending, _ in pairs})
        rest = {ending: behind for pairs in ends.values() for ending, behind in pairs}
        label = self._option_labels[0]
        endings = [Ending(label, text, rest[text] + ("" if rest[text] else self._option_labels[1])) for text in texts]
        # The last title is no item's: with it the builder tries out whether pieces and whole texts agree.
        self.titles = read(tokenizer, [*titles, ANCHOR], endings, settings.max_title_tokens, cache)
        self.fresh = self.titles.fresh

        behind = [self._encode(after[0]), self._encode(after[1]), self._encode(after[2], last=True)]
        tails = {"mm": [[*encode_many(tokenizer, [ends["mm"][0][1]])[0], *self._soft, *ids] for ids in behind]}
        tails["text"] = [*encode_many(tokenizer, [text for _, text in ends["text"][:2]])]
        tails["text"] += encode_many(tokenizer, [ends["text"][2][1] + self._frame.tail], control=bool(self._frame))
        openings = [self._opened(wording.opening), self._opened(wording.opening + wording.between)]
        given, options = encode_many(tokenizer, self._given_labels), encode_many(tokenizer, self._option_labels)
        structure = Packed.of([*openings, *tails["mm"], *tails["text"], *given, *options])
        self._pieces = Pieces([structure, *(self.titles.ids[text] for text in texts)])
        self._tails = {"mm": np.arange(2, 5), "text": np.arange(5, 8)}
        self._given = np.arange(8, 8 + len(given))
        self._option = np.arange(8 + len(given), len(structure.length))
        first = {text: len(structure.length) + k * (self.items + 1) for k, text in enumerate(texts)}
        self._titles = {mode: np.array([first[ending] for ending, _ in pairs]) for mode, pairs in ends.items()}
        empty = np.array([text == "" for text in self.titles.shown.to_pylist()], bool)
        self._exact = self.titles.exact & ~empty & self._agrees()  # what begins at no space may melt into the left

    def _agrees(self) -> bool:
        """Whether pieces give the ids of the whole text, tried on the longest prompt and on the shortest."""
        longest = np.full(len(self._given), self.items), np.full(len(self._option), self.items)
        return all(
            np.array_equal(self._copied([given], [options], mode), self.spell(given, options, mode))
            for mode in self._tails
            for given, options in (longest, (longest[0][:0], longest[1]))
        )

    def _opened(self, text: str) -> list[int]:
        return [*self._bos, *self._encode(text, first=True)]

    def _encode(self, text: str, *, first: bool = False, last: bool = False) -> list[int]:
        """Ids of a text between two soft places; in the first and the last one stand the frame's control tokens."""
        control = bool(self._frame) and (first or last)
        text = (self._frame.head if first else "") + text + (self._frame.tail if last else "")
        how = encode_text if first or self._wording.apart else encode_many
        return how(self.tokenizer, [text], control=control)[0]

    def _parts(self, given: np.ndarray, options: np.ndarray, mode: str) -> Iterator[str | int]:
        """The prompt of one question as texts and, where something soft stands, codes; items as ``-2 - index``."""
        yield self._wording.opening
        for labels, items, after in (
            (self._given_labels, given, self._wording.between),
            (self._option_labels, options, self._wording.closing),
        ):
            for label, item in zip(labels, items.tolist(), strict=False):
                title = self.titles.shown[item].as_py()
                yield label + (f" {title}" if title else "")
                if mode == "mm":
                    yield self._before
                    yield from (code if code == SEPARATOR else ITEM - item for code in self._soft)
                yield self._wording.after_item
            yield after

    def spell(self, given: np.ndarray, options: np.ndarray, mode: str) -> np.ndarray:
        """int64 [L]: the prompt of one question, each text between soft places tokenised whole.

        This is what a prompt is; :meth:`build` gives the same ids, without tokenising where that is exact.
        """
        self._check(options)
        ids, text, first = list(self._bos), "", True
        for part in [*self._parts(given[: self.settings.max_given], options, mode), None]:
            if isinstance(part, str):
                text += part
                continue
            if text:
                ids += self._encode(text, first=first, last=part is None)
                text, first = "", False
            if part is not None:
                ids.append(part)
        return np.array(ids, np.int64)

    def _check(self, options: np.ndarray) -> None:
        if len(options) > len(self._option):
            raise RecipeError(
                f"A question has {len(options)} options, but this base model's tokenizer has letters for {len(self._option)}.",
                hint=f"ask at most {len(self._option)} options",
            )

    def _chain(self, given: np.ndarray, options: np.ndarray, mode: str) -> np.ndarray:
        """The pieces of one question, by number."""
        self._check(options)
        given = given[: self.settings.max_given]
        k, n = len(given), len(options)
        follow = np.zeros(k + n, np.int64)  # 0 between items, 1 behind the last one given, 2 behind the last option
        follow[k - 1 : k], follow[-1] = 1, 2
        chain = np.empty(1 + 3 * (k + n), np.int64)
        chain[0] = 0 if k else 1
        chain[1::3] = np.concatenate([self._given[:k], self._option[:n]])
        chain[2::3] = self._titles[mode][follow] + np.concatenate([given, options])
        chain[3::3] = self._tails[mode][follow]
        return chain

    def _copied(self, given: Sequence[np.ndarray], options: Sequence[np.ndarray], mode: str) -> np.ndarray:
        """The prompts of questions one after the other, copied from pieces."""
        chains = [self._chain(g, o, mode) for g, o in zip(given, options, strict=True)]
        flat = self._pieces.gather(np.concatenate(chains))
        if mode == "mm":
            shown = [part for g, o in zip(given, options, strict=True) for part in (g[: self.settings.max_given], o)]
            flat[flat == ITEM] -= np.concatenate(shown)
        return flat

    def _is_exact(self, given: np.ndarray, options: np.ndarray) -> bool:
        return bool(self._exact[given[: self.settings.max_given]].all() and self._exact[options].all())

    def lengths(self, given: Sequence[np.ndarray], options: Sequence[np.ndarray], mode: str) -> np.ndarray:
        """int64 [b]: tokens of each question's prompt."""
        return np.array([self._length(g, o, mode) for g, o in zip(given, options, strict=True)], np.int64)

    def _length(self, given: np.ndarray, options: np.ndarray, mode: str) -> int:
        if self._is_exact(given, options):
            return int(self._pieces.length[self._chain(given, options, mode)].sum())
        return len(self.spell(given, options, mode))

    def build(self, given: Sequence[np.ndarray], options: Sequence[np.ndarray], mode: str) -> Batch:
        """Prompts of b questions from the item indices of their partial bundles and options.

        ``mode`` is ``"mm"`` (titles and fused tokens) or ``"text"`` (titles only).
        """
        if all(self._is_exact(g, o) for g, o in zip(given, options, strict=True)):
            length, flat = self.lengths(given, options, mode), self._copied(given, options, mode)
        else:
            rows = [self.spell(g, o, mode) for g, o in zip(given, options, strict=True)]
            length, flat = np.array([len(row) for row in rows], np.int64), np.concatenate(rows)
        ids = np.zeros((len(length), int(length.max())), np.int64)  # causal attention never looks at the padding
        real = np.arange(ids.shape[1]) < length[:, None]  # [b, L]
        slots = flat <= ITEM
        items, row = np.unique(ITEM - flat[slots], return_inverse=True)
        flat[slots] = ITEM - row
        ids[real] = flat
        return Batch(ids, length - 1, items.astype(np.int64))


def full_stop(tokenizer: Any) -> int:
    """The token of the full stop behind an answer.

    Raises
    ------
    RecipeError
        When "A." is not a letter and a full stop.
    """
    (ids,) = encode_many(tokenizer, [" A."])
    if len(ids) != 2:
        raise RecipeError(
            f"The loss over letter and full stop needs two tokens for 'A.', but here it is {len(ids)}.",
            hint="--set run.loss=vocabulary",
        )
    return ids[1]


def _at_space(text: str) -> tuple[str, str]:
    """``text`` up to its first space, and the rest."""
    head, space, rest = text.partition(" ")
    return head, space + rest


def separator_ids(tokenizer: Any, settings: Prompt) -> list[int]:
    """Ids whose mean embedding starts the soft separator; empty when the recipe names none."""
    return encode_control(tokenizer, settings.separator_init) if settings.separator_init else []
