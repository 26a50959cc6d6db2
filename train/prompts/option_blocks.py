"""Prompts whose options are texts of their own behind one common beginning, for all answer forms but letters.

A prompt is a *prefix* (the wording, the user's history, the partial bundle) and, for each option, a *block* of tokens that
continues it. No block follows another one: all begin at the same position, so options have neither labels nor an order.

Notation: b questions in a batch, n options, L tokens of a prefix, t tokens of a question's blocks, u distinct items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.errors import RecipeError
from bundlecache.recipes.settings import Prompt

from .builder import (
    AFTER_HISTORY,
    AFTER_HISTORY_ALONE,
    AFTER_PARTIAL,
    BETWEEN,
    CLOSING,
    ITEM,
    NO_ITEMS,
    PromptBuilder,
    number_items,
    or_no_items,
    shown_text,
)
from .chat import Frame, letter_spellings
from .tokens import encode_many, padded


@dataclass(frozen=True)
class OptionBlocks:
    """Prompts of b questions with n options each, right-padded. Codes below zero are soft places, as in `Batch`."""

    prefix: np.ndarray  # int64 [b, L]
    length: np.ndarray  # int64 [b]: tokens of each prefix
    block: np.ndarray  # int64 [b, t]: the blocks of a question, one after the other
    option: np.ndarray  # int64 [b, t]: which option a token is of; -1 is padding
    place: np.ndarray  # int64 [b, t]: its position in its block
    ends: np.ndarray  # int64 [b, n]: where the last token of each block stands
    items: np.ndarray  # int64 [u]: the item of each row, distinct; empty where nothing is soft
    options: np.ndarray  # int64 [b, n]: the item of each option
    features: np.ndarray | None = None  # float32 [b, n, f] of the options, where the model reads some beside the prompt

    @property
    def longest(self) -> int:
        """Positions that the longest prompt of one option takes."""
        return int((self.length + self.place.max(axis=1, initial=-1) + 1).max())

    def part(self, first: int, stop: int) -> OptionBlocks:
        """The same questions with the options ``first`` to ``stop`` alone."""
        mine = (self.option >= first) & (self.option < stop)
        length = mine.sum(axis=1)
        began = self.ends[:, first - 1] + 1 if first else np.zeros(len(length), np.int64)
        return OptionBlocks(
            self.prefix,
            self.length,
            padded(self.block[mine], length),
            padded(self.option[mine] - first, length, -1),
            padded(self.place[mine], length),
            self.ends[:, first:stop] - began[:, None],
            self.items,
            self.options[:, first:stop],
            None if self.features is None else self.features[:, first:stop],
        )


class BlockPrompts(PromptBuilder):
    """Builds prompts of blocks for the answer form ``form``; other arguments as of `PromptBuilder`.

    ``titled`` says whether a block begins with the option's title where it holds a fused token.

    The answer of ``yes-no`` stands behind each block, that of ``likelihood`` in it, so the frame of a chat template closes
    the block or the prefix. ``yes_and_no`` [2] are the ids of the words yes and no, in the form ``yes-no`` alone.
    """

    def __init__(
        self,
        tokenizer: Any,
        titles: Sequence[str],
        settings: Prompt,
        form: str,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        titled: bool = True,
    ) -> None:
        self.form, self.titled = form, titled
        super().__init__(tokenizer, titles, settings, 0, cache, progress, form)

    def _tokenise_pieces(self, titles: Any, cache: Any, progress: Any) -> None:
        self.yes_and_no = self._answer_words() if self.form == "yes-no" else np.zeros(0, np.int64)
        self._tail_text = self._frame.tail if self.form == "likelihood" else ""
        self._prefix_tail = encode_many(self.tokenizer, [self._tail_text], control=True)[0]
        if self.form in ("pointer", "likelihood"):
            self._frame = Frame(self._frame.head, "") if self._frame else self._frame
        super()._tokenise_pieces(titles, cache, progress)

    def _answer_words(self) -> np.ndarray:
        words = ("yes", "no")
        if self._frame:
            spelled = letter_spellings(self.tokenizer, self._frame, words)
        else:
            spelled = encode_many(self.tokenizer, [f" {word}" for word in words])
        first = [ids[0] if ids else -1 for ids in spelled]
        if first[0] == first[1] or min(first) < 0 or self.tokenizer.unk_token_id in first:
            raise RecipeError(
                "This base model's tokenizer has no two tokens with which the answers yes and no begin.",
                hint="--set answer.form=pointer",
            )
        return np.array(first, np.int64)

    def _agrees(self) -> bool:
        given, history = np.full(self.settings.max_given, self.items), np.full(self.settings.history, self.items)
        return all(
            np.array_equal(self._copied_prefix(h, p, mode), self.spell_prefix(p, mode, h))
            and np.array_equal(self._copied_block(np.array([self.items]), mode)[0], self.spell_block(self.items, mode))
            for mode in self._tails
            for h in (history, history[:0])
            for p in (given, given[:0])
        )

    def spell_prefix(self, partial: np.ndarray, mode: str, history: np.ndarray = NO_ITEMS) -> np.ndarray:
        """int64 [L]: the prefix of one question, each text between soft places tokenised whole."""
        parts = self._parts_before_options(*self._cut(history, partial), mode)
        return np.concatenate([self._spelled(parts, whole=False), np.array(self._prefix_tail, np.int64)])

    def spell_block(self, item: int, mode: str) -> np.ndarray:
        """int64: the block of one item as an option."""
        ids: list[int] = []
        text = ""
        for part in [*self._parts_of_block(item, mode), None]:
            if isinstance(part, str):
                text += part
                continue
            if text:
                ids += self._encode(text, last=part is None)
                text = ""
            if part is not None:
                ids.append(part)
        return np.array(ids, np.int64)

    def _parts_of_block(self, item: int, mode: str) -> list[str | int]:
        mode, label = self._block_mode(mode), self._option_labels[0] if self._wording.labelled_blocks else ""
        parts = [*self._parts_of_item(item, mode), self._wording.closing]
        if not self._shows_title(mode):
            parts = parts[2:]  # without the title and what stands between it and the token
        return [label, *parts]

    def _shows_title(self, mode: str) -> bool:
        return self.titled or mode == "text"

    def _block_mode(self, mode: str) -> str:
        """The likelihood is that of words, so its blocks hold nothing soft."""
        return "text" if self.form == "likelihood" else mode

    def _copied_prefix(self, history: np.ndarray, partial: np.ndarray, mode: str) -> np.ndarray:
        history, partial = self._cut(history, partial)
        h, p = len(history), len(partial)
        follow = np.full(h + p, BETWEEN)  # what follows each item
        if h:
            follow[h - 1] = AFTER_HISTORY if p else AFTER_HISTORY_ALONE
        if p:
            follow[h + p - 1] = AFTER_PARTIAL
        shown = np.concatenate([history, partial]).astype(np.int64)
        chain = np.empty(1 + 3 * (h + p), np.int64)
        chain[0] = 2 if h else 0 if p else 1  # the opening
        chain[1::3] = np.concatenate([self._number_pieces[:h], self._number_pieces[:p]])
        chain[2::3] = self._titles[mode][follow] + shown
        chain[3::3] = self._tails[mode][follow]
        flat = self._pieces.gather(chain)
        if mode == "mm":
            flat[flat == ITEM] -= shown
        return np.concatenate([flat, np.array(self._prefix_tail, np.int64)])

    def _copied_block(self, items: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of ``items`` [k] one after the other, and the length of each [k]."""
        mode = self._block_mode(mode)
        if not self._shows_title(mode):
            behind = self.spell_block(0, mode)
            flat = np.tile(np.where(behind <= ITEM, ITEM, behind), len(items))
            flat[flat == ITEM] -= items
            return flat, np.full(len(items), len(behind))
        titles = self._titles[mode][CLOSING] + items
        tail = np.full(len(items), self._tails[mode][CLOSING])
        chain = np.stack([titles, tail], axis=1)
        if self._wording.labelled_blocks:
            chain = np.insert(chain, 0, self._option_pieces[0], axis=1)
        flat = self._pieces.gather(chain.ravel())
        if mode == "mm":
            flat[flat == ITEM] -= items
        return flat, self._pieces.lengths(chain.ravel()).reshape(chain.shape).sum(axis=1)

    def _prefixes(
        self, partial: Sequence[np.ndarray], mode: str, history: Sequence[np.ndarray] | None
    ) -> list[np.ndarray]:
        rows = []
        for past, given in zip(or_no_items(history, partial), partial, strict=True):
            exact = all(self._exact[some].all() for some in self._cut(past, given))
            rows.append(self._copied_prefix(past, given, mode) if exact else self.spell_prefix(given, mode, past))
        return rows

    def _blocks(self, items: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of ``items`` [k] one after the other, and the length of each [k]."""
        if not self._shows_title(self._block_mode(mode)) or self._exact[items].all():
            return self._copied_block(items, mode)
        rows = [self.spell_block(int(item), mode) for item in items]
        return np.concatenate(rows), np.array([len(row) for row in rows], np.int64)

    def lengths(
        self,
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        history: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """int64 [b]: tokens of each question, all of its blocks counted."""
        before = np.array([len(ids) for ids in self._prefixes(partial, mode, history)], np.int64)
        return before + np.array([self._blocks(np.asarray(some, np.int64), mode)[1].sum() for some in options])

    def blocks(
        self,
        partial: Sequence[np.ndarray],
        options: np.ndarray,
        mode: str,
        history: Sequence[np.ndarray] | None = None,
    ) -> OptionBlocks:
        """Prompts of b questions about ``options`` [b, n]; other arguments as of `PromptBuilder.build`."""
        options = np.asarray(options, np.int64)
        count, n = options.shape
        rows = self._prefixes(partial, mode, history)
        length = np.array([len(row) for row in rows], np.int64)
        flat, size = self._blocks(options.ravel(), mode)
        total = size.reshape(count, n).sum(axis=1)
        both, items = number_items(np.concatenate([*rows, flat]))
        option = np.repeat(np.tile(np.arange(n), count), size)
        place = np.arange(len(flat)) - np.repeat(np.cumsum(size) - size, size)
        return OptionBlocks(
            padded(both[: length.sum()], length),
            length,
            padded(both[length.sum() :], total),
            padded(option, total, -1),
            padded(place, total),
            size.reshape(count, n).cumsum(axis=1) - 1,
            items,
            options,
        )

    def text_of(self, partial: np.ndarray, options: np.ndarray, mode: str, history: np.ndarray = NO_ITEMS) -> str:
        """The prefix as text, and below it each option's block, indented; soft places as in `PromptBuilder.text_of`."""
        prefix = shown_text(self._parts_before_options(*self._cut(history, partial), mode))
        blocks = [shown_text(self._parts_of_block(item, mode)) for item in options.tolist()]
        tail = self._frame.tail
        shown = [f"{block}{tail}".replace("\n", "\n    ") for block in blocks]
        return self._frame.head + prefix + self._tail_text + "".join(f"\n   {block}" for block in shown)
