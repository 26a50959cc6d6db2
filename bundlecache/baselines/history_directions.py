"""Directions of items from the order in which users take them: what is taken one soon after the other is alike.

The eigenvectors of how often two items stand near each other in a history. They cost a tenth of a second for twenty thousand
interactions, and grow with these. UniMP's rows of items may begin there, and as a baseline they recommend what is
like the latest items of a history.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue.columns import Lists
from .next_item import HistoryRanker, below_known, members

if TYPE_CHECKING:
    from ..catalogue.histories import Histories
    from ..questions.task_file import TaskQuestions
    from .next_item import Learnt, Score, Training

# The best on the validation questions of the demo, of 1 to 30 places, 8 to 64 directions and 2 to 20 latest items.
NEAR, DIRECTIONS, LATEST = 2, 16, 4
DENSE_ITEMS = 256  # up to so many all eigenvectors are computed


def history_directions(seen: Histories, n_items: int) -> np.ndarray:
    """float32 [I, n]: the directions of all items; zeros for one that no history holds.

    The eigenvectors of largest eigenvalue, times the root of it, in ascending order, of the matrix of how often two items
    stand at most `NEAR` places apart in a history, each number divided by the roots of both items' sums.
    """
    from scipy.sparse import coo_array, diags_array

    pairs = []
    for distance in range(1, NEAR + 1):
        same = seen.user[distance:] == seen.user[:-distance]
        later, earlier = seen.item[distance:][same], seen.item[:-distance][same]
        pairs += [(later, earlier), (earlier, later)]
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    near = coo_array((np.ones(len(one)), (one, other)), shape=(n_items, n_items)).tocsr()
    if not near.nnz:
        return np.zeros((n_items, min(DIRECTIONS, n_items)), np.float32)
    scale = diags_array(np.maximum(near.sum(axis=0), 1) ** -0.5)
    values, vectors = _largest((scale @ near @ scale).tocsr(), min(DIRECTIONS, n_items))
    made: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    made[near.sum(axis=0) == 0] = 0
    return made


def _largest(matrix: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues [n] of a symmetric matrix [I, I], and their vectors [I, n]; the same on every call."""
    from scipy.sparse.linalg import eigsh

    if matrix.shape[0] <= DENSE_ITEMS:
        values, vectors = np.linalg.eigh(matrix.toarray())
        return values[-count:], vectors[:, -count:]
    found: tuple[np.ndarray, np.ndarray] = eigsh(matrix, k=count, which="LA", v0=np.ones(matrix.shape[0]))
    return found


def neighbour_ranker(training: Training) -> HistoryRanker:
    """The method that recommends what is like the latest items."""
    return HistoryRanker("history SVD", partial(_learn, training), partial(_reader, training))


def _learn(training: Training) -> Learnt:
    return {"items": history_directions(training.seen, len(training.catalogue))}


def _reader(training: Training, learnt: Learnt) -> Score:
    items = learnt["items"]

    def score(asked: TaskQuestions) -> np.ndarray:
        latest = members(_latest(asked.history), len(items))
        return below_known((latest @ items) @ items.T, training.known)

    return score


def _latest(histories: Lists) -> Lists:
    """The last `LATEST` items of each list."""
    stops = histories.offsets[1:]
    starts = np.maximum(histories.offsets[:-1], stops - LATEST)
    return Lists([histories.values[a:b] for a, b in zip(starts, stops, strict=True)])
