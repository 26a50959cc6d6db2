"""Computes the rows of the result tables from the scores of the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import leakage_probes
from .bootstrap import bootstrap
from .metrics import by_position, calibration, mcnemar, measure, paired_difference, reciprocal_ranks, strict_hits
from .result_rows import AblationRow, Difference, MethodResult, ProbeResult

if TYPE_CHECKING:
    from ..baselines.rankers import Answers
    from ..questions.question_file import Questions
    from .leakage_probes import Probe
    from .result_rows import Slices
    from .slices import Slicer


@dataclass(frozen=True)
class MethodScores:
    """One method's scores [q, n] of q questions, which answers are valid [q], and the seconds that it took."""

    name: str
    kind: str
    scores: np.ndarray
    seconds: float | None = None
    training_seconds: float | None = None
    valid: np.ndarray | None = None
    on_top_of: str | None = None  # the method whose scores it reranks

    def hits(self, truth: np.ndarray, k: int = 1) -> np.ndarray:
        """[q] strict hits among the k highest scores."""
        return strict_hits(self.scores, truth, self.valid, k)


def mean_by(unit: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[bundles] the mean of ``values`` [q] over the questions of each bundle."""
    return np.bincount(unit, weights=values) / np.bincount(unit)


def joined(parts: Sequence[MethodScores]) -> MethodScores:
    """One method's answers to several sets, concatenated; answering seconds are summed, training counts once."""
    seconds = [part.seconds for part in parts if part.seconds is not None]
    valid = None if parts[0].valid is None else np.concatenate([part.valid for part in parts if part.valid is not None])
    scores = np.concatenate([part.scores for part in parts])
    return replace(parts[0], scores=scores, valid=valid, seconds=sum(seconds) if seconds else None)


def method_row(
    method: MethodScores, truth: np.ndarray, right: Mapping[str, np.ndarray], model: str | None, seed: int
) -> MethodResult:
    """A method's row, compared with ``model`` where one is named; ``right`` holds every method's hits [bundles]."""
    figures, mine = measure(method.scores, truth, method.valid, seed=seed), right[method.name]
    versus = on_top_of = None
    if model is not None and method.name != model:
        versus = _difference(right[model], mine, seed)
    if method.on_top_of is not None and method.on_top_of in right:
        on_top_of = replace(_difference(mine, right[method.on_top_of], seed), name=method.on_top_of)
    return MethodResult(
        name=method.name,
        kind=method.kind,
        n=figures.n,
        hit1=figures.hit1,
        hit3=figures.hit3,
        hit5=figures.hit5,
        mrr=figures.mrr,
        hit1_interval=bootstrap(mine, seed=seed),
        valid_ratio=figures.valid_ratio,
        hit1_valid_only=figures.hit1_valid_only,
        seconds=None if method.seconds is None else round(method.seconds, 4),
        training_seconds=method.training_seconds,
        versus_model=versus,
        on_top_of=on_top_of,
    )


def _difference(a: np.ndarray, b: np.ndarray, seed: int) -> Difference:
    delta, low, high = paired_difference(a, b, seed=seed)
    return Difference(delta, (low, high), mcnemar(a, b))


def probe_rows(
    probes: Sequence[Probe],
    sets: Sequence[Questions],
    scored: Sequence[Sequence[MethodScores]],
    unit: np.ndarray,
    seed: int,
) -> list[ProbeResult]:
    """One row per leakage probe; ``scored[s]`` are the methods on ``sets[s]``, ``unit`` [q] the bundle of each question."""
    names = [method.name for method in scored[0]]
    tried = [
        leakage_probes.run(probes, asked, [each.scores for each in methods], names, seed=seed)
        for asked, methods in zip(sets, scored, strict=True)
    ]
    return [
        leakage_probes.row(
            name,
            words,
            mean_by(unit, np.concatenate([t[p][2] for t in tried])),
            sets[0].n_options,
            len(tried[0]),
            seed=seed,
        )
        for p, (name, words, _) in enumerate(tried[0])
    ]


def sliced(
    slicer: Slicer, sets: Sequence[Questions], methods: Sequence[MethodScores], unit: np.ndarray, seed: int
) -> Slices:
    """The methods' figures for each group of questions."""
    truth = np.concatenate([asked.truth for asked in sets])
    item = np.concatenate([asked.options[np.arange(len(asked)), asked.truth] for asked in sets])
    length = np.array([len(partial) + 1 for asked in sets for partial in asked.partial])
    figures = {}
    for method in methods:
        valid = 1.0 if method.valid is None else method.valid
        figures[method.name] = {f"hit@{k}": method.hits(truth, k) for k in (1, 3, 5)}
        figures[method.name]["mrr"] = reciprocal_ranks(method.scores, truth) * valid
    return slicer.slices(item, length, figures, main="hit@1", unit=unit, seed=seed)


def model_answers(answers: Answers, right: np.ndarray, questions: Questions) -> dict[str, Any]:
    """HitRate@1 by the position of the truth, and the calibration."""
    rate, count = by_position(right, questions.truth, questions.n_options)
    positions = [
        {"position": p, "n": int(n), "hit@1": float(r)} for p, (r, n) in enumerate(zip(rate, count, strict=True)) if n
    ]
    return {"positions": positions, "calibration": vars(calibration(answers.probabilities(), questions.truth))}


def ablation_row(modality: str, answers: Answers, full: np.ndarray, questions: Questions, seed: int) -> AblationRow:
    """The row of the model without ``modality``; ``full`` [q] are the hits of the model with all modalities."""
    figures = measure(answers.logits, questions.truth, answers.valid, seed=seed)
    right = strict_hits(answers.logits, questions.truth, answers.valid)
    delta, low, high = paired_difference(right, full, seed=seed)
    return AblationRow(modality, figures.hit1, figures.hit1_interval, delta, (low, high))
