"""All methods on the same frozen questions: one table, paired differences, and a verdict in words.

The results of a question set are one JSON file, ``runs/RUN/results/NAME.json``::

    {"format_version": 1,
     "questions": {"name", "sha256", "n_questions", "n_options", "split", "negatives"},
     "methods":   [{"name", "kind", "n", "hit@1", "hit@3", "hit@5", "mrr", "hit@1_interval", "valid_ratio",
                    "hit@1_valid_only", "seconds", "training_seconds", "versus_model": {"delta", "interval", "p"},
                    "on_top_of": {"name", "delta", "interval", "p"}}],
     "ablation":  [{"without", "hit@1", "hit@1_interval", "delta", "delta_interval"}],
     "attention": {"names", "items", "present", "weight", "even", "matrix", "residual"}, see `bundlecache.train.inference.scoring.attention`
     "how":       {"permutations": orders of its options in which models were asked a question,
                   "at_once": options per forward},
     "model_answers": {"positions": [{"position", "n", "hit@1"}], "calibration": {"ece", "confidence", ...}},
                  positions are those of the file, which say nothing of letters where several orders were asked
     "probes":    [{"name", "words", "hit@1", "hit@1_interval", "succeeds"}],
     "leaks":     ["..."],
     "slices":    the methods by category, length, popularity and cold or seen; see `slices`
     "verdict":   ["..."],
     "worth":     ["..."]}             what the model's seconds buy; apart, because it differs from run to run

Methods stand best first. ``versus_model.delta`` is the model's HitRate@1 minus the method's, ``on_top_of.delta``
what reranking the named method's scores adds to it, and
``ablation.delta`` the HitRate@1 without a modality minus the one with all, each with the 95 % interval of
a paired bootstrap. ``NAME.parquet`` beside it holds the model's answer to every question (question,
bundle_id, partial, options, truth, probabilities, valid, predicted).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue import splits
from ..errors import CheckpointError
from ..files import replacing, write_text
from ..questions.importing import family
from .findings import ablated, near_a_leak, sentences, worth
from .leakage_probes import graph_leaks
from .leakage_probes import row as probe_row
from .leakage_probes import run as run_probes
from .metrics import bootstrap, by_position, calibration, evaluate, hits, mcnemar, paired_difference, reciprocal_ranks

if TYPE_CHECKING:
    import pyarrow as pa

    from ..baselines.rankers import Answers, Ranker
    from ..baselines.registry import Sources
    from ..questions.file import Questions
    from .leakage_probes import Probe
    from .slices import Slicer

FORMAT_VERSION = 1
PARTS = {"questions": dict, "methods": list, "ablation": list, "verdict": list}  # of a results file


@dataclass(frozen=True)
class Scored:
    """What one method gave to q questions: scores [q, n], which were valid [q], and the seconds it took."""

    name: str
    kind: str
    scores: np.ndarray
    seconds: float | None = None
    training_seconds: float | None = None
    valid: np.ndarray | None = None
    on_top_of: str | None = None  # the method whose scores it reranks

    def hits(self, truth: np.ndarray) -> np.ndarray:
        """[q] strict hits at the first place."""
        right = hits(self.scores, truth)
        return right if self.valid is None else right * self.valid


def compare(
    rankers: Sequence[Ranker],
    questions: Questions,
    answers: Mapping[str, Answers] | None = None,
    *,
    ablation: Mapping[str, Answers] | None = None,
    seconds: Mapping[str, float] | None = None,
    training_seconds: Mapping[str, float] | None = None,
    probes: Sequence[Probe] = (),
    leaks: Sequence[str] = (),
    slicer: Slicer | None = None,
    how: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score every method on ``questions`` and say how the model stands.

    Parameters
    ----------
    answers
        Name -> answers of a trained model. The first one is the model that the others are compared with.
    ablation
        Modality -> the model's answers without it.
    seconds, training_seconds
        Name in ``answers`` -> what answering and training took; rankers are timed here, fitting included.
    probes, leaks, slicer
        See `probes.all_probes`, `leaks_of`, `slices.Slicer`.
    how
        What stands above as ``how``: the answers' own way, for the reader to know.

    Raises
    ------
    ValueError
        When answers do not have the shape of the questions, or two methods share a name.
    """
    answers, ablation = answers or {}, ablation or {}
    scored = score(rankers, questions, answers, seconds=seconds, training_seconds=training_seconds)
    model = next(iter(answers), None)
    known: dict[str, Any] = {"probes": probes, "leaks": leaks, "slicer": slicer, "how": how, "seed": seed}
    results = summarise([questions], [scored], model=model, **known)
    if model is not None:
        for name, answer in ablation.items():
            _check_shape(name, answer, questions)
        right = _strict_hits(answers[model], questions)
        rows = [_without(modality, answer, right, questions, seed) for modality, answer in ablation.items()]
        results["ablation"] = rows
        results["model_answers"] = _answered(answers[model], right, questions)
        results["verdict"] += [ablated(row) for row in rows]
    return results


