"""All methods on the same frozen questions: scores, paired differences and findings, as `results.QuestionSetResult`.

Methods stand best first. ``versus_model.delta`` is the model's HitRate@1 minus the method's, ``on_top_of.delta`` what
reranking the named method's scores adds to it, and ``ablation.delta`` the HitRate@1 without a modality minus the one with
all, each with the 95 % interval of a paired bootstrap.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..baselines.registry import all_makers, reranked
from ..catalogue import splits
from ..questions.importing import family
from . import leakage_probes
from .bootstrap import bootstrap
from .findings import ablated, near_a_leak, sentences, worth
from .fitting_costs import FittingCosts, models_of, of_models
from .metrics import by_position, calibration, mcnemar, measure, paired_difference, reciprocal_ranks, strict_hits
from .result_rows import AblationRow, Difference, MethodResult, ProbeResult
from .results import ASKED_ONCE, AskedHow, QuestionSetInfo, QuestionSetResult
from .slices import Slicer

if TYPE_CHECKING:
    from ..baselines.rankers import Answers, ModelRanker, Ranker
    from ..baselines.sources import Sources
    from ..questions.question_file import Questions
    from .leakage_probes import Probe
    from .result_rows import Slices


@dataclass(frozen=True)
class BenchSetup:
    """What every question set is scored with: rankers, leakage probes, known leaks, and how models are asked."""

    rankers: Sequence[Ranker] = ()
    probes: Sequence[Probe] = ()
    leaks: Sequence[str] = ()
    slicer: Slicer | None = None
    how: AskedHow = ASKED_ONCE
    seed: int = 0
    costs: FittingCosts = field(default_factory=FittingCosts, compare=False)

    @classmethod
    def of(
        cls,
        sources: Sources,
        models: Sequence[ModelRanker] = (),
        more: Sequence[Ranker] = (),
        *,
        baselines: bool = True,
        how: AskedHow = ASKED_ONCE,
        seed: int = 0,
    ) -> BenchSetup:
        """Every baseline, every model on top of the learned ranker, and ``more`` rankers; without ``baselines`` none."""
        rankers: list[Ranker] = []
        if baselines:
            rankers += sources.rankers(*all_makers())
            rankers += [both for model in models for both in reranked(model, sources)]
        return cls(
            rankers=[*rankers, *more],
            probes=leakage_probes.all_probes(sources) if baselines else (),
            leaks=leaks_of(sources),
            slicer=Slicer(sources.catalogue),
            how=how,
            seed=seed,
        )


@dataclass(frozen=True)
class ModelAnswers:
    """What a trained model answered to a question set, and the seconds that answering and its training took."""

    name: str
    answers: Answers
    seconds: float | None = None
    training_seconds: float | None = None


@dataclass(frozen=True)
class MethodScores:
    """What one method gave to q questions: scores [q, n], which were valid [q], and the seconds it took."""

    name: str
    kind: str
    scores: np.ndarray
    seconds: float | None = None
    training_seconds: float | None = None
    valid: np.ndarray | None = None
    on_top_of: str | None = None  # the method whose scores it reranks

    def hits(self, truth: np.ndarray, k: int = 1) -> np.ndarray:
        """[q] strict hits among the first k places."""
        return strict_hits(self.scores, truth, self.valid, k)


def compare(
    setup: BenchSetup,
    questions: Questions,
    models: Sequence[ModelAnswers] = (),
    *,
    model: str | None = None,
    ablation: Mapping[str, Answers] | None = None,
    attention: dict[str, Any] | None = None,
    trained_on: int = 0,
) -> QuestionSetResult:
    """Score every method on ``questions`` and say how the model stands.

    Parameters
    ----------
    models, model
        Answers of trained models, and the name of the one that all others are compared with.
    ablation
        Modality -> that model's answers without it.
    attention
        That of `bundlecache.train.inference.scoring.attention`, to stand in the results.
    trained_on
        How many questions were left out because a model was trained on their bundle, see `bundlecache.bench.exclude_seen`.

    Raises
    ------
    ValueError
        When answers do not have the shape of the questions, two methods share a name, or ``model`` did not answer.
    """
    results = summarise(setup, [questions], [score(setup, questions, models)], model=model, trained_on=trained_on)
    if model is None:
        return results
    ours = next(each.answers for each in models if each.name == model)
    right = strict_hits(ours.logits, questions.truth, ours.valid)  # [q]
    rows = []
    for modality, answers in (ablation or {}).items():
        _check_shape(modality, answers, questions)
        rows.append(_ablation_row(modality, answers, right, questions, setup.seed))
    return replace(
        results,
        ablation=rows,
        findings=[*results.findings, *map(ablated, rows)],
        model_answers=_model_answers(ours, right, questions),
        attention=attention,
    )


def score(setup: BenchSetup, questions: Questions, models: Sequence[ModelAnswers] = ()) -> list[MethodScores]:
    """Models, then rankers, on one set of questions; a ranker is fitted before its answering is timed.

    Rankers that stand on a trained model take its answers from ``models``, and its seconds count as theirs too.
    """
    out = []
    for each in models:
        _check_shape(each.name, each.answers, questions)
        valid = np.asarray(each.answers.valid, bool)
        out.append(
            MethodScores(each.name, "model", each.answers.logits, each.seconds, each.training_seconds, valid=valid)
        )
    by_name = {each.name: each for each in models}
    answering = {each.name: each.seconds for each in models}
    training = {each.name: each.training_seconds for each in models}
    for ranker in setup.rankers:
        for used in models_of(ranker):
            if used.name in by_name:
                used.remember(questions, by_name[used.name].answers)
    for ranker in setup.rankers:
        fitting = setup.costs.fit(ranker, questions)
        start = time.perf_counter()
        scores = ranker.scores(questions)
        seconds = time.perf_counter() - start + of_models(ranker, answering)
        fitting += of_models(ranker, training)
        on_top_of = getattr(ranker, "on_top_of", None)
        out.append(MethodScores(ranker.name, ranker.kind, scores, seconds, round(fitting, 4), on_top_of=on_top_of))
    names = [method.name for method in out]
    if len(set(names)) < len(names):
        raise ValueError(f"two methods are called {next(name for name in names if names.count(name) > 1)!r}")
    return out


def summarise(
    setup: BenchSetup,
    sets: Sequence[Questions],
    scored: Sequence[Sequence[MethodScores]],
    *,
    model: str | None = None,
    trained_on: int = 0,
) -> QuestionSetResult:
    """The results of several sets that differ by their seed, as of one: ``scored[s]`` are the methods on ``sets[s]``.

    Intervals are over bundles: a bundle that every set asks about counts once, with the mean of its questions.
    """
    truth = np.concatenate([asked.truth for asked in sets])
    unit = _units(sets)
    methods = [_joined([methods[m] for methods in scored]) for m in range(len(scored[0]))]
    right = {method.name: _mean_by(unit, method.hits(truth)) for method in methods}  # [bundles]
    if model is not None and model not in right:
        raise ValueError(f"{model} answered nothing; there are answers of {', '.join(right) or 'no method'}")
    rows = [_method_row(method, truth, right, model, setup.seed) for method in methods]
    rows.sort(key=lambda row: -row.hit1)
    probes = _probe_rows(setup, sets, scored, unit)
    suspects = [name for probe in setup.probes for name in probe.suspects]
    results = QuestionSetResult(
        questions=_described(sets, trained_on),
        methods=rows,
        model=model,
        how=setup.how,
        probes=probes,
        leaks=[*setup.leaks, *near_a_leak(rows, probes, suspects)],
        slices=_sliced(setup.slicer, sets, methods, unit, setup.seed) if setup.slicer is not None else {},
    )
    return replace(results, findings=sentences(results), worth=worth(results))


def run(
    setup: BenchSetup,
    sets: Sequence[Questions],
    models: Callable[[Questions], Sequence[ModelAnswers]] = lambda _: (),
    *,
    model: str | None = None,
    trained_on: Mapping[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[QuestionSetResult]:
    """All methods on all sets: one result per family of sets that differ by their seed; see `summarise`.

    ``models(questions)`` gives the trained models' answers, ``model`` names the one others are compared with.
    ``trained_on`` is, by name of the set, how many questions were left out of it.
    """
    families: dict[str, list[Questions]] = {}
    for asked in sets:
        families.setdefault(family(asked.name), []).append(asked)
    order = sorted(families.values(), key=lambda m: (m[0].negatives != "random", m[0].negatives, m[0].n_options))
    results, done = [], 0
    for members in order:
        scored = []
        for asked in members:
            scored.append(score(setup, asked, models(asked)))
            done += 1
            progress(done, len(sets))
        left_out = sum((trained_on or {}).get(asked.name, 0) for asked in members)
        results.append(summarise(setup, members, scored, model=model, trained_on=left_out))
    return results


def leaks_of(sources: Sources) -> list[str]:
    """What is known to leak before anything is scored: the split, and stored graph vectors."""
    return [*splits.leaks(sources.catalogue), *leakage_probes.graph_leaks(sources)]


def _check_shape(name: str, answers: Answers, questions: Questions) -> None:
    if answers.logits.shape != questions.options.shape:
        raise ValueError(f"{name} answered {answers.logits.shape}, the questions are {questions.options.shape}")


def _described(sets: Sequence[Questions], trained_on: int) -> QuestionSetInfo:
    first, several = sets[0], len(sets) > 1
    return QuestionSetInfo(
        name=family(first.name) if several else first.name,
        sha256=first.sha256,
        n_questions=sum(map(len, sets)),
        n_options=first.n_options,
        split=first.split,
        negatives=first.negatives,
        sets=tuple(asked.name for asked in sets) if several else (),
        sha256s=tuple(asked.sha256 for asked in sets) if several else (),
        trained_on=trained_on,
    )


def _units(sets: Sequence[Questions]) -> np.ndarray:
    """[all questions] a number for each bundle's k-th question, the same in every set."""
    of: dict[tuple[str, int], int] = {}
    unit = []
    for asked in sets:
        times: Counter[str] = Counter()
        for bundle_id in asked.bundle_ids:
            unit.append(of.setdefault((bundle_id, times[bundle_id]), len(of)))
            times[bundle_id] += 1
    return np.array(unit, np.int64)


