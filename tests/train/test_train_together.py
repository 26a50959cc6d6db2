"""Several processes train as one does."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from helpers import train_shop as world
from helpers.forked import start
from helpers.paths import TOP
from safetensors.numpy import load_file

SCRIPT = TOP / "tests/helpers/train_together.py"


def start_together(folder: Path, *words: str) -> None:
    """Two processes with the variables that torchrun gives them; torchrun itself would import torch three times more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    both = [start(SCRIPT, folder, *words, **place, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    for one in both:
        _, said = one.communicate(300)
        assert one.wait() == 0, said


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_also_when_stopped_and_gone_on_with(tmp_path):
    world.save_base(tmp_path / "base")
    alone = start(SCRIPT, tmp_path)
    _, said = alone.communicate()
    assert alone.wait() == 0, said
    start_together(tmp_path, "stop")
    start_together(tmp_path, "resume")
    one, two = tmp_path / "run-1", tmp_path / "run-2"
    for name in ("adapter/adapter_model.safetensors", "fusion.safetensors"):
        mine, other = load_file(one / name), load_file(two / name)
        assert mine.keys() == other.keys()
        for key in mine:
            np.testing.assert_allclose(mine[key], other[key], rtol=0, atol=1e-5, err_msg=key)
    mine, other = (load_file(tmp_path / f"users-{processes}" / "unimp.safetensors") for processes in (1, 2))
    for key in mine:
        np.testing.assert_allclose(mine[key], other[key], rtol=0, atol=1e-5, err_msg=key)
    lines = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()] for run in (one, two)]
    assert len(lines[0]) == len(lines[1])
    for a, b in zip(*lines, strict=True):
        assert a == pytest.approx(b, abs=1e-4)
