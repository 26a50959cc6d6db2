"""Trains the tiny world on one process, and on two that are stopped and go on; started by the tests.

    python tests/helpers/train_together.py FOLDER   ->  FOLDER/run-1, FOLDER/run-2 and FOLDER/users-1, FOLDER/users-2

The processes are forked with the variables that torchrun gives them: each would import torch and PEFT anew.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch

from bundlecache.train.training import loop
from bundlecache.train.unimp import training
from helpers import train_shop as world
from helpers import unimp_shop

torch.set_num_threads(1)


def main(folder: Path) -> None:
    for library in ("accelerate", "peft", "torch.utils.tensorboard"):  # once, not in every child
        importlib.import_module(library)
    gc.freeze()  # nor collected there
    world.save_base(folder / "base")
    train_in(folder, 1)
    train_in(folder, 2, "stop")
    train_in(folder, 2, "resume")


def train_in(folder: Path, processes: int, *words: str) -> None:
    """Train in so many new processes, and end with 1 if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    children = []
    for rank in map(str, range(processes)):
        if not (child := os.fork()):
            if processes > 1:
                os.environ.update(place, RANK=rank, LOCAL_RANK=rank)
            train(folder, processes, *words)
            sys.stderr.flush()
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        os._exit(1)


def train(folder: Path, processes: int, *words: str) -> None:
    catalogue = world.catalogue()
    valid, stage = world.questions(catalogue), {"steps": 4, "evaluate_every": 2, "lr": 1e-3, "contrastive_steps": 2}
    recipe = world.recipe(
        folder / "base",
        text_stage=stage,
        fusion_stage=stage,
        joint_stage=stage,
        data={"batch": 10, "accumulate": 2},  # 5 questions each, so in pieces of 3 and 2
        # No learnt scale: the language model's norm makes its gradient rounding noise, which Adam takes for a direction.
        fusion={"output": "free"},
        run={"strategy": ["text", "fusion", "joint"], "save_every": 3},
    )
    limit = 1e-6 if "stop" in words else None
    run = folder / f"run-{processes}"
    if "resume" in words:
        result = loop.resume(catalogue, world.matrices(), valid, run)
    else:
        result = loop.train(catalogue, world.matrices(), valid, recipe, run, max_minutes=limit)
    assert (result.stopped is None) == ("stop" not in words)
    if "stop" not in words:
        users(folder / f"users-{processes}", folder / "base")


def users(run: Path, base: Path) -> None:
    """The other model, both of its stages; a batch of 10 rows is 5 each, in pieces of 3 and 2."""
    stage = {"steps": 4, "evaluate_every": 2, "lr": 1e-3}
    recipe = unimp_shop.recipe(
        base,
        data={"tasks": ["recommend", "preference"], "batch": 10, "accumulate": 2},
        multitask_stage=stage,
        head_stage=stage,
    )
    training.train(unimp_shop.data(), recipe, run)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
