"""Which items were clicked after an item in the same visit, by how many users, and when: what similar items should find.

A click is followed by each of the next `REACH` different items of its visit; of two clicks at the same time each follows the
other. Visits are split in time by their last click: the last fifth of those with such pairs is the test period, the tenth
before it is for validation, and what is earlier is for training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue.columns import Lists
from ..errors import CatalogueError

if TYPE_CHECKING:
    from ..catalogue.click_log import ClickLog

REACH = 5
VALID_SHARE, TEST_SHARE = 0.1, 0.2  # of the visits that have pairs
MIN_VISITS = 20
LEAST_SET = 3  # items of a bundle and a visit that are not the same by chance


@dataclass(frozen=True)
class Pairs:
    """p pairs of items, each with the user and the time (microseconds, of the end of the visit): int [p] columns."""

    first: np.ndarray
    then: np.ndarray
    user: np.ndarray
    time: np.ndarray

    def between(self, start: int | None, end: int | None) -> Pairs:
        """The pairs of visits that ended at ``start`` or later and before ``end`` (microseconds; None: no bound)."""
        kept = np.ones(len(self.time), bool)
        if start is not None:
            kept &= self.time >= start
        if end is not None:
            kept &= self.time < end
        return Pairs(*(column[kept] for column in (self.first, self.then, self.user, self.time)))

    def counted(self, n_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct pairs, by first and then second item, and how many users made each: int64 [p'] columns."""
        key = self.first * np.int64(n_items) + self.then
        users = np.unique(np.stack([key, self.user.astype(np.int64)]), axis=1)[0]
        pair, count = np.unique(users, return_counts=True)
        return pair // n_items, pair % n_items, count


def pairs_of(log: ClickLog) -> Pairs:
    """All pairs of a click log."""
    found = []
    ends = log.visit_end
    for step in range(1, REACH + 1):
        at = np.flatnonzero(log.visit[step:] == log.visit[:-step])
        tied = at[log.time[at] == log.time[at + step]]
        found += [(at, at + step), (tied + step, tied)]
    first, then = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    item = log.item.astype(np.int64)
    return Pairs(item[first], item[then], log.user[first], ends[first])


@dataclass(frozen=True)
class Periods:
    """Where validation and test begin, in microseconds since 1970."""

    valid: int
    test: int

    @classmethod
    def of(cls, log: ClickLog) -> Periods:
        """The periods of a click log, by its visits of two clicks or more.

        Raises
        ------
        CatalogueError
            When there are too few such visits, or they all ended at the same time.
        """
        size = np.bincount(log.visit) if len(log) else np.zeros(0, np.int64)
        last = np.cumsum(size) - 1
        ends = np.sort(log.time[last[size > 1]])
        if len(ends) < MIN_VISITS:
            raise CatalogueError(
                f"Only {len(ends)} visits have a click that is followed by another one; questions about similar items "
                f"need {MIN_VISITS}.",
                hint="import more interactions, or give a longer --window",
            )
        at = [ends[int(len(ends) * share)] for share in (1 - VALID_SHARE - TEST_SHARE, 1 - TEST_SHARE)]
        if not ends[0] < at[0] < at[1]:
            raise CatalogueError(
                "The interactions happened at too few different times to be split in time.",
                hint="write when each interaction happened, not when it was exported",
            )
        return cls(int(at[0]), int(at[1]))

    def bounds(self, split: str) -> tuple[int | None, int | None]:
        """Start and end of ``train``, ``valid`` or ``test``; None where it has no bound."""
        return {"train": (None, self.valid), "valid": (self.valid, self.test), "test": (self.test, None)}[split]


def user_shares(pairs: Pairs, query: np.ndarray) -> Any:
    """What each user has of each question about the items ``query`` [q]: the share of its pairs, csr float64 [users, q].

    One user asks several questions, and one question comes from several users, so that questions are not drawn one by one. Columns
    add up to 1; a question whose clicks are gone counts as one of a user of its own.
    """
    from scipy.sparse import csr_array

    place = np.full(int(max(query.max(initial=0), pairs.first.max(initial=0))) + 1, -1, np.int64)
    place[query] = np.arange(len(query))
    known = place[pairs.first] >= 0
    asked, user = place[pairs.first[known]], pairs.user[known].astype(np.int64)
    count = np.bincount(asked, minlength=len(query))
    gone = np.flatnonzero(count == 0)
    user = np.concatenate([user, user.max(initial=-1) + 1 + np.arange(len(gone))])
    asked = np.concatenate([asked, gone])
    row = np.unique(user, return_inverse=True)[1].reshape(-1)
    share = 1 / np.maximum(count, 1)[asked]
    return csr_array((share, (row, asked)), shape=(int(row.max(initial=-1)) + 1, len(query)))


def share_of_visits(log: ClickLog, since: int, edges: np.ndarray, n_items: int) -> float:
    """The share of bundles that are a visit which ended at ``since`` or later: the same items, three or more.

    Where bundles are invoices and so are visits, what learns from training bundles has seen what questions ask about.

    Parameters
    ----------
    edges
        int64 [E, 2] bundle and item, bundle by bundle, without repeats.
    """
    mark = np.random.default_rng(0).integers(1 << 63, size=n_items, dtype=np.uint64)  # a set is the sum of its marks
    later = log.visit_end >= since
    visits, bundles = (
        _sums(number, mark[item]) for number, item in ((log.visit[later], log.item[later]), (edges[:, 0], edges[:, 1]))
    )
    return float(np.isin(bundles, visits).mean()) if len(bundles) else 0.0


def _sums(number: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Of each run of equal numbers that is `LEAST_SET` long or longer, the sum of its marks, modulo 2 ** 64."""
    if not len(number):
        return np.zeros(0, np.uint64)
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    size = np.diff(starts, append=len(number))
    sums: np.ndarray = np.add.reduceat(mark, starts)[size >= LEAST_SET]
    return sums


def grouped(first: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, Lists]:
    """The distinct numbers of ``first`` (sorted) and the values that belong to each."""
    items, starts = np.unique(first, return_index=True)
    return items, Lists.of(np.append(starts, len(first)).astype(np.int64), values.astype(np.int32))
