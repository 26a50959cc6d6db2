"""All methods on the same frozen questions: scores, paired differences and findings, as `results.QuestionSetResult`.

Methods are sorted, best first. ``versus_model.delta`` is the model's HitRate@1 minus the method's, ``on_top_of.delta`` what
reranking adds to the named method's HitRate@1, and ``ablation.delta`` the HitRate@1 without a modality minus the one with
all, each with the 95 % interval of a paired bootstrap.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..baselines.registry import all_makers, reranked
from ..catalogue import split_leaks
from ..questions import sample
from ..questions.importing import family
from . import leakage_probes
from .findings import ablated, beyond_evidence, near_a_leak, sentences, worth
from .fitting_costs import FittingCosts, models_of, of_models
from .method_rows import MethodScores, ablation_row, joined, mean_by, method_row, model_answers, probe_rows, sliced
from .metrics import strict_hits
from .results import ASKED_ONCE, AskedHow, QuestionSetInfo, QuestionSetResult
from .slices import Slicer

if TYPE_CHECKING:
    from ..baselines.rankers import Answers, ModelRanker, Ranker
    from ..baselines.sources import Sources
    from ..questions.question_file import Questions
    from .leakage_probes import Probe


@dataclass(frozen=True)
class BenchSetup:
    """The parts of a benchmark that all question sets share: rankers, leakage probes, known leaks, and how models are asked."""

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
        """All baselines, each model on top of the learned ranker, and ``more`` rankers; ``baselines=False`` leaves out the first two."""
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
    """Score every method on ``questions`` and compare the model with the others.

    Parameters
    ----------
    models, model
        Answers of trained models, and the name of the one that all others are compared with.
    ablation
        Modality -> that model's answers without it.
    attention
        That of `bundlecache.train.inference.scoring.attention`, added to the results.
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
        rows.append(ablation_row(modality, answers, right, questions, setup.seed))
    answered = model_answers(ours, right, questions)
    results = replace(results, ablation=rows, model_answers=answered, attention=attention)
    return replace(results, findings=[*results.findings, *beyond_evidence(results), *map(ablated, rows)])


def score(
    setup: BenchSetup,
    questions: Questions,
    models: Sequence[ModelAnswers] = (),
    tell: Callable[[str], None] = lambda _name: None,
) -> list[MethodScores]:
    """Models, then rankers, on one set of questions; a ranker is fitted before its answering is timed.

    A ranker built on a trained model reuses its answers from ``models``; its seconds include those of the model. ``tell``
    is told the name of every ranker that has answered.
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
        tell(ranker.name)
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
    """The results of several sets that differ by their seed, combined into one: ``scored[s]`` are the methods on ``sets[s]``.

    Intervals are over bundles: a bundle that every set asks about counts once, with the mean of its questions.
    """
    truth = np.concatenate([asked.truth for asked in sets])
    unit = _units(sets)
    methods = [joined([methods[m] for methods in scored]) for m in range(len(scored[0]))]
    right = {method.name: mean_by(unit, method.hits(truth)) for method in methods}  # [bundles]
    if model is not None and model not in right:
        raise ValueError(f"{model} answered nothing; there are answers of {', '.join(right) or 'no method'}")
    rows = [method_row(method, truth, right, model, setup.seed) for method in methods]
    rows.sort(key=lambda row: -row.hit1)
    probes = probe_rows(setup.probes, sets, scored, unit, setup.seed)
    suspects = [name for probe in setup.probes for name in probe.suspects]
    results = QuestionSetResult(
        questions=_question_set_info(sets, trained_on),
        methods=rows,
        model=model,
        how=setup.how,
        probes=probes,
        leaks=[*setup.leaks, *near_a_leak(rows, probes, suspects)],
        slices=sliced(setup.slicer, sets, methods, unit, setup.seed) if setup.slicer is not None else {},
    )
    return replace(results, findings=sentences(results), worth=worth(results))


def run(
    setup: BenchSetup,
    sets: Sequence[Questions],
    models: Callable[[Questions], Sequence[ModelAnswers]] = lambda _: (),
    *,
    model: str | None = None,
    trained_on: Mapping[str, int] | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
) -> list[QuestionSetResult]:
    """All methods on all sets: one result per family of sets that differ by their seed; see `summarise`.

    ``models(questions)`` returns the trained models' answers, ``model`` names the one others are compared with.
    ``trained_on`` maps the name of a set to the number of questions left out of it. ``progress`` is told
    how many steps are done, of how many, and who answered; rankers that are not fitted yet (`FittingCosts.fit_all`) are
    fitted on the way.
    """
    families: dict[str, list[Questions]] = {}
    for asked in sets:
        families.setdefault(family(asked.name), []).append(asked)
    order = sorted(families.values(), key=lambda m: (m[0].negatives != "random", m[0].negatives, m[0].n_options))
    results, told, steps = [], itertools.count(1), len(sets) * (1 + len(setup.rankers))
    for members in order:
        scored = []
        for asked in members:
            answers = models(asked)
            progress(next(told), steps, "models")
            scored.append(score(setup, asked, answers, lambda name: progress(next(told), steps, name)))
        left_out = sum((trained_on or {}).get(asked.name, 0) for asked in members)
        results.append(summarise(setup, members, scored, model=model, trained_on=left_out))
    return results


def leaks_of(sources: Sources) -> list[str]:
    """Leaks that are known before anything is scored: of the split, and of stored graph vectors."""
    return [*split_leaks.leaks(sources.catalogue), *leakage_probes.graph_leaks(sources)]


def _check_shape(name: str, answers: Answers, questions: Questions) -> None:
    if answers.logits.shape != questions.options.shape:
        raise ValueError(f"{name} answered {answers.logits.shape}, the questions are {questions.options.shape}")


def _question_set_info(sets: Sequence[Questions], trained_on: int) -> QuestionSetInfo:
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
        samples=tuple(drawn for asked in sets if (drawn := sample.info(asked)) is not None),
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
