"""Finds the items that would be right answers to a question, so that they never stand among its wrong options.

Which bundles hold an item is an inverted list. The bundles with a whole partial bundle are the intersection of the lists
of its items, from the shortest list on, by binary search: a question about rare items costs the same in every catalogue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..catalogue.columns import Lists, Strings
from ..sorted_arrays import among

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_QUESTIONS = 16_384  # questions that are looked at together
MANY_BUNDLES = 64  # from so many bundles on, their items are looked at one by one only where they are asked for


class RightAnswers:
    """Items with the truth's title, and items of the bundles that contain the whole partial bundle.

    Parameters
    ----------
    bundles
        The bundles that count, as indices of items.
    titles
        [I] of all items; upper and lower case are the same.
    """

    def __init__(self, bundles: Sequence[np.ndarray], titles: Sequence[str]) -> None:
        self._bundles = Lists(bundles)
        order = np.argsort(self._bundles.values, kind="stable")
        sizes = np.bincount(self._bundles.values, minlength=len(titles))
        ends = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()])
        self._holders = Lists.of(ends, self._bundles.rows[order].astype(np.int32))  # of each item, ascending
        self._count = np.int64(max(len(self._bundles), 1))
        self._keys = self._holders.rows * self._count + self._holders.values  # ascending: an item and a bundle of it
        self._title = _title_numbers(Strings(titles))
        by_title = np.argsort(self._title, kind="stable")
        self._titled, self._title_order = self._title[by_title], by_title.astype(np.int32)
        self._beside: dict[int, np.ndarray] = {}  # of an item in many bundles: all items that stand in one with it

    def any_beside(self, partials: Lists, truths: np.ndarray) -> np.ndarray:
        """Bool [q], whether questions have right answers beside their own truth, for many questions at once.

        Parameters
        ----------
        partials
            The partial bundle of each; a bundle with all its items is among the bundles that count.
        truths
            int64 [q] their held-out items.
        """
        number = self._title[truths]
        alike = np.searchsorted(self._titled, number, "right") - np.searchsorted(self._titled, number, "left")
        beside = (number >= 0) & (alike > 1)
        sizes = self._holders.lengths[partials.values]  # the bundles of each item
        order = np.lexsort((sizes, partials.rows))  # the items of every partial bundle, the rarest first
        items, sizes = partials.values[order], sizes[order]
        first, lengths = partials.offsets[:-1], partials.lengths
        single = lengths == 1
        beside[single] |= sizes[first[single]] > 1
        for start in range(0, len(truths), BLOCK_QUESTIONS):
            rows = np.arange(start, min(start + BLOCK_QUESTIONS, len(truths)))
            rows = rows[(lengths[rows] > 1) & ~beside[rows]]
            rows = rows[sizes[first[rows]] > 1]
            found = self._holders.take(items[first[rows]])
            question, bundle = rows[found.rows], found.values  # pairs that hold all items so far
            for place in range(1, int(lengths[rows].max(initial=1))):
                ask = place < lengths[question]
                item = items[np.where(ask, first[question] + place, 0)].astype(np.int64)
                kept = ~ask | among(item * self._count + bundle, self._keys)
                question, bundle = question[kept], bundle[kept]
            beside |= np.bincount(question, minlength=len(truths)) > 1
        return beside

    def of(self, partial: np.ndarray, truth: int) -> np.ndarray:
        """int32, ascending: every item that would be right, those of the partial bundle and the truth among them.

        The bundle that is asked about contains the partial bundle, so its items are always among them.
        """
        return np.union1d(self._together(partial), self._of_title(truth))

    def test(self, partial: np.ndarray, truth: int) -> RightAnswer:
        """Tells of single items whether they would be right; made without collecting all of them."""
        holders = self._holding(partial)
        few = len(holders) < MANY_BUNDLES
        together = set(self._items(holders).tolist()) if few else set()
        return RightAnswer(self, together, None if few else holders, int(self._title[truth]))

    def is_in(self, item: int, bundles: np.ndarray) -> bool:
        """Whether an item stands in one of these bundles, given in ascending order."""
        mine = self._holders[item]
        short, long = (mine, bundles) if len(mine) < len(bundles) else (bundles, mine)
        return bool(among(short, long).any())

    def has_title(self, item: int, number: int) -> bool:
        """Whether an item has the title of this number; the number of empty titles is -1 and is nobody's."""
        return number >= 0 and bool(self._title[item] == number)

    def _holding(self, partial: np.ndarray) -> np.ndarray:
        """int32, ascending: the bundles that contain all items of ``partial``."""
        first, *others = sorted((self._holders[i] for i in partial), key=len)
        for holders in others:
            if len(first) < 2:  # the bundle that is asked about is always left
                break
            first = first[among(first, holders)]
        return first

    def _together(self, partial: np.ndarray) -> np.ndarray:
        """The items of the bundles that contain all items of ``partial``; some twice."""
        if len(partial) == 1 and int(partial[0]) in self._beside:
            return self._beside[int(partial[0])]
        holders = self._holding(partial)
        items = self._items(holders)
        if len(partial) == 1 and len(holders) >= MANY_BUNDLES:
            self._beside[int(partial[0])] = items = np.unique(items)
        return items

    def _items(self, bundles: np.ndarray) -> np.ndarray:
        """The items of these bundles, one list after the other."""
        return np.concatenate([self._bundles[b] for b in bundles])

    def _of_title(self, truth: int) -> np.ndarray:
        """The items with the title of the truth; none where it has no title."""
        number = self._title[truth]
        if number < 0:
            return self._title_order[:0]
        first, last = np.searchsorted(self._titled, number, "left"), np.searchsorted(self._titled, number, "right")
        return self._title_order[first:last]


class RightAnswer:
    """``item in RightAnswer``: whether an item would be right (see `RightAnswers.test`)."""

    __slots__ = ("_answers", "_holders", "_title", "_together")

    def __init__(self, answers: RightAnswers, together: set[int], holders: np.ndarray | None, title: int) -> None:
        self._answers, self._together, self._holders, self._title = answers, together, holders, title

    def __contains__(self, item: Any) -> bool:
        if item in self._together or self._answers.has_title(item, self._title):
            return True
        return self._holders is not None and self._answers.is_in(item, self._holders)


def _title_numbers(titles: Strings[str]) -> np.ndarray:
    """int32 [I], the same number for titles that differ in upper and lower case alone; -1 where there is none."""
    folded = pc.ascii_lower(titles.arrow)
    other = pc.invert(pc.string_is_ascii(titles.arrow))
    if pc.any(other).as_py():
        texts = [title.casefold() for title in titles.arrow.filter(other).to_pylist()]
        folded = pc.replace_with_mask(folded, other, pa.array(texts, pa.large_string()))
    numbers = np.asarray(pc.dictionary_encode(folded).indices).astype(np.int32)
    numbers[~titles.filled] = -1
    return numbers
