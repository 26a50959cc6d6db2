"""Trains the tiny world on one or several processes; started by the tests, with torchrun's variables for several.

python -m torch.distributed.run --nproc-per-node 2 tests/helpers/train_together.py FOLDER
"""

from __future__ import annotations

import os
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
    processes = os.environ.get("WORLD_SIZE", "1")
    limit = 1e-6 if "stop" in sys.argv else None
    run = folder / f"run-{processes}"
    if "resume" in sys.argv:
        result = loop.resume(catalogue, world.matrices(), valid, run)
    else:
        result = loop.train(catalogue, world.matrices(), valid, recipe, run, max_minutes=limit)
    assert (result.stopped is None) == ("stop" not in sys.argv)
    if "stop" not in sys.argv:
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
