"""The training loop: runs the stages of a recipe in order; each ends with its best weights on validation questions.

``text`` trains the LoRA adapter on titles alone; ``fusion`` trains fusion, projector and soft separator while the
language model and its adapter stay unchanged; ``joint`` trains both. The loop reads cached vectors only: it cannot call
an encoder.

A training that was stopped or killed resumes from its last snapshot (`bundlecache.train.training.resume`) and ends
with exactly the weights of an uninterrupted one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundlecache.catalogue import splits
from bundlecache.catalogue.seen_bundles import SeenBundles
from bundlecache.errors import CheckpointError, Command, QuestionsError, RecipeError, StoreError
from bundlecache.files import write_text
from bundlecache.questions.sample import info
from bundlecache.questions.sample import sample as sampled
from bundlecache.recipes.recipe import Recipe
from bundlecache.recipes.settings import STAGES
from bundlecache.training_log import Stop, TrainingLog

from .. import checkpoint
from ..model import llm as llms
from ..model.bundle_mllm import BundleMLLM, build, histories_for
from ..model.evidence import attach
from . import resume as resuming
from .contrastive import Pairs
from .progress import Progress, TimeLeft
from .question_stage import QuestionStage
from .resume import Snapshot
from .sampler import QuestionSampler, is_in
from .stage import Save
from .stages import Plan, run_stages

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.question_file import Questions
    from bundlecache.recipes.any_recipe import AnyRecipe
    from bundlecache.store.store import Matrix

__all__ = ["Progress", "TrainResult", "resume", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What :func:`train` wrote into ``run``. ``stopped`` says why it ended early, if it did."""

    run: Path
    stages: list[dict[str, Any]]
    seconds: float
    stopped: str | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The stages for a table: HitRate@1 on validation; also among the letters alone, where an answer was none."""
        rows = [
            {
                "stage": stage["name"],
                "steps": stage["steps"],
                "best step": stage["best_step"],
                "seconds": stage["seconds"],
                "HitRate@1": stage["best_valid_hit@1"],
                "among letters": stage.get("best_valid_hit@1_letters"),
                "valid": stage.get("best_valid_ratio"),
                "trained": stage["trainable_parameters"],
            }
            for stage in self.stages
        ]
        if all(row["valid"] in (None, 1.0) for row in rows):
            return [{key: row[key] for key in row if key not in ("among letters", "valid")} for row in rows]
        return rows

    @property
    def notes(self) -> list[str]:
        """What a reader of the stages' HitRate@1 must know: why it is low where answers were no option letters."""
        return [note for stage in self.stages if (note := invalid_note(stage))]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"run": self.run.name, "stages": self.stages, "seconds": self.seconds, "stopped": self.stopped}


