"""`train --recipe unimp` in a workspace: from two tables to a run, and one sentence where something is missing."""

from __future__ import annotations

import json

import pytest
from helpers import unimp_shop as world
from helpers.runner import invoke

from bundlecache.errors import BundlecacheError

FEW = ("multitask_stage.steps=2", "multitask_stage.evaluate_every=2", "head_stage.steps=2", "data.batch=8")


def workspace(folder, *, timestamps=True, ratings=True, interactions=True):
    """Items without pictures, and the users of the tiny world."""
    cat, told = world.catalogue(), world.histories(users=24, length=7)
    rows = zip(cat.item_ids, cat.titles, cat.columns["category"], strict=True)
    lines = ["item_id,title,category", *(",".join(row) for row in rows)]
    (folder / "items.csv").write_text("\n".join(lines))
    if interactions:
        head = ["user_id", "item_id", *(["timestamp"] if timestamps else []), *(["rating"] if ratings else [])]
        lines = [",".join(head)]
        for k in range(len(told)):
            more = [*([str(k)] if timestamps else []), *([str(told.rating[k])] if ratings else [])]
            lines.append(",".join([told.users[told.user[k]], cat.item_ids[told.item[k]], *more]))
        (folder / "interactions.csv").write_text("\n".join(lines))
    return folder


def typed(folder, *settings, **options):
    words = [word for setting in (*FEW, "vision.encoder=", *settings) for word in ("--set", setting)]
    more = [word for name, value in options.items() for word in (f"--{name}", value)]
    return invoke("train", "--data", folder, "--recipe", "unimp", *words, *more)


def test_two_tables_become_a_run_that_another_may_start_from(tmp_path):
    root = workspace(tmp_path)
    said = typed(root, "data.k_core=0", "data.tasks=recommend,search,select,preference", name="one")
    assert said.exception is None, said.exception
    assert "freezing them now" in said.output.replace("\n", " ")
    manifest = json.loads((root / "runs" / "one" / "manifest.json").read_text())
    assert manifest["kind"] == "unimp"
    assert manifest["questions"].keys() == {"recommend", "search", "select", "preference"}
    again = typed(root, "data.k_core=0", "data.tasks=recommend", **{"name": "two", "from": "one", "stage": "head"})
    assert again.exception is None, again.exception
    stages = json.loads((root / "runs" / "two" / "manifest.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["multitask", "head", "head"]
    assert "questions of its own tasks" in typed(root, validation="mine").exception.message


@pytest.mark.parametrize(
    ("lacking", "settings", "words", "hint"),
    [
        ({"interactions": False}, (), "holds no interactions", "interactions.parquet"),
        ({"timestamps": False}, (), "have no timestamp", "data.split=random"),
        ({}, ("data.k_core=9",), "none is left where users and items have at least 9", "data.k_core=0"),
        ({"ratings": False}, ("data.k_core=0",), "preference cannot be trained", "data.tasks=recommend,search,select"),
        (
            {},
            ("data.k_core=0", "data.tasks=recommend", "vision.encoder=hf-tokens:x"),
            "No item has a picture",
            "vision.encoder=",
        ),
        (
            {},
            ("data.k_core=0", "data.tasks=recommend", "prompt.attributes=colour"),
            "no column 'colour'",
            "prompt.attributes",
        ),
    ],
)
def test_what_is_missing_is_one_sentence_with_the_next_command(tmp_path, lacking, settings, words, hint):
    error = typed(workspace(tmp_path, **lacking), *settings).exception
    assert isinstance(error, BundlecacheError), error
    assert words in error.message
    assert hint in str(error)
