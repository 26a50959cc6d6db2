"""A catalogue that changes: rows are added, edited and removed by id, all of them or none."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.forked import CODE, start

from bundlecache.catalogue import splits, table_transaction
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import writing
from bundlecache.catalogue.readers.dataset import Dataset
from bundlecache.catalogue.update import TableChanges, UpdateSummary, update
from bundlecache.errors import BundlecacheError, CatalogueError
from bundlecache.questions.question_sets import freeze_missing
from bundlecache.store.store import Store
from bundlecache.workspace import TABLES, WorkspaceFolder


def rows_of(workspace: WorkspaceFolder, table: str) -> list[dict[str, Any]]:
    return pq.read_table(workspace.root / f"{table}.parquet").to_pylist()


def source(workspace: WorkspaceFolder) -> Dataset:
    return Dataset(*(rows_of(workspace, table) for table in TABLES))


def counts(summary: UpdateSummary) -> dict[str, tuple[int, int, int, int]]:
    return {each.table: (each.added, each.changed, each.removed, each.unchanged) for each in summary.tables}


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.is_file()}


def test_the_same_rows_again_change_nothing(workspace: WorkspaceFolder):
    before = contents(workspace.root)
    summary = update(workspace, source(workspace), remove_missing=True)
    assert counts(summary) == {"items": (0, 0, 0, 24), "bundles": (0, 0, 0, 30), "interactions": (0, 0, 0, 120)}
    assert contents(workspace.root) == before


def test_items_bundles_and_interactions_are_added_edited_and_removed(workspace: WorkspaceFolder):
    new = source(workspace)
    new.items[3]["title"] = "renamed"
    gone = new.items.pop(7)["item_id"]
    new.items.append({"item_id": "item-99", "title": "fresh", "price": 3.5})
    new.bundles[0]["item_ids"] = [*new.bundles[0]["item_ids"], "item-99"]
    new.bundles = [*new.bundles[:-2], {"bundle_id": "fresh", "item_ids": ["item-99", "item-01"], "group": "user-3"}]
    new.interactions.append({"user_id": "user-1", "item_id": "item-99"})
    dry = update(workspace, new, remove_missing=True, dry_run=True)
    assert len(Catalogue.read(workspace)) == 24
    assert "item-99" not in Catalogue.read(workspace).index
    summary = update(workspace, new, remove_missing=True)
    assert (
        summary.tables
        == dry.tables
        == [
            TableChanges("items", 1, 1, 1, 22),
            TableChanges("bundles", 1, 1, 2, 27),
            TableChanges("interactions", 1, 0, 0, 120),
        ]
    )
    assert summary.removed_items == [gone]
    assert summary.removed_bundles == ["bundle-28", "bundle-29"]
    catalogue = Catalogue.read(workspace)
    assert len(catalogue) == 24
    assert "renamed" in catalogue.titles
    assert np.nansum(catalogue.numbers("price")) == 3.5
    assert catalogue.bundles.ids.count("fresh") == 1
    assert any(note.startswith("bundles.parquet names") for note in summary.notes), "of the removed item"


def test_what_the_source_lacks_is_kept_unless_asked(workspace: WorkspaceFolder):
    summary = update(workspace, Dataset(items=[{"item_id": "item-03", "title": "other"}]))
    assert counts(summary) == {"items": (0, 1, 0, 23), "bundles": (0, 0, 0, 30), "interactions": (0, 0, 0, 120)}
    catalogue = Catalogue.read(workspace)
    assert catalogue.column("category")[catalogue.index["item-03"]] == "chime", "a column that the source lacks is kept"
    update(workspace, Dataset(items=[{"item_id": "item-03"}]), remove_missing=True)
    catalogue = Catalogue.read(workspace)
    assert (len(catalogue), len(rows_of(workspace, "bundles"))) == (1, 30), "bundles were not in the source"


def test_a_csv_table_becomes_parquet_and_numbers_compare_as_numbers(tmp_path: Path):
    (tmp_path / "items.csv").write_text("item_id,title,price\na,x,9.50\nb,y,2\n", "utf-8")
    workspace = WorkspaceFolder(tmp_path)
    same = update(workspace, Dataset(items=[{"item_id": "a", "price": 9.5}]))
    assert same.changes == 0
    update(workspace, Dataset(items=[{"item_id": " c ", "title": "z", "price": 1.0}]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "store"]
    assert Catalogue.read(workspace).index.keys() == {"a", "b", "c"}


def test_an_update_that_cannot_be_read_changes_nothing(workspace: WorkspaceFolder):
    before = contents(workspace.root)
    broken = source(workspace)
    broken.items[0]["title"] = "edited"
    broken.bundles.append({"bundle_id": "x", "item_ids": ["item-01", "item-02"], "split": "dev"})
    with pytest.raises(CatalogueError, match="allowed are train, valid, test"):
        update(workspace, broken)
    with pytest.raises(CatalogueError, match="gives 1 bundle a split"):
        update(workspace, Dataset(bundles=[{"bundle_id": "x", "item_ids": ["item-01", "item-02"], "split": "test"}]))
    assert contents(workspace.root) == before
    assert not (workspace.root / table_transaction.STAGED).exists()


def test_frozen_questions_of_an_older_workspace_keep_their_splits(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    freeze_missing(workspace, catalogue, Store(workspace.store), options=4, kinds=["random"])
    workspace.kept_splits.unlink()  # as it was before splits were kept
    before = dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))
    rng = np.random.default_rng(1)
    new = [
        {"bundle_id": f"new-{n}", "item_ids": [f"item-{i:02d}" for i in rng.choice(24, 3, False)], "group": f"user-{n}"}
        for n in range(40)
    ]
    summary = update(workspace, Dataset(bundles=new))
    after = Catalogue.read(workspace)
    now = dict(zip(after.bundles.ids, splits.assign(after).tolist(), strict=True))
    assert {name: now[name] for name in before} == before
    assert any("40 new bundles were placed" in note for note in summary.notes)
    assert len(after.kept_splits) == 70


def test_new_bundles_are_placed_in_a_split_column_that_the_source_lacks(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    split = dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))
    update(workspace, Dataset(bundles=[{"bundle_id": name, "split": part} for name, part in split.items()]))
    row = next(row for row in rows_of(workspace, "bundles") if row["split"] == "test")
    update(workspace, Dataset(bundles=[{"bundle_id": "x", "item_ids": row["item_ids"]}]))
    after = {row["bundle_id"]: row["split"] for row in rows_of(workspace, "bundles")}
    assert after.pop("x") == "test"
    assert after == split


def test_a_committed_update_is_completed_by_the_next_reading(workspace: WorkspaceFolder):
    changed = source(workspace)
    changed.items[0]["title"] = "committed"
    stage = table_transaction.stage(workspace.root)
    writing.write(changed, WorkspaceFolder(stage), 0, {})
    assert "committed" not in Catalogue.read(workspace).titles, "not committed yet"
    stage.rename(workspace.root / table_transaction.READY)
    (workspace.root / table_transaction.READY / "items.parquet").replace(workspace.root / "items.parquet")  # and killed
    assert "committed" in Catalogue.read(workspace).titles
    assert not (workspace.root / table_transaction.READY).exists()


def test_a_killed_update_leaves_the_old_catalogue_or_the_new_one(workspace: WorkspaceFolder):
    script = (
        "import sys; from pathlib import Path\n"
        "from bundlecache.catalogue.update import update\n"
        "from bundlecache.catalogue.readers.dataset import Dataset\n"
        "from bundlecache.workspace import WorkspaceFolder\n"
        "print('go', flush=True)\n"
        "items = [{'item_id': f'new-{i}', 'title': str(i)} for i in range(3000)]\n"
        "update(WorkspaceFolder(Path(sys.argv[1])), Dataset(items=items, interactions=[{'user_id': 'u', 'item_id': 'new-1'}]))\n"
    )
    sizes = set()
    for delay in (0.0, 0.05, 0.1, 0.2):
        child = start(CODE, script, workspace.root)
        child.stdout.readline()
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        child.stdout.close()
        catalogue = Catalogue.read(workspace)
        sizes.add((len(catalogue), len(catalogue.interactions)))
    assert sizes <= {(24, 120), (3024, 121)}


def test_a_folder_that_cannot_be_written_is_one_sentence(workspace: WorkspaceFolder):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    workspace.root.chmod(0o500)
    try:
        with pytest.raises(BundlecacheError, match="cannot be written"):
            update(workspace, Dataset(items=[{"item_id": "new"}]))
    finally:
        workspace.root.chmod(0o700)
