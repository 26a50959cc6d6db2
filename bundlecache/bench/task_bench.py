"""Scores methods on the tasks of user histories: figures with 95 % intervals, among the whole catalogue where items are ranked.

Ranks are exact: every item is scored, items of the history are left out unless they are kept on request, and ties count by
their average. Intervals are percentile bootstraps over questions, each of which is about another user.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_text
from .bootstrap import intervals
from .metrics import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ..baselines.next_item import HistoryRanker
    from ..questions.task_file import TaskQuestions

DEPTHS = (3, 5, 10)
MAX_SCORES = 1 << 24  # held at once
MAIN = {"recommend": "HR@10", "search": "HR@10", "select": "first", "preference": "MAE"}
"""The figure of each task by which methods are put in order; of preference, less is better."""


@dataclass(frozen=True)
class TaskMethod:
    """The figures of one method, their intervals by the same names, and the seconds that fitting and answering took."""

    name: str
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    seconds: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """All methods on the test questions of one task, the best first."""

    task: str
    questions: dict[str, Any]  # the header of the frozen file
    n: int
    n_items: int  # that are ranked
    keep_history: bool
    methods: list[TaskMethod]

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON."""
        made = {name: value for name, value in vars(self).items() if name != "methods"}
        return made | {"methods": [vars(method) for method in self.methods]}

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")


def rank(
    asked: TaskQuestions,
    rankers: Sequence[HistoryRanker],
    n_items: int,
    *,
    keep_history: bool = False,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
) -> TaskResult:
    """Rank all items (recommend, search) or the candidates (select) by every method.

    ``progress`` is told how many methods are done, of how many, and which one comes next.
    """
    methods = []
    for done, ranker in enumerate(rankers):
        progress(done, len(rankers), ranker.name)
        start = time.perf_counter()
        parts = []
        for part in _chunks(asked, n_items):
            scores = ranker.scores(part)
            found = (
                _selected(part, scores) if asked.task == "select" else _ranked(places_of(part, scores, keep_history))
            )
            parts.append(found)
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        methods.append(replace(_method(ranker.name, values), seconds=round(time.perf_counter() - start, 2)))
    progress(len(rankers), len(rankers), "")
    return _result(asked, methods, n_items, keep_history)


def rate(asked: TaskQuestions, predicted: Mapping[str, np.ndarray], n_items: int) -> TaskResult:
    """Compare predicted stars [q] with those that users gave: mean absolute error, and root of the mean squared error."""
    methods = []
    for name, stars in predicted.items():
        error = stars - asked.rating
        made = _method(name, {"MAE": np.abs(error), "RMSE": error**2})
        low, high = made.intervals["RMSE"]
        roots = {"RMSE": (float(np.sqrt(low)), float(np.sqrt(high)))}
        figures = made.figures | {"RMSE": float(np.sqrt(made.figures["RMSE"]))}
        methods.append(replace(made, figures=figures, intervals=made.intervals | roots))
    return _result(asked, methods, n_items, keep_history=False)


def places_of(asked: TaskQuestions, scores: np.ndarray, keep_history: bool = False) -> Places:
    """Where the targets stand among all items by ``scores`` [q, I], the items of each history left out or kept."""
    if not keep_history:
        scores = scores.copy()
        scores[asked.history.rows, asked.history.values] = -np.inf
    return Places.of(scores, asked.target)


def _chunks(asked: TaskQuestions, n_items: int) -> Iterator[TaskQuestions]:
    size = max(1, MAX_SCORES // n_items)
    for low in range(0, len(asked), size):
        yield asked.take(np.arange(low, min(low + size, len(asked))))


def _ranked(places: Places) -> dict[str, np.ndarray]:
    """Figure -> [q]. With one right item, HR@k is Recall@k."""
    made = {f"HR@{k}": places.within(k) for k in DEPTHS} | {f"NDCG@{k}": places.ndcg(k) for k in DEPTHS}
    return made | {"MRR": places.reciprocal()}


def _selected(asked: TaskQuestions, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Figure -> [q]: whether the first choice is right, and precision, recall and F1 of the chosen ones.

    A method chooses the candidates that score above their mean; where all are equal it chooses none. Ties for the first
    place count by their share.
    """
    shown = np.take_along_axis(scores, asked.candidates, axis=1)  # [q, 3]
    best = shown == shown.max(axis=1, keepdims=True)
    first = (best & asked.right).sum(axis=1) / best.sum(axis=1)
    chosen = shown > shown.mean(axis=1, keepdims=True) + 1e-9
    hits = (chosen & asked.right).sum(axis=1)
    precision, recall = hits / np.maximum(chosen.sum(axis=1), 1), hits / asked.right.sum(axis=1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {"first": first, "precision": precision, "recall": recall, "F1": f1}


def _method(name: str, values: dict[str, np.ndarray]) -> TaskMethod:
    ranges = intervals(np.stack(list(values.values()), axis=1)).tolist()  # [figures][2]
    made = {figure: (low, high) for figure, (low, high) in zip(values, ranges, strict=True)}
    return TaskMethod(name, {figure: float(each.mean()) for figure, each in values.items()}, made)


def _result(asked: TaskQuestions, methods: list[TaskMethod], n_items: int, keep_history: bool) -> TaskResult:
    main = MAIN[asked.task]
    methods.sort(key=lambda method: method.figures[main] * (1 if main == "MAE" else -1))
    return TaskResult(asked.task, asked.header, len(asked), n_items, keep_history, methods)
