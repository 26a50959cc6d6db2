"""Some drawn cases of each kind; ``fuzz.py`` draws others."""

from __future__ import annotations

import pytest

from hostile import fuzz

CASES = {"tables": 15, "arguments": 25, "arrays": 15, "clhe": 30, "bases": 12, "workspaces": 2}


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind, count in CASES.items() for seed in range(count)])
def test_a_drawn_case(kind, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fuzz.one(kind, seed, tmp_path) == ""


def test_every_kind_is_drawn():
    assert CASES.keys() == fuzz.KINDS.keys()


def test_a_clhe_folder_without_damage_is_read(tmp_path):
    """So that the damaged ones are near enough to it."""

    class Kind(fuzz.random.Random):
        def random(self) -> float:
            return 1.0

        def randint(self, low: int, high: int) -> int:
            return low

    fuzz.clhe(Kind(0), tmp_path)
    assert (tmp_path / "ws" / "items.parquet").is_file()
