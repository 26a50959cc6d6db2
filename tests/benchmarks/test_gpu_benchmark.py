"""The script for the day a GPU is at hand runs from end to end without one, so that nothing is lost to a slip then."""

from __future__ import annotations

import json

from helpers.forked import start
from helpers.paths import TOP

SCRIPT = TOP / "benchmarks" / "gpu.py"


def test_the_gpu_benchmark_runs_on_a_cpu_and_its_parts_add_up(tmp_path):
    small = ["--shapes", "32x1", "--options", "4", "--items", "40", "--batch", "2", "--peak", "1", "--faiss", "500"]
    script = start(SCRIPT, "--device", "cpu", "--quick", "--json", "--out", tmp_path / "kept.json", *small)
    printed, error = script.communicate()
    assert script.wait() == 0, error
    said = json.loads(printed)
    assert said == json.loads((tmp_path / "kept.json").read_text())
    (row,) = said["rows"]
    assert abs(sum(row["parts"].values()) - 1) < 1e-6
    assert all(part > 0 for part in row["parts"].values())
    for who in ("ours", "theirs"):
        assert abs(row[f"{who}_mfu"] * row[f"{who}_s"] - row["tflop"]) < 1e-9
    assert row["loss_apart"] < 0.05
    assert row["same_first_token"] > 0.8  # bfloat16 rounds
    assert row["ours_answer_s"] < row["theirs_answer_s"]
    assert [(r["kind"], r["place"], r["recall@20"] > 0.9) for r in said["faiss"]] == [
        ("flat", "cpu", True),
        ("ivf", "cpu", True),
    ]
