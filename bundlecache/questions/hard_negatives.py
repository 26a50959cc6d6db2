"""Wrong options that are hard: near in a modality, of the same category, as popular, or bought together; with adjustable difficulty.

==================  =======================================================================================
nearest:MODALITY    items that look (sound, read, ...) like the truth, by FAISS over the stored vectors
same-category       the more steps of its category path an item shares with the truth, the harder
popularity-matched  the closer an item's popularity (training bundles and users) is to the truth's, the harder
co-occurring        items in training bundles and baskets with members of the partial bundle, yet wrong
==================  =======================================================================================

Of kinds joined by ``+`` every question draws one: with options of several kinds, the truth, which is like all of
them, would stand in their middle. Whatever the kind, options come from the truth's stratum of `negatives.stratify` (as seen
or unseen in training, about as popular), cut wide enough to choose in. The dial: at ``difficulty`` 0 any item of the
stratum is as good as another, at 1 the n - 1 hardest are taken, and between them they are drawn from the hardest
``(n-1)^difficulty * stratum^(1-difficulty)``.

Neighbours of the truth itself would give it away: it would be the one in the middle. So ``nearest`` draws a hidden
item near the truth, which is not shown, and takes that one's neighbours. Its nearest ones would give the truth away
too, as the odd one out of a tight ball, so they are taken from around the truth's place in the order of nearness: as
many places before and behind it as chance says.

What would be right too is never wrong: items of the truth's title, and items that stand in another bundle with the
whole partial bundle. For frozen questions all bundles count, else a second truth could stand among the options; for
training only training bundles do, else the absence of an option would tell of the others (`negatives.OtherAnswers`).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..candidates import ann
from ..candidates.item_vectors import ItemVectors, version_of
from ..catalogue import splits
from ..catalogue.category_paths import PATH_SEPARATOR
from ..errors import Command, QuestionsError
from ..modalities import MODALITIES
from . import negatives
from .negatives import shuffled

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from scipy.sparse import csr_array

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix

KINDS = ("nearest:MODALITY", "same-category", "popularity-matched", "co-occurring")
ITEMS_PER_OPTION = (
    20  # a stratum holds at least so many times as many items as a question has options, where there are so many
)
MAX_POOL_ITEMS = (
    8192  # items that compete to be hardest: a larger stratum is cut at random, so that all pairs can be compared
)
NEIGHBOURS_PER_ITEM = 8  # times as many neighbours of an item are looked at as options are drawn from
SIMILARITY_STEP = 1e-5  # similarities that differ by less are the same on another machine


class Asked(NamedTuple):
    """The partial bundle of a question, and its held-out item."""

    partial: np.ndarray
    truth: int


class HardNegatives:
    """Draws wrong options of one kind, or for every question of one of several, for questions of ``n_options``.

    Parameters
    ----------
    matrices
        Stored vectors by name; ``nearest:NAME`` finds them by name or modality.

    Raises
    ------
    QuestionsError
        For another kind, a difficulty outside of 0 to 1, or a kind that this catalogue has no data for.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        kind: str,
        difficulty: float = 1.0,
        matrices: Mapping[str, Matrix] | None = None,
        n_options: int = 10,
    ) -> None:
        if not 0 <= difficulty <= 1:
            raise QuestionsError(
                f"A difficulty of {difficulty:g} was given; it goes from 0 (random) to 1 (hardest).",
                hint="--difficulty 0.5",
            )
        self.difficulty = difficulty
        self.strata = negatives.stratify(catalogue, "random", None, ITEMS_PER_OPTION * n_options)
        self.vectors: dict[str, dict[str, Any]] = {}  # the identity of the vectors that were used
        self._pools, self._pool_of = _pools(self.strata.number)
        self._orders = [self._order(catalogue, name, matrices or {}) for name in kind.split("+")]

    def pick(
        self, rng: random.Random | np.random.Generator, partial: np.ndarray, truth: int, count: int, taken: set[int]
    ) -> np.ndarray:
        """At most ``count`` distinct item indices, excluding ``taken`` and the truth; fewer where there are not enough hard items.

        Only ``rng.random()`` is asked.
        """
        pool, asked, banned = self._pools[self._pool_of[truth]], Asked(partial, truth), taken | {truth}
        order = self._orders[int(rng.random() * len(self._orders))]
        size = _size(count, len(pool), self.difficulty)
        if size < len(pool):
            hardest = order.hardest(rng, asked, size, banned)
        else:
            hardest = [i for i in pool.tolist() if i not in banned]
        return np.array(list(islice(shuffled(rng, hardest), count)), np.int64)

    def _order(self, catalogue: Catalogue, kind: str, matrices: Mapping[str, Matrix]) -> _Nearest | _Scored:
        name, _, modality = kind.partition(":")
        if name == "nearest" and modality:
            matrix = _named(matrices, modality)
            self.vectors[modality] = version_of(matrix)
            return _Nearest(matrix, self._pools, self._pool_of)
        if kind == "same-category":
            if not any(catalogue.column("category")):
                raise QuestionsError(
                    "Negatives of the same category need a column category in the items table.",
                    hint="--negatives nearest:text",
                )
            return _SameCategory(self._pools, self._pool_of, catalogue.column("category"))
        if kind == "popularity-matched":
            return _AsPopular(self._pools, self._pool_of, self.strata.popularity)
        if kind == "co-occurring":
            return _Together(self._pools, self._pool_of, _baskets(catalogue))
        if kind in negatives.KINDS:
            raise QuestionsError(
                f"The negatives {kind} are not joined with others: they have no dial.", hint=f"--negatives {kind}"
            )
        raise QuestionsError(
            f"There are no negatives {kind!r}; there are {', '.join((*negatives.KINDS, *KINDS))}, "
            "and the last four joined by +.",
            hint="--negatives nearest:text+same-category",
        )


