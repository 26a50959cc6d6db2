"""Several processes train as one does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.forked import start
from helpers.paths import TOP
from safetensors.numpy import load_file


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_also_when_stopped_and_gone_on_with(tmp_path):
    script = start(TOP / "tests/helpers/train_together.py", tmp_path)
    _, said = script.communicate(300)
    assert script.wait() == 0, said
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