def train(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    valid: Questions,
    recipe: Recipe,
    run: Path,
    *,
    seed: int | None = None,
    device: str = "auto",
    stage: str = "all",
    init: Path | None = None,
    max_minutes: float | None = None,
    token_cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    tokenising: Callable[[int, int], None] | None = None,
    fitting: Callable[[int, int], None] | None = None,
    snapshot: Snapshot | None = None,
) -> TrainResult:
    """Train by ``recipe`` and write the run folder; every stage ends with its best weights on ``valid``.

    Of more validation questions than ``run.validation_questions`` a fixed sample is asked.

    Parameters
    ----------
    matrices
        Name -> stored vectors in the order of the catalogue's items; a text stage does without.
    seed, max_minutes
        Those of the recipe (``run.seed``, ``run.max_minutes``) when None; the manifest records the seed.
    token_cache
        The folder that keeps the titles' token ids, so that the next training tokenises none of them again.
    tokenising
        ``tokenising(done, of)`` is called while titles are tokenised.
    fitting
        ``fitting(done, of)`` is called while the methods of ``fusion.evidence`` are fitted.
    stage
        One stage, or ``"all"``: the recipe's strategy.
    init
        A finished run whose adapter (and fusion, if it has one) training starts from.
    snapshot
        Where an earlier training into ``run`` stood, to go on from; :func:`resume` passes it.

    Raises
    ------
    BundlecacheError
        When recipe, base model, vectors, questions and starting run do not fit together.
    """
    began = time.perf_counter()
    seed = recipe.run.seed if seed is None else seed
    strategy: list[str] = list(recipe.run.strategy) if stage == "all" else [stage]
    if snapshot is not None:
        strategy = list(snapshot.job["strategy"])
    start = None if init is None else checkpoint.read_manifest(init)
    stages: list[dict[str, Any]] = list(snapshot.stages if snapshot else start["stages"] if start else [])
    fuses = any(name != "text" for name in [*strategy, *(done["name"] for done in stages)])
    _check(strategy, matrices if fuses else None, valid)
    _check_titles(catalogue, recipe)
    _check_fusion(strategy, recipe)
    _check_pairs(strategy, recipe, catalogue)
    accelerator = accelerator_for(recipe, llms.device_of(device))
    torch.manual_seed(seed)
    histories = histories_for(recipe, catalogue)
    vectors = matrices if fuses else {}
    model = build(catalogue.titles, vectors, recipe, accelerator.device, token_cache, histories, tokenising)
    if (evidence := attach(model, catalogue)) is not None:
        evidence.fit(fitting)
    if init is not None and start is not None:
        _go_on(model, init, start, valid, matrices)
    used = {} if model.embeddings is None else dict(zip(model.embeddings.names, model.embeddings.matrices, strict=True))
    asked = sampled(valid, recipe.run.validation_questions)
    job = resuming.job(catalogue, used, asked, model, seed, strategy)
    if snapshot is not None:
        snapshot.check(job, catalogue)
        snapshot.put_into(model)
    minutes = recipe.run.max_minutes if max_minutes is None else max_minutes
    time_left = TimeLeft.of(recipe, strategy[snapshot.place if snapshot else 0 :], len(asked))

    def stage_of(name: str, stage_seed: int, log: TrainingLog, stop: Stop, save: Save) -> QuestionStage:
        questions = _questions(catalogue, valid, model, recipe, name, stage_seed, matrices)
        return QuestionStage(name, model, questions, asked, accelerator, log, stop, progress, save, time_left)

    plan = Plan(tuple(strategy), STAGES, seed, minutes, job)
    stopped = run_stages(plan, stage_of, model, run, accelerator, stages, snapshot)
    model.mode = "mm" if any(done["name"] != "text" for done in stages) else "text"
    if accelerator.is_main_process:
        seen = _seen(catalogue, valid, init)
        checkpoint.save(
            model, run, valid=valid, stages=stages, seed=seed, stopped=stopped, seen=seen, sample=info(asked)
        )
        if evidence is not None:
            evidence.save(run)
        if not stopped:
            resuming.forget(run)
        write_text(run.parent / "latest", run.name + "\n")
    accelerator.wait_for_everyone()
    return TrainResult(run, stages, time.perf_counter() - began, stopped)


def invalid_note(stage: Mapping[str, Any]) -> str | None:
    """Why a stage's strict HitRate@1 lies below the one among letters, in one sentence; None where it does not.

    >>> invalid_note({"name": "joint", "best_valid_hit@1": 0.0, "best_valid_hit@1_letters": 0.25, "best_valid_ratio": 0.0})
    'Stage joint: HitRate@1 is .000 because no answer was an option letter (ValidRatio 0); among the letters alone it is .250.'
    """
    ratio, letters = stage.get("best_valid_ratio"), stage.get("best_valid_hit@1_letters")
    if ratio is None or letters is None or ratio >= 1:
        return None
    strict = f"{stage['best_valid_hit@1']:.3f}".removeprefix("0")
    share = "no answer was an option letter" if ratio == 0 else f"only {ratio:.0%} of the answers were option letters"
    return (
        f"Stage {stage['name']}: HitRate@1 is {strict} because {share} (ValidRatio {ratio:.2g});"
        f" among the letters alone it is {letters:.3f}.".replace(" 0.", " .")
    )


