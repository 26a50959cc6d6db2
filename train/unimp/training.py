"""Trains UniMP: all tasks together, then the output rows of items alone; each stage ends with its best weights on validation.

Loop, log, snapshots and what stops a training early are those of Bundle-MLLM (`bundlecache.train.training`). The training reads
cached token features only: it cannot call an encoder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundlecache.column_digest import add_texts
from bundlecache.errors import QuestionsError, RecipeError
from bundlecache.files import write_text
from bundlecache.recipes.unimp_recipe import UNIMP, UNIMP_STAGES

from ..model import llm as llms
from ..training import resume as resuming
from ..training.loop import accelerator_for
from ..training.progress import Progress, TimeLeft
from ..training.stages import Plan, run_stages
from . import checkpoint, semantic_ids
from .figures import sampled
from .head_only import HeadStage, tasks_of
from .samples import Samples
from .stages import MultitaskStage, table_rows

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.catalogue.histories import Histories
    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.recipes.unimp_recipe import UnimpRecipe
    from bundlecache.store.store import Matrix
    from bundlecache.training_log import Stop, TrainingLog

    from ..training.resume import Snapshot
    from ..training.stage import Save
    from .checkpoint import Parts
    from .stages import UnimpStageLoop


@dataclass(frozen=True)
class UnimpTrainResult:
    """What :func:`train` wrote into ``run``. ``stopped`` says why it ended early, if it did."""

    run: Path
    stages: list[dict[str, Any]]
    seconds: float
    stopped: str | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The stages for a table: the main figure of every task on validation."""
        return table_rows(self.stages)

    @property
    def notes(self) -> list[str]:
        """Nothing has to be explained."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"run": self.run.name, "stages": self.stages, "seconds": self.seconds, "stopped": self.stopped}


@dataclass(frozen=True)
class TrainingData:
    """What a training reads: the interactions that it may see, validation questions by task, and stored features.

    ``content`` are the vectors that semantic ids are made of, ``drawn`` the picture codes of the task draw.
    """

    catalogue: Catalogue
    seen: Histories
    valid: Mapping[str, TaskQuestions]
    pictures: Matrix | None = None
    content: Sequence[Matrix] = ()
    drawn: Matrix | None = None

    @property
    def matrices(self) -> list[Matrix]:
        """All that is read of the store."""
        return [*(m for m in (self.pictures, self.drawn) if m is not None), *self.content]


def train(
    data: TrainingData,
    recipe: UnimpRecipe,
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
    snapshot: Snapshot | None = None,
) -> UnimpTrainResult:
    """Train by ``recipe`` and write the run folder.

    Parameters
    ----------
    seed, max_minutes
        Those of the recipe when None; the manifest records the seed.
    stage
        One stage, or ``"all"``: the recipe's strategy.
    init
        A finished run of the same base whose weights training starts from; new items get new rows.
    token_cache
        The folder that keeps the token ids of items, so that the next training makes none of them again.
    tokenising
        ``tokenising(done, of)`` is called while items' texts are tokenised.
    snapshot
        Where an earlier training into ``run`` stood, to go on from.

    Raises
    ------
    BundlecacheError
        When recipe, base model, features and questions do not fit together.
    """
    began = time.perf_counter()
    seed = recipe.run.seed if seed is None else seed
    strategy: list[str] = list(recipe.run.strategy) if stage == "all" else [stage]
    if snapshot is not None:
        strategy = list(snapshot.job["strategy"])
    _check(strategy, recipe, data)
    accelerator = accelerator_for(recipe, llms.device_of(device))
    torch.manual_seed(seed)
    parts = _parts(data, recipe, init, seed, accelerator.device, token_cache, tokenising)
    model = parts.model
    stages: list[dict[str, Any]] = list(snapshot.stages) if snapshot else _earlier_stages(init)
    valid = {task: sampled(asked, recipe.run.validation_questions) for task, asked in data.valid.items()}
    job = job_of(data, parts, seed, strategy)
    if snapshot is not None:
        snapshot.check(job, data.catalogue)
        if strategy[snapshot.place] == "head" or any(done["name"] == "head" for done in stages):
            model.rows.untie()
        snapshot.put_into(model)
    time_left = _time_left(recipe, strategy[snapshot.place if snapshot else 0 :], sum(map(len, valid.values())))

    def stage_of(name: str, stage_seed: int, log: TrainingLog, stop: Stop, save: Save) -> UnimpStageLoop:
        drawable = None if data.drawn is None else data.drawn.mask
        samples = Samples(data.seen, data.catalogue, recipe, stage_seed, drawable)
        rest = (valid, accelerator, log, stop, progress, save, time_left)
        kind = HeadStage if name == "head" else MultitaskStage
        return kind(name, model, parts.prompts, samples, *rest)

    minutes = recipe.run.max_minutes if max_minutes is None else max_minutes
    plan = Plan(tuple(strategy), UNIMP_STAGES, seed, minutes, job)
    stopped = run_stages(plan, stage_of, model, run, accelerator, stages, snapshot)
    if accelerator.is_main_process:
        checkpoint.save(parts, run, data.catalogue, valid=data.valid, stages=stages, seed=seed, stopped=stopped)
        if not stopped:
            resuming.forget(run)
        write_text(run.parent / "latest", run.name + "\n")
    accelerator.wait_for_everyone()
    return UnimpTrainResult(run, stages, time.perf_counter() - began, stopped)


def job_of(data: TrainingData, parts: Parts, seed: int, strategy: list[str]) -> dict[str, Any]:
    """The inputs that determine a training's result; a resumed training must have the same."""
    return {
        "model": UNIMP,
        "recipe name": parts.model.recipe.name,
        "recipe": json.loads(json.dumps(parts.model.recipe.to_dict())),
        "seed": seed,
        "strategy": strategy,
        "base model": parts.model.base.fingerprint,
        "validation questions": {task: [asked.name, asked.sha256] for task, asked in data.valid.items()},
        "catalogue": resuming.digest_catalogue(data.catalogue),
        "histories": _digest(data.seen),
        "vectors": {matrix.table: resuming.digest_matrix(matrix) for matrix in data.matrices},
    }


