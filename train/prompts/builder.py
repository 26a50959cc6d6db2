"""Prompts: a few wordings, one builder for training, evaluation and serving.

An item reads ``title, <soft separator>, <one fused token>``. The builder returns token ids in which the
two soft places hold codes instead of ids, so nothing that stands in a title can shift, add or remove one.

The ids are those of the whole text between two soft places, tokenised at once (:meth:`PromptBuilder.spell`),
but they are copied together from pieces that begin at a space: see `bundlecache.train.prompts.titles` for when that is exact,
and for what happens when it is not. In the chat form the question is the user's message, and around it stands
what the tokenizer's own template puts there (`bundlecache.train.prompts.chat`): titles alone give the very ids of the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.errors import RecipeError
from bundlecache.recipes.settings import Prompt

from .chat import Frame, frame, letter_spellings
from .titles import Ending, read
from .tokens import ALPHABET, ANCHOR, Packed, Pieces, encode_control, encode_many, encode_text, letter_ids

SEPARATOR = -1
"""The code of a soft separator."""
ITEM = -2
"""``ITEM - r`` is the code of the fused token of item row r."""
LAST = 2
"""Of what may follow an item, that which ends the prompt."""
NOTHING = np.zeros(0, np.int64)
"""The history of a user who took nothing."""


@dataclass(frozen=True)
class Template:
    """The pieces of a prompt, in order; ``{number}``, ``{letter}`` and the words of the recipe are filled in."""

    opening: str
    history: str  # the opening where the user's history is told first
    turn: str  # from there to the partial bundle
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
            self,
            **{
                name: getattr(self, name).format(**words)
                for name in ("opening", "history", "turn", "between", "closing")
            },
        )


# The wording of the paper's experiments, with the answer one space behind the colon. The user's history is ours.
_TASK = (
    "You are a helpful and honest assistant. The following are multiple choice questions about {task}."
    " You should directly answer the question by choosing the letter of the correct option. Only provide the"
    " letter of your answer, without any explanation or mentioning the option content. Question:"
)
_GIVEN = " Given the partial {bundle}:"
PAPER = Template(
    opening=_TASK + _GIVEN,
    history=f"{_TASK} The user's history, latest last:",
    turn=_GIVEN,
    given_label=" {number}.",
    option_label=" {letter}.",
    pre_soft=",",
    after_item=";",
    between=" , which candidate {item} should be included into this {bundle}?\nOptions:",
    closing=" \nYour answer should indicate your choice with a single letter (e.g., “A,” “B,” “C,” etc.).\nChoice:",
)
TEMPLATES = {
    "brief": Template("Bundle:", "History:", "\nBundle:", "", " {letter}", "", ";", "\nOptions:", "\nAnswer:"),
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
        numbers = range(1, max(settings.max_given, settings.history) + 1)
        self._given_labels = [wording.given_label.format(number=k) for k in numbers]
        self._option_labels = [wording.option_label.format(letter=letter) for letter in ALPHABET[: len(self.letters)]]
        self._bos = [] if self._frame or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._before = (settings.separator_words if settings.separator == "hard" else wording.pre_soft) + wording.gap
        self._soft = [SEPARATOR, ITEM] if settings.separator == "soft" else [ITEM]

        between, closing = wording.between, wording.closing
        tellings = ["", between, closing, *([wording.turn, wording.turn + between] if settings.history else [])]
        after = [wording.after_item + text for text in tellings]  # see `_chain`
        ends = {"mm": [_at_space(self._before)] * len(after), "text": [_at_space(text) for text in after]}
        texts = sorted({ending for pairs in ends.values() for ending, _ in pairs})
        rest = {ending: behind for pairs in ends.values() for ending, behind in pairs}
        label = self._option_labels[0]
        endings = [Ending(label, text, rest[text] + ("" if rest[text] else self._option_labels[1])) for text in texts]
        # The last title is no item's: with it the builder tries out whether pieces and whole texts agree.
        self.titles = read(tokenizer, [*titles, ANCHOR], endings, settings.max_title_tokens, cache)
        self.fresh = self.titles.fresh

        behind = [self._encode(text, last=k == LAST) for k, text in enumerate(after)]
        tails = {"mm": [[*encode_many(tokenizer, [ends["mm"][0][1]])[0], *self._soft, *ids] for ids in behind]}
        tails["text"] = encode_many(tokenizer, [text for _, text in ends["text"]])
        tails["text"][LAST] = encode_many(
            tokenizer, [ends["text"][LAST][1] + self._frame.tail], control=bool(self._frame)
        )[0]
        openings = [wording.opening, wording.opening + between, *([wording.history] if settings.history else [])]
        labels = [encode_many(tokenizer, texts) for texts in (self._given_labels, self._option_labels)]
        lists = [[self._opened(text) for text in openings], tails["mm"], tails["text"], *labels]
        structure = Packed.of([ids for some in lists for ids in some])
        self._pieces = Pieces([structure, *(self.titles.ids[text] for text in texts)])
        places = np.split(np.arange(len(structure.length)), np.cumsum([len(some) for some in lists])[:-1])
        _, mm, text, self._given, self._option = places
        self._tails = {"mm": mm, "text": text}
        first = {text: len(structure.length) + k * (self.items + 1) for k, text in enumerate(texts)}
        self._titles = {mode: np.array([first[ending] for ending, _ in pairs]) for mode, pairs in ends.items()}
        empty = np.array([text == "" for text in self.titles.shown.to_pylist()], bool)
        self._exact = self.titles.exact & ~empty & self._agrees()  # what begins at no space may melt into the left

    def _agrees(self) -> bool:
        """Whether pieces give the ids of the whole text, tried on the longest prompts and on the shortest."""
        given, options = np.full(self.settings.max_given, self.items), np.full(len(self._option), self.items)
        taken = np.full(self.settings.history, self.items)
        cases = {(len(t), len(g)): (t, g) for t in (taken, taken[:0]) for g in (given, given[:0])}
        return all(
            np.array_equal(self._copied([t], [g], [options], mode), self.spell(g, options, mode, t))
            for mode in self._tails
            for t, g in cases.values()
        )

    def _opened(self, text: str) -> list[int]:
        return [*self._bos, *self._encode(text, first=True)]

    def _encode(self, text: str, *, first: bool = False, last: bool = False) -> list[int]:
        """Ids of a text between two soft places; in the first and the last one stand the frame's control tokens."""
        control = bool(self._frame) and (first or last)
        text = (self._frame.head if first else "") + text + (self._frame.tail if last else "")
        how = encode_text if first or self._wording.apart else encode_many
        return how(self.tokenizer, [text], control=control)[0]

    def _parts(self, taken: np.ndarray, given: np.ndarray, options: np.ndarray, mode: str) -> Iterator[str | int]:
        """The prompt of one question as texts and, where something soft stands, codes; items as ``-2 - index``."""
        wording = self._wording
        yield wording.history if len(taken) else wording.opening
        for labels, items, after in (
            (self._given_labels, taken, wording.turn if len(taken) else ""),
            (self._given_labels, given, wording.between),
            (self._option_labels, options, wording.closing),
        ):
            for label, item in zip(labels, items.tolist(), strict=False):
                title = self.titles.shown[item].as_py()
                yield label + (f" {title}" if title else "")
                if mode == "mm":
                    yield self._before
                    yield from (code if code == SEPARATOR else ITEM - item for code in self._soft)
                yield wording.after_item
            yield after

    def spell(self, given: np.ndarray, options: np.ndarray, mode: str, taken: np.ndarray = NOTHING) -> np.ndarray:
        """int64 [L]: the prompt of one question, each text between soft places tokenised whole.

        This is what a prompt is; :meth:`build` gives the same ids, without tokenising where that is exact.
        """
        self._check(options)
        ids, text, first = list(self._bos), "", True
        for part in [*self._parts(*self._cut(taken, given), options, mode), None]:
            if isinstance(part, str):
                text += part
                continue
            if text:
                ids += self._encode(text, first=first, last=part is None)
                text, first = "", False
            if part is not None:
                ids.append(part)
        return np.array(ids, np.int64)

    def _cut(self, taken: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The latest of a history, and the first of a partial bundle."""
        return taken[max(0, len(taken) - self.settings.history) :], given[: self.settings.max_given]

    def _check(self, options: np.ndarray) -> None:
        if len(options) > len(self._option):
            raise RecipeError(
                f"A question has {len(options)} options, but this base model's tokenizer has letters for {len(self._option)}.",
                hint=f"ask at most {len(self._option)} options",
            )

    def _chain(self, taken: np.ndarray, given: np.ndarray, options: np.ndarray, mode: str) -> np.ndarray:
        """The pieces of one question, by number."""
        self._check(options)
        taken, given = self._cut(taken, given)
        t, k, n = len(taken), len(given), len(options)
        follow = np.zeros(t + k + n, np.int64)  # between items; then behind the last one of each kind
        if t:
            follow[t - 1] = 3 if k else 4
        if k:
            follow[t + k - 1] = 1
        follow[-1] = LAST
        chain = np.empty(1 + 3 * len(follow), np.int64)
        chain[0] = 2 if t else 0 if k else 1
        chain[1::3] = np.concatenate([self._given[:t], self._given[:k], self._option[:n]])
        chain[2::3] = self._titles[mode][follow] + np.concatenate([taken, given, options])
        chain[3::3] = self._tails[mode][follow]
        return chain

    def _copied(
        self,
        taken: Sequence[np.ndarray],
        given: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
    ) -> np.ndarray:
        """The prompts of questions one after the other, copied from pieces."""
        asked = list(zip(taken, given, options, strict=True))
        flat = self._pieces.gather(np.concatenate([self._chain(*each, mode) for each in asked]))
        if mode == "mm":
            shown = [part for t, g, o in asked for part in (*self._cut(t, g), o)]
            flat[flat == ITEM] -= np.concatenate(shown)
        return flat

    def _is_exact(self, taken: np.ndarray, given: np.ndarray, options: np.ndarray) -> bool:
        return all(self._exact[items].all() for items in (*self._cut(taken, given), options))

    def lengths(
        self,
        given: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        taken: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """int64 [b]: tokens of each question's prompt."""
        asked = zip(_or_nothing(taken, given), given, options, strict=True)
        return np.array([self._length(*each, mode) for each in asked], np.int64)

    def _length(self, taken: np.ndarray, given: np.ndarray, options: np.ndarray, mode: str) -> int:
        if self._is_exact(taken, given, options):
            return int(self._pieces.length[self._chain(taken, given, options, mode)].sum())
        return len(self.spell(given, options, mode, taken))

    def build(
        self,
        given: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        taken: Sequence[np.ndarray] | None = None,
    ) -> Batch:
        """Prompts of b questions from the item indices of their partial bundles and options.

        ``mode`` is ``"mm"`` (titles and fused tokens) or ``"text"`` (titles only). ``taken`` are the histories of
        the users, latest last; of each the latest ``prompt.history`` items are told.
        """
        taken = _or_nothing(taken, given)
        asked = list(zip(taken, given, options, strict=True))
        if all(self._is_exact(*each) for each in asked):
            length, flat = self.lengths(given, options, mode, taken), self._copied(taken, given, options, mode)
        else:
            rows = [self.spell(g, o, mode, t) for t, g, o in asked]
            length, flat = np.array([len(row) for row in rows], np.int64), np.concatenate(rows)
        ids = np.zeros((len(length), int(length.max())), np.int64)  # causal attention never looks at the padding
        real = np.arange(ids.shape[1]) < length[:, None]  # [b, L]
        slots = flat <= ITEM
        items, row = np.unique(ITEM - flat[slots], return_inverse=True)
        flat[slots] = ITEM - row
        ids[real] = flat
        return Batch(ids, length - 1, items.astype(np.int64))


def _or_nothing(taken: Sequence[np.ndarray] | None, given: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    return [NOTHING] * len(given) if taken is None else taken


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
