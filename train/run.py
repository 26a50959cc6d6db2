"""Train, load and evaluate runs of a workspace: from a recipe and stored vectors to results beside the baselines."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.baselines import saved_ranker
from bundlecache.baselines.rankers import ModelRanker
from bundlecache.bench import benchmark, completion_examples, method_selection, result_files
from bundlecache.bench.benchmark import BenchSetup, ModelAnswers
from bundlecache.bench.completion_examples import RunExamples
from bundlecache.bench.exclude_seen import unseen, validation_left_out
from bundlecache.bench.result_rows import ZERO_SHOT
from bundlecache.bench.results import AskedHow
from bundlecache.candidates import search
from bundlecache.errors import BundlecacheError, Command
from bundlecache.names import check_name
from bundlecache.questions.sample import info
from bundlecache.questions.sample import sample as sampled
from bundlecache.recipes.recipe import Recipe
from bundlecache.store import maintenance
from bundlecache.workspace import read_manifest

from . import checkpoint
from .inference import item_tokens, scoring
from .model import gguf_base
from .model.embeddings import to_device
from .model.evidence import RANKER_FILE, RankerEvidence
from .model.llm import EMBEDDED_LETTERS
from .training import loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bundlecache.baselines.sources import Sources
    from bundlecache.bench.results import QuestionSetResult
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.catalogue.seen_bundles import SeenBundles
    from bundlecache.console.reporter import Reporter
    from bundlecache.questions.question_file import Questions
    from bundlecache.recipes.any_recipe import AnyRecipe
    from bundlecache.store.store import Matrix, Store
    from bundlecache.workspace import WorkspaceFolder

    from .model.bundle_mllm import BundleMLLM
    from .training.loop import TrainResult
    from .training.resume import Snapshot

MODEL = "Bundle-MLLM"
"""How tables call a trained run."""


@dataclass(frozen=True, repr=False)
class LoadedRun:
    """A trained model, ready to answer, and the stored vectors that it was trained on, by their names in the run."""

    folder: Path
    model: BundleMLLM
    matrices: dict[str, Matrix]

    def __repr__(self) -> str:
        return (
            f"<LoadedRun: {self.folder.name}, {self.model.answer.name}, vectors {', '.join(self.matrices) or 'none'}>"
        )

    @property
    def training_seconds(self) -> float:
        """What its stages took."""
        return training_seconds(self.folder)

    def ranker(self, name: str, **how: Any) -> ModelRanker:
        """The model as a ranker of options; ``how`` it is asked is that of `scoring.score`."""
        return ModelRanker(
            name,
            lambda asked: scoring.score(self.model, asked, **how),
            seen=self._seen,
        )

    @cached_property
    def seen_bundles(self) -> SeenBundles | None:
        """The bundles that it was trained on and selected with; None when it was made before they were recorded."""
        return checkpoint.seen(self.folder)

    @property
    def uses_graph(self) -> bool:
        """Whether it reads vectors of a graph, which has seen the interactions of the training users."""
        return any(matrix.modality == "graph" for matrix in self.matrices.values())

    def _seen(self, asked: Questions, catalogue: Catalogue) -> np.ndarray:
        """Bool [q], which questions the run has seen; none where there is no record."""
        if self.seen_bundles is None:
            return np.zeros(len(asked), bool)
        return self.seen_bundles.of_questions(asked, catalogue, graph=self.uses_graph)

    def beyond_evidence(self, name: str, **how: Any) -> ModelRanker:
        """What the model says of options beside its evidence: to be added to the scores of the learned ranker."""

        def answer(asked: Questions) -> scoring.Answers:
            answers, evidence = scoring.score(self.model, asked, **how), self.model.evidence
            if evidence is None:
                return answers
            added = evidence(to_device(evidence.features(asked.partial, list(asked.options), None), self.model.device))
            return replace(answers, logits=answers.logits - added.detach().cpu().numpy())

        return ModelRanker(name, answer)

    def how(self, how: Mapping[str, Any]) -> dict[str, Any]:
        """``how`` as far as it concerns this run: only answers by letter depend on orders, and on options at once."""
        letters_only = () if self.model.answer.at_once else ("permutations", "at_once")
        return {name: value for name, value in how.items() if name not in letters_only}


def training_seconds(run: Path) -> float:
    """What the stages of a run took, and before them the fitting of the methods behind its evidence, if it has any."""
    stages = float(sum(stage["seconds"] for stage in read_manifest(run)["stages"]))
    return stages + saved_ranker.total_seconds(run / RANKER_FILE)


def load(
    folder: WorkspaceFolder, run: Path, catalogue: Catalogue, store: Store, device: str, say: Reporter
) -> LoadedRun:
    """The model of a finished run with the vectors it was trained on; vectors that changed since are noted.

    Raises
    ------
    BundlecacheError
        When the run is damaged, or its encoders' vectors are not stored any more.
    """
    encoders = checkpoint.read_manifest(run)["encoders"]
    matrices = {e["name"]: store.matrix(catalogue.item_ids, e["modality"], e["spec"], e["table"]) for e in encoders}
    for e in encoders:
        info = store.current(e["modality"], e["spec"], e["table"])
        if others := maintenance.changed_items(store, info, e["version"]):
            say.note(
                f"note: {others:,} {e['name']} vectors are others than when {run.name} was trained",
                Command("drift", "--modality", e["modality"], "--from", run.name),
            )
    with say.bar("load") as bar:
        model = checkpoint.load(run, catalogue, matrices, device, folder.tokens, bar.step)
    return LoadedRun(run, model, matrices)


def train(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    matrices: Mapping[str, Matrix],
    valid: Questions,
    recipe: Recipe,
    say: Reporter,
    *,
    name: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    stage: str = "all",
    start: Path | None = None,
    max_minutes: float | None = None,
    snapshot: Snapshot | None = None,
    writes: bool = True,
) -> TrainResult:
    """Train by ``recipe`` into ``runs/name``; the store keeps the vectors' versions for the run.

    ``snapshot`` is where an earlier training of that name stood. ``writes`` is False in all but one of several processes.

    Raises
    ------
    BundlecacheError
        When recipe, base model, vectors, questions and starting run do not fit together.
    """
    describe(recipe, say)
    if gguf_base.must_unpack(recipe.base.model, folder.bases):
        say.note(f"base: {recipe.base.model} is unpacked once into {folder.bases}, half a minute for 135M weights")
    if (drawn := info(sampled(valid, recipe.run.validation_questions))) is not None:
        say.note(
            f"validation: {drawn.n_questions:,} of {drawn.of:,} questions of {valid.name}, a fixed sample"
            " (run.validation_questions; 0 asks all)"
        )
    seed = recipe.run.seed if seed is None else seed
    run = folder.runs / (name or f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}-seed{seed}")
    if writes:
        maintenance.tag(store, run.name, matrices.values())
    with say.bar("train") as bar:
        result = loop.train(
            catalogue,
            matrices,
            valid,
            recipe,
            run,
            seed=snapshot.job["seed"] if snapshot else seed,
            device=device,
            stage=stage,
            init=start,
            max_minutes=max_minutes,
            token_cache=folder.tokens,
            progress=bar.training,
            tokenising=bar.named("titles"),
            fitting=bar.named("evidence"),
            snapshot=snapshot,
        )
    for note in result.notes:
        say.warn("Answers that are no option letter:", note)
    if result.stopped:
        say.warn(
            f"Stopped early by {result.stopped};",
            f"what was learned is saved in {run.name}, and this command goes on",
            Command("train", "--resume", run.name),
        )
    return result


def describe(recipe: AnyRecipe, say: Reporter) -> None:
    """Print the settings that are no default, one line per section and source, and what some of them cost."""
    lines: dict[tuple[str, str], list[str]] = {}
    for setting in recipe.settings():
        section, _, key = setting.key.partition(".")
        if setting.source != "default":
            lines.setdefault((section, setting.source), []).append(f"{key}={setting.value}")
    for (section, source), settings in lines.items():
        say.note(f"{section}: {' '.join(settings)} ({source})")
    if recipe.base.gradient_checkpointing:
        say.note(
            "gradient checkpointing: the language model runs forward twice, so a step takes 1.3 to 1.5 times as long and"
            " activations a fraction of the memory (benchmarks/train_step.py)"
        )
    if not isinstance(recipe, Recipe):
        return
    by_letter = recipe.answer.form == "letters"
    if by_letter and recipe.base.model == "embedded" and recipe.data.options > EMBEDDED_LETTERS:
        say.warn(
            f"The embedded base was made with {EMBEDDED_LETTERS} letters",
            f"and does not learn {recipe.data.options}: train with data.options={EMBEDDED_LETTERS} or fewer, and ask about more in turns",
            Command("evaluate", "--options", "N"),
        )


def check_new_name(folder: WorkspaceFolder, name: str | None) -> None:
    """A new run has a plain name of its own: results and reports belong to the weights they were made with.

    Raises
    ------
    BundlecacheError
        When the name is no plain one, or that of a finished run.
    """
    if name is None:
        return
    if check_name(name) == "latest":
        raise BundlecacheError("'latest' names the newest run, so no run can be called so.", hint="--name second")
    if (folder.runs / name / "manifest.json").is_file():
        raise BundlecacheError(
            f"There is a finished run {name!r} already, and its results belong to its weights.",
            hint=f"--name another, or delete {folder.runs / name}",
        )


def evaluate(
    loaded: LoadedRun,
    sets: Sequence[Questions],
    sources: Sources,
    say: Reporter,
    *,
    how: Mapping[str, Any],
    baselines: bool = True,
    ablation: bool = True,
) -> list[QuestionSetResult]:
    """Answer question sets with a run, beside the baselines; results and answers are saved in the run's folder.

    ``how`` holds batch_size, permutations and at_once, see `scoring.score`.
    """
    sources = sources_of(loaded, sources)
    asked_how = AskedHow(how.get("permutations", 1), how.get("at_once"))
    model = loaded.ranker(MODEL, **how)
    setup = BenchSetup.of(sources, [model], baselines=baselines, how=asked_how)
    results = []
    for asked, left_out in unseen_questions({MODEL: loaded}, sets, sources.catalogue, say):
        with say.bar("fit") as bar:  # first: the model may read what the same methods say
            setup.costs.fit_all(setup.rankers, asked, bar.step)
        with say.bar(asked.name) as bar:
            variants = scoring.score_variants(loaded.model, asked, ablation=ablation, progress=bar.step, **how)
        result = benchmark.compare(
            setup,
            asked,
            [
                ModelAnswers(
                    name,
                    answers,
                    variants.seconds[name],
                    loaded.training_seconds if name == MODEL else None,
                )
                for name, answers in variants.answers.items()
            ],
            model=MODEL,
            ablation=variants.ablation,
            attention=item_tokens.attention(loaded.model, asked),
            trained_on=left_out,
        )
        prompts = _prompts(loaded.model, asked, how.get("at_once"))
        result_files.save(loaded.folder, result, asked, variants.answers[MODEL], sources.catalogue.item_ids, prompts)
        results.append(result)
        if len(results) == 1:
            completion_examples.save(loaded.folder, _examples(loaded, asked, sources.catalogue))
    if baselines:
        if (sentence := validation_left_out(model, sources)) is not None:
            say.note(sentence)
        method_selection.save(loaded.folder, method_selection.best_on_validation(sources, model), sources)
    return results


def sources_of(loaded: LoadedRun, sources: Sources) -> Sources:
    """Those of the model's evidence where they are about the same vectors: the learned ranker is fitted already there."""
    evidence = loaded.model.evidence
    if not isinstance(evidence, RankerEvidence) or evidence.sources.seed != sources.seed:
        return sources
    ours, theirs = ({(m.table, m.version) for m in each.matrices.values()} for each in (evidence.sources, sources))
    return evidence.sources if ours == theirs else sources


