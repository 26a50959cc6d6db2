"""All methods on the same frozen questions: one table, paired differences, and a verdict in words.

The results of a question set are one JSON file, ``runs/RUN/results/NAME.json``::

    {"format_version": 1,
     "questions": {"name", "sha256", "n_questions", "n_options", "split", "negatives"},
     "methods":   [{"name", "kind", "n", "hit@1", "hit@3", "hit@5", "mrr", "hit@1_interval", "valid_ratio",
                    "hit@1_valid_only", "seconds", "versus_model": {"delta", "interval", "p"}}],
     "ablation":  [{"without", "hit@1", "hit@1_interval", "delta", "delta_interval"}],
     "verdict":   ["..."]}

Methods stand best first. ``versus_model.delta`` is the model's HitRate@1 minus the method's, and
``ablation.delta`` the HitRate@1 without a modality minus the one with all, each with the 95 % interval of
a paired bootstrap. ``NAME.parquet`` beside it holds the model's answer to every question (question,
bundle_id, partial, options, truth, probabilities, valid, predicted).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .atomic import replacing
from .errors import CheckpointError
from .metrics import evaluate, hits, mcnemar, paired_difference
from .verdict import ablated, sentences

if TYPE_CHECKING:
    import pyarrow as pa

    from .questions import Questions
    from .rankers import Ranker

FORMAT_VERSION = 1
PARTS = {"questions": dict, "methods": list, "ablation": list, "verdict": list}  # of a results file


class Answers(Protocol):
    """What a model gave: one forward pass per question."""

    @property
    def logits(self) -> np.ndarray:
        """[q, n] logits of the option letters."""

    @property
    def valid(self) -> np.ndarray:
        """[q] whether the unrestricted argmax was an option letter."""

    def probabilities(self) -> np.ndarray:
        """[q, n] softmax over the options."""


def compare(
    rankers: Sequence[Ranker],
    questions: Questions,
    answers: Mapping[str, Answers] | None = None,
    *,
    ablation: Mapping[str, Answers] | None = None,
    seconds: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score every method on ``questions`` and say how the model stands.

    Parameters
    ----------
    answers
        Name -> answers of a trained model. The first one is the model that the others are compared with.
    ablation
        Modality -> the model's answers without it.
    seconds
        Name in ``answers`` -> what it took; rankers are timed here, fitting included.

    Raises
    ------
    ValueError
        When answers do not have the shape of the questions, or two methods share a name.
    """
    answers = {} if answers is None else answers
    ablation = {} if ablation is None else ablation
    for given in (answers, ablation):
        for name, answer in given.items():
            if answer.logits.shape != questions.options.shape:
                raise ValueError(f"{name} answered {answer.logits.shape}, the questions are {questions.options.shape}")
    rows: list[dict[str, Any]] = []
    first_hits: dict[str, np.ndarray] = {}
    for name, answer in answers.items():
        first_hits[name] = _strict_hits(answer, questions)
        rows.append(_row(name, "model", answer.logits, questions, seed, (seconds or {}).get(name), answer.valid))
    for ranker in rankers:
        start = time.perf_counter()
        scores = ranker.scores(questions)
        taken = time.perf_counter() - start
        if ranker.name in first_hits:
            raise ValueError(f"two methods are called {ranker.name!r}")
        first_hits[ranker.name] = hits(scores, questions.truth)
        rows.append(_row(ranker.name, ranker.kind, scores, questions, seed, taken))
    model = next(iter(answers), None)
    if model is not None:
        for row in rows:
            if row["name"] != model:
                row["versus_model"] = _versus(first_hits[model], first_hits[row["name"]], seed)
    rows.sort(key=lambda row: -row["hit@1"])
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "questions": {
            "name": questions.name,
            "sha256": questions.sha256,
            "n_questions": len(questions),
            "n_options": int(questions.options.shape[1]),
            "split": questions.split,
            "negatives": questions.negatives,
        },
        "model": model,
        "methods": rows,
        "ablation": [
            _without(modality, answer, first_hits[model], questions, seed)
            for modality, answer in ablation.items()
            if model is not None
        ],
    }
    results["verdict"] = sentences(results) + [ablated(row) for row in results["ablation"]]
    return results


