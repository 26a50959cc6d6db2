"""How hard the items of a pool are as wrong options of one question: one class per kind of `hard_negatives`.

A pool is a part of a stratum of at most `hard_negatives.MAX_POOL_ITEMS` items, in ascending order, and no order looks at
items outside the truth's pool: what a question costs does not grow with the catalogue.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ..candidates import ann
from ..candidates.item_vectors import ItemVectors
from ..catalogue import splits
from ..catalogue.category_paths import PATH_SEPARATOR
from ..catalogue.columns import Lists
from ..sorted_arrays import among, outside, places_by_value
from .negatives import shuffled

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from ..catalogue.catalogue import Catalogue
    from ..catalogue.columns import Strings
    from ..store.store import Matrix

NEIGHBOURS_PER_ITEM = 8  # times as many neighbours of an item are looked at as options are drawn from
SIMILARITY_STEP = 1e-5  # similarities that differ by less are the same on another machine
MAX_TABLE_DEPTH = 256  # nearest items that are kept of each item of a pool
COMPARED_ITEMS = 4096  # items of a pool that are compared with all of it at once; FAISS multiplies in such blocks
MAX_TABLE_BYTES = 2**30  # bytes of nearest items that are kept; pools that were not asked for lately are computed again
MANY_BASKETS = 256  # the company of an item in so many baskets or more is kept
MAX_COUNTED_SCORE = 4096  # whole scores below it are counted, which takes less time than ordering them
MAX_KEPT_ROWS = 2048  # such rows, each of a pool's size


class Asked(NamedTuple):
    """The partial bundle of a question, and its held-out item."""

    partial: np.ndarray
    truth: int


class Pools(NamedTuple):
    """The pools: items of each, in ascending order, and for every item [I] the number of its pool and its place in it."""

    items: Lists
    number: np.ndarray
    place: np.ndarray

    def around(self, item: int) -> np.ndarray:
        """The pool of an item."""
        return self.items[int(self.number[item])]

    def slice(self, number: int) -> slice:
        """Where the members of pool ``number`` are in `Lists.values` of all pools, and what is kept in that order."""
        return slice(int(self.items.offsets[number]), int(self.items.offsets[number + 1]))


class Order(Protocol):
    """Which items of the truth's pool are the hardest for a question."""

    def hardest(
        self, rng: random.Random | np.random.Generator, asked: Asked, size: int, banned: np.ndarray
    ) -> np.ndarray:
        """The ``size`` hardest items outside ``banned`` (ascending), or fewer; only ``rng.random()`` is asked."""


class Scored:
    """An order given by a number for every item of the truth's pool."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    def score(self, number: int, asked: Asked) -> np.ndarray:
        """How hard each item of pool ``number``, the truth's, is: [p]."""
        raise NotImplementedError

    def hardest(
        self, rng: random.Random | np.random.Generator, asked: Asked, size: int, banned: np.ndarray
    ) -> np.ndarray:
        """The ``size`` hardest items outside ``banned``; ties for the last places are broken arbitrarily."""
        number = int(self._pools.number[asked.truth])
        pool = self._pools.items[number]
        kept = outside(pool, banned)
        pool = pool[kept]
        if len(pool) <= size:
            return pool
        score = self.score(number, asked)[kept]
        border = _border(score, size)
        clear, tied = pool[score > border], pool[score == border]
        return np.concatenate([clear, np.fromiter(islice(shuffled(rng, tied), size - len(clear)), pool.dtype)])


class SameCategory(Scored):
    """The more steps of its category path an item shares with the truth, the harder."""

    def __init__(self, pools: Pools, categories: Strings[str | None]) -> None:
        super().__init__(pools)
        codes, names = categories.codes()
        paths = [tuple(name.split(PATH_SEPARATOR)) if name else () for name in names]
        steps: dict[tuple[str, ...], int] = {}
        depth = max(map(len, paths))
        of_path = np.full((len(paths) + 1, depth), -1, np.int32)  # the last row is that of no category
        for row, path in enumerate(paths):
            for d in range(len(path)):
                of_path[row, d] = steps.setdefault(path[: d + 1], len(steps))
        self._steps = of_path[codes]  # [I, depth] the number of each path's beginning
        self._in_pools = np.ascontiguousarray(self._steps[pools.items.values].T)  # [depth, I] in the order of the pools

    def score(self, number: int, asked: Asked) -> np.ndarray:
        """The number of steps in common."""
        at = self._pools.slice(number)
        score = np.zeros(at.stop - at.start, np.int16)
        for steps, mine in zip(self._in_pools, self._steps[asked.truth].tolist(), strict=True):
            if mine >= 0:
                score += steps[at] == mine
        return score


