"""Scores methods on the tasks of user histories: figures with 95 % intervals, among the whole catalogue where items are ranked.

Ranks are exact: every item is scored, items of the history are left out unless they are kept on request, and ties count by
their average. Intervals are percentile bootstraps over questions, each of which is about another user. A trained model
stands beside the baselines with its difference to the best of them, question by question.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from ..files import read_arrays, read_json, write_arrays, write_text
from ..rows import Result
from .bootstrap import intervals, seeds_interval
from .metrics import Places
from .text_metrics import text_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ..questions.task_file import TaskQuestions

DEPTHS = (3, 5, 10)
MAX_SCORES = 1 << 24  # held at once
MAIN = {"recommend": "HR@10", "search": "HR@10", "select": "first", "preference": "MAE", "explain": "ROUGE-L"}
"""The figure of each task by which methods are put in order; of preference, less is better."""


LEARNT = ("recommend", "search", "select")
"""The tasks with baselines that draw from a training seed."""


class Method(Protocol):
    """What scores all items for questions: a baseline (`baselines.next_item.HistoryRanker`), or a trained model."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    def scores(self, asked: TaskQuestions) -> np.ndarray:
        """[q, I] one score per item of the catalogue, higher is better."""
        ...


@runtime_checkable
class Chooser(Protocol):
    """A method that chooses among the candidates of ``select`` itself."""

    def choose(self, asked: TaskQuestions) -> tuple[np.ndarray, np.ndarray]:
        """Scores [q, 3] of the candidates, and which are chosen, bool [q, 3]."""
        ...


@dataclass(frozen=True)
class TaskMethod:
    """The figures of one method, their intervals by the same names, and the seconds that fitting and answering took.

    What one task fitted costs the next one, which shares it, nothing.

    ``by_seed`` holds the figures of each training seed, where there are several. ``difference`` is that of a model to the best baseline: the mean over questions, and its interval. ``values`` [q] are what
    the figures are means of.
    """

    name: str
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    seconds: float | None = None
    kind: Literal["baseline", "model"] = "baseline"
    difference: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    by_seed: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON."""
        unwritten = {"values"} | ({"kind", "difference"} if self.kind == "baseline" else set())
        unwritten |= set() if self.by_seed else {"by_seed"}
        return {name: value for name, value in vars(self).items() if name not in unwritten}


@dataclass(frozen=True, repr=False)
class TaskResult(Result):
    """All methods on the test questions of one task, the best first."""

    task: str
    questions: dict[str, Any]  # the header of the frozen file
    n: int
    n_items: int  # that are ranked
    keep_history: bool
    methods: list[TaskMethod]

    def _frame(self) -> Any:
        """A row per method; its figures and intervals are columns."""
        return [method.to_dict() for method in self.methods]

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON."""
        made = {name: value for name, value in vars(self).items() if name != "methods"}
        return made | {"methods": [method.to_dict() for method in self.methods]}

    @property
    def best_baseline(self) -> TaskMethod | None:
        """The baseline with the best main figure on these very questions."""
        return next((method for method in self.methods if method.kind == "baseline"), None)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def save_values(self, path: Path) -> None:
        """Write what the figures of the models are means of beside their JSON ``path``: by them two runs are compared."""
        models = [method for method in self.methods if method.kind == "model"]
        made = {f"{m.name}\t{name}": values.astype(np.float32) for m in models for name, values in m.values.items()}
        write_arrays(path.with_suffix(".npz"), made)


def read_values(path: Path, model: str) -> dict[str, np.ndarray] | None:
    """Figure -> [q] of a model, beside the JSON ``path`` of its results; None where there are none."""
    keys = {tuple(key.split("\t")): values for key, values in (read_arrays(path.with_suffix(".npz")) or {}).items()}
    made = {key[1]: values for key, values in keys.items() if len(key) == 2 and key[0] == model}
    return made or None


def rank(
    asked: TaskQuestions,
    baselines: Sequence[Method],
    n_items: int,
    *,
    models: Sequence[Method] = (),
    keep_history: bool = False,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
) -> TaskResult:
    """Rank all items (recommend, search) or the candidates (select) by every method.

    ``progress`` is told how many methods are done, of how many, and which one comes next.
    """
    made, total = [], len(baselines) + len(models)
    for done, method in enumerate([*baselines, *models]):
        progress(done, total, method.name)
        start = time.perf_counter()
        parts = []
        for part in _chunks(asked, n_items):
            if asked.task == "select":
                parts.append(_selected(part, *_choose(part, method)))
            else:
                parts.append(_ranked(places_of(part, method.scores(part), keep_history)))
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        seconds = round(time.perf_counter() - start, 2)
        made.append(replace(_method(method.name, values, done >= len(baselines)), seconds=seconds))
    progress(total, total, "")
    return _result(asked, made, n_items, keep_history)


