"""Directions of items from the order in which users take them: what is taken one soon after the other is alike.

The singular vectors of how often two items stand near each other in a history. They cost a tenth of a second for twenty thousand
interactions, and grow with these. UniMP's rows of items may begin there, and as a baseline they recommend what is
like the latest items of a history.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bundlecache.baselines.next_item import HistoryRanker, below_known, members
from bundlecache.catalogue.columns import Lists

from .spectral_start import spectral_vectors

if TYPE_CHECKING:
    from bundlecache.baselines.next_item import Learnt, Score, Training
    from bundlecache.catalogue.histories import Histories
    from bundlecache.questions.task_file import TaskQuestions

# The best on the validation questions of the demo, of 1 to 30 places, 8 to 64 directions and 2 to 20 latest items.
NEAR, DIRECTIONS, LATEST = 2, 16, 4


def history_directions(seen: Histories, n_items: int) -> np.ndarray:
    """float32 [I, n]: the directions of all items; zeros for one that no history holds.

    The matrix counts how often two items stand at most `NEAR` places apart in a history, each number divided by the roots of
    both items' sums.
    """
    one, other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for distance in range(1, NEAR + 1):
        same = seen.user[distance:] == seen.user[:-distance]
        later, earlier = seen.item[distance:][same], seen.item[:-distance][same]
        one += [later, earlier]
        other += [earlier, later]
    exponents = (0.5, 0.5)
    vectors, _ = spectral_vectors(np.concatenate(one), np.concatenate(other), (n_items, n_items), exponents, DIRECTIONS)
    return vectors


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
