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

    Learnt: TypeAlias = dict[str, np.ndarray]
    """All that a method keeps of its training, by name: arrays, so that they can be written to a file."""
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

    @cached_property
    def rankers(self) -> tuple[HistoryRanker, ...]:
        """All methods that recommend by history; they keep what they learnt, so tasks that share a training share it."""
        return tuple(rankers(self))


@dataclass(frozen=True)
class HistoryRanker:
    """A method by its name: ``learn`` is called once, and ``reader`` makes of what it learnt what scores all items.

    ``partner`` is the method whose learning it takes over, where it learns nothing itself.
    """

    name: str
    learn: Callable[[], Learnt]
    reader: Callable[[Learnt], Score]
    partner: HistoryRanker | None = None

    @cached_property
    def learnt(self) -> Learnt:
        """What `learn` gives."""
        return self.learn()

    @cached_property
    def score(self) -> Score:
        """What `reader` gives."""
        return self.reader(self.learnt)

    def scores(self, asked: TaskQuestions) -> np.ndarray:
        """[q, I] one score per item of the catalogue, higher is better."""
        return self.score(asked)


def rankers(training: Training) -> Iterator[HistoryRanker]:
    """All methods that recommend by history."""
    yield HistoryRanker("random", lambda: {"often": np.zeros(len(training.catalogue))}, _often)
    yield HistoryRanker("popularity", partial(_count, training), _often)
    if training.seen.timed:
        yield HistoryRanker("recent popularity", partial(_count, training, RECENT_SHARE), _often)
    similar = partial(_similarities, training)
    yield HistoryRanker("last-item kNN", similar, partial(_neighbours, last_only=True))
    yield HistoryRanker("item-kNN", similar, partial(_neighbours, last_only=False))
    yield HistoryRanker("ALS", partial(_als_factors, training), partial(_als, training))
    yield HistoryRanker("BPR", partial(_bpr_factors, training), partial(by_factors, training, biased=True))
    for learner in training.learners:
        yield learner(training)


def _count(training: Training, latest: float = 1.0) -> Learnt:
    """How many users took an item, among the latest share of the training interactions."""
    seen = training.seen
    recent = seen.time >= np.quantile(seen.time, 1 - latest)
    return {"often": np.bincount(seen.item[recent], minlength=len(training.catalogue)).astype(np.float64)}


def _often(learnt: Learnt) -> Score:
    return lambda asked: np.tile(learnt["often"], (len(asked), 1))


def _similarities(training: Training) -> Learnt:
    similarity, _ = nearest(training.baskets)
    return {name: getattr(similarity, name) for name in ("data", "indices", "indptr")}


def _neighbours(learnt: Learnt, *, last_only: bool) -> Score:
    """The summed similarities to the items of the history, or the similarity to its last item."""
    n_items = len(learnt["indptr"]) - 1
    similarity = csr_array((learnt["data"], learnt["indices"], learnt["indptr"]), shape=(n_items, n_items))

    def score(asked: TaskQuestions) -> np.ndarray:
        history = asked.history
        if last_only:
            history = Lists.of(np.arange(len(asked) + 1), history.values[history.offsets[1:] - 1])
        return np.round((members(history, n_items) @ similarity).toarray(), 6)

    return score


def _als_factors(training: Training) -> Learnt:
    items = item_factors("als", training.baskets, training.seed).astype(np.float64)
    items[~training.known] = 0
    return {"items": items}


def _als(training: Training, learnt: Learnt) -> Score:
    """A user's factors are solved from the history, as one step of ALS does (Hu et al., 2008)."""
    items = learnt["items"]
    confidence, ridge = SETTINGS["als"]["alpha"], SETTINGS["als"]["regularization"]
    whole = items.T @ items + ridge * np.eye(items.shape[1])

    def score(asked: TaskQuestions) -> np.ndarray:
        users = np.empty((len(asked), items.shape[1]))
        for q, history in enumerate(asked.history):
            taken = items[history]
            users[q] = np.linalg.solve(whole + (confidence - 1) * taken.T @ taken, confidence * taken.sum(axis=0))
        return below_known(users @ items.T, training.known)

    return score


def _bpr_factors(training: Training) -> Learnt:
    users, items = all_factors("bpr", training.baskets, training.seed)
    return {"users": users, "items": items}


def by_factors(training: Training, learnt: Learnt, *, biased: bool = False) -> Score:
    """Dot products of factors, ``users`` [U, k] and ``items`` [I, k]; a user whom training never saw is the mean of the history's items.

    ``biased`` says that the last number of an item is its bias, which the 1 of every user is multiplied with.
    """
    users, items, known = learnt["users"], learnt["items"], training.known

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