class AsPopular(Scored):
    """The closer an item's popularity is to the truth's, the harder."""

    def __init__(self, pools: Pools, popularity: np.ndarray) -> None:
        super().__init__(pools)
        self._level = np.round(np.log2(1 + popularity), 9)  # the same on every machine
        self._in_pools = self._level[pools.items.values]

    def score(self, number: int, asked: Asked) -> np.ndarray:
        """Minus the difference of the logarithms."""
        score: np.ndarray = -np.abs(self._in_pools[self._pools.slice(number)] - self._level[asked.truth])
        return score


class Together(Scored):
    """The more baskets an item shares with members of the partial bundle, the harder.

    Baskets are training bundles and training users. They are kept once by item, and once by pool and basket, so that
    the company of an item within a pool is found without looking at the rest of its baskets.
    """

    def __init__(self, pools: Pools, catalogue: Catalogue) -> None:
        super().__init__(pools)
        bundles, users = (splits.training_graph(catalogue, graph) for graph in ("bundle-item", "user-item"))
        first = int(bundles[:, 0].max(initial=-1)) + 1
        basket = np.concatenate([bundles[:, 0], users[:, 0] + first])
        item = np.concatenate([bundles[:, 1], users[:, 1]])
        self._count = np.int64(int(basket.max(initial=-1)) + 1)
        order = np.lexsort((basket, item))
        ends = np.concatenate([np.zeros(1, np.int64), np.bincount(item, minlength=len(catalogue)).cumsum()])
        self._baskets_of = Lists.of(ends, basket[order])  # ascending for each item
        key = pools.number[item] * self._count + basket
        order = np.argsort(key, kind="stable")
        self._keys, self._places = key[order], pools.place[item[order]]
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def score(self, number: int, asked: Asked) -> np.ndarray:
        """The number of baskets in common, added up over the members."""
        shared: np.ndarray = np.sum([self._company(int(item), number) for item in asked.partial], axis=0)
        return shared

    def _company(self, item: int, number: int) -> np.ndarray:
        """int64 [p], how many baskets of ``item`` hold each item of pool ``number``."""
        if (item, number) in self._kept:
            self._kept.move_to_end((item, number))
            return self._kept[item, number]
        baskets = self._baskets_of[item]
        keys = number * self._count + baskets
        first, last = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        lengths = last - first
        starts = np.repeat(first - np.concatenate([np.zeros(1, np.int64), lengths.cumsum()[:-1]]), lengths)
        found = self._places[starts + np.arange(len(starts))]
        company = np.bincount(found, minlength=len(self._pools.items[number]))
        if len(baskets) >= MANY_BASKETS:
            self._kept[item, number] = company
            if len(self._kept) > MAX_KEPT_ROWS:
                self._kept.popitem(last=False)
        return company


class _Table(NamedTuple):
    """Items of a pool with a vector, and for each the places of its nearest, itself among them: int16 [p, depth].

    ``sure`` [p] are how many of these also a deeper table would begin with: those more similar than the last one.
    """

    members: np.ndarray
    near: np.ndarray
    sure: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.members.nbytes + self.near.nbytes + self.sure.nbytes