def _mean_by(unit: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(unit, weights=values) / np.bincount(unit)


def _joined(parts: Sequence[MethodScores]) -> MethodScores:
    """One method's answers to several sets, as to one; seconds add up, training is paid for once."""
    taken = [part.seconds for part in parts if part.seconds is not None]
    valid = None if parts[0].valid is None else np.concatenate([part.valid for part in parts if part.valid is not None])
    scores = np.concatenate([part.scores for part in parts])
    return replace(parts[0], scores=scores, valid=valid, seconds=sum(taken) if taken else None)


def _method_row(
    method: MethodScores, truth: np.ndarray, right: Mapping[str, np.ndarray], model: str | None, seed: int
) -> MethodResult:
    """``right`` holds every method's hits by bundle."""
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


def _probe_rows(
    setup: BenchSetup, sets: Sequence[Questions], scored: Sequence[Sequence[MethodScores]], unit: np.ndarray
) -> list[ProbeResult]:
    names = [method.name for method in scored[0]]
    tried = [
        leakage_probes.run(setup.probes, asked, [each.scores for each in methods], names, seed=setup.seed)
        for asked, methods in zip(sets, scored, strict=True)
    ]
    return [
        leakage_probes.row(
            name,
            words,
            _mean_by(unit, np.concatenate([t[p][2] for t in tried])),
            sets[0].n_options,
            len(tried[0]),
            seed=setup.seed,
        )
        for p, (name, words, _) in enumerate(tried[0])
    ]


def _sliced(
    slicer: Slicer, sets: Sequence[Questions], methods: Sequence[MethodScores], unit: np.ndarray, seed: int
) -> Slices:
    """The methods' figures by groups of questions."""
    truth = np.concatenate([asked.truth for asked in sets])
    item = np.concatenate([asked.options[np.arange(len(asked)), asked.truth] for asked in sets])
    length = np.array([len(partial) + 1 for asked in sets for partial in asked.partial])
    figures = {}
    for method in methods:
        valid = 1.0 if method.valid is None else method.valid
        figures[method.name] = {f"hit@{k}": method.hits(truth, k) for k in (1, 3, 5)}
        figures[method.name]["mrr"] = reciprocal_ranks(method.scores, truth) * valid
    return slicer.slices(item, length, figures, main="hit@1", unit=unit, seed=seed)


def _model_answers(answers: Answers, right: np.ndarray, questions: Questions) -> dict[str, Any]:
    """HitRate@1 by the position of the truth, and the calibration."""
    rate, count = by_position(right, questions.truth, questions.n_options)
    positions = [
        {"position": p, "n": int(n), "hit@1": float(r)} for p, (r, n) in enumerate(zip(rate, count, strict=True)) if n
    ]
    return {"positions": positions, "calibration": vars(calibration(answers.probabilities(), questions.truth))}


def _ablation_row(modality: str, answers: Answers, full: np.ndarray, questions: Questions, seed: int) -> AblationRow:
    """``full`` [q] are the hits of the whole model."""
    figures = measure(answers.logits, questions.truth, answers.valid, seed=seed)
    right = strict_hits(answers.logits, questions.truth, answers.valid)
    delta, low, high = paired_difference(right, full, seed=seed)
    return AblationRow(modality, figures.hit1, figures.hit1_interval, delta, (low, high))
