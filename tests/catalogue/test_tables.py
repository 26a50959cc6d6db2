"""Tables of any content are read, or refused in one sentence; what people see of a catalogue is short and clean."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.filters import matching_items
from bundlecache.catalogue.tables import cell_list, cell_text, read_table, unique_ids
from bundlecache.errors import BundlecacheError, CatalogueError
from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 2**63 - 1


def items(root: Path, text: str, suffix: str = "csv", bundles: str = "") -> WorkspaceFolder:
    (root / f"items.{suffix}").write_text(text, "utf-8")
    if bundles:
        (root / "bundles.csv").write_text(bundles, "utf-8")
    return WorkspaceFolder(root)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([HUGE, 0], pa.timestamp("us")),
        pa.array([HUGE, 1], pa.timestamp("ns")),
        pa.array([2**50, 0], pa.timestamp("ms", "UTC")),
        pa.array([2**30, 0], pa.date32()),
        pa.array([HUGE, None], pa.duration("s")),
        pa.array([1, 0], pa.time64("ns")),
    ],
    ids=lambda column: str(column.type),
)
def test_times_beyond_pythons_range_are_read_as_text(tmp_path: Path, column: pa.Array):
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": ["x", "y"], "when": column}), tmp_path / "items.parquet")
    catalogue = Catalogue.read(WorkspaceFolder(tmp_path))
    assert sum(cell is not None for cell in catalogue.column("when")) == 2 - column.null_count


def test_lists_of_times_beyond_the_range_are_one_sentence(tmp_path: Path):
    column = pa.array([[2**30]], pa.list_(pa.date32()))
    pq.write_table(pa.table({"item_id": ["a"], "when": column}), tmp_path / "items.parquet")
    with pytest.raises(CatalogueError, match=r"column 'when' .* cannot be read"):
        Catalogue.read(WorkspaceFolder(tmp_path))


def test_deep_json_and_long_integers_end_in_text_or_a_sentence(tmp_path: Path):
    deep = "[" * 10_000
    assert cell_list(deep + "]" * 10_000) == []
    assert cell_list(f"[{'7' * 6000}]") == ["7" * 6000]
    with pytest.raises(CatalogueError, match="line 1 is nested too deeply"):
        Catalogue.read(items(tmp_path, f'{{"item_id": {deep}}}', "jsonl"))
    long = Catalogue.read(items(tmp_path, f'{{"item_id": "a", "title": {"7" * 6000}}}', "jsonl"))
    assert long.titles == ["7" * 6000]
    nested: list[object] = []
    for _ in range(sys.getrecursionlimit() * 60):
        nested = [nested]
    with pytest.raises(CatalogueError, match="nested too deeply"):
        cell_text(nested)


def test_control_characters_of_a_table_reach_no_message(tmp_path: Path):
    text = 'item_id,"ti\x1b[31mtle","bad\x1b]0;x\x07"\na\x1b[2J,x,y\na\x1b[2J,x,y\n'
    shop = items(tmp_path, text)
    assert set(read_table(tmp_path / "items.csv")) == {"item_id", "ti [31mtle", "bad ]0;x"}
    with pytest.raises(CatalogueError) as caught:
        Catalogue.read(shop)
    assert "\x1b" not in str(caught.value)
    shop = items(tmp_path, "item_id,x\x1b[1m\na,1\nb,2\n", bundles="bundle_id,item_ids\nq,a b \x1b[5m\n")
    catalogue = Catalogue.read(shop)
    with pytest.raises(CatalogueError) as caught:
        matching_items(catalogue, ["price\x1b<5"])
    assert "\x1b" not in "".join([str(caught.value), repr(catalogue), *catalogue.notes])


def test_twins_that_differ_in_outer_spaces_are_named_with_their_rows(tmp_path: Path):
    with pytest.raises(CatalogueError, match=r"items.csv .* 'a' in rows 1 and 3, which differ in outer spaces only"):
        Catalogue.read(items(tmp_path, "item_id,title\na,x\nb,y\na ,z\n"))
    with pytest.raises(CatalogueError, match=r"products.csv has an empty item_id in row 2"):
        unique_ids(["a", "  ", None], "products.csv", "item_id", "item")


def test_an_unknown_split_value_says_what_to_write(tmp_path: Path):
    with pytest.raises(CatalogueError, match=r"'q' \(row 1\) .*'dev'; allowed are train, valid, test") as caught:
        Catalogue.read(items(tmp_path, "item_id\na\nb\n", bundles="bundle_id,item_ids,split\nq,a b,dev\n"))
    assert "rename the values" in (caught.value.hint or "")


def test_prices_are_numbers_for_filters_and_frames_and_codes_are_not(tmp_path: Path):
    rows = [
        {"item_id": "a", "price": 9.5, "ean": "0071", "stock": 3, "size": "XL"},
        {"item_id": "b", "price": "12.00", "ean": "0122", "stock": None, "size": "7"},
    ]
    catalogue = Catalogue.read(items(tmp_path, "\n".join(map(json.dumps, rows)), "jsonl"))
    by_id = dict(zip(catalogue.item_ids, catalogue.numbers("price"), strict=True))
    assert by_id == {"a": 9.5, "b": 12.0}
    assert matching_items(catalogue, ["price<10"]).sum() == 1
    assert np.isnan(catalogue.numbers("size")).sum() == 1
    frame = catalogue.to_pandas().set_index("item_id")
    assert frame.price.to_dict() == {"a": 9.5, "b": 12.0}
    assert frame.ean.to_dict() == {"a": "0071", "b": "0122"}
    assert frame["size"].to_dict() == {"a": "XL", "b": "7"}
    assert frame.stock.isna().sum() == 1


def test_a_catalogue_is_shown_short_and_given_as_frames(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    for part in (catalogue, catalogue.bundles, catalogue.interactions):
        assert len(repr(part)) < 200
        assert "\n" not in repr(part)
        assert len(part.to_pandas()) == len(part)
    assert catalogue.bundles.to_pandas(catalogue.item_ids).item_ids[0][0] in catalogue.index
    assert catalogue.interactions.to_pandas(catalogue.item_ids).item_id[0] in catalogue.index


def test_without_pandas_a_frame_is_one_sentence(workspace: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch):
    catalogue = Catalogue.read(workspace)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BundlecacheError, match="needs pandas"):
        catalogue.to_pandas()
