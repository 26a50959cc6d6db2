"""The order in which training goes through its examples: every epoch is a new permutation of all of them."""

from __future__ import annotations

import numpy as np

EPOCH_STREAM = 1 << 40
"""Beside the seed, so that permutations are independent of what else is drawn from the seed and a number."""


class EpochOrder:
    """An endless stream of the numbers 0..n - 1; place k of it follows from the seed alone."""

    def __init__(self, n: int, seed: int | list[int]) -> None:
        self.n, self.seed = n, [seed] if isinstance(seed, int) else seed
        self._latest: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # an epoch and its order

    def take(self, first: int, count: int) -> np.ndarray:
        """int64 [count]: the places ``first`` to ``first + count`` of the stream."""
        epochs, places = np.divmod(np.arange(first, first + count), self.n)
        order = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            if self._latest[0] != epoch:
                rng = np.random.default_rng([*self.seed, EPOCH_STREAM, int(epoch)])
                self._latest = (int(epoch), rng.permutation(self.n))
            order[epochs == epoch] = self._latest[1][places[epochs == epoch]]
        return order
