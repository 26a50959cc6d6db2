"""Trains a tiny world, killed with SIGKILL at the moments given, and gone on with; run by tests of resuming.

    python tests/helpers/kill_training.py FOLDER bundle|unimp STAGES   ->  FOLDER/whole, FOLDER/killed-K for every K; prints how often killed

A moment is a call of one of the functions in MOMENTS, counted from the start; the process is forked for each, since
starting one anew takes longer than all of its training.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch

from bundlecache import files as atomic
from bundlecache.train import checkpoint, checkpoint_files
from bundlecache.train.training import loop
from bundlecache.train.training.question_stage import QuestionStage
from bundlecache.train.training.resume import FILE, Snapshot
from bundlecache.train.training.stage import StageLoop
from bundlecache.train.unimp import checkpoint as unimp_checkpoint
from bundlecache.train.unimp import training as unimp_training
from bundlecache.train.unimp.head_only import HeadStage
from bundlecache.training_log import TrainingLog
from helpers import train_shop, unimp_shop

torch.set_num_threads(1)
Train = Callable[[Path], object]
MOMENTS = [
    (StageLoop, "step"),
    (StageLoop, "_evaluate"),
    (QuestionStage, "warm_up"),
    (HeadStage, "_of_items"),  # while hidden states are computed
    (TrainingLog, "add"),
    (Snapshot, "save"),
    (atomic.os, "fsync"),  # the file is written but not in its place
    (checkpoint, "_write"),
    (unimp_checkpoint, "sha256"),  # the weights are written, the manifest is not
    (checkpoint_files, "move"),
]


def bundle(folder: Path, stages: list[str]) -> Train:
    """Bundle-MLLM."""
    world, catalogue = train_shop, train_shop.catalogue()
    valid, base = world.questions(catalogue), world.save_base(folder / "base")
    stage = {"steps": 4, "evaluate_every": 2, "lr": 1e-2, "warmup": 2, "contrastive_steps": 2}
    recipe = world.recipe(
        base,
        text_stage=stage,
        fusion_stage=stage,
        joint_stage=stage,
        lora={"dropout": 0.1},
        fusion={"input_dropout": 0.2, "modality_dropout": 0.2},
        data={"accumulate": 2},
        run={"strategy": stages, "save_every": 2},
    )

    def train(run: Path) -> object:
        if (run / FILE).exists():
            return loop.resume(catalogue, world.matrices(), valid, run)
        return loop.train(catalogue, world.matrices(), valid, recipe, run)

    return train


def unimp(folder: Path, stages: list[str]) -> Train:
    """UniMP, with an adapter, dropout everywhere, averaged weights, semantic ids and picture codes."""
    world, tasks = unimp_shop, ("recommend", "search", "explain")
    base, data = world.save_base(folder / "base"), world.with_codes(world.data(tasks=tasks, semantic=True))
    stage = {"steps": 4, "evaluate_every": 2, "average": 0.5}
    recipe = world.recipe(
        base,
        multitask_stage=stage,
        head_stage=stage,
        lora={"rank": 2, "dropout": 0.1},
        items={"dropout": 0.1, "ids": "semantic", "levels": 2, "codes": 3},
        data={"accumulate": 2, "tasks": [*tasks, "draw"], "batch": 6},
        run={"strategy": stages, "save_every": 2, "validation_questions": 4, "select": "mean"},
    )

    def train(run: Path) -> object:
        snapshot = Snapshot.read(run) if (run / FILE).exists() else None
        return unimp_training.train(data, recipe, run, seed=1, snapshot=snapshot)

    return train


def main(folder: Path, model: str, stages: list[str]) -> None:
    for library in ("accelerate", "peft", "torch.utils.tensorboard"):  # once, not in every child
        importlib.import_module(library)
    gc.freeze()  # nor collected there
    train = {"bundle": bundle, "unimp": unimp}[model](folder, stages)
    total = count(lambda: train(folder / "whole"))
    kills = 0
    moments = [total // 6, total // 2, total - 6, total - 1]  # then each a third later, until the run has ended
    for moment in moments:
        run = folder / f"killed-{moment}"
        while killed(lambda run=run, moment=moment: (tick(moment), train(run))):
            kills += 1
            assert kills < 10 * len(moments), "no progress between kills"
            moment += total // 3
    sys.stdout.write(str(kills))


def wrapped(tell) -> None:
    for owner, name in MOMENTS:
        function = getattr(owner, name)
        setattr(owner, name, lambda *a, _function=function, **k: (tell(), _function(*a, **k))[1])


def count(work) -> int:
    calls = [0]
    reading, writing = os.pipe()
    if not os.fork():
        wrapped(lambda: calls.__setitem__(0, calls[0] + 1))
        work()
        os.write(writing, str(calls[0]).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reading, 99))


def tick(moment: int) -> None:
    left = [moment]

    def tell() -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    wrapped(tell)


def killed(work) -> bool:
    if not (child := os.fork()):
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