def resume(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    valid: Questions,
    run: Path,
    *,
    device: str = "auto",
    max_minutes: float | None = None,
    token_cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Go on with the training in ``run``, which was stopped or killed; arguments as in :func:`train`.

    Raises
    ------
    CheckpointError
        When there is nothing to go on with, or catalogue, vectors, questions or base model are others now.
    """
    snapshot = Snapshot.read(run)
    recipe = snapshot.recipe
    if not isinstance(recipe, Recipe):
        raise CheckpointError(f"{run.name} trains another model.", hint=Command("train", "--resume", run.name))
    return train(
        catalogue,
        matrices,
        valid,
        recipe,
        run,
        seed=snapshot.job["seed"],
        device=device,
        max_minutes=max_minutes,
        token_cache=token_cache,
        progress=progress,
        snapshot=snapshot,
    )


def _seen(catalogue: Catalogue, valid: Questions, init: Path | None) -> SeenBundles:
    """The bundles of this training and its validation, with those of the run that it started from."""
    held_out = is_in(catalogue.bundles.ids, valid.bundle_ids)
    trained = (splits.assign(catalogue) == "train") & ~held_out
    made = SeenBundles.of(catalogue, np.flatnonzero(trained), np.flatnonzero(held_out))
    earlier = None if init is None else checkpoint.seen(init)
    return made if earlier is None else made.joined(earlier)


def _go_on(
    model: BundleMLLM, init: Path, start: Mapping[str, Any], valid: Questions, matrices: Mapping[str, Matrix]
) -> None:
    """Put the weights of ``init`` into ``model``, if questions, encoders and base model are the same."""
    checkpoint.check_questions(start, valid, init.name)
    checkpoint.check_encoders(start, matrices, init.name)
    checkpoint.restore(model, init, start)


def _check(strategy: Sequence[str], matrices: Mapping[str, Matrix] | None, valid: Questions) -> None:
    unknown = [name for name in strategy if name not in STAGES]
    if unknown:
        raise RecipeError(
            f"There is no stage {unknown[0]!r}; there are {', '.join(STAGES)} and all.", hint="--stage all"
        )
    if matrices is not None and not matrices:
        raise StoreError(
            "The store holds no vectors, and the stages fusion and joint need some.", hint=Command("encode")
        )
    if not len(valid):
        raise QuestionsError(f"The questions {valid.name!r} are empty, so no weights can be chosen on them.")


def _check_titles(catalogue: Catalogue, recipe: Recipe) -> None:
    """Without any title the prompts hold numbers and letters only; mostly the titles are in another column."""
    if not catalogue.titles.any() and not recipe.prompt.without_titles:
        raise RecipeError(
            f"None of the {len(catalogue):,} items has a title, so the language model would read prompts without words.",
            hint=[
                "fill the column title of the items table and import it again, or",
                Command("train", "--set", "prompt.without_titles=true"),
            ],
        )


def _check_fusion(strategy: Sequence[str], recipe: Recipe) -> None:
    """The stage fusion trains nothing where neither the prompt nor the answer form reads fused tokens."""
    if "fusion" in strategy and not recipe.prompt.fused_tokens and recipe.answer.form != "pointer":
        raise RecipeError(
            f"Prompts show no fused tokens (prompt.fused_tokens=false), and the answer form {recipe.answer.form} reads none"
            " either, so the stage fusion would train nothing.",
            hint="--set prompt.fused_tokens=true, --set answer.form=pointer, or --set run.strategy=text",
        )


def _check_pairs(strategy: Sequence[str], recipe: Recipe, catalogue: Catalogue) -> None:
    """Say before the first stage that the catalogue lacks what a later one pulls together."""
    stages = [recipe.stage(name) for name in strategy if name != "text"]
    for kind in {kind for stage in stages if stage.contrastive_steps for kind in stage.contrastive_pairs}:
        Pairs.of(kind, catalogue, catalogue.bundles.items)


def _questions(
    catalogue: Catalogue,
    valid: Questions,
    model: BundleMLLM,
    recipe: Recipe,
    stage: str,
    seed: int,
    matrices: Mapping[str, Matrix],
) -> QuestionSampler:
    mode = "text" if stage == "text" else "mm"
    vectors = None if model.embeddings is None else model.embeddings.matrices[0].vectors
    return QuestionSampler(
        catalogue,
        recipe.data,
        lambda given, options, taken: model.prompts.lengths(given, options, mode, taken),
        seed,
        held_out=valid.bundle_ids,
        vectors=vectors,
        matrices=matrices,
        histories=model.histories,
        steps=recipe.stage(stage).steps,
    )


def accelerator_for(recipe: AnyRecipe, device: torch.device) -> Any:
    """An Accelerator for ``device``; under ``accelerate launch`` every process has its own.

    Raises
    ------
    RecipeError
        When half precision that needs a GPU is asked of a CPU.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device.type == "cpu" and recipe.run.precision == "fp16":
        raise RecipeError("run.precision=fp16 needs a GPU, and this is a CPU.", hint="--set run.precision=bf16")
    if device.type == "cpu":
        _use_cores()
    elif device.index is not None:
        torch.cuda.set_device(device)
    # A second run in one process may ask for another precision or device; several processes stay connected.
    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", "1")) == 1)
    return Accelerator(mixed_precision=recipe.run.precision, cpu=device.type == "cpu")


def _use_cores() -> None:
    """One thread per core that this process may use, unless the environment says otherwise; small models gain no more than 8."""
    if "OMP_NUM_THREADS" not in os.environ:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(min(allowed, torch.get_num_threads(), 8))