def label(kind: str, difficulty: float) -> str:
    """Kind and difficulty as a part of a file's name.

    >>> label("nearest:image+same-category", 0.5)
    'nearest_image+same-category@50'
    """
    percent = f"@{100 * difficulty:g}".replace(".", "_")
    return kind.replace(":", "_") + ("" if difficulty == 1 else percent)


class _Scored:
    """An order given by a number for every item of the truth's pool."""

    def __init__(self, pools: Sequence[np.ndarray], pool_of: np.ndarray) -> None:
        self._pools, self._pool_of = pools, pool_of

    def score(self, pool: np.ndarray, asked: Asked) -> np.ndarray:
        """How hard each item of ``pool`` is, float [p]."""
        raise NotImplementedError

    def hardest(
        self, rng: random.Random | np.random.Generator, asked: Asked, size: int, banned: Iterable[int]
    ) -> list[int]:
        """The ``size`` hardest items outside ``banned``; ties for the last places are broken arbitrarily."""
        pool = self._pools[self._pool_of[asked.truth]]
        pool = pool[~np.isin(pool, list(banned))]
        if len(pool) <= size:
            return pool.tolist()
        score = self.score(pool, asked)
        border = np.partition(score, len(pool) - size)[len(pool) - size]
        clear = pool[score > border].tolist()
        return clear + list(islice(shuffled(rng, pool[score == border]), size - len(clear)))


class _SameCategory(_Scored):
    def __init__(self, pools: Sequence[np.ndarray], pool_of: np.ndarray, categories: Sequence[str | None]) -> None:
        super().__init__(pools, pool_of)
        paths = [tuple(category.split(PATH_SEPARATOR)) if category else () for category in categories]
        steps: dict[tuple[str, ...], int] = {}
        depth = max(map(len, paths))
        self._steps = np.full((len(paths), depth), -1, np.int32)  # [I, depth] the number of each path's beginning
        for i, path in enumerate(paths):
            for d in range(len(path)):
                self._steps[i, d] = steps.setdefault(path[: d + 1], len(steps))

    def score(self, pool: np.ndarray, asked: Asked) -> np.ndarray:
        mine = self._steps[asked.truth]
        return ((self._steps[pool] == mine) & (mine >= 0)).sum(1)


class _AsPopular(_Scored):
    def __init__(self, pools: Sequence[np.ndarray], pool_of: np.ndarray, popularity: np.ndarray) -> None:
        super().__init__(pools, pool_of)
        self._level = np.round(np.log2(1 + popularity), 9)  # the same on every machine

    def score(self, pool: np.ndarray, asked: Asked) -> np.ndarray:
        return -np.abs(self._level[pool] - self._level[asked.truth])


class _Together(_Scored):
    def __init__(self, pools: Sequence[np.ndarray], pool_of: np.ndarray, baskets: csr_array) -> None:
        super().__init__(pools, pool_of)
        self._baskets, self._of = baskets, baskets.T.tocsr()

    def score(self, pool: np.ndarray, asked: Asked) -> np.ndarray:
        shared = np.asarray(self._of[asked.partial].sum(0)).ravel()  # [baskets] how many of the members each one holds
        with_it = np.flatnonzero(shared)
        return np.asarray(self._baskets[with_it].T @ shared[with_it]).ravel()[pool]


