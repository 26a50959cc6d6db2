"""Ablations: the grid gives the grid points, every grid point is trained once, and the table is right."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.runner import invoke
from helpers.shop import make_shop

from bundlecache.bench import ablation
from bundlecache.errors import RecipeError
from bundlecache.train.shipped_recipes import GRIDS, read_grid

GRID = """
recipe = "demo"
seeds = [0, 1]
negatives = ["random"]
[set]
"text_stage.steps" = 2
"fusion_stage.steps" = 2
"fusion_stage.contrastive_steps" = 0
"data.options" = 5
[vary]
"prompt.separator" = ["soft", "none"]
"data.options" = [4]
"""


def grid(folder: Path, text: str = GRID) -> ablation.Grid:
    path = folder / "mine.toml"
    path.write_text(text)
    return read_grid(path)


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_grid_resolves_and_opens_with_the_command_that_runs_it(path):
    made = read_grid(path.stem)
    assert len(made.points) > 2
    assert made.points[0].changed == {}
    assert f"bundlecache ablate {path.stem}" in path.read_text().split("recipe =", 1)[0]


def test_grid_points_are_the_recipe_and_one_change_each_or_all_combinations(tmp_path):
    assert [point.words for point in grid(tmp_path).points] == ["", "prompt.separator=none", "data.options=4"]
    crossed = grid(tmp_path, "cross = true\n" + GRID.replace("[4]", "[4, 5]")).points
    assert [point.words for point in crossed] == [
        "",
        "data.options=4",
        "prompt.separator=none, data.options=4",
        "prompt.separator=none",
    ]
    keys = {point.key(seed, about) for point in crossed for seed in (0, 1) for about in ({}, {"image": ["f", 1]})}
    assert len(keys) == 16


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('recipe = "demo"', "varies nothing"),
        ("[vary]\n", "varies nothing"),
        ("sedes = [1]\n" + GRID.lstrip(), "sedes"),
        (GRID.replace("[0, 1]", '["a"]'), "seeds"),
        (GRID.replace("prompt.separator", "prompt.seperator"), "prompt.separator"),
        (GRID.replace('"none"', '"no"'), "separator"),
        ("[[", "no TOML"),
    ],
)
def test_a_grid_that_is_none_is_one_sentence(tmp_path, text, word):
    with pytest.raises(RecipeError, match=word):
        grid(tmp_path, text)
    with pytest.raises(RecipeError, match="demo"):
        read_grid("no-such-grid")


def test_rows_hold_means_seeds_intervals_and_paired_changes(tmp_path):
    first, other, fewer = grid(tmp_path).points
    rng = np.random.default_rng(0)
    easy = rng.integers(0, 2, (3, 400))

    def results(hits, questions):
        return [ablation.GridPointResult(s, {"test": h.tolist()}, {"test": questions}, 1.5) for s, h in enumerate(hits)]

    reference = results(easy, "x")
    row = ablation.row(first, reference, reference)
    assert row.figures["test"].mean == easy.mean()
    assert row.figures["test"].each == easy.mean(1).tolist()
    assert row.figures["test"].interval[0] < easy.mean() < row.figures["test"].interval[1]
    assert row.figures["test"].change is None
    assert row.seconds == 4.5
    worse = np.where(np.arange(400) < 40, 0, easy)
    row = ablation.row(other, results(worse, "x"), reference)
    low, high = row.figures["test"].change_interval
    assert row.figures["test"].change == pytest.approx((worse - easy).mean())
    assert low < row.figures["test"].change < high < 0, "the pairs tell, where two intervals alone would overlap"
    assert ablation.row(fewer, results(worse, "y"), reference).figures["test"].change is None, "other questions"
    assert ablation.row(other, results(worse[:2], "x"), reference).figures["test"].change is None, "other seeds"


@pytest.mark.slow
def test_ablate_trains_every_grid_point_once_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    from bundlecache.train import ablation_run
    from bundlecache.training_log import Stop

    root, path = make_shop(tmp_path), tmp_path / "mine.toml"
    path.write_text(GRID.replace('"data.options" = [4]\n', ""))

    def typed(*more):
        return invoke("ablate", path, "--data", root, *more)

    trained = []
    run = ablation_run.run
    monkeypatch.setattr(ablation_run, "run", lambda *a, **k: (trained.append(a[5]), run(*a, **k))[1])
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "reason", "SIGTERM")
        stopped = typed("--seeds", "1")
    assert stopped.return_value == 143
    assert "the same command goes on" in stopped.output
    assert typed("--seeds", "1").exception is None
    assert trained == [0, 0, 0]
    made = json.loads(typed("--json").stdout)
    assert trained[3:] == [1, 1]
    again = json.loads(typed("--json").stdout)
    assert again == made
    assert len(trained) == 5
    assert [row["changed"] for row in made["rows"]] == ["", "prompt.separator=none"]
    assert all(len(row["test-random"]["each"]) == 2 for row in made["rows"])
    assert "change" in made["rows"][1]["test-random"]
    folder = root / "ablations" / "mine"
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [float(row["test-random"]) for row in rows] == [row["test-random"]["mean"] for row in made["rows"]]
    assert (folder / "table.md").read_text().count("\n") == 4
    assert len(list((folder / "cells").glob("*/cell.json"))) == 4
