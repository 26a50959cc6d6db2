"""Builds prompts as token ids: one builder for training, evaluation and serving.

An item reads ``title, <soft separator>, <one fused token>``. The builder returns token ids in which the two soft places
hold codes below zero instead of ids, so that no title can shift, add or remove one.

The ids are those of the whole text between two soft places, tokenised at once (`PromptBuilder.spell`). They are copied
together from tokenised pieces that begin at a space where that gives the same ids: `bundlecache.train.prompts.titles`
says when. In the chat form the question is the user's message, and around it stands what the tokenizer's own template
puts there (`bundlecache.train.prompts.chat`).

Notation: b questions in a batch, L tokens of a prompt, u distinct items of a batch. Items are indices into the catalogue.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundlecache.errors import RecipeError
from bundlecache.recipes.settings import Prompt

from .chat import Frame, frame, letter_spellings
from .templates import template_name, template_of
from .title_tokens import Ending
from .titles import extended, read_titles
from .tokens import ALPHABET, ANCHOR, Packed, Pieces, encode_many, encode_text, letter_ids, padded

SEPARATOR = -1
"""The code of a soft separator."""
ITEM = -2
"""``ITEM - r`` is the code of the fused token of item row r."""
SHOWN_SEPARATOR, SHOWN_ITEM = "⟨separator⟩", "⟨item⟩"
"""What `PromptBuilder.text_of` shows in the place of a soft separator and of a fused token."""
NO_ITEMS = np.zeros(0, np.int64)
"""The history of a user who took nothing, or of a prompt that contains none."""
BETWEEN, AFTER_PARTIAL, CLOSING, AFTER_HISTORY, AFTER_HISTORY_ALONE = range(5)
"""What follows an item: another one of its list, the options, the end, the partial bundle, or the options at once."""


@dataclass(frozen=True)
class Batch:
    """Prompts of b questions, right-padded. Codes below zero are soft places (see :data:`SEPARATOR`)."""

    ids: np.ndarray  # int64 [b, L]
    last: np.ndarray  # int64 [b]: position of the last token, behind which the answer stands
    items: np.ndarray  # int64 [u]: the item of each row, distinct
    features: np.ndarray | None = None  # float32 [b, n, f] of the options, where the model reads some beside the prompt


class PromptBuilder:
    """Builds prompts over one catalogue's titles [I] with one tokenizer.

    Parameters
    ----------
    at_least
        How many option letters are needed.
    cache
        The folder in which the ids of titles are kept.
    progress
        ``progress(done, of)`` is called while titles are tokenised.
    form
        The answer form (`bundlecache.train.answers`): prompts of another form than letters ask otherwise.

    Attributes
    ----------
    template
        The name of the wording, ``auto`` resolved.
    letters
        int64 [letters]: the token ids of the answers, as many as the tokenizer has; none in other forms than letters.
    fresh
        How many titles had to be tokenised, because the cache did not hold them.

    Raises
    ------
    RecipeError
        When the template is unknown or the tokenizer lacks a token for an option letter.
    """

    def __init__(
        self,
        tokenizer: Any,
        titles: Sequence[str],
        settings: Prompt,
        at_least: int = 2,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        form: str = "letters",
    ) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.template = template_name(settings.template, tokenizer)
        self._frame = frame(tokenizer) if self.template == "chat" else Frame()
        self.letters = self._letters(at_least) if form == "letters" else np.zeros(0, np.int64)
        self.items = len(titles)
        words = {"task": settings.task, "bundle": settings.bundle, "item": settings.item}
        self._wording = wording = template_of(self.template, form).filled(words)
        numbers = range(1, max(settings.max_given, settings.history) + 1)
        self._number_labels = [wording.partial_label.format(number=k) for k in numbers]
        letters = ALPHABET[: max(2, len(self.letters))]
        self._option_labels = [wording.option_label.format(letter=letter) for letter in letters]
        self._bos = [] if self._frame or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        hard = settings.separator == "hard"
        self._before_soft = (settings.separator_words if hard else wording.before_soft) + wording.soft_space
        self._soft = [SEPARATOR, ITEM] if settings.separator == "soft" else [ITEM]
        self._tokenise_pieces(titles, cache, progress)

    def _letters(self, at_least: int) -> np.ndarray:
        spellings = letter_spellings(self.tokenizer, self._frame) if self._frame else None
        return letter_ids(self.tokenizer, at_least, spellings)

    def with_titles(self, titles: Sequence[str]) -> PromptBuilder:
        """The same builder over more items, behind those of the catalogue; prompts with them are tokenised whole."""
        made = copy.copy(self)
        more = self._as_read(titles).to_pylist()
        made.titles = extended(self.titles, self.items, self.tokenizer, more, self.settings.max_title_tokens)
        made._exact = np.concatenate([self._exact[: self.items], np.zeros(len(titles), bool)])
        return made

    def _as_read(self, titles: Sequence[str]) -> pa.Array:
        """The titles as Arrow strings; by `prompt.small_letters`, those in capitals alone in small letters."""
        given = pa.array(titles, pa.string())
        if not self.settings.small_letters:
            return given
        return pc.if_else(pc.equal(pc.utf8_upper(given), given), pc.utf8_capitalize(given), given)

    def _tokenise_pieces(
        self, titles: Sequence[str], cache: Path | None, progress: Callable[[int, int], None] | None
    ) -> None:
        """Tokenise everything that prompts are copied from, each piece from one space to another.

        Of an item the pieces are its label, its title up to the first space of what follows it (its ending), and a tail:
        the rest, soft places included. What follows an item is one of BETWEEN, AFTER_PARTIAL, ...
        """
        wording, encode = self._wording, functools.partial(encode_many, self.tokenizer)
        texts = ["", wording.after_partial, wording.closing]
        if self.settings.history:
            texts += [wording.after_history, wording.after_history + wording.after_partial]
        after = [wording.after_item + text for text in texts]
        splits = {"mm": [_at_space(self._before_soft)] * len(after), "text": [_at_space(text) for text in after]}
        rest = {ending: tail for pairs in splits.values() for ending, tail in pairs}
        label, next_label = self._option_labels[:2]
        endings = [Ending(label, ending, rest[ending] or next_label) for ending in sorted(rest)]
        # The last title is no item's: with it the builder tries out whether pieces and whole texts agree.
        given = pa.concat_arrays([self._as_read(titles), pa.array([ANCHOR])])
        self.titles = read_titles(self.tokenizer, given, endings, self.settings.max_title_tokens, cache, progress)
        self.fresh = self.titles.fresh

        behind_soft = [self._encode(text, last=k == CLOSING) for k, text in enumerate(after)]
        before_soft = [*encode([splits["mm"][0][1]])[0], *self._soft]
        tails = {"mm": [before_soft + ids for ids in behind_soft], "text": encode([tail for _, tail in splits["text"]])}
        last = splits["text"][CLOSING][1] + self._frame.tail
        tails["text"][CLOSING] = encode([last], control=bool(self._frame))[0]
        openings = [wording.opening, wording.opening + wording.after_partial]
        openings += [wording.opening_with_history] if self.settings.history else []
        lists = [
            [[*self._bos, *self._encode(text, first=True)] for text in openings],
            tails["mm"],
            tails["text"],
            encode(self._number_labels),
            encode(self._option_labels),
        ]
        structure = Packed.of([ids for some in lists for ids in some])
        count = len(structure)
        self._pieces = Pieces([structure, *(self.titles.ids[ending.text] for ending in endings)])
        numbers = np.split(np.arange(count), np.cumsum([len(some) for some in lists])[:-1])
        _, mm, text, self._number_pieces, self._option_pieces = numbers
        self._tails = {"mm": mm, "text": text}  # by what follows
        first = {ending.text: count + k * (self.items + 1) for k, ending in enumerate(endings)}
        self._titles = {mode: np.array([first[ending] for ending, _ in pairs]) for mode, pairs in splits.items()}
        empty = pc.equal(pc.binary_length(self.titles.shown), 0).to_numpy(zero_copy_only=False)
        self._exact = self.titles.exact & ~empty & self._agrees()  # what begins at no space may melt into the left

    def _agrees(self) -> bool:
        """Whether pieces give the ids of the whole text, tried on the longest prompts and on the shortest."""
        partial, options = np.full(self.settings.max_given, self.items), np.full(len(self._option_pieces), self.items)
        history = np.full(self.settings.history, self.items)
        cases = {(len(h), len(p)): (h, p) for h in (history, history[:0]) for p in (partial, partial[:0])}
        return all(
            np.array_equal(self._copied([h], [p], [options], mode), self.spell(p, options, mode, h))
            for mode in self._tails
            for h, p in cases.values()
        )

    def _encode(self, text: str, *, first: bool = False, last: bool = False) -> list[int]:
        """Ids of a text between two soft places; in the first and the last one stand the frame's control tokens."""
        control = bool(self._frame) and (first or last)
        text = (self._frame.head if first else "") + text + (self._frame.tail if last else "")
        how = encode_text if first or self._wording.separate_segments else encode_many
        return how(self.tokenizer, [text], control=control)[0]

    def _parts(self, history: np.ndarray, partial: np.ndarray, options: np.ndarray, mode: str) -> Iterator[str | int]:
        """The prompt of one question as texts and, where something soft stands, codes; items as ``-2 - index``."""
        yield from self._parts_before_options(history, partial, mode)
        for label, item in zip(self._option_labels, options.tolist(), strict=False):
            yield label
            yield from self._parts_of_item(item, mode)
        yield self._wording.closing

    def _parts_before_options(self, history: np.ndarray, partial: np.ndarray, mode: str) -> Iterator[str | int]:
        wording = self._wording
        yield wording.opening_with_history if len(history) else wording.opening
        for items, after in (
            (history, wording.after_history if len(history) else ""),
            (partial, wording.after_partial),
        ):
            for label, item in zip(self._number_labels, items.tolist(), strict=False):
                yield label
                yield from self._parts_of_item(item, mode)
            yield after

    def _parts_of_item(self, item: int, mode: str) -> Iterator[str | int]:
        title = self.titles.shown[item].as_py()
        yield f" {title}" if title else ""
        if mode == "mm":
            yield self._before_soft
            yield from (code if code == SEPARATOR else ITEM - item for code in self._soft)
        yield self._wording.after_item

    def spell(self, partial: np.ndarray, options: np.ndarray, mode: str, history: np.ndarray = NO_ITEMS) -> np.ndarray:
        """int64 [L]: the prompt of one question, each text between soft places tokenised whole.

        This is what a prompt is; :meth:`build` gives the same ids, without tokenising where that is exact.
        """
        self._check(options)
        return self._spelled(self._parts(*self._cut(history, partial), options, mode))

    def _spelled(self, parts: Iterable[str | int], *, whole: bool = True) -> np.ndarray:
        """int64 [L]: ids of texts and codes from the beginning of a prompt, up to its end if it is ``whole``."""
        ids, text, first = list(self._bos), "", True
        for part in [*parts, None]:
            if isinstance(part, str):
                text += part
                continue
            if text:
                ids += self._encode(text, first=first, last=whole and part is None)
                text, first = "", False
            if part is not None:
                ids.append(part)
        return np.array(ids, np.int64)

    def _cut(self, history: np.ndarray, partial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The latest of a history, and the first of a partial bundle."""
        return history[max(0, len(history) - self.settings.history) :], partial[: self.settings.max_given]

    def _check(self, options: np.ndarray) -> None:
        if len(options) > len(self._option_pieces):
            raise RecipeError(
                f"A question has {len(options)} options, but this base model's tokenizer has letters for {len(self._option_pieces)}.",
                hint=f"ask at most {len(self._option_pieces)} options",
            )

    def text_of(self, partial: np.ndarray, options: np.ndarray, mode: str, history: np.ndarray = NO_ITEMS) -> str:
        """The prompt of one question as text, titles cut as the model reads them.

        `SHOWN_SEPARATOR` and `SHOWN_ITEM` stand in the soft places. In the chat form the text of the model's own
        template stands around it; a begin-of-sequence token is not shown.
        """
        self._check(options)
        parts = self._parts(*self._cut(history, partial), options, mode)
        return self._frame.head + shown_text(parts) + self._frame.tail

    def _chain(self, history: np.ndarray, partial: np.ndarray, options: np.ndarray, mode: str) -> np.ndarray:
        """int64 [c]: the numbers of the pieces that one question is copied from."""
        self._check(options)
        history, partial = self._cut(history, partial)
        h, p, n = len(history), len(partial), len(options)
        follow = np.full(h + p + n, BETWEEN)  # what follows each item
        if h:
            follow[h - 1] = AFTER_HISTORY if p else AFTER_HISTORY_ALONE
        if p:
            follow[h + p - 1] = AFTER_PARTIAL
        follow[-1] = CLOSING
        chain = np.empty(1 + 3 * len(follow), np.int64)
        chain[0] = 2 if h else 0 if p else 1  # the opening
        chain[1::3] = np.concatenate([self._number_pieces[:h], self._number_pieces[:p], self._option_pieces[:n]])
        chain[2::3] = self._titles[mode][follow] + np.concatenate([history, partial, options])
        chain[3::3] = self._tails[mode][follow]
        return chain

    def _copied(
        self,
        history: Sequence[np.ndarray],
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
    ) -> np.ndarray:
        """The prompts of questions one after the other, copied from pieces."""
        asked = list(zip(history, partial, options, strict=True))
        flat = self._pieces.gather(np.concatenate([self._chain(*each, mode) for each in asked]))
        if mode == "mm":
            shown = [part for h, p, o in asked for part in (*self._cut(h, p), o)]
            flat[flat == ITEM] -= np.concatenate(shown)
        return flat

    def _is_exact(self, history: np.ndarray, partial: np.ndarray, options: np.ndarray) -> bool:
        return all(self._exact[items].all() for items in (*self._cut(history, partial), options))

    def lengths(
        self,
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        history: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """int64 [b]: tokens of each question's prompt."""
        asked = zip(or_no_items(history, partial), partial, options, strict=True)
        return np.array([self._length(*each, mode) for each in asked], np.int64)

    def _length(self, history: np.ndarray, partial: np.ndarray, options: np.ndarray, mode: str) -> int:
        if self._is_exact(history, partial, options):
            return int(self._pieces.lengths(self._chain(history, partial, options, mode)).sum())
        return len(self.spell(partial, options, mode, history))

    def build(
        self,
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        history: Sequence[np.ndarray] | None = None,
    ) -> Batch:
        """Prompts of b questions from the item indices of their partial bundles and options.

        ``mode`` is ``"mm"`` (titles and fused tokens) or ``"text"`` (titles only). ``history`` are the histories of
        the users, latest last; the prompt contains the latest ``prompt.history`` items of each.
        """
        history = or_no_items(history, partial)
        asked = list(zip(history, partial, options, strict=True))
        if all(self._is_exact(*each) for each in asked):
            length, flat = self.lengths(partial, options, mode, history), self._copied(history, partial, options, mode)
        else:
            rows = [self.spell(p, o, mode, h) for h, p, o in asked]
            length, flat = np.array([len(row) for row in rows], np.int64), np.concatenate(rows)
        flat, items = number_items(flat)
        return Batch(padded(flat, length), length - 1, items)  # causal attention never looks at the padding


def number_items(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``flat`` with the codes of rows of distinct items in the place of those of items, and these items [u]."""
    slots, flat = flat <= ITEM, flat.copy()
    items, row = np.unique(ITEM - flat[slots], return_inverse=True)
    flat[slots] = ITEM - row
    return flat, items.astype(np.int64)


def shown_text(parts: Iterable[str | int]) -> str:
    """Texts and codes as text: `SHOWN_SEPARATOR` and `SHOWN_ITEM` stand in the soft places."""
    return "".join(
        part if isinstance(part, str) else SHOWN_SEPARATOR if part == SEPARATOR else SHOWN_ITEM for part in parts
    )


def or_no_items(history: Sequence[np.ndarray] | None, partial: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """``history``, or that of users who took nothing."""
    return [NO_ITEMS] * len(partial) if history is None else history


def _at_space(text: str) -> tuple[str, str]:
    """``text`` up to its first space, and the rest."""
    head, space, rest = text.partition(" ")
    return head, space + rest
