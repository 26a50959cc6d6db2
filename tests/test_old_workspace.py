"""Workspaces that version 0.1.0 of November 2026 wrote, before the packages were moved, still work to the last digit.

tests/data/old_workspaces.tar.xz holds two, made by the command line of that version:

old_workspace   32 items with vectors of the four default encoders, question files, candidate sets, one finished run
                (``train --name first`` with ``lora.rank=2``, 60 steps a stage) with its results, and one that was
                stopped by ``--max-minutes`` before its first step (``unfinished``)
old_index       300 items with imported vectors of width 6, and the hnsw index that ``candidates`` kept for them

Whatever fails here breaks the files of users: read the old form beside the new one.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP
from helpers.runner import printed_json, succeed

from bundlecache.bench.result_rows import renamed

SETS = ("test-random10", "test-hard10")
LAST_DIGIT = 1e-4  # of a probability: another processor may round differently
OTHER_PROCESSOR = (
    0.02  # of a figure of few questions: ALS rounds differently there, and two items that nearly tie change places
)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive, with its times of change; tests that write into a workspace take `fresh`."""
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def unpack(folder: Path) -> Path:
    with tarfile.open(TOP / "tests" / "data" / "old_workspaces.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def recorded(workspace: Path, name: str) -> dict[str, Any]:
    return json.loads((workspace / "runs" / "first" / "results" / f"{name}.json").read_text("utf-8"))


def test_status_shows_the_old_tables_and_runs(old: Path):
    shown = printed_json("status", "--data", old / "old_workspace")
    rows = {row["modality"]: row["rows"] for row in shown["store"]}
    assert rows == {"text": 32, "image": 30, "audio": 8, "graph": 32}
    assert "first" in json.dumps(shown)


def test_old_vectors_are_current_and_nothing_is_encoded_again(fresh: Path):
    for row in printed_json("encode", "--data", fresh / "old_workspace"):
        assert (row["encoded"], row["failed"]) == (0, 0), row


def test_the_same_questions_are_drawn_as_before(fresh: Path):
    root = fresh / "old_workspace"
    before = {row["name"]: row["sha256"] for row in printed_json("questions", "--data", root)}
    for file in (root / "questions").iterdir():
        file.unlink()
    assert {row["name"]: row["sha256"] for row in printed_json("questions", "--data", root)} == before
    for name in SETS:
        assert recorded(root, name)["questions"]["sha256"].startswith(before[name])


@pytest.mark.slow
def test_an_old_run_and_every_baseline_evaluate_to_the_recorded_digits(fresh: Path):
    root = fresh / "old_workspace"
    before = {name: recorded(root, name) for name in SETS}
    answers = {name: pq.read_table(root / "runs" / "first" / "results" / f"{name}.parquet") for name in SETS}
    after = {row["questions"]["name"]: row for row in printed_json("evaluate", "--run", "first", "--data", root)}
    for name in SETS:
        assert after[name]["questions"] == before[name]["questions"]
        then, now = figures(before[name]["methods"]), figures(after[name]["methods"])
        assert now.keys() == then.keys()
        for method, values in then.items():
            assert now[method] == pytest.approx(values, abs=OTHER_PROCESSOR if method.startswith("ALS") else 0), method
        assert after[name]["ablation"] == before[name]["ablation"]
        table = pq.read_table(root / "runs" / "first" / "results" / f"{name}.parquet")
        assert [column for column in table.schema.names if column != "prompt"] == answers[name].schema.names
        told, recorded_ones = (rows["probabilities"].to_pylist() for rows in (table, answers[name]))
        assert told == [pytest.approx(row, abs=LAST_DIGIT) for row in recorded_ones]


def figures(methods: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {renamed(row["name"]): [round(row[key], 6) for key in ("hit@1", "hit@3", "hit@5", "mrr")] for row in methods}


def test_an_old_run_completes_a_bundle_as_before(old: Path):
    ask = ["complete", "item-02", "item-04", "--data", old / "old_workspace", "--run", "first", "--k", "3"]
    found = printed_json(*ask)
    assert [row["item_id"] for row in found] == ["item-24", "item-20", "item-08"]
    assert [row["probability"] for row in found] == pytest.approx([0.3217, 0.1332, 0.0999], abs=LAST_DIGIT)


def test_an_old_run_gets_a_report(fresh: Path):
    root = fresh / "old_workspace"
    succeed("report", "--run", "first", "--data", root)
    assert "test-random10" in (root / "runs" / "first" / "report.html").read_text("utf-8")


def test_training_goes_on_from_an_old_run_and_an_unfinished_one_is_resumed(fresh: Path):
    root = fresh / "old_workspace"
    few = ["--set", "fusion_stage.steps=2", "--set", "fusion_stage.contrastive_steps=0"]
    same_size = ["--set", "lora.rank=2", "--set", "fusion.width=12", "--set", "fusion.projector_width=24"]
    succeed(
        "train",
        "--recipe",
        "demo",
        "--from",
        "first",
        "--stage",
        "fusion",
        "--name",
        "next",
        "--data",
        root,
        *few,
        *same_size,
    )
    assert (root / "runs" / "next" / "manifest.json").is_file()
    succeed("train", "--resume", "unfinished", "--data", root)
    made = json.loads((root / "runs" / "unfinished" / "manifest.json").read_text("utf-8"))
    assert [stage["steps"] for stage in made["stages"]] == [6, 6]


def test_candidates_are_those_of_before_by_exact_search_and_by_a_kept_index(fresh: Path):
    exact, kept = fresh / "old_workspace", fresh / "old_index"
    files = [exact / "candidates" / "text+image+audio+graph-k5.parquet", kept / "candidates" / "text-k5.parquet"]
    before = [pq.read_table(file).to_pylist() for file in files]
    index = next((kept / "candidates" / "indexes").glob("*.faiss"))
    changed = index.stat().st_mtime_ns
    succeed("candidates", "--k", "5", "--data", exact)
    succeed("candidates", "--k", "5", "--index", "hnsw", "--data", kept)
    assert index.stat().st_mtime_ns == changed, "the kept index was built again"
    assert [[row["candidates"] for row in pq.read_table(f).to_pylist()] for f in files] == [
        [row["candidates"] for row in rows] for rows in before
    ]
