"""Bundles keep the split that they had when questions were first frozen, whatever is added, edited or deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundlecache.catalogue import split_leaks, splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import CatalogueError
from bundlecache.questions.question_sets import freeze_missing, load
from bundlecache.store.store import Store
from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, object]


def write(root: Path, bundles: list[Row], items: int = 400) -> WorkspaceFolder:
    rows = [{"item_id": f"i{n}", "title": f"thing {n}"} for n in range(items)]
    pq.write_table(pa.Table.from_pylist(rows), root / "items.parquet")
    pq.write_table(pa.Table.from_pylist(bundles), root / "bundles.parquet")
    return WorkspaceFolder(root)


def orders(count: int, seed: int, customers: int, first: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        {
            "bundle_id": f"O{first + b}",
            "item_ids": [f"i{n}" for n in rng.choice(400, 4, replace=False)],
            "group": f"c{rng.integers(customers)}",
        }
        for b in range(count)
    ]


def split_of(workspace: WorkspaceFolder) -> dict[str, str]:
    catalogue = Catalogue.read(workspace)
    return dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))


def freeze(workspace: WorkspaceFolder) -> None:
    freeze_missing(workspace, Catalogue.read(workspace), Store(workspace.store), kinds=["random"])


def test_new_orders_move_no_old_bundle_and_old_questions_stay(tmp_path: Path):
    old, new = orders(300, 1, customers=120), orders(60, 2, customers=240, first=300)
    workspace = write(tmp_path, old)
    before = split_of(workspace)
    write(tmp_path, old + new)
    moved = [name for name, part in split_of(workspace).items() if before.get(name, part) != part]
    assert moved, "without kept splits the new orders move old ones, which is what this guards against"
    write(tmp_path, old)
    freeze(workspace)
    asked = load(workspace, Catalogue.read(workspace), "test-random10").sha256
    write(tmp_path, old + new)
    after = split_of(workspace)
    assert {name: after[name] for name in before} == before
    assert load(workspace, Catalogue.read(workspace), "test-random10").sha256 == asked
    placement = splits.place(Catalogue.read(workspace))
    assert placement is not None
    assert sum(placement.new.values()) == 60
    assert placement.joined > 10
    assert split_leaks.crossing_groups(Catalogue.read(workspace), splits.assign(Catalogue.read(workspace))) == []
    assert "60 new bundles were placed" in placement.sentences()[0]


def test_the_first_assignment_is_the_computed_one_and_kept_once(tmp_path: Path):
    workspace = write(tmp_path, orders(200, 3, customers=50))
    before = split_of(workspace)
    assert not workspace.kept_splits.exists()
    assert splits.keep(workspace, Catalogue.read(workspace)) is None
    assert split_of(workspace) == before
    written = workspace.kept_splits.read_bytes()
    splits.keep(workspace, Catalogue.read(workspace))
    assert workspace.kept_splits.read_bytes() == written


@pytest.mark.parametrize("part", splits.SPLITS)
def test_a_new_bundle_of_a_known_group_or_item_set_joins_its_split(tmp_path: Path, part: str):
    old = orders(200, 4, customers=60)
    workspace = write(tmp_path, old)
    freeze(workspace)
    row = next(row for row in old if split_of(workspace)[str(row["bundle_id"])] == part)
    twin = {"bundle_id": "twin", "item_ids": row["item_ids"][::-1], "group": "new customer"}  # type: ignore[index]
    same = {"bundle_id": "same", "item_ids": ["i1", "i2", "i3"], "group": row["group"]}
    write(tmp_path, [*old, twin, same, same | {"bundle_id": "third", "group": "x"}])
    now = split_of(workspace)
    assert {now["twin"], now["same"], now["third"]} == {part}
    write(tmp_path, [twin, same, *(other for other in old if other is not row)])
    assert {split_of(workspace)[name] for name in ("twin", "same")} == {part}, "also after the old one was deleted"


def test_a_new_bundle_between_two_splits_is_held_out_and_counted(tmp_path: Path):
    old = orders(200, 5, customers=60)
    workspace = write(tmp_path, old)
    freeze(workspace)
    before = split_of(workspace)
    trained = next(row for row in old if before[str(row["bundle_id"])] == "train")
    tested = next(row for row in old if before[str(row["bundle_id"])] == "test")
    write(tmp_path, [*old, {"bundle_id": "bridge", "item_ids": trained["item_ids"], "group": tested["group"]}])
    after = split_of(workspace)
    assert after.pop("bridge") == "test"
    assert after == before
    placement = splits.place(Catalogue.read(workspace))
    assert placement is not None
    assert (placement.joined, placement.between) == (1, 1)
    assert "1 new bundle shares a group" in placement.sentences()[1]


def test_kept_splits_of_another_data_set_are_not_looked_at(tmp_path: Path):
    workspace = write(tmp_path, orders(200, 6, customers=60))
    freeze(workspace)
    write(tmp_path, orders(200, 7, customers=60))
    catalogue = Catalogue.read(workspace)
    assert splits.place(catalogue) is None
    without = WorkspaceFolder(tmp_path / "clean")
    without.root.mkdir()
    write(without.root, orders(200, 7, customers=60))
    assert split_of(workspace) == split_of(without)
    splits.keep(workspace, catalogue)
    assert splits.place(Catalogue.read(workspace)) is not None


def test_a_given_split_column_counts_and_is_not_written(tmp_path: Path):
    rows = [row | {"split": "test" if n % 5 == 0 else "train"} for n, row in enumerate(orders(100, 8, customers=30))]
    workspace = write(tmp_path, rows)
    assert splits.keep(workspace, Catalogue.read(workspace)) is None
    assert not workspace.kept_splits.exists()


def test_changed_or_damaged_kept_splits_are_refused(tmp_path: Path):
    workspace = write(tmp_path, orders(100, 9, customers=30))
    freeze(workspace)
    table = pq.read_table(workspace.kept_splits)
    flipped = ["train" if part == "test" else part for part in table["split"].to_pylist()]
    pq.write_table(table.set_column(1, "split", pa.array(flipped)), workspace.kept_splits)
    with pytest.raises(CatalogueError, match="was changed after it was written"):
        splits.assign(Catalogue.read(workspace))
    workspace.kept_splits.write_bytes(b"PAR1")
    with pytest.raises(CatalogueError, match="is damaged"):
        splits.assign(Catalogue.read(workspace))