def _examples(loaded: LoadedRun, asked: Questions, catalogue: Catalogue) -> RunExamples:
    """The prompt of the first question, and free completions of some test bundles, for the report."""
    model = loaded.model

    def complete(partial: np.ndarray) -> list[tuple[int, float]]:
        try:
            proposed = search.complete(catalogue, loaded.matrices, partial, model.max_options)
        except BundlecacheError:  # none of its items has a vector
            return []
        return scoring.complete(model, partial, proposed.tolist())

    prompt = model.prompts.text_of(asked.partial[0], asked.options[0][: model.max_options], model.mode)
    return RunExamples(prompt, completion_examples.draw(asked, complete, catalogue.item_ids) if loaded.matrices else ())


def unseen_questions(
    loaded: Mapping[str, LoadedRun], sets: Sequence[Questions], catalogue: Catalogue, say: Reporter
) -> list[tuple[Questions, int]]:
    """Of each set the questions whose bundle, group or item set no run has seen, and how many were left out; said aloud.

    Raises
    ------
    QuestionsError
        When all questions of a set were seen.
    """
    records, graphs = {}, {}
    for run in loaded.values():
        name, record = run.folder.name, run.seen_bundles
        if record is None:
            say.note(f"note: {name} has no record of the bundles it was trained on, so no question is left out for it")
        else:
            records[name], graphs[name] = record, run.uses_graph
    kept = [unseen(asked, records, catalogue, graphs) for asked in sets]
    for asked, (_, left_out) in zip(sets, kept, strict=True):
        if left_out:
            say.warn(
                f"{left_out:,} of {len(asked):,} questions of {asked.name} are left out:",
                f"{' or '.join(records)} was trained on or selected with their bundle, its group or exactly its items",
            )
    return kept


