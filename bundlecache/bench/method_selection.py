"""Which method completes bundles best on validation questions: the model, the learned ranker, or both together.

The choice never looks at a test question. It is kept in ``runs/RUN/completion.json``, what the ranker was fitted to in
``learned_ranker.npz`` beside it::

    {"format_version": 1, "best": "both", "weights": [of the model, of the ranker] or null,
     "scores": [{"method", "name", "n", "hit@1", "hit@1_interval"}]}    best first
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..baselines import saved_ranker
from ..baselines.learned import Reranked, truths, unseen_validation
from ..errors import BundlecacheError, CheckpointError, Command
from ..files import write_text
from .bootstrap import bootstrap
from .metrics import hits
from .result_rows import Interval, interval_of

if TYPE_CHECKING:
    from pathlib import Path

    from ..baselines.rankers import ModelRanker, Ranker
    from ..baselines.sources import Sources

FORMAT_VERSION = 1
FILE, RANKER_FILE = "completion.json", "learned_ranker.npz"
MODEL, LEARNED, BOTH = "model", "learned-ranker", "both"
METHODS = (MODEL, LEARNED, BOTH)


@dataclass(frozen=True)
class ValidationScore:
    """A method's HitRate@1 on n validation questions, random and hard ones, with its 95 % interval."""

    method: str
    name: str
    n: int
    hit1: float
    hit1_interval: Interval


@dataclass(frozen=True)
class Choice:
    """The best method on validation questions; ``weights`` are those of the model and the ranker in ``both``."""

    best: str
    scores: list[ValidationScore]
    weights: tuple[float, float] | None = None

    @property
    def compared(self) -> list[str]:
        """The methods that were asked the validation questions; none where there was only the model to ask."""
        return [row.method for row in self.scores]


def best_on_validation(sources: Sources, model: ModelRanker) -> Choice:
    """Ask model, learned ranker and both together the validation questions of ``sources`` that the model has not seen.

    Equals are decided for the cheaper one: the learned ranker, then the model. Without a learned ranker, or without
    validation questions, it is the model.
    """
    both = _both(sources, model, None)
    questions = unseen_validation(model, sources)
    if both is None or not questions:
        return Choice(MODEL, [])
    methods: tuple[tuple[str, Ranker], ...] = ((LEARNED, both.ranker), (MODEL, model), (BOTH, both))
    truth = truths(questions)
    scores = []
    for method, ranker in methods:
        right = np.concatenate([hits(ranker.scores(asked), asked.truth) for asked in questions])  # [q]
        scores.append(ValidationScore(method, ranker.name, len(truth), float(right.mean()), bootstrap(right)))
    scores.sort(key=lambda row: -row.hit1)
    weights = both.weights.tolist()
    return Choice(scores[0].method, scores, (weights[0], weights[1]))


def save(run: Path, choice: Choice, sources: Sources) -> None:
    """Write the choice, and before it what the learned ranker was fitted to, into the folder of a run."""
    if choice.scores and (ranker := saved_ranker.restore(sources, run / RANKER_FILE)) is not None:
        saved_ranker.save(ranker, run / RANKER_FILE)
    rows = [
        {
            "method": row.method,
            "name": row.name,
            "n": row.n,
            "hit@1": row.hit1,
            "hit@1_interval": list(row.hit1_interval),
        }
        for row in choice.scores
    ]
    found = {"format_version": FORMAT_VERSION, "best": choice.best, "weights": choice.weights, "scores": rows}
    write_text(run / FILE, json.dumps(found, indent=1) + "\n")


def load(run: Path) -> Choice | None:
    """The choice that was saved for a run; None where there is none yet.

    Raises
    ------
    CheckpointError
        When the file is damaged.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        scores = [
            ValidationScore(row["method"], row["name"], row["n"], row["hit@1"], interval_of(row["hit@1_interval"]))
            for row in found["scores"]
        ]
        weights = found["weights"]
        best = found["best"] if found["best"] in METHODS else METHODS[0]
        return Choice(best, scores, None if weights is None else (float(weights[0]), float(weights[1])))
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged.", hint=Command("evaluate", "--run", run.name)) from error


def completion_ranker(run: Path, sources: Sources, model: ModelRanker, method: str | None = None) -> tuple[str, Ranker]:
    """The method to complete bundles with, and its ranker, to be given to `bundlecache.baselines.completion.rank`.

    Parameters
    ----------
    sources
        Of the catalogue and the vectors that the run was trained on.
    method
        One of `METHODS`; the best one on validation questions if left out, which is the model before anything was evaluated.

    Raises
    ------
    BundlecacheError
        When there is no such method, or no learned ranker because no bundles or no vectors are there to learn from.
    """
    choice = load(run)
    chosen = method or (MODEL if choice is None else choice.best)
    if chosen not in METHODS:
        raise BundlecacheError(
            f"Bundles are not completed with {chosen!r}, but with {', '.join(METHODS)}.", hint=f"--with {LEARNED}"
        )
    if chosen == MODEL:
        return chosen, model
    both = _both(sources, model, run)
    if both is None:
        if method is None:  # what the choice was made on is gone
            return MODEL, model
        raise BundlecacheError(
            "There is no learned ranker: it needs training bundles and vectors of items.", hint="--with model"
        )
    if choice is not None and choice.weights is not None:
        both = replace(both, known_weights=choice.weights)
    return chosen, both.ranker if chosen == LEARNED else both


def _both(sources: Sources, model: ModelRanker, run: Path | None) -> Reranked | None:
    """The model on top of the learned ranker, as it was saved in ``run`` where it was."""
    from ..baselines.registry import reranked

    if run is not None:
        saved_ranker.restore(sources, run / RANKER_FILE)  # fills in the one that `sources` holds
    return next(iter(reranked(model, sources)), None)