class Nearest:
    """Neighbours of a hidden neighbour of the truth; all items of a pool are compared when it is first asked for one.

    Every item of a pool is ranked against as many others as the deepest question so far needs, which are thousands
    where thousands of items are banned. A table holds `MAX_TABLE_DEPTH` of them at most. What a question needs
    beyond is computed for single items.
    """

    def __init__(self, pools: Pools, matrix: Matrix) -> None:
        self._vectors = ItemVectors.of({"near": matrix})
        self._able = np.zeros(len(self._vectors), bool)
        self._able[self._vectors.rows] = True
        self._pools = pools
        self._place = np.full(len(self._able), -1, np.int32)  # of an item among those of its pool with a vector
        self._depth: dict[int, int] = {}  # neighbours that each item of a pool is ranked against
        self._tables: OrderedDict[int, _Table] = OrderedDict()
        self._keys: tuple[int, np.ndarray] = -1, np.zeros(0, np.float32)  # of the last pool that was asked for them

    def hardest(
        self, rng: random.Random | np.random.Generator, asked: Asked, size: int, banned: np.ndarray
    ) -> np.ndarray:
        """The ``size`` items around the truth in the order of nearness to a hidden item near it."""
        if not self._able[asked.truth]:
            return banned[:0]
        before = int(rng.random() * (size + 1))
        depth = NEIGHBOURS_PER_ITEM * size + len(banned)
        number = int(self._pools.number[asked.truth])
        self._deepen(number, depth)
        near = self._first(number, asked.truth, banned, 2 * size)
        others, place = near[:0], 0
        banned = banned[banned != asked.truth]
        for hidden in shuffled(rng, near):
            others, place = self._around(number, hidden, asked.truth, banned, size, before)
            if place >= before:
                break
        start = min(max(place - before, 0), max(len(others) - size, 0))
        return others[start : start + size]

    def _first(self, number: int, item: int, banned: np.ndarray, count: int) -> np.ndarray:
        """The ``count`` items nearest to ``item`` outside ``banned``, or fewer."""
        for ranked, _whole in self._ranked(number, item):
            near = ranked[~among(ranked, banned)][:count]
            if len(near) == count:
                break
        return near

    def _around(
        self, number: int, hidden: int, truth: int, banned: np.ndarray, size: int, before: int
    ) -> tuple[np.ndarray, int]:
        """Items in the order of nearness to ``hidden`` without ``banned`` and the truth, and the truth's place; -1 if it is not ranked.

        Fewer than are ranked, where these are all that ``size`` options with ``before`` of them before the truth need.
        """
        for ranked, whole in self._ranked(number, hidden):
            ranked = ranked[~(among(ranked, banned) | (ranked == hidden))]
            places = np.flatnonzero(ranked == truth)
            place = int(places[0]) if len(places) else -1
            others = ranked[ranked != truth]
            if whole or (place >= 0 and max(place - before, 0) + size <= len(others)):
                break
        return others, place

    def _ranked(self, number: int, item: int) -> Iterator[tuple[np.ndarray, bool]]:
        """The items of a pool nearest to ``item``: those that a table tells, then all that are to be ranked; and whether it is all."""
        depth = self._depth[number]
        members, near, sure = self._table(number)
        place = int(self._place[item])
        if near.shape[1] == depth:
            yield members[near[place]], True
            return
        yield members[near[place, : sure[place]]], False
        if self._keys[0] != number:
            self._keys = number, self._vectors.take(members)
        keys = self._keys[1]
        scores = keys @ keys[place]
        found = np.argpartition(-scores, depth - 1)[:depth] if depth < len(scores) else np.arange(len(scores))
        yield members[found[np.lexsort((found, -np.round(scores[found] / SIMILARITY_STEP)))]], True

    def _deepen(self, number: int, depth: int) -> None:
        """From now on, rank ``depth`` items or more in a pool."""
        count = int(self._able[self._pools.items[number]].sum())
        if self._depth.get(number, -1) < min(depth, count):
            self._depth[number] = min(count, depth + depth // 2)  # the next may have a few more banned

    def _table(self, number: int) -> _Table:
        """The table of a pool: as deep as its ranking was when the table was made, but for `MAX_TABLE_DEPTH`."""
        if (made := self._tables.get(number)) is not None:
            self._tables.move_to_end(number)
            return made
        members = self._pools.items[number]
        members = members[self._able[members]]
        depth = min(self._depth[number], MAX_TABLE_DEPTH)
        self._place[members] = np.arange(len(members))
        keys = self._vectors.take(members)
        near, sure = np.empty((len(members), depth), np.int16), np.empty(len(members), np.int16)
        for start in range(0, len(members), COMPARED_ITEMS):
            block = keys[start : start + COMPARED_ITEMS]
            scores, found, _ = ann.exact([(np.arange(len(members)), keys)], block, depth)
            steps = np.round(scores / SIMILARITY_STEP)
            order = np.lexsort((found, -steps), axis=1)
            near[start : start + len(block)] = np.take_along_axis(found, order, 1)
            sure[start : start + len(block)] = (steps > steps.min(axis=1, keepdims=True)).sum(axis=1)
        self._tables[number] = _Table(members, near, sure)
        while len(self._tables) > 1 and sum(table.nbytes for table in self._tables.values()) > MAX_TABLE_BYTES:
            self._tables.popitem(last=False)
        return self._tables[number]


def _border(score: np.ndarray, size: int) -> float:
    """The ``size``-th highest score."""
    if score.dtype.kind == "i" and (highest := int(score.max())) < MAX_COUNTED_SCORE and score.min() >= 0:
        at_least = np.bincount(score, minlength=highest + 1)[::-1].cumsum()  # for the highest score first
        return highest - int(np.searchsorted(at_least, size))
    place = len(score) - size
    return float(np.partition(score, place)[place])


def pools_of(stratum: np.ndarray, largest: int) -> Pools:
    """The strata as pools, those of more than ``largest`` items cut.

    An item's index is a hash of its id, so every s-th item of a stratum is a random part of it.
    """
    members, ends = places_by_value(stratum)
    sizes = np.diff(ends)
    parts = -(-sizes // largest)  # of each stratum
    first = np.concatenate([np.zeros(1, np.int64), parts.cumsum()])[:-1]
    rank = np.empty(len(stratum), np.int64)  # of each item in its stratum
    rank[members] = np.arange(len(stratum)) - np.repeat(ends[:-1], sizes)
    number = first[stratum] + rank % parts[stratum]
    items, ends = places_by_value(number)
    return Pools(Lists.of(ends, items), number, rank // parts[stratum])