def _prompts(model: BundleMLLM, asked: Questions, at_once: int | None) -> list[str]:
    """[q] what the model reads of each question, as text; of more options than it is asked at once, the first ones."""
    options = asked.options[:, : at_once or model.max_options]
    histories = model.history_of(asked)
    return [
        model.prompts.text_of(partial, offered, model.mode, history)
        for partial, offered, history in zip(asked.partial, options, histories, strict=True)
    ]


def answers_of_runs(loaded: Mapping[str, LoadedRun], asked: Questions, how: Mapping[str, Any]) -> list[ModelAnswers]:
    """The answers of every run, and those of its base model as it was before training, as the benchmark takes them."""
    found = []
    bases: set[str] = set()
    for name, run in loaded.items():
        variants = scoring.score_variants(run.model, asked, ablation=False, **run.how(how))
        found.append(ModelAnswers(name, variants.answers[MODEL], variants.seconds[MODEL], run.training_seconds))
        base = (read_manifest(run.folder)["base"] or {}).get("spec", "embedded")
        if base not in bases and ZERO_SHOT in variants.answers:
            bases.add(base)
            zero = ZERO_SHOT if len(bases) == 1 else f"{ZERO_SHOT} ({base})"
            found.append(ModelAnswers(zero, variants.answers[ZERO_SHOT], variants.seconds[ZERO_SHOT]))
    return found
