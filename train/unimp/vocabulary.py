"""The token ids of UniMP behind those of the base model: its marks, ratings, selections, items and picture codes.

The ids are made here and never added to a tokenizer: prompts are lists of ids, and no text has to be taken apart again.
The order never changes, so that a catalogue that grows moves no item. Notation: V rows of the base's input embedding,
I items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bundlecache.errors import RecipeError

from .trie import Trie

RATES, SELECTIONS = 5, 10
"""Stars of a rating, and options among which one selects."""


@dataclass(frozen=True)
class AtomicIds:
    """Every one of ``count`` items has a token of its own."""

    count: int

    @property
    def levels(self) -> int:
        """Tokens of an item."""
        return 1

    @property
    def tokens(self) -> int:
        """Ids that all items need together."""
        return self.count

    def codes_of(self, items: np.ndarray) -> np.ndarray:
        """Which of the ``tokens`` the items [n] have, int64 [n, 1]."""
        return np.asarray(items, np.int64)[:, None]


@dataclass(frozen=True)
class SemanticIds:
    """An item is several tokens, one a level: ``codes`` int [I, levels], each below ``size``."""

    codes: np.ndarray
    size: int

    def __post_init__(self) -> None:
        """Check the codes.

        Raises
        ------
        RecipeError
            When a code is not below ``size``, or two items have the same codes.
        """
        if self.codes.ndim != 2 or (self.codes.size and (self.codes.min() < 0 or self.codes.max() >= self.size)):
            raise RecipeError(f"Semantic ids are whole numbers [items, levels] from 0 to {self.size - 1}.")
        if len(np.unique(self.codes, axis=0)) != len(self.codes):
            raise RecipeError("Two items have the same semantic id.")

    @property
    def count(self) -> int:
        """Items of the catalogue."""
        return len(self.codes)

    @property
    def levels(self) -> int:
        """Tokens of an item."""
        return int(self.codes.shape[1])

    @property
    def tokens(self) -> int:
        """Ids that all items need together: every level has ``size`` of its own."""
        return self.levels * self.size

    def codes_of(self, items: np.ndarray) -> np.ndarray:
        """Which of the ``tokens`` the items [n] have, int64 [n, levels]."""
        return self.codes[items].astype(np.int64) + np.arange(self.levels, dtype=np.int64) * self.size


class Vocabulary:
    """The ids from ``base_size`` (V) on. ``codes`` is the number of picture codes, 0 without picture generation."""

    def __init__(self, base_size: int, item_ids: AtomicIds | SemanticIds, codes: int = 0) -> None:
        self.base_size, self.item_ids = base_size, item_ids
        self.image, self.answer, self.end_of_chunk = range(base_size, base_size + 3)
        self.rates = range(base_size + 3, base_size + 3 + RATES)
        self.selections = range(self.rates.stop, self.rates.stop + SELECTIONS)
        self.items = range(self.selections.stop, self.selections.stop + item_ids.tokens)
        self.codes = range(self.items.stop, self.items.stop + codes)

    @property
    def size(self) -> int:
        """All ids: those of the base and ours."""
        return self.codes.stop

    @property
    def extra(self) -> int:
        """How many ids are ours."""
        return self.size - self.base_size

    def of_item(self, item: int) -> tuple[int, ...]:
        """The ids of one item: one, or one a level."""
        return tuple(self.of_items(np.array([item]))[0].tolist())

    def of_items(self, items: np.ndarray) -> np.ndarray:
        """The ids of items [n], int64 [n, levels]."""
        return self.items.start + self.item_ids.codes_of(items)

    @cached_property
    def trie(self) -> Trie:
        """The ids of all items: which token may follow a beginning."""
        return Trie.of(self.of_items(np.arange(self.item_ids.count)))

    @cached_property
    def items_by_ids(self) -> dict[tuple[int, ...], int]:
        """The item of each id."""
        return {tuple(ids): item for item, ids in enumerate(self.of_items(np.arange(self.item_ids.count)).tolist())}

    def rows_of(self, older: Vocabulary, items: np.ndarray) -> np.ndarray:
        """Which row of an ``older`` vocabulary each of our rows is, int64 [extra], -1 for new ones.

        ``items`` [I] says which of the older items each item is, -1 for new ones. Semantic ids belong to no
        item alone, so their rows are the same ones.
        """
        made = np.full(self.extra, -1, np.int64)
        first = self.items.start - self.base_size
        made[:first] = np.arange(first)
        here = made[first : first + len(self.items)]
        if isinstance(self.item_ids, AtomicIds):
            here[:] = np.where(items >= 0, items + first, -1)
        else:
            same = min(len(self.items), len(older.items))
            here[:same] = first + np.arange(same)
        codes = min(len(self.codes), len(older.codes))
        start = self.codes.start - self.base_size
        made[start : start + codes] = older.codes.start - older.base_size + np.arange(codes)
        return made

    def name(self, token: int) -> str:
        """What one of our ids is called in messages and in the prompts that people read.

        >>> words = Vocabulary(100, AtomicIds(7))
        >>> [words.name(token) for token in (100, 103, words.selections[2], words.items[6])]
        ['<|image|>', '<|rate_1|>', '<|s_2|>', '<|item_6|>']
        """
        marks = {self.image: "<|image|>", self.answer: "<|answer|>", self.end_of_chunk: "<|endofchunk|>"}
        if token in marks:
            return marks[token]
        for ids, word, first in (
            (self.rates, "rate", 1),
            (self.selections, "s", 0),
            (self.items, "item", 0),
            (self.codes, "img", 0),
        ):
            if token in ids:
                return f"<|{word}_{token - ids.start + first}|>"
        raise ValueError(f"{token} is none of the ids {self.base_size} to {self.size - 1}")
