"""The runs of a training that was killed at every kind of moment and gone on with (`helpers/kill_training.py`)."""

from __future__ import annotations

from pathlib import Path

from helpers.forked import start
from helpers.paths import TOP


def killed_runs(folder: Path, model: str, *stages: str) -> list[Path]:
    """Four runs beside ``folder / "whole"``, which was never stopped; together they were killed five times or more."""
    child = start(TOP / "tests/helpers/kill_training.py", folder, model, *stages)
    printed, said = child.communicate()
    assert child.wait() == 0, said
    runs = sorted(folder.glob("killed-*"))
    assert len(runs) == 4
    assert int(printed) >= 5
    return runs