class _Nearest:
    """Neighbours of a hidden neighbour of the truth; all items of a pool are compared when it is first asked for one."""

    def __init__(self, matrix: Matrix, pools: Sequence[np.ndarray], pool_of: np.ndarray) -> None:
        self._vectors = ItemVectors.of({"near": matrix})
        self._able = np.zeros(len(self._vectors), bool)
        self._able[self._vectors.rows] = True
        self._pools, self._pool_of = pools, pool_of
        self._near: dict[int, tuple[np.ndarray, dict[int, int], np.ndarray]] = {}

    def hardest(
        self, rng: random.Random | np.random.Generator, asked: Asked, size: int, banned: Iterable[int]
    ) -> list[int]:
        """The ``size`` items around the truth in the order of nearness to a hidden item near it."""
        if not self._able[asked.truth]:
            return []
        banned, before = set(banned), int(rng.random() * (size + 1))
        ranked: list[int] = []
        place = 0
        for hidden in shuffled(rng, self._ranked(asked.truth, size, banned)[: 2 * size]):
            ranked = self._ranked(hidden, size, (banned | {hidden}) - {asked.truth})
            place = ranked.index(asked.truth) if asked.truth in ranked else -1
            if place >= before:
                break
        others = [i for i in ranked if i != asked.truth]
        first = min(max(place - before, 0), max(len(others) - size, 0))
        return others[first : first + size]

    def _ranked(self, item: int, size: int, banned: set[int]) -> list[int]:
        """The nearest items of a pool first, a few times ``size`` of them, without those in ``banned``."""
        members, place, near = self._table(int(self._pool_of[item]), NEIGHBOURS_PER_ITEM * size + len(banned))
        return [i for i in members[near[place[item]]].tolist() if i not in banned]

    def _table(self, number: int, depth: int) -> tuple[np.ndarray, dict[int, int], np.ndarray]:
        """Items of a pool with a vector, their places, and for each the places of its ``depth`` nearest, itself among them."""
        made = self._near.get(number)
        if made is not None and made[2].shape[1] >= min(depth, len(made[0])):
            return made
        members = self._pools[number]
        members = members[self._able[members]]
        keys = self._vectors.take(members)
        ask = min(len(members), depth + depth // 2)  # the next question may have a few more banned
        scores, near, _ = ann.exact([(np.arange(len(members)), keys)], keys, ask)
        order = np.lexsort((near, -np.round(scores / SIMILARITY_STEP)), axis=1)
        near = np.take_along_axis(near, order, 1).astype(np.int16)
        self._near[number] = members, {item: p for p, item in enumerate(members.tolist())}, near
        return self._near[number]


def _size(count: int, pool: int, difficulty: float) -> int:
    """How many of a pool's hardest items options are drawn from.

    >>> [_size(9, 900, difficulty) for difficulty in (0, 0.5, 1)]
    [900, 90, 9]
    """
    return min(pool, max(count, round(count**difficulty * pool ** (1 - difficulty))))


def _pools(stratum: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The strata as lists of items, those of more than `MAX_POOL_ITEMS` cut; and for every item [I] the number of its list.

    An item's index is a hash of its id, so every s-th item of a stratum is a random part of it.
    """
    pools: list[np.ndarray] = []
    pool_of = np.zeros(len(stratum), np.int64)
    for number in np.unique(stratum):
        members = np.flatnonzero(stratum == number)
        parts = -(-len(members) // MAX_POOL_ITEMS)
        for start in range(parts):
            pool_of[members[start::parts]] = len(pools)
            pools.append(members[start::parts])
    return pools, pool_of


def _named(matrices: Mapping[str, Matrix], name: str) -> Matrix:
    found = next((m for key, m in matrices.items() if name in (key, m.modality, m.spec)), None)
    if found is None:
        raise QuestionsError(
            f"The nearest items by {name!r} need its vectors, but there are those of {', '.join(matrices) or 'nothing'}.",
            hint=Command("encode", "--modality", name)
            if name in MODALITIES or not matrices
            else f"--negatives nearest:{next(iter(matrices))}",
        )
    return found


def _baskets(catalogue: Catalogue) -> csr_array:
    """float32 [baskets, I]: training bundles and, below them, training users."""
    from scipy.sparse import csr_array

    bundles, users = (splits.training_graph(catalogue, graph) for graph in ("bundle-item", "user-item"))
    first = int(bundles[:, 0].max(initial=-1)) + 1
    rows = np.concatenate([bundles[:, 0], users[:, 0] + first])
    columns = np.concatenate([bundles[:, 1], users[:, 1]])
    shape = (int(rows.max(initial=-1)) + 1, len(catalogue))
    return csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
