"""`complete --file`: a row per bundle, in the order of the lines, and what is wrong with a bundle in its row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.runner import invoke
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.errors import BundlecacheError
from bundlecache.project import complete_file

QUICK = {"text_stage.steps": 2, "fusion_stage.steps": 2, "fusion_stage.contrastive_steps": 1}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_shop(tmp_path_factory.mktemp("shop"))
    bc.open(root, quiet=True).train(settings=QUICK, name="first")
    return root


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_rows_are_those_of_complete_in_the_order_of_the_lines(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(complete_file, "BLOCK_LINES", 3)
    bundles = [[f"item-{i:02}", f"item-{i + 1:02}"] for i in range(8)]
    lines = [json.dumps({"bundle_id": f"b{i}", "item_ids": items}) for i, items in enumerate(bundles)]
    workspace = bc.open(shop, quiet=True)
    made = workspace.complete_file(written(tmp_path / "in.jsonl", *lines), tmp_path / "out.parquet", 4)
    assert (made.bundles, made.failed) == (8, 0)
    rows = pq.read_table(made.path).to_pylist()
    assert [row["bundle_id"] for row in rows] == [f"b{i}" for i in range(8)]
    for row, expected in zip(rows, workspace.run().complete_many(bundles, 4), strict=True):
        assert row["completions"] == [each.item_id for each in expected]
        assert row["probabilities"] == [each.probability for each in expected]
        assert row["error"] is None


def test_what_is_wrong_with_a_bundle_is_in_its_row_and_the_exit_code(shop: Path, tmp_path: Path):
    wrong = ['{"item_ids": ["no-such"]}', "{", "[]", '{"item_ids": "item-01"}', '{"item_ids": []}', "[" * 50_000]
    source = written(tmp_path / "in.jsonl", '{"item_ids": ["item-01"]}', "", *wrong)
    done = invoke("complete", "--file", source, "--out", tmp_path / "out.parquet", "--data", shop, "--json")
    assert done.exit_code == 3 or done.return_value == 3
    assert json.loads(done.stdout) == {"path": str(tmp_path / "out.parquet"), "bundles": 7, "failed": 6}
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["bundle_id"] for row in rows] == ["1", "3", "4", "5", "6", "7", "8"]
    assert rows[0]["error"] is None
    assert "no-such" in rows[1]["error"]
    assert all(row["error"] and not row["completions"] for row in rows[1:])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--file", "missing.jsonl", "--out", "x.parquet"], "cannot be read"),
        (["--file", "empty.jsonl", "--out", "x.parquet"], "is empty"),
        (["--file", "empty.jsonl"], "needs the file of its answers"),
        (["item-01", "--file", "empty.jsonl", "--out", "x.parquet"], "were given; one of them"),
        (["item-01", "--out", "x.parquet"], "belong to a --file"),
        ([], "No item was given"),
        (["--file", "one.jsonl", "--out", "x.parquet", "--engine", "spark"], "there are local and ray"),
        (["--file", "one.jsonl", "--out", "x.parquet", "--ray-address", "h:1"], "without --engine ray"),
        (["--file", "one.jsonl", "--out", "x.parquet", "--run", "none"], "none"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    shop: Path, tmp_path: Path, given: list[str], words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "empty.jsonl")
    written(tmp_path / "one.jsonl", '{"item_ids": ["item-01"]}')
    done = invoke("complete", *given, "--data", shop)
    assert isinstance(done.exception, BundlecacheError), done.output
    assert words in done.exception.message
    assert not (tmp_path / "x.parquet").exists()
