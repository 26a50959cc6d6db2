"""The catalogue reads what people have, refuses what it cannot use in one sentence, and leaks no order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bundlecache.catalogue import split_leaks, splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import BundlecacheError, CatalogueError, MediaError
from bundlecache.workspace import WorkspaceFolder


def write(root: Path, items: str, bundles: str = "", suffix: str = "csv") -> WorkspaceFolder:
    root.mkdir(exist_ok=True)
    (root / f"items.{suffix}").write_text(items, "utf-8")
    if bundles:
        (root / f"bundles.{suffix}").write_text(bundles, "utf-8")
    return WorkspaceFolder(root)


def test_the_same_catalogue_is_read_from_parquet_csv_and_jsonl(workspace: WorkspaceFolder, tmp_path: Path):
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    expected = Catalogue.read(workspace)
    items = pq.read_table(workspace.root / "items.parquet")
    other = tmp_path / "csv"
    other.mkdir()
    pacsv.write_csv(items, other / "items.csv")
    bundles = pq.read_table(workspace.root / "bundles.parquet").to_pylist()
    (other / "bundles.jsonl").write_text("\n".join(map(json.dumps, bundles)), "utf-8")
    read = Catalogue.read(WorkspaceFolder(other))
    assert read.item_ids == expected.item_ids
    assert read.titles == expected.titles
    assert read.column("image") == expected.column("image")
    assert [list(x) for x in read.bundles.items] == [list(x) for x in expected.bundles.items]


def test_item_index_depends_on_neither_file_order_nor_id_order(tmp_path: Path):
    ids = [f"i{n:03d}" for n in range(200)]
    forward = Catalogue.read(write(tmp_path / "a", "item_id,title\n" + "".join(f"{i},t\n" for i in ids)))
    backward = Catalogue.read(write(tmp_path / "b", "item_id,title\n" + "".join(f"{i},t\n" for i in reversed(ids))))
    assert forward.item_ids == backward.item_ids
    ranks = np.array([ids.index(i) for i in forward.item_ids])
    assert abs(np.corrcoef(np.arange(200), ranks)[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("items", "bundles", "says"),
    [
        ("title\nlamp\n", "", "no column 'item_id'"),
        ("item_id,title\na,x\na,y\n", "", "names 1 item_id twice, for instance 'a' in rows 1 and 2"),
        ("item_id,title\n", "", "holds no item"),
        ("item_id,title\n,x\n", "", "empty item_id in row 1"),
        ("item_id,title\na,x\nb,y\n", "bundle_id,items\nq,a b\n", "no column 'item_ids'"),
        ("item_id,title\na,x\nb,y\n", "bundle_id,item_ids,split\nq,a b,dev\n", "allowed are train, valid, test"),
        (
            "item_id,title\na,x\nb,y\n",
            "bundle_id,item_ids\nq,a b\nq,b a\n",
            "names 1 bundle_id twice, for instance 'q' in rows 1 and 2",
        ),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path: Path, items: str, bundles: str, says: str):
    with pytest.raises(CatalogueError, match=says):
        Catalogue.read(write(tmp_path / "w", items, bundles))


def test_an_unknown_item_is_answered_with_the_ids_nearest_to_it(workspace: WorkspaceFolder):
    with pytest.raises(CatalogueError, match="'item-7' is none of the 24 items") as caught:
        Catalogue.read(workspace).indices(["item-01", "item-7"])
    assert "item-07" in (caught.value.hint or "")


def test_text_that_is_not_utf8_is_named_with_the_byte_and_a_way_out(tmp_path: Path):
    workspace = write(tmp_path / "w", "")
    (workspace.root / "items.csv").write_bytes(b"item_id,title\na,caf\xe9\n")
    with pytest.raises(CatalogueError, match="not UTF-8") as caught:
        Catalogue.read(workspace)
    assert "iconv" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"", b"PAR1junk", b"\x00" * 100])
def test_damaged_parquet_is_refused_without_a_traceback(tmp_path: Path, content: bytes):
    (tmp_path / "items.parquet").write_bytes(content)
    with pytest.raises(CatalogueError, match="cannot be read as parquet"):
        Catalogue.read(WorkspaceFolder(tmp_path))


def test_unknown_items_and_single_item_bundles_are_left_out_and_said(tmp_path: Path):
    read = Catalogue.read(write(tmp_path / "w", "item_id,title\na,x\nb,\n", "bundle_id,item_ids\nq,a b ghost\nr,a\n"))
    assert read.bundles.ids == ["q"]
    assert any("1 items that are not in the catalogue" in note for note in read.notes)
    assert any("1 bundles have fewer than two" in note for note in read.notes)
    assert any("1 of 2 items have no title" in note for note in read.notes)


def test_two_formats_of_one_table_are_refused(tmp_path: Path):
    workspace = write(tmp_path / "w", "item_id,title\na,x\n")
    (workspace.root / "items.jsonl").write_text('{"item_id": "a"}', "utf-8")
    with pytest.raises(CatalogueError, match=r"items\.csv and items\.jsonl|in one format only"):
        Catalogue.read(workspace)


@pytest.mark.parametrize(
    "uri", ["../secret.png", "/etc/passwd", "images/../../secret.png", "https://host/a.png", "a\0b"]
)
def test_catalogue_data_cannot_name_files_outside_the_workspace(workspace: WorkspaceFolder, uri: str):
    with pytest.raises(MediaError):
        workspace.media(uri)


def test_outside_files_are_allowed_only_when_asked_for(workspace: WorkspaceFolder, tmp_path: Path):
    allowed = replace(workspace, allow_outside=True)
    assert allowed.media("../secret.png") == (tmp_path / "secret.png").resolve()


def test_a_split_never_cuts_a_group_nor_copies_of_a_bundle(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    split = splits.assign(catalogue)
    assert set(split) == {"train", "valid", "test"}
    assert split_leaks.crossing_groups(catalogue, split) == []
    twin = replace(catalogue.bundles, items=[catalogue.bundles.items[0]] * len(catalogue.bundles))
    assert len(set(splits.assign(replace(catalogue, bundles=twin)))) == 1


def test_a_split_is_the_same_every_time_and_another_with_another_seed(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    assert (splits.assign(catalogue) == splits.assign(catalogue)).all()
    assert (splits.assign(catalogue, seed=1) != splits.assign(catalogue)).any()


def test_a_given_split_column_is_taken_as_it_stands_or_not_at_all(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    n = len(catalogue.bundles)
    given = ["test"] * 5 + ["train"] * (n - 5)
    assert list(splits.assign(replace(catalogue, bundles=replace(catalogue.bundles, split=given)))) == given
    with pytest.raises(BundlecacheError, match="have a split, the others none"):
        splits.assign(replace(catalogue, bundles=replace(catalogue.bundles, split=[None, *given[1:]])))


def test_the_training_graph_holds_no_edge_of_a_held_out_user_or_bundle(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    split = splits.assign(catalogue)
    held_out = {g for g, s in zip(catalogue.bundles.group, split, strict=True) if s != "train"}
    users = splits.training_graph(catalogue, "user-item")[:, 0]
    assert held_out
    assert not held_out & {catalogue.interactions.users[u] for u in users}
    bundles = splits.training_graph(catalogue, "bundle-item")[:, 0]
    assert set(split[bundles]) == {"train"}
    with pytest.raises(CatalogueError, match="user-item and bundle-item"):
        splits.training_graph(catalogue, "items")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('{"item_id": 1}\nno json', "line 2 is no JSON"),
        ("[" * 100_000, "line 1 is nested too deeply"),
    ],
)
def test_a_line_that_is_no_json_is_named_by_its_number_in_the_file(tmp_path: Path, lines: str, says: str):
    with pytest.raises(CatalogueError, match=says):
        Catalogue.read(write(tmp_path, lines, suffix="jsonl"))


def test_jsonl_is_cut_at_line_feeds_only_and_half_a_surrogate_pair_does_no_harm(tmp_path: Path):
    rows = [{"item_id": "a", "title": "two\u2028lines"}, {"item_id": "b", "title": "half \ud83d"}]
    lines = "\n".join([json.dumps(rows[0], ensure_ascii=False), json.dumps(rows[1])])
    catalogue = Catalogue.read(write(tmp_path, lines, suffix="jsonl"))
    assert set(catalogue.titles) == {"two\u2028lines", "half ?"}


def test_whole_numbers_that_a_csv_shows_as_decimals_are_the_same_ids(tmp_path: Path):
    catalogue = Catalogue.read(write(tmp_path, "item_id,title\n1.0,a\n2.0,b\n", "bundle_id,item_ids\n7,1 2\n"))
    assert set(catalogue.item_ids) == {"1", "2"}
    assert len(catalogue.bundles) == 1


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ('item_id,title\n1,"open\n2,b\n3,c\n', "unexpected end of data"),
        ("item_id;title\n1;a\n", "separate its cells by commas"),
    ],
)
def test_a_csv_never_loses_rows_or_columns_silently(tmp_path: Path, items: str, says: str):
    with pytest.raises(CatalogueError) as refused:
        Catalogue.read(write(tmp_path, items))
    assert says in str(refused.value)


def test_cells_beyond_the_header_are_left_out_and_said(tmp_path: Path):
    assert "1 rows with more cells" in Catalogue.read(write(tmp_path, "item_id,title\n1,a,b,c\n2,d\n")).notes[0]


def test_utf16_is_told_from_latin_1_and_a_file_from_a_folder(tmp_path: Path):
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n", "utf-16")
    with pytest.raises(CatalogueError, match="iconv -f UTF-16"):
        Catalogue.read(WorkspaceFolder(tmp_path))
    with pytest.raises(CatalogueError, match="is a file; a workspace is a folder"):
        Catalogue.read(WorkspaceFolder(tmp_path / "items.csv"))
