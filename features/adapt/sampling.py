"""Draws the batches of an adaptation; the same for the same seed and number of the step."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .pairs import Pairs

HARD_AMONG = 20  # nearest pictures of a pair from which its hard negatives are drawn


class Batches:
    """Batches of item indices, all of one size, over shuffled training pairs; the rest of an epoch is left out.

    Parameters
    ----------
    size, processes
        Pairs of a batch over all processes, each of which gets an equal share; fewer where there are fewer pairs.
    hard, neighbours
        For every drawn pair, so many of its ``neighbours`` [n, HARD_AMONG] (places in ``train``) join the batch.
    """

    def __init__(
        self,
        pairs: Pairs,
        size: int,
        processes: int = 1,
        seed: int = 0,
        hard: int = 0,
        neighbours: np.ndarray | None = None,
    ) -> None:
        self.train, self.seed, self.hard = pairs.train, seed, hard
        size = min(size, len(pairs.train))
        self.size = max(processes, size - size % processes)
        self.per_epoch = max(1, len(pairs.train) // self.size)
        self.neighbours = neighbours
        self._order = lru_cache(maxsize=1)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 11, epoch]).permutation(len(self.train))

    def of_step(self, step: int) -> np.ndarray:
        """int64 [b], the items of a step."""
        epoch, k = divmod(step, self.per_epoch)
        places = self._order(epoch)[k * self.size : (k + 1) * self.size]
        if self.hard and self.neighbours is not None:
            places = self._with_hard(places, step)
        chosen: np.ndarray = self.train[places]
        return chosen

    def _with_hard(self, places: np.ndarray, step: int) -> np.ndarray:
        """The first pairs of a batch, and nearest pictures of each in the place of the others."""
        assert self.neighbours is not None  # noqa: S101 - checked by the caller
        rng = np.random.default_rng([self.seed, 13, step])
        kept = places[: max(1, len(places) // (1 + self.hard))]
        near = self.neighbours[kept]  # [m, HARD_AMONG]
        drawn = rng.permuted(near, axis=1)[:, : self.hard].ravel()
        candidates = np.concatenate([kept, drawn, places[len(kept) :]])
        _, first = np.unique(candidates, return_index=True)
        return candidates[np.sort(first)][: len(places)]


def nearest_pictures(vectors: np.ndarray, group: np.ndarray) -> np.ndarray:
    """int64 [n, HARD_AMONG], the nearest rows of ``vectors`` [n, d] by cosine whose titles say something else."""
    import faiss

    from bundlecache.vector_math import unit_rows

    unit = np.ascontiguousarray(unit_rows(vectors))
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    found = index.search(unit, min(len(unit), 2 * HARD_AMONG + 1))[1]
    other = group[found] != group[:, None]
    order = np.argsort(~other, axis=1, kind="stable")
    near: np.ndarray = np.take_along_axis(found, order, axis=1)[:, :HARD_AMONG]
    return near