def _digest(seen: Histories) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for numbers in (seen.user, seen.item, seen.rating):
        digest.update(np.ascontiguousarray(numbers).tobytes())
    for column in (seen.users, seen.explanation, seen.query):
        add_texts(digest, column.arrow)
    return digest.hexdigest()


def _parts(
    data: TrainingData,
    recipe: UnimpRecipe,
    init: Path | None,
    seed: int,
    device: torch.device,
    token_cache: Path | None,
    tokenising: Callable[[int, int], None] | None,
) -> Parts:
    """A new model, or that of ``init``, which must have the same shapes."""
    if init is not None:
        kept: dict[str, Any] = {"recipe": recipe, "drawn": data.drawn}
        return checkpoint.load(
            init, data.catalogue, data.pictures, data.content, device, token_cache, tokenising, **kept
        )
    codes = None
    if recipe.items.ids == "semantic":
        codes = semantic_ids.learn(data.content, levels=recipe.items.levels, codes=recipe.items.codes, seed=seed)
    how: dict[str, Any] = {"drawn": data.drawn, "seen": data.seen}
    return checkpoint.assemble(data.catalogue, recipe, data.pictures, codes, device, token_cache, tokenising, **how)


def _earlier_stages(init: Path | None) -> list[dict[str, Any]]:
    return [] if init is None else list(checkpoint.read_manifest(init)["stages"])


def _time_left(recipe: UnimpRecipe, strategy: Sequence[str], asked: int) -> TimeLeft:
    units: dict[tuple[str, Any], int] = {}
    for name in strategy:
        settings = recipe.stage(name)
        units[name, "train"] = settings.steps
        units[name, "validate"] = 0 if name == "head" else (1 + -(-settings.steps // settings.evaluate_every)) * asked
    return TimeLeft(units)


def _check(strategy: Sequence[str], recipe: UnimpRecipe, data: TrainingData) -> None:
    if unknown := [name for name in strategy if name not in UNIMP_STAGES]:
        raise RecipeError(
            f"There is no stage {unknown[0]!r}; there are {', '.join(UNIMP_STAGES)} and all.", hint="--stage all"
        )
    if "head" in strategy:
        tasks_of(recipe)
    for task, asked in data.valid.items():
        if not len(asked):
            raise QuestionsError(f"There are no validation questions of {task}, so no weights can be chosen on them.")
