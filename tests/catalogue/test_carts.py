"""Files of carts: one row per item or one list per cart, in any format, and what is wrong with a row is its own matter."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundlecache.catalogue.readers import carts
from bundlecache.errors import CatalogueError

LONG = [("o2", "a"), ("o1", "b"), ("o2", "c"), ("o1", "b"), ("o3", "7")]
CARTS = [("o2", ["a", "c"]), ("o1", ["b"]), ("o3", ["7"])]


def written(folder: Path, name: str, columns: tuple[str, str], rows: list[tuple]) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
    else:
        cells = [[cell if isinstance(cell, str) else " ".join(cell) for cell in row] for row in rows]
        path.write_text("\n".join(map(",".join, [columns, *cells])))
    return path


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (("order_id", "item"), LONG),
        (("basket", "sku"), LONG),
        (("order_id", "items"), LONG),
        (("bundle_id", "item_ids"), CARTS),
    ],
)
def test_long_and_list_form_of_any_format_are_the_same_carts(tmp_path: Path, suffix: str, columns, rows):
    made = carts.read(written(tmp_path, f"carts.{suffix}", columns, rows))
    assert made.schema == carts.SCHEMA
    assert [(row["bundle_id"], row["item_ids"]) for row in made.to_pylist()] == CARTS
    assert made["error"].null_count == 3


def test_columns_of_any_name_are_mapped_and_guesses_are_said(tmp_path: Path):
    path = written(tmp_path, "carts.csv", ("beleg", "ware"), LONG)
    with pytest.raises(CatalogueError, match=r"no column of items.*beleg, ware"):
        carts.read(path)
    assert carts.read(path, ["order_id=beleg,item_id=ware"]).to_pylist()[0]["item_ids"] == ["a", "c"]
    carts.read(written(tmp_path, "carts.csv", ("order_id", "sku"), LONG), notes=(notes := []))
    assert notes == [
        "carts.csv: guessed from the names of the columns: bundle_id = 'order_id', item_id = 'sku' (--map says it otherwise)."
    ]


def test_lines_that_are_no_cart_keep_their_place_with_an_error(tmp_path: Path):
    path = tmp_path / "carts.jsonl"
    lines = [
        '{"item_ids": ["a"]}',
        "",
        "{",
        "[]",
        '{"item_ids": [["b"]]}',
        '{"item_ids": {"a": 1}}',
        '{"item_ids": "a b"}',
        '{"item_ids": null}',
        "[" * 50_000,
        "\udcff{}",
    ]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    made = carts.read(path).to_pylist()
    assert [row["bundle_id"] for row in made] == ["1", "3", "4", "5", "6", "7", "8", "9", "10"]
    assert [row["item_ids"] for row in made if row["error"] is None] == [["a"], ["a", "b"], []]
    assert "lists inside" in made[3]["error"]


def test_rows_of_a_cart_without_items_and_items_without_a_cart(tmp_path: Path):
    path = written(tmp_path, "carts.csv", ("order_id", "item"), [("o1", ""), ("", "a"), ("o2", "b")])
    made = carts.read(path, notes=(notes := []))
    assert [(row["bundle_id"], row["item_ids"]) for row in made.to_pylist()] == [("o1", []), ("o2", ["b"])]
    assert any("1 rows without order_id are left out, the first is row 2" in note for note in notes)
