"""The training loop: the stages of a recipe, one after the other, selected on validation questions.

``text`` trains the LoRA adapter on titles alone; ``fusion`` trains fusion, projector and soft separator
while the language model and its adapter stay as they are; ``joint`` trains both. The loop reads cached
vectors and nothing else: it cannot call an encoder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bundlecache.atomic import replacing
from bundlecache.errors import QuestionsError, RecipeError, StoreError
from bundlecache.recipes import STAGES, Recipe

from . import checkpoint
from . import llm as llms
from .data import TrainingQuestions
from .history import History, Stop
from .model import BundleMLLM, build
from .stage import Progress, StageLoop

if TYPE_CHECKING:
    from bundlecache.catalogue import Catalogue
    from bundlecache.questions import Questions
    from bundlecache.store import Matrix

__all__ = ["Progress", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What :func:`train` wrote into ``run``. ``stopped`` says why it ended early, if it did."""

    run: Path
    stages: list[dict[str, Any]]
    seconds: float
    stopped: str | None = None

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
) -> TrainResult:
    """Train by ``recipe`` and write the run folder; every stage ends with its best weights on ``valid``.

    Parameters
    ----------
    matrices
        Name -> stored vectors in the order of the catalogue's items; a text stage does without.
    seed, max_minutes
        By default those of the recipe.
    token_cache
        The folder that keeps the titles' token ids, so that the next training tokenises none of them again.
    stage
        One stage, or ``"all"``: the recipe's strategy.
    init
        A finished run whose adapter (and fusion, if it has one) training starts from.

    Raises
    ------
    BundlecacheError
        When recipe, base model, vectors, questions and starting run do not fit together.
    """
    began = time.perf_counter()
    seed = recipe.run.seed if seed is None else seed
    strategy = list(recipe.run.strategy) if stage == "all" else [stage]
    start = None if init is None else checkpoint.read_manifest(init)
    fuses = any(name != "text" for name in strategy) or bool(start and start["encoders"])
    _check(strategy, matrices if fuses else None, valid)
    accelerator = accelerator_for(recipe, llms.device_of(device))
    torch.manual_seed(seed)
    model = build(catalogue.titles, matrices if fuses else {}, recipe, accelerator.device, token_cache)
    if init is not None and start is not None:
        _go_on(model, init, start, valid, matrices)
    minutes = recipe.run.max_minutes if max_minutes is None else max_minutes
    stages: list[dict[str, Any]] = list(start["stages"]) if start else []
    with Stop(minutes) as stop, History(run, enabled=accelerator.is_main_process) as history:
        for name in strategy:
            stage_seed = seed * len(STAGES) + STAGES.index(name)
            questions = _questions(catalogue, valid, model, recipe, name, stage_seed, matrices)
            torch.manual_seed(stage_seed)
            loop = StageLoop(name, model, questions, valid, accelerator, history, stop, progress)
            stages.append(loop.run())
            if stop.reason:
                break
    model.mode = "mm" if any(done["name"] != "text" for done in stages) else "text"
    if accelerator.is_main_process:
        checkpoint.save(model, run, valid=valid, stages=stages, seed=seed)
        with replacing(run.parent / "latest") as temporary:
            temporary.write_text(run.name + "\n", "utf-8")
    return TrainResult(run, stages, time.perf_counter() - began, stop.reason)


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
            "The store holds no vectors, and the stages fusion and joint need some.", hint="bundlecache encode"
        )
    if not len(valid):
        raise QuestionsError(f"The questions {valid.name!r} are empty, so no weights can be chosen on them.")


def _questions(
    catalogue: Catalogue,
    valid: Questions,
    model: BundleMLLM,
    recipe: Recipe,
    stage: str,
    seed: int,
    matrices: Mapping[str, Matrix],
) -> TrainingQuestions:
    mode = "text" if stage == "text" else "mm"
    vectors = None if model.bank is None else model.bank.matrices[0].vectors
    return TrainingQuestions(
        catalogue,
        recipe.data,
        lambda given, options: model.prompts.lengths(given, options, mode),
        seed,
        held_out=valid.bundle_ids,
        vectors=vectors,
        matrices=matrices,
    )


def accelerator_for(recipe: Recipe, device: torch.device) -> Any:
    """An Accelerator for ``device``; under ``accelerate launch`` every process has its own."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device.type == "cpu":
        _use_cores()
    elif device.index is not None:
        torch.cuda.set_device(device)
    AcceleratorState._reset_state()  # a second run in one process may ask for another precision or device
    return Accelerator(mixed_precision=recipe.run.precision, cpu=device.type == "cpu")


def _use_cores() -> None:
    """One thread per core that this process may use, unless the environment says otherwise; small models gain no more than 8."""
    if "OMP_NUM_THREADS" not in os.environ:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(min(allowed, torch.get_num_threads(), 8))
