"""Columns behave as the lists that they replace, and Arrow cells read as the same text as cells one by one."""

from __future__ import annotations

import itertools
from datetime import date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundlecache.catalogue.arrow_tables import coded_texts, id_lists, read_columns, texts
from bundlecache.catalogue.columns import ItemIds, Lists, Strings, hash_order, id_hash
from bundlecache.catalogue.tables import cell_list, cell_text, read_table

if TYPE_CHECKING:
    from pathlib import Path

SPACES = [" a", "a ", "\u00a0b", "c\u2003", "\x1cd\x1f", "\t", "", " ", "e\n", "\u200bf", "é", "a b", None]
COLUMNS = {
    "text": pa.array(SPACES),
    "large text": pa.array(SPACES, pa.large_string()),
    "categories": pa.array(SPACES * 2).dictionary_encode(),
    "whole floats": pa.array([1.0, 2.5, None, float("nan"), -0.0, 1e20, 1e-7, float("inf")]),
    "single floats": pa.array([0.1, 3.0], pa.float32()),
    "whole numbers": pa.array([1, None, -(2**63)], pa.int64()),
    "truths": pa.array([True, False, None]),
    "bytes": pa.array([b" x ", b"\xff", None]),
    "dates": pa.array([date(2020, 1, 2), None]),
    "times": pa.array([datetime(2020, 1, 2, 3, 4, 5, 6), None], pa.timestamp("us")),
    "lists": pa.array([["a", " b"], [], None, [None]]),
    "numbers in lists": pa.array([[1.0, 2.5, float("nan")], [3.0]]),
    "nothing": pa.nulls(3),
    "records": pa.array([{"a": 1}, None]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_cells_of_every_type_read_as_they_do_one_by_one(tmp_path: Path, kind: str):
    pq.write_table(pa.table({"x": COLUMNS[kind]}), tmp_path / "t.parquet", row_group_size=5)
    cells = read_table(tmp_path / "t.parquet")["x"]
    column = read_columns(tmp_path / "t.parquet", [])["x"]
    wanted = [cell_text(cell) for cell in cells]
    assert [*texts(column, "x", tmp_path, [])] == wanted
    for each in (column, read_columns(tmp_path / "t.parquet", [], ["x"])["x"]):
        codes, distinct = coded_texts(each, "x", tmp_path, [])
        assert [None if code < 0 else distinct[code] for code in codes] == wanted
        assert len(set(distinct)) == len(distinct)
    starts, ids = id_lists(column, "x", tmp_path, [])
    lists = [list(ids[a:b]) for a, b in itertools.pairwise(starts)]
    assert lists == [cell_list(cell) for cell in cells]


CSV = [
    "item_id,title,n\na,x,1.0\nb,,2.0\nc,z,\n",
    "item_id,title,n\r\na,x,1.5\r\n\r\nb,,2.0\r\n",
    "item_id,item_id,title\na,b,c\nd\n",
    'item_id,title\na,"x\ny"\nb,"q""q",more,still more\n',
    "\ufeffitem_id, title \na, x \n",
    "item_id\n",
    "",
]


@pytest.mark.parametrize("text", CSV)
def test_csv_tables_read_as_they_do_row_by_row(tmp_path: Path, text: str):
    (tmp_path / "t.csv").write_text(text, "utf-8", newline="")
    notes, slow_notes = [], []
    slow = read_table(tmp_path / "t.csv", slow_notes)
    fast = read_columns(tmp_path / "t.csv", notes)
    assert {name: [*texts(cells, name, tmp_path, [])] for name, cells in fast.items()} == {
        name: [cell_text(cell) for cell in cells] for name, cells in slow.items()
    }
    assert notes == slow_notes


def test_json_tables_read_as_they_do_row_by_row(tmp_path: Path):
    lines = [
        '{"item_id": 1, "item_ids": ["a", 2.0, null]}',
        "",
        '{"item_id": 2.5, "t": "\\ud800x\u2028y"}',
        '{"t": [1]}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), "utf-8")
    slow, fast = read_table(tmp_path / "t.jsonl"), read_columns(tmp_path / "t.jsonl", [])
    assert set(slow) == set(fast)
    starts, ids = id_lists(fast["item_ids"], "item_ids", tmp_path, [])
    assert [list(ids[a:b]) for a, b in itertools.pairwise(starts)] == [["a", "2"], [], []]
    for name in ("item_id", "t"):
        assert [*texts(fast[name], name, tmp_path, [])] == [cell_text(cell) for cell in slow[name]]


def test_strings_behave_as_a_list_of_texts():
    cells = ["b", None, "", "b", "ü"]
    column = Strings(cells)
    assert column == cells
    assert cells == column
    assert column != cells[:4]
    assert (column[0], column[np.int64(1)], column[-1]) == ("b", None, "ü")
    assert [*column[1:4]] == cells[1:4]
    assert ("ü" in column, "x" in column, None in column) == (True, False, True)
    assert column.index("ü") == 4
    assert column.filled.tolist() == [True, False, False, True, True]
    codes, distinct = column.codes()
    assert codes.tolist() == [0, -1, 1, 0, 2]
    assert [*distinct] == ["b", "", "ü"]
    assert [*column.take([4, 1])] == ["ü", None]
    assert np.array(column, object).tolist() == cells
    assert pa.array(column).to_pylist() == cells
    assert not Strings().any()


def test_lists_behave_as_a_list_of_arrays():
    given = [[3, 1], [], [2]]
    lists = Lists(given)
    assert [each.tolist() for each in lists] == given
    assert lists[-1].tolist() == [2]
    assert [each.tolist() for each in lists[1:]] == given[1:]
    assert [each.tolist() for each in lists.take([2, 0, 2])] == [[2], [3, 1], [2]]
    assert lists.rows.tolist() == [0, 0, 2]
    assert lists.lengths.tolist() == [2, 0, 1]
    with pytest.raises(IndexError):
        lists[3]


def test_ids_are_found_whatever_their_order():
    names = [f"i{n}" for n in range(500)]
    order, keys = hash_order(names)
    by_hash = [names[i] for i in order]
    assert by_hash == sorted(names, key=id_hash)
    for ids in (ItemIds(names), ItemIds(by_hash), ItemIds(by_hash, keys)):
        assert [ids.position(name) for name in ids] == list(range(500))
        assert ids.position("none") == ids.position("\ud800") == -1
        assert ids.positions(["none", ids[7], None]).tolist() == [-1, 7, -1]
    same = ItemIds(["a", "b"], np.zeros(2, np.uint64))  # two keys that collide
    same._sorted = (np.full(2, ItemIds(["b"])._sort()[0][0]), None)
    assert same.position("b") == 1
