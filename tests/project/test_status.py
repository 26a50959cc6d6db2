"""``status`` says what does not fit the items, vectors and splits of today, and each time the command that mends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers.runner import succeed
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.catalogue import splits

QUICK = {
    "text_stage.steps": 1,
    "fusion_stage.steps": 1,
    "fusion_stage.contrastive_steps": 1,
    "fusion.modalities": ["text"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with vectors of texts, questions, candidates and a run, all of the same items and splits."""
    root = make_shop(tmp_path_factory.mktemp("status"))
    shop = bc.open(root, quiet=True)
    shop.encode("text")
    shop.questions(options=3, negatives=["random"])
    shop.candidates(k=3, modalities=["text"])
    shop.train("demo", settings={**QUICK, "data.options": 3}, validation="valid-random3", name="first")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shop"))


def edit_titles(root: Path, count: int) -> None:
    table = pq.read_table(root / "items.parquet")
    titles = table["title"].to_pylist()
    titles[:count] = [f"another {title}" for title in titles[:count]]
    pq.write_table(
        table.set_column(table.column_names.index("title"), "title", pa.array(titles)), root / "items.parquet"
    )


def text_row(root: Path) -> dict:
    rows = json.loads(succeed("status", "--json", "--data", root).stdout)["store"]
    return next(row for row in rows if row["modality"] == "text")


def stale(root: Path) -> dict[str, str]:
    return {each.what: f"{each.why}: {each.command}" for each in bc.open(root, quiet=True).status().stale}


def test_nothing_is_out_of_date_where_nothing_has_changed(root: Path):
    assert stale(root) == {}
    assert text_row(root)["changed"] == 0
    shown = succeed("status", "--data", root).stdout
    assert "changed" not in shown
    assert "Out of date" not in shown


def test_edited_titles_are_counted_until_they_are_encoded(root: Path):
    edit_titles(root, 2)
    for _ in range(2):  # the second time from what was kept
        assert text_row(root)["changed"] == 2
    shown = succeed("status", "--data", root).stdout
    assert "changed" in shown.split("descriptor:text")[0]
    assert f"wait for their vectors: bundlecache encode --data {root}" in shown
    bc.open(root, quiet=True).encode("text")
    assert text_row(root)["changed"] == 0
    assert "wait for their vectors" not in succeed("status", "--data", root).stdout


def test_an_item_that_is_edited_back_is_not_counted(root: Path):
    before = (root / "items.parquet").read_bytes()
    edit_titles(root, 1)
    assert text_row(root)["changed"] == 1
    (root / "items.parquet").write_bytes(before)
    assert text_row(root)["changed"] == 0


def test_a_modality_without_vectors_has_its_command(root: Path):
    shown = " ".join(succeed("status", "--data", root).stdout.split())
    assert f"No vectors of image and audio and graph yet: bundlecache encode --data {root}" in shown
    succeed("encode", "--data", root)
    assert "No vectors" not in succeed("status", "--data", root).stdout


def test_candidates_and_runs_of_older_vectors_are_named_and_the_command_mends_them(root: Path):
    edit_titles(root, 2)
    bc.open(root, quiet=True).encode("text")
    assert stale(root) == {
        "candidates text-k3": "the vectors of descriptor:text have changed:"
        " bundlecache candidates --k 3 --modality text",
        "run first": "2 of its text vectors have changed since it was trained:"
        " bundlecache drift --modality text --from first",
    }
    assert f"bundlecache candidates --k 3 --modality text --data {root}" in succeed("status", "--data", root).stdout
    succeed("candidates", "--k", "3", "--modality", "text", "--data", root)
    assert [*stale(root)] == ["run first"]
    succeed("drift", "--modality", "text", "--from", "first", "--data", root)


def test_the_command_makes_the_same_candidates_again_with_all_that_was_typed(root: Path):
    typed = ["--k", "3", "--modality", "text", "--split", "valid", "--where", "category=lamp"]
    succeed("candidates", *typed, "--data", root)
    before = sorted(path.name for path in (root / "candidates").iterdir())
    edit_titles(root, 2)
    bc.open(root, quiet=True).encode("text")
    commands = [each.command for each in bc.open(root, quiet=True).status().stale if each.what.startswith("candidates")]
    assert ["candidates", *typed] in [[command.verb, *command.arguments] for command in commands]
    for command in commands:
        succeed(command.verb, *command.arguments, "--data", root)
    assert sorted(path.name for path in (root / "candidates").iterdir()) == before
    assert [*stale(root)] == ["run first"]


def test_a_run_whose_vectors_are_gone_is_named_with_the_command_that_makes_them(root: Path):
    shutil.rmtree(next((root / "store").rglob("text--*.lance")))
    found = stale(root)["run first"]
    assert found.startswith("the text vectors of descriptor:text that it reads are not stored any more")
    succeed(*found.partition("bundlecache ")[2].split(), "--data", root)
    assert "run first" not in stale(root)


def turn_splits(root: Path) -> list[str]:
    """Bundles of training become those of test, and the other way round; the new split of each."""
    catalogue = bc.open(root, quiet=True).catalogue
    split = dict(zip(catalogue.bundles.ids, splits.assign(catalogue), strict=True))
    table = pq.read_table(root / "bundles.parquet")
    turned = {"train": "test", "test": "train", "valid": "valid"}
    parts = [turned[str(split[bundle])] for bundle in table["bundle_id"].to_pylist()]
    pq.write_table(table.append_column("split", pa.array(parts)), root / "bundles.parquet")
    (root / "splits.parquet").unlink()
    return parts


def test_questions_and_runs_of_another_split_are_named(root: Path):
    parts = turn_splits(root)
    asked = pq.read_table(root / "questions" / "test-random3.parquet").num_rows
    tests = pc.sum(pc.equal(pa.array(parts), "test")).as_py()
    found = stale(root)
    assert found["questions test-random3"].startswith(f"{asked} of its {asked} questions are about bundles")
    assert found["questions test-random3"].endswith("bundlecache questions --seed 1")
    assert "questions valid-random3" not in found
    assert found["run first"].startswith(f"it has seen {tests} bundles of today's validation and test")
    assert found == stale(root), "what is kept is what was computed"


def test_a_run_of_unimp_is_told_its_own_recipe(root: Path):
    turn_splits(root)
    path = root / "runs" / "first" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    stages = [{**stage, "best_valid": 0.0} for stage in manifest["stages"]]
    path.write_text(json.dumps({**manifest, "kind": "unimp", "stages": stages}), "utf-8")
    assert stale(root)["run first"].endswith(": bundlecache train --recipe unimp")


def test_a_table_that_was_lost_and_made_again_is_counted_anew(root: Path):
    edit_titles(root, 2)
    assert text_row(root)["changed"] == 2
    shutil.rmtree(next((root / "store").rglob("text--*.lance")))
    for _ in range(2):  # its versions begin anew
        bc.open(root, quiet=True).encode("text")
        assert text_row(root)["changed"] == 0


def test_damaged_files_do_not_keep_status_from_its_answer(root: Path):
    for path in (
        *root.glob("candidates/*.parquet"),
        *root.glob("questions/*.parquet"),
        *root.glob("runs/*/manifest.json"),
    ):
        path.write_bytes(path.read_bytes()[:20])
    assert stale(root) == {}
    succeed("status", "--data", root)
