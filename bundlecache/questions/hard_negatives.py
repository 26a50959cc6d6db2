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
training only training bundles do, else the absence of an option would tell of the others (`right_answers`). How hard an
item is stands in `hardness`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..candidates.item_vectors import version_of
from ..errors import Command, QuestionsError
from ..modalities import MODALITIES
from ..sorted_arrays import outside
from . import negatives
from .hardness import Asked, AsPopular, Nearest, SameCategory, Together, pools_of
from .negatives import shuffled

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix
    from .hardness import Order

KINDS = ("nearest:MODALITY", "same-category", "popularity-matched", "co-occurring")
ITEMS_PER_OPTION = (
    20  # a stratum holds at least so many times as many items as a question has options, where there are so many
)
MAX_POOL_ITEMS = (
    8192  # items that compete to be hardest: a larger stratum is cut at random, so that all pairs can be compared
)


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
        self.pools = pools_of(self.strata.number, MAX_POOL_ITEMS)
        self._orders = [self._order(catalogue, name, matrices or {}) for name in kind.split("+")]

    def pick(
        self,
        rng: random.Random | np.random.Generator,
        partial: np.ndarray,
        truth: int,
        count: int,
        taken: Collection[int] | np.ndarray,
    ) -> np.ndarray:
        """At most ``count`` distinct item indices, excluding ``taken`` and the truth; fewer where there are not enough hard items.

        Only ``rng.random()`` is asked.
        """
        pool, asked = self.pools.around(truth), Asked(partial, truth)
        given = taken if isinstance(taken, np.ndarray) else np.fromiter(taken, np.int64, len(taken))
        banned = np.unique(np.append(given, truth))
        order = self._orders[int(rng.random() * len(self._orders))]
        size = _size(count, len(pool), self.difficulty)
        hardest = order.hardest(rng, asked, size, banned) if size < len(pool) else pool[outside(pool, banned)]
        return np.fromiter(islice(shuffled(rng, hardest), count), np.int64)

    def _order(self, catalogue: Catalogue, kind: str, matrices: Mapping[str, Matrix]) -> Order:
        name, _, modality = kind.partition(":")
        if name == "nearest" and modality:
            matrix = _named(matrices, modality)
            self.vectors[modality] = version_of(matrix)
            return Nearest(self.pools, matrix)
        if kind == "same-category":
            if not catalogue.column("category").any():
                raise QuestionsError(
                    "Negatives of the same category need a column category in the items table.",
                    hint="--negatives nearest:text",
                )
            return SameCategory(self.pools, catalogue.column("category"))
        if kind == "popularity-matched":
            return AsPopular(self.pools, self.strata.popularity)
        if kind == "co-occurring":
            return Together(self.pools, catalogue)
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


def _size(count: int, pool: int, difficulty: float) -> int:
    """How many of a pool's hardest items options are drawn from.

    >>> [_size(9, 900, difficulty) for difficulty in (0, 0.5, 1)]
    [900, 90, 9]
    """
    return min(pool, max(count, round(count**difficulty * pool ** (1 - difficulty))))


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
