"""Methods that say which items of a catalogue are similar to an item: by chance, popularity, clicks, or stored vectors.

Each is a function int [b] item indices -> float32 [b, I]. What learns from clicks sees those before a time alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..catalogue.click_log import ClickLog
    from ..store.store import Matrix

    Scorer = Callable[[np.ndarray], np.ndarray]

BLOCK_ITEMS = 16_384  # items whose vectors are made at once
DECIMALS = 6  # of a cosine: what single precision tells apart
MAX_CLICKS = 2_000  # users with more different items are left out of item-kNN: they say little and cost their square


def by_chance(n_items: int, seed: int = 0) -> Scorer:
    """Random scores, others for every item asked about and the same in every run."""
    base = np.random.default_rng(seed).permutation(n_items).astype(np.float32)

    def scores(query: np.ndarray) -> np.ndarray:
        return np.stack([np.roll(base, 7919 * (int(item) + 1)) for item in query])

    return scores


def by_popularity(log: ClickLog, before: int, n_items: int) -> Scorer:
    """The number of clicks before a time (microseconds since 1970), whatever item is asked about."""
    clicks = np.bincount(log.item[log.visit_end < before], minlength=n_items).astype(np.float32)
    return lambda query: np.repeat(clicks[None], len(query), axis=0)


def by_visits(log: ClickLog, before: int, n_items: int) -> Scorer:
    """Co-click kNN: the cosine of two items over the visits that hold them, of those before a time."""
    return _cosine_over(log.visit, log, before, n_items)


def by_users(log: ClickLog, before: int, n_items: int) -> Scorer:
    """Item-kNN: the cosine of two items over the users who clicked them before a time."""
    return _cosine_over(log.user, log, before, n_items)


def _cosine_over(row: np.ndarray, log: ClickLog, before: int, n_items: int) -> Scorer:
    from scipy.sparse import csr_array

    seen = log.visit_end < before
    rows, items = np.unique(row[seen], return_inverse=True)[1].reshape(-1), log.item[seen]
    clicks: Any = csr_array((np.ones(len(rows), np.float32), (rows, items)), shape=(len(rows) or 1, n_items))
    clicks.data[:] = 1  # the same item twice counts once
    clicks = clicks[np.flatnonzero(np.diff(clicks.indptr) <= MAX_CLICKS)]
    length = np.sqrt(np.asarray(clicks.sum(axis=0)).reshape(-1))  # [I]
    inverse = np.divide(1, length, out=np.zeros_like(length), where=length > 0).astype(np.float32)
    by_item = clicks.T.tocsr()  # [I, rows]

    def scores(query: np.ndarray) -> np.ndarray:
        together = (by_item[query] @ clicks).toarray()  # [b, I]
        return np.round(together * inverse[query, None] * inverse, DECIMALS).astype(np.float32)

    return scores


def by_cosine(matrix: Matrix) -> Scorer:
    """The cosine of stored vectors; ``-inf`` where one of the two items has none.

    Scores are rounded, so that equal vectors tie on every machine.
    """
    lengths = np.zeros(len(matrix.mask), np.float32)
    for block, vectors in _blocks(matrix):
        lengths[block] = np.linalg.norm(vectors, axis=1)
    inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)

    def scores(query: np.ndarray) -> np.ndarray:
        asked = np.asarray(matrix.vectors[query], np.float32) * inverse[query, None]
        found = np.empty((len(query), len(lengths)), np.float32)
        for block, vectors in _blocks(matrix):
            found[:, block] = np.round(asked @ (vectors * inverse[block, None]).T, DECIMALS)
        found[:, lengths == 0] = -np.inf
        found[lengths[query] == 0] = -np.inf
        return found

    return scores


def _blocks(matrix: Matrix) -> Any:
    """Slices of items, and their vectors float32 [n, d]; zeros where there is none."""
    for low in range(0, len(matrix.mask), BLOCK_ITEMS):
        block = slice(low, low + BLOCK_ITEMS)
        yield block, np.asarray(matrix.vectors[block], np.float32) * matrix.mask[block, None]