def score(
    rankers: Sequence[Ranker],
    questions: Questions,
    answers: Mapping[str, Answers] | None = None,
    *,
    seconds: Mapping[str, float] | None = None,
    training_seconds: Mapping[str, float] | None = None,
) -> list[Scored]:
    """Models, then rankers, on one set of questions; what rankers share is paid for by the first of them."""
    out = []
    for name, answer in (answers or {}).items():
        _check_shape(name, answer, questions)
        taken, trained = (seconds or {}).get(name), (training_seconds or {}).get(name)
        out.append(Scored(name, "model", answer.logits, taken, trained, np.asarray(answer.valid, bool)))
    for ranker in rankers:
        start = time.perf_counter()
        scores = ranker.scores(questions)
        taken = time.perf_counter() - start
        out.append(Scored(ranker.name, ranker.kind, scores, taken, on_top_of=getattr(ranker, "on_top_of", None)))
    names = [method.name for method in out]
    if len(set(names)) < len(names):
        raise ValueError(f"two methods are called {next(name for name in names if names.count(name) > 1)!r}")
    return out


def summarise(
    sets: Sequence[Questions],
    scored: Sequence[Sequence[Scored]],
    *,
    model: str | None = None,
    probes: Sequence[Probe] = (),
    leaks: Sequence[str] = (),
    slicer: Slicer | None = None,
    how: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The results of several sets that differ by their seed, as of one: ``scored[s]`` are the methods on ``sets[s]``.

    Intervals are over bundles: a bundle that every set asks about counts once, with the mean of its questions.
    """
    first = sets[0]
    truth = np.concatenate([asked.truth for asked in sets])
    unit = _units(sets)
    methods = [_joined([methods[m] for methods in scored]) for m in range(len(scored[0]))]
    right = {method.name: _mean_by(unit, method.hits(truth)) for method in methods}  # [bundles]
    rows = [_row(method, truth, right[method.name], seed) for method in methods]
    if model is not None:
        for row in rows:
            if row["name"] != model:
                row["versus_model"] = _versus(right[model], right[row["name"]], seed)
    for method in methods:
        if method.on_top_of in right:
            row = next(row for row in rows if row["name"] == method.name)
            row["on_top_of"] = {"name": method.on_top_of, **_versus(right[method.name], right[method.on_top_of], seed)}
    rows.sort(key=lambda row: -row["hit@1"])
    names = [method.name for method in methods]
    tried = [
        run_probes(probes, asked, [each.scores for each in methods], names, seed=seed)
        for asked, methods in zip(sets, scored, strict=True)
    ]
    probed = [
        probe_row(
            name,
            words,
            _mean_by(unit, np.concatenate([t[p][2] for t in tried])),
            first.n_options,
            len(tried[0]),
            seed=seed,
        )
        for p, (name, words, _) in enumerate(tried[0])
    ]
    suspects = [name for probe in probes for name in probe.suspects]
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "questions": {
            "name": first.name if len(sets) == 1 else family(first.name),
            "sha256": first.sha256,
            "n_questions": len(truth),
            "n_options": first.n_options,
            "split": first.split,
            "negatives": first.negatives,
        },
        "model": model,
        "how": {"permutations": 1, "at_once": None, **(how or {})},
        "methods": rows,
        "ablation": [],
        "probes": probed,
        "leaks": [*leaks, *near_a_leak(rows, probed, suspects)],
    }
    if len(sets) > 1:
        results["questions"] |= {"sets": [asked.name for asked in sets], "sha256s": [asked.sha256 for asked in sets]}
    if slicer is not None:
        results["slices"] = _sliced(slicer, sets, methods, unit, seed)
    results["verdict"], results["worth"] = sentences(results), worth(results)
    return results


def run(
    sets: Sequence[Questions],
    rankers: Sequence[Ranker],
    models: Callable[[Questions], Sequence[Scored]] = lambda _: (),
    *,
    model: str | None = None,
    probes: Sequence[Probe] = (),
    leaks: Sequence[str] = (),
    slicer: Slicer | None = None,
    how: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """All methods on all sets: one result per family of sets that differ by their seed; see `summarise`.

    ``models(questions)`` gives the trained models' answers, ``model`` names the one others are compared with.
    """
    known: dict[str, Any] = {"probes": probes, "leaks": leaks, "slicer": slicer, "how": how, "seed": seed}
    families: dict[str, list[Questions]] = {}
    for asked in sets:
        families.setdefault(family(asked.name), []).append(asked)
    results, done = [], 0
    for members in sorted(
        families.values(), key=lambda m: (m[0].negatives != "random", m[0].negatives, m[0].n_options)
    ):
        scored = []
        for asked in members:
            scored.append([*models(asked), *score(rankers, asked)])
            done += 1
            progress(done, len(sets))
        results.append(summarise(members, scored, model=model, **known))
    return results


def leaks_of(sources: Sources) -> list[str]:
    """What the bench knows to be leaking before anything is scored: the split, and stored graph vectors."""
    return [*splits.leaks(sources.catalogue), *graph_leaks(sources)]


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
    write_text(path, json.dumps(results, indent=1) + "\n")
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


def _check_shape(name: str, answer: Answers, questions: Questions) -> None:
    if answer.logits.shape != questions.options.shape:
        raise ValueError(f"{name} answered {answer.logits.shape}, the questions are {questions.options.shape}")


def _strict_hits(answer: Answers, questions: Questions) -> np.ndarray:
    return hits(answer.logits, questions.truth) * answer.valid  # [q]


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


def _sliced(
    slicer: Slicer, sets: Sequence[Questions], methods: Sequence[Scored], unit: np.ndarray, seed: int
) -> dict[str, Any]:
    """The methods' figures by groups of questions."""
    truth = np.concatenate([asked.truth for asked in sets])
    item = np.concatenate([asked.options[np.arange(len(asked)), asked.truth] for asked in sets])
    length = np.array([len(partial) + 1 for asked in sets for partial in asked.partial])
    figures = {}
    for method in methods:
        valid = 1.0 if method.valid is None else method.valid
        figures[method.name] = {f"hit@{k}": hits(method.scores, truth, k) * valid for k in (1, 3, 5)}
        figures[method.name]["mrr"] = reciprocal_ranks(method.scores, truth) * valid
    return slicer.slices(item, length, figures, main="hit@1", unit=unit, seed=seed)


def _joined(parts: Sequence[Scored]) -> Scored:
    """One method's answers to several sets, as to one; seconds add up, training is paid for once."""
    taken = [part.seconds for part in parts if part.seconds is not None]
    valid = None if parts[0].valid is None else np.concatenate([part.valid for part in parts if part.valid is not None])
    scores = np.concatenate([part.scores for part in parts])
    return replace(parts[0], scores=scores, valid=valid, seconds=sum(taken) if taken else None)


def _row(method: Scored, truth: np.ndarray, right: np.ndarray, seed: int) -> dict[str, Any]:
    figures = evaluate(method.scores, truth, method.valid, seed=seed).to_dict()
    return {
        "name": method.name,
        "kind": method.kind,
        **figures,
        "hit@1_interval": list(bootstrap(right, seed=seed)),
        "seconds": None if method.seconds is None else round(method.seconds, 4),
        "training_seconds": method.training_seconds,
    }


def _answered(answer: Answers, right: np.ndarray, questions: Questions) -> dict[str, Any]:
    rate, count = by_position(right, questions.truth, questions.n_options)
    positions = [
        {"position": p, "n": int(n), "hit@1": float(r)} for p, (r, n) in enumerate(zip(rate, count, strict=True)) if n
    ]
    return {"positions": positions, "calibration": vars(calibration(answer.probabilities(), questions.truth))}


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
