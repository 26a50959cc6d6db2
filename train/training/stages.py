"""Runs the stages of a training in order, of whatever model, with the log, the snapshots and what stops it early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bundlecache.training_log import Stop, TrainingLog

from . import resume as resuming
from .resume import WEIGHTS, Snapshot
from .stage import Save, StageLoop

if TYPE_CHECKING:
    from pathlib import Path

StageOf = Callable[[str, int, TrainingLog, Stop, Save], StageLoop]
"""Makes the stage of a name, from its seed, the log, what stops it, and what writes its snapshots."""


@dataclass(frozen=True)
class Plan:
    """What is trained: the stages of ``strategy``, each a name of ``known``; ``job`` are all inputs, see `resume.job`."""

    strategy: Sequence[str]
    known: Sequence[str]
    seed: int
    minutes: float  # 0 has no limit
    job: dict[str, Any]


def run_stages(
    plan: Plan,
    stage_of: StageOf,
    model: nn.Module,
    run: Path,
    accelerator: Any,
    stages: list[dict[str, Any]],
    snapshot: Snapshot | None = None,
) -> str | None:
    """Run the stages of a plan; their rows are appended to ``stages``. Why training ended early, None if it did not.

    ``snapshot`` is where an earlier training into ``run`` stood; its weights are in ``model`` already.
    """
    first = snapshot.place if snapshot else 0
    keep = snapshot.history if snapshot else 0
    with Stop(plan.minutes) as stop, TrainingLog(run, enabled=accelerator.is_main_process, keep=keep) as log:
        for place in range(first, len(plan.strategy)):
            name = plan.strategy[place]
            stage_seed = plan.seed * len(plan.known) + plan.known.index(name)
            save = _saver(plan, run, model, log, accelerator, stages, place)
            begun = snapshot if snapshot is not None and snapshot.place == place and snapshot.stage else None
            loop = stage_of(name, stage_seed, log, stop, save)
            if begun is None:
                save({}, {})
            torch.manual_seed(stage_seed)
            stages.append(loop.run(begun.stage, begun.tensors) if begun else loop.run())
            if loop.stopped:
                return stop.reason
    return None


def _saver(
    plan: Plan,
    run: Path,
    model: nn.Module,
    log: TrainingLog,
    accelerator: Any,
    stages: Sequence[dict[str, Any]],
    place: int,
) -> Save:
    """What writes snapshots of the stage ``place``; only the main process does."""
    finished = list(stages)

    def save(stage: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        if accelerator.is_main_process:
            weights = {f"{WEIGHTS}{name}": value for name, value in resuming.trained(model).items()}
            Snapshot(plan.job, finished, place, log.lines, stage, {**weights, **tensors}).save(run)

    return save