def save(
    run: Path,
    results: dict[str, Any],
    questions: Questions,
    answers: Answers | None = None,
    item_ids: Sequence[str] = (),
) -> Path:
    """Write ``results/NAME.json`` of a run and, with the model's ``answers``, ``NAME.parquet``; the JSON last.

    ``item_ids`` [I] are the catalogue's: files name items by id.
    """
    path = run / "results" / f"{questions.name}.json"
    if answers is not None:
        import pyarrow.parquet as pq

        with replacing(path.with_suffix(".parquet")) as temporary:
            pq.write_table(_answer_table(questions, answers, item_ids), temporary)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return path


def load(run: Path) -> dict[str, dict[str, Any]]:
    """Question set -> results of a run, test questions first; empty when nothing was evaluated yet.

    Raises
    ------
    CheckpointError
        When a results file is damaged or of a later version.
    """
    found = {}
    for path in sorted(
        (run / "results").glob("*.json"), key=lambda p: (not p.name.startswith("test"), "random" not in p.name, p.name)
    ):
        try:
            results = json.loads(path.read_text("utf-8"))
            version = results["format_version"]
            whole = all(isinstance(results.get(name), kind) for name, kind in PARTS.items())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged or no results file.", hint="bundlecache evaluate") from error
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has the format {version}; this bundlecache reads {FORMAT_VERSION}.",
                hint="bundlecache evaluate",
            )
        if not whole:
            raise CheckpointError(f"{path} was changed by hand or is damaged.", hint="bundlecache evaluate")
        found[path.stem] = results
    return found


def load_answers(run: Path, name: str) -> pa.Table | None:
    """The model's answers to the questions ``name``, or None when only baselines were scored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "results" / f"{name}.parquet"
    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{path} is damaged.", hint="bundlecache evaluate") from error


def _strict_hits(answer: Answers, questions: Questions) -> np.ndarray:
    return hits(answer.logits, questions.truth) * answer.valid  # [q]


def _row(
    name: str,
    kind: str,
    scores: np.ndarray,
    questions: Questions,
    seed: int,
    seconds: float | None,
    valid: np.ndarray | None = None,
) -> dict[str, Any]:
    figures = evaluate(scores, questions.truth, valid, seed=seed).to_dict()
    return {"name": name, "kind": kind, **figures, "seconds": None if seconds is None else round(seconds, 4)}


def _versus(model: np.ndarray, other: np.ndarray, seed: int) -> dict[str, Any]:
    delta, low, high = paired_difference(model, other, seed=seed)
    return {"delta": delta, "interval": [low, high], "p": mcnemar(model, other)}


def _without(modality: str, answer: Answers, full: np.ndarray, questions: Questions, seed: int) -> dict[str, Any]:
    figures = evaluate(answer.logits, questions.truth, answer.valid, seed=seed)
    delta, low, high = paired_difference(_strict_hits(answer, questions), full, seed=seed)
    return {
        "without": modality,
        "hit@1": figures.hit1,
        "hit@1_interval": list(figures.hit1_interval),
        "delta": delta,
        "delta_interval": [low, high],
    }


def _answer_table(questions: Questions, answers: Answers, item_ids: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    def named(rows: Sequence[np.ndarray] | np.ndarray) -> list[list[str]]:
        return [[item_ids[i] for i in row] for row in rows]

    return pa.table(
        {
            "question": pa.array(np.arange(len(questions)), pa.int32()),
            "bundle_id": pa.array(questions.bundle_ids, pa.string()),
            "partial": pa.array(named(questions.partial), pa.list_(pa.string())),
            "options": pa.array(named(questions.options), pa.list_(pa.string())),
            "truth": pa.array(questions.truth, pa.int32()),
            "probabilities": pa.array(answers.probabilities().astype(np.float32).tolist(), pa.list_(pa.float32())),
            "valid": pa.array(np.asarray(answers.valid, bool), pa.bool_()),
            "predicted": pa.array(answers.logits.argmax(axis=1), pa.int32()),
        },
        metadata={"questions": questions.name, "sha256": questions.sha256},
    )
