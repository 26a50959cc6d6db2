"""Baselines of next-item recommendation: scores of all items from what a user did before.

Each is fitted on what training may see (`Training`) and scores a question by the history in it, so users whom training
never saw are served too. Items without a training interaction have equal scores, the lowest ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow.compute as pc
from scipy.sparse import csr_array

from ..catalogue.columns import Lists, Strings
from ..factors import SETTINGS, all_factors, item_factors
from .graphs import column, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..catalogue.catalogue import Catalogue
    from ..catalogue.histories import Histories
    from ..questions.task_file import TaskQuestions

    Score: TypeAlias = Callable[[TaskQuestions], np.ndarray]
    """Questions -> float [q, I]."""


RECENT_SHARE = 0.1  # of the training interactions, whose items are popular now


@dataclass(frozen=True)
class Training:
    """What methods learn from: the ``seen`` interactions, and the validation questions of ``recommend`` to stop by.

    ``learners`` are methods of a higher floor: this floor trains nothing with torch.
    """

    catalogue: Catalogue
    seen: Histories
    validation: TaskQuestions
    seed: int = 0
    learners: tuple[Callable[[Training], HistoryRanker], ...] = field(default=())

    @cached_property
    def baskets(self) -> csr_array:
        """float32 [U, I]: 1 where a user took an item."""
        ends, item = self.seen.ends, self.seen.item
        return csr_array((np.ones(len(item), np.float32), item, ends), shape=(len(ends) - 1, len(self.catalogue)))

    @property
    def known(self) -> np.ndarray:
        """Bool [I], items with a training interaction."""
        return column(self.baskets) > 0

    def numbers(self, users: Strings[str]) -> np.ndarray:
        """int64 [q], the row of each user in `baskets`; -1 for one whom training never saw."""
        return np.asarray(pc.fill_null(pc.index_in(users.arrow, value_set=self.seen.users.arrow), -1), np.int64)


@dataclass(frozen=True)
class HistoryRanker:
    """A method by its name: ``fit`` learns, and gives back what scores all items for questions; it is called once."""

    name: str
    fit: Callable[[], Score]

    @cached_property
    def fitted(self) -> Score:
        """What `fit` gives."""
        return self.fit()

    def scores(self, asked: TaskQuestions) -> np.ndarray:
        """[q, I] one score per item of the catalogue, higher is better."""
        return self.fitted(asked)


def rankers(training: Training) -> Iterator[HistoryRanker]:
    """All methods that recommend by history."""
    yield HistoryRanker("random", partial(_equal, training))
    yield HistoryRanker("popularity", partial(_popularity, training))
    if training.seen.timed:
        yield HistoryRanker("recent popularity", partial(_popularity, training, RECENT_SHARE))
    yield HistoryRanker("last-item kNN", partial(_neighbours, training, last_only=True))
    yield HistoryRanker("item-kNN", partial(_neighbours, training, last_only=False))
    yield HistoryRanker("ALS", partial(_als, training))
    yield HistoryRanker("BPR", partial(_bpr, training))
    for learner in training.learners:
        yield learner(training)


def _equal(training: Training) -> Score:
    return lambda asked: np.zeros((len(asked), len(training.catalogue)))


def _popularity(training: Training, latest: float = 1.0) -> Score:
    """How many users took an item, among the latest share of the training interactions."""
    seen = training.seen
    recent = seen.time >= np.quantile(seen.time, 1 - latest)
    often = np.bincount(seen.item[recent], minlength=len(training.catalogue))
    return lambda asked: np.tile(often.astype(np.float64), (len(asked), 1))


def _neighbours(training: Training, *, last_only: bool) -> Score:
    """The summed similarities to the items of the history, or the similarity to its last item."""
    similarity, _ = nearest(training.baskets)

    def score(asked: TaskQuestions) -> np.ndarray:
        history = asked.history
        if last_only:
            history = Lists.of(np.arange(len(asked) + 1), history.values[history.offsets[1:] - 1])
        return np.round((members(history, similarity.shape[0]) @ similarity).toarray(), 6)

    return score


def _als(training: Training) -> Score:
    """A user's factors are solved from the history, as one step of ALS does (Hu et al., 2008)."""
    items = item_factors("als", training.baskets, training.seed).astype(np.float64)
    items[~training.known] = 0
    confidence, ridge = SETTINGS["als"]["alpha"], SETTINGS["als"]["regularization"]
    whole = items.T @ items + ridge * np.eye(items.shape[1])

    def score(asked: TaskQuestions) -> np.ndarray:
        users = np.empty((len(asked), items.shape[1]))
        for q, history in enumerate(asked.history):
            taken = items[history]
            users[q] = np.linalg.solve(whole + (confidence - 1) * taken.T @ taken, confidence * taken.sum(axis=0))
        return below_known(users @ items.T, training.known)

    return score


def _bpr(training: Training) -> Score:
    return by_factors(training, *all_factors("bpr", training.baskets, training.seed), biased=True)


def by_factors(training: Training, users: np.ndarray, items: np.ndarray, *, biased: bool = False) -> Score:
    """Dot products of factors [U, k] and [I, k]; a user whom training never saw is the mean of the history's items.

    ``biased`` says that the last number of an item is its bias, which the 1 of every user is multiplied with.
    """
    known = training.known

    def score(asked: TaskQuestions) -> np.ndarray:
        number = training.numbers(asked.users)
        history = members(asked.history, len(items))
        mean = (history @ np.where(known[:, None], items, 0)) / np.maximum(history @ known, 1)[:, None]
        if biased:
            mean[:, -1] = 1
        return below_known(np.where(number[:, None] >= 0, users[number], mean) @ items.T, known)

    return score


def below_known(scores: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Scores [q, I] in which the items that are not ``known`` [I] all stand behind the others."""
    scores = scores.astype(np.float64)
    if not known.all():
        scores[:, ~known] = scores.min(axis=1, keepdims=True) - 1
    return scores


def members(lists: Lists, n_items: int) -> csr_array:
    """float32 [lists, I]: 1 where a list holds the item."""
    ones = np.ones(len(lists.values), np.float32)
    return csr_array((ones, lists.values, lists.offsets), shape=(len(lists), n_items))