def rate(
    asked: TaskQuestions,
    predicted: Mapping[str, np.ndarray],
    n_items: int,
    *,
    models: Mapping[str, np.ndarray] | None = None,
) -> TaskResult:
    """Compare predicted stars [q] with those that users gave: mean absolute error, and root of the mean squared error."""
    methods = []
    for name, stars in [*predicted.items(), *(models or {}).items()]:
        error = stars - asked.rating
        values = {"MAE": np.abs(error), "RMSE": error**2}
        made = _method(name, values, models is not None and name in models)
        low, high = made.intervals["RMSE"]
        roots = {"RMSE": (float(np.sqrt(low)), float(np.sqrt(high)))}
        figures = made.figures | {"RMSE": float(np.sqrt(made.figures["RMSE"]))}
        methods.append(replace(made, figures=figures, intervals=made.intervals | roots))
    return _result(asked, methods, n_items, keep_history=False)


def over_seeds(results: Sequence[TaskResult]) -> TaskResult:
    """The same methods on the same questions, fitted with several training seeds: their means.

    Intervals draw seeds again, then questions (`bootstrap.seeds_interval`). A method of the first result alone stays as it is.
    """
    first, *_ = results
    methods = []
    for method in first.methods:
        same = [other for result in results for other in result.methods if other.name == method.name]
        if len(same) > 1:
            made = _method(
                method.name, {name: np.mean([m.values[name] for m in same], axis=0) for name in method.values}
            )
            ranges = {name: seeds_interval(np.stack([m.values[name] for m in same])) for name in method.values}
            by_seed = {name: [m.figures[name] for m in same] for name in method.figures}
            seconds = [m.seconds for m in same if m.seconds is not None]
            spent = round(sum(seconds), 2) if seconds else None
            method = replace(made, kind=method.kind, intervals=ranges, by_seed=by_seed, seconds=spent)
        methods.append(method)
    return _ordered(replace(first, methods=methods))


def compare_texts(
    asked: TaskQuestions,
    said: Mapping[str, Sequence[str]],
    n_items: int,
    *,
    models: Mapping[str, Sequence[str]] | None = None,
) -> TaskResult:
    """Compare what methods say [q] with the explanations that users gave, see `text_metrics`."""
    true = [str(text) for text in asked.explanation]
    methods = []
    for name, texts in [*said.items(), *(models or {}).items()]:
        bleu, interval, values = text_figures(texts, true)
        made = _method(name, values, models is not None and name in models)
        figures, ranges = {"BLEU-4": bleu} | made.figures, {"BLEU-4": interval} | made.intervals
        methods.append(replace(made, figures=figures, intervals=ranges))
    return _result(asked, methods, n_items, keep_history=False)


def saved_best(folder: Path, task: str) -> tuple[str, dict[str, Any] | None]:
    """The best baseline of the newest results of a task in a folder, and the header of the questions; None without results."""
    saved = sorted(folder.glob(f"{task}-*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in reversed(saved):
        with suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
            made = read_json(path)
            return next(str(row["name"]) for row in made["methods"] if "kind" not in row), dict(made["questions"])
    return "", None


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


def _choose(asked: TaskQuestions, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Scores [q, 3] of the candidates and which are chosen; a method that only scores chooses those above the mean.

    Where all are equal it chooses none.
    """
    if isinstance(method, Chooser):
        return method.choose(asked)
    shown = np.take_along_axis(method.scores(asked), asked.candidates, axis=1)  # [q, 3]
    return shown, shown > shown.mean(axis=1, keepdims=True) + 1e-9


def _selected(asked: TaskQuestions, shown: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Figure -> [q]: whether the first choice is right, and precision, recall and F1 of the chosen ones.

    Ties for the first place count by their share.
    """
    best = shown == shown.max(axis=1, keepdims=True)
    first = (best & asked.right).sum(axis=1) / best.sum(axis=1)
    hits = (chosen & asked.right).sum(axis=1)
    precision, recall = hits / np.maximum(chosen.sum(axis=1), 1), hits / asked.right.sum(axis=1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {"first": first, "precision": precision, "recall": recall, "F1": f1}


def _method(name: str, values: dict[str, np.ndarray], is_model: bool = False) -> TaskMethod:
    ranges = intervals(np.stack(list(values.values()), axis=1)).tolist()  # [figures][2]
    made = {figure: (low, high) for figure, (low, high) in zip(values, ranges, strict=True)}
    figures = {figure: float(each.mean()) for figure, each in values.items()}
    return TaskMethod(name, figures, made, kind="model" if is_model else "baseline", values=values)


def _result(asked: TaskQuestions, methods: list[TaskMethod], n_items: int, keep_history: bool) -> TaskResult:
    return _ordered(TaskResult(asked.task, asked.header, len(asked), n_items, keep_history, methods))


def _ordered(result: TaskResult) -> TaskResult:
    """The best method first, and models beside the best baseline."""
    main, methods = MAIN[result.task], result.methods
    methods.sort(key=lambda method: method.figures[main] * (1 if main == "MAE" else -1))
    if (best := result.best_baseline) is not None:
        methods[:] = [_beside(method, best) if method.kind == "model" else method for method in methods]
    return result


def _beside(method: TaskMethod, best: TaskMethod) -> TaskMethod:
    """The method with its difference to the best baseline; a root of a mean has none."""
    names = [name for name in method.values if name != "RMSE"]
    apart = np.stack([method.values[name] - best.values[name] for name in names], axis=1)  # [q, figures]
    ranges = intervals(apart).tolist()
    means = apart.mean(axis=0).tolist()
    return replace(method, difference={n: (m, *ends) for n, m, ends in zip(names, means, ranges, strict=True)})
