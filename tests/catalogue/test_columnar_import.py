"""Imports and updates by columns: the rows of the row-by-row readers before them, in any block size and file format."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.reader_samples import SAMPLES
from hostile import worlds

from bundlecache.catalogue import merging
from bundlecache.catalogue.readers import cells, load_table, text_files, writing
from bundlecache.catalogue.readers import registry as readers
from bundlecache.catalogue.readers.dataset import Dataset, as_table
from bundlecache.catalogue.tables import cell_list, cell_text, number
from bundlecache.catalogue.update import update
from bundlecache.errors import CatalogueError
from bundlecache.workspace import TABLES, WorkspaceFolder

RECORDED = {  # of the tables that the readers of November 2026 wrote, a dict for each row; see `digest`
    "bundlerec": "454890f34dca5dd5",
    "clhe": "88f0b54f1aca4c6c",
    "folder": "8ac31d0a857985be",
    "tables": "ef8c62c6a52f7232",
    "shop": "742e516a00509f5a",
    "one file": "a399ae49a2decd36",
}
SHOP = {
    "products.csv": "product_id;name;price;weight;added;colour\nP1;Ä cup;1.299,00 €;1.0;31.12.2025;red\n P2 ;pot, big;3,50 €;2.0;;\n"
    "P3;;n/a;;01.02.2025 18:30;blue\nP4;pan;7 €;;03.04.2025;\n",
    "orders.csv": "order_no,sku,customer,datum\n2,P3,c2,\n1,P1,c1,2025-12-31\n1,P2,,2026-01-01\n1,P1,c1,\n,P1,c3,\n2,P1,c9,2026-01-02\n3,,c1,\n",
    "clicks.tsv": "visitor_id\tsku\ttime\tstars\nv1\tP1\t1735689600\t4\nv2\tP9\t1735689601\t4.5\n\tP1\t\t\nv1\tP2\t\tn/a\n",
}
ONE_FILE = "InvoiceNo,StockCode,Description,Quantity,UnitPrice,CustomerID\n1,S1,,1,2.5,c1\n1,S2,cup,1,3,c1\n2,S1,pot,1,2.5,c2\n,S3,x,1,,\n"


@pytest.fixture
def shop(tmp_path: Path) -> WorkspaceFolder:
    return WorkspaceFolder(tmp_path / "workspace")


@pytest.fixture(params=[3, 65_536], ids=["blocks of 3 rows", "one block"])
def block_rows(request, monkeypatch):
    for module in (cells, load_table, text_files):
        monkeypatch.setattr(module, "BLOCK_ROWS", request.param)
    return request.param


def rows_of(shop: WorkspaceFolder, table: str) -> list[dict]:
    return pq.read_table(shop.root / f"{table}.parquet").to_pylist()


def digest(shop: WorkspaceFolder) -> str:
    """SHA-256 of the rows of the three tables, in their order, as Python writes them."""
    return hashlib.sha256(repr([rows_of(shop, table) for table in TABLES]).encode()).hexdigest()[:16]


def source(name: str, folder: Path) -> tuple[str, Path]:
    """The format and the folder of a sample."""
    if name in SAMPLES:
        return name, SAMPLES[name](folder / "src")
    folder = folder / "src"
    folder.mkdir()
    for file, text in SHOP.items() if name == "shop" else [("orders.csv", ONE_FILE)]:
        (folder / file).write_text(text, "utf-8")
    return "tables", folder


def request(name: str, src: Path) -> readers.tables.TablesRequest | None:
    return (
        readers.tables.TablesRequest(items=src / "orders.csv", orders=src / "orders.csv")
        if name == "one file"
        else None
    )


@pytest.mark.parametrize("name", RECORDED)
def test_the_rows_are_those_of_the_row_by_row_readers(name, block_rows, tmp_path, shop):
    format_, src = source(name, tmp_path)
    readers.read(format_, src, shop, request=request(name, src))
    assert digest(shop) == RECORDED[name]


def test_csv_jsonl_and_parquet_give_the_same_tables(block_rows, tmp_path):
    tables = worlds.rows()
    for row in tables["items"]:
        row["price"] += 0.5
    worlds.write_csv(tmp_path / "csv", tables)
    worlds.write_jsonl(tmp_path / "jsonl", tables)
    (tmp_path / "parquet").mkdir()
    for table, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet" / f"{table}.parquet")
    found = []
    for form in ("csv", "jsonl", "parquet"):
        readers.read("tables", tmp_path / form, WorkspaceFolder(tmp_path / f"{form}-shop"))
        found.append([rows_of(WorkspaceFolder(tmp_path / f"{form}-shop"), table) for table in TABLES])
    assert found[0] == found[1] == found[2]
    assert sorted(row["price"] for row in found[0][0]) == [i + 0.5 for i in range(12)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("items.csv", "item_id,title\n" + "".join(f"{i},x\n" for i in range(8)) + " ,y\n", r"empty item_id in row 9"),
        ("items.csv", "item_id,title\n" + "".join(f"{i % 7},x\n" for i in range(9)) + ",y\n", "names 2 item_id twice, for instance '0' in the rows 1 and 8"),
        ("items.csv", "item_id,title\na,x\n,y\n,y\na,x\n", r"empty item_id in row 2"),
        ("items.csv", "item_id,title\n" + "a,x\n" * 8 + '"b"c,y\n', r"cannot be read as rows of cells: ',' expected after"),
        ("items.jsonl", '{"item_id": 1, "title": "x"}\n' * 7 + "x\n", r"line 8 is no JSON"),
        ("items.jsonl", '{"item_id": 1, "title": "x"}\n' * 7 + "7\n", r"must hold one JSON object a line"),
        ("bundles.csv", "bundle_id,item_ids,split\n" + "".join(f"b{i},a b,train\n" for i in range(7)) + "q,a b,dev\n", r"bundle 'q' \(row 8\) in the split 'dev'"),
        ("bundles.jsonl", '{"bundle_id": "b", "item_ids": ["a"]}\n' * 4 + '{"bundle_id": "c", "item_ids": [["a"]]}\n', r"row 5, has lists inside the list"),
        ("interactions.csv", "user_id,item_id\n" + "u,z\n" * 8, r"No item of interactions.csv \(such as 'z'\)"),
    ],
)  # fmt: skip
def test_a_refusal_names_file_and_row_behind_the_first_block(name, text, message, block_rows, tmp_path, shop):
    src = tmp_path / "src"
    src.mkdir()
    (src / "items.csv").write_text("item_id,title\na,x\nb,y\nc,z\n")
    if name.startswith("items"):
        (src / "items.csv").unlink()
    (src / name).write_text(text)
    with pytest.raises(CatalogueError, match=message) as refused:
        readers.read("tables", src, shop)
    assert name in refused.value.message
    assert refused.value.hint
    assert not shop.root.exists()


def test_a_column_of_several_kinds_becomes_text_and_loses_no_cell(block_rows, tmp_path, shop):
    (tmp_path / "items.jsonl").write_text(
        "".join(
            json.dumps({"item_id": i, "title": "x", "size": size, "count": count}) + "\n"
            for i, (size, count) in enumerate([(1, 1), ("L", 2), (2.0, 2.5), (None, 3), (True, None), ("XL", 4)])
        )
    )
    readers.read("tables", tmp_path / "items.jsonl", shop)
    rows = {row["item_id"]: row for row in rows_of(shop, "items")}
    assert [rows[str(i)]["size"] for i in range(6)] == ["1", "L", "2.0", None, "True", "XL"]
    assert [rows[str(i)]["count"] for i in range(6)] == [1.0, 2.0, 2.5, 3.0, None, 4.0]


def test_a_reader_may_give_tables_in_place_of_rows(tmp_path):
    rows = worlds.rows()
    as_rows, as_tables = Dataset(**worlds.rows()), Dataset(*(pa.Table.from_pylist(rows[table]) for table in TABLES))
    for place, dataset in enumerate((as_rows, as_tables)):
        assert writing.check(dataset, tmp_path) == 0
        (tmp_path / str(place)).mkdir()
        writing.write(dataset, WorkspaceFolder(tmp_path / str(place)), 0, {})
    assert digest(WorkspaceFolder(tmp_path / "0")) == digest(WorkspaceFolder(tmp_path / "1"))


def test_an_import_tells_its_stages_and_counts(block_rows, tmp_path, shop):
    worlds.write_csv(tmp_path / "src", worlds.rows())
    told: list[tuple[str, int, int]] = []
    readers.read("tables", tmp_path / "src", shop, progress=lambda *stage: told.append(stage))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages[:2] == ["reading items.csv", "reading bundles.csv"]
    assert ("reading items.csv", 12, 0) in told
    assert ("ordering items", 12, 12) in told
    assert stages[-1] == "writing bundles"
    assert (sum(stage == "reading items.csv" for stage, _, _ in told) > 4) == (block_rows == 3)


# ---- merging, against a merge of one row after another


def merged_row_by_row(table, old, new, remove_missing):
    """What `merging.merge` has to give: rows, added, changed, unchanged, removed."""

    def keys(rows):
        names = (*writing.ID_COLUMNS[table], *(("timestamp",) if table == "interactions" else ()))
        seen = Counter()
        for row in rows:
            key = tuple(cell_text(row.get(name)) for name in names)
            seen[key] += 1
            yield (*key, seen[key])

    def same(name, a, b):
        if name == "item_ids":
            return cell_list(a) == cell_list(b)
        a, b = cell_text(a), cell_text(b)
        return a == b or (number(a) is not None and number(a) == number(b))

    incoming, rows, removed, changed = dict(zip(keys(new), new, strict=True)), [], [], 0
    for at, (key, row) in enumerate(zip(keys(old), old, strict=True)):
        edit = incoming.pop(key, None)
        if edit is None and remove_missing and new:
            removed.append(at)
            continue
        differs = edit is not None and any(not same(name, row.get(name), cell) for name, cell in edit.items())
        changed += differs
        rows.append({**row, **edit} if differs else row)
    return [*rows, *incoming.values()], len(incoming), changed, len(rows) - changed, removed


def drawn(table: str, rng: random.Random) -> list[dict]:
    """Rows with repeated keys of interactions, empty cells, prices that are equal as numbers, columns that may be missing."""
    columns = {
        "items": {"title": ["x", "y", None], "price": [9.5, 2.0, None], "brand": ["b", None]},
        "bundles": {"item_ids": [["i1", "i2"], ["i1"], [], None], "group": ["g", "h", None], "split": ["train", None]},
        "interactions": {"timestamp": [1, 2, None], "rating": [1.0, 2.5, None]},
    }[table]
    kept = [name for name in columns if rng.random() < 0.8]
    rows = []
    for i in rng.sample(range(12), rng.randint(0, 12)) if table != "interactions" else range(rng.randint(0, 20)):
        ids = (f"u{rng.randint(0, 2)}", f"i{rng.randint(0, 2)}") if table == "interactions" else (f"{table[0]}{i}",)
        rows.append(
            dict(zip(writing.ID_COLUMNS[table], ids, strict=True)) | {name: rng.choice(columns[name]) for name in kept}
        )
    return rows


def table_of(table: str, rows: list[dict]) -> pa.Table:
    return as_table(table, {name: cells.of_values([row[name] for row in rows]) for name in (rows[0] if rows else {})})


@pytest.mark.parametrize("table", TABLES)
def test_a_merge_is_that_of_one_row_after_another(table):
    for seed in range(150):
        rng = random.Random(f"{table}/{seed}")
        old, new, remove = drawn(table, rng), drawn(table, rng), rng.random() < 0.5
        had = table_of(table, old)
        made = merging.merge(
            table, {name: had[name] for name in had.column_names}, table_of(table, new), {}, remove_missing=remove
        )
        rows, added, changed, unchanged, removed = merged_row_by_row(table, old, new, remove)
        names = list(dict.fromkeys(name for row in [*old, *new] for name in row))
        assert made.rows.to_pylist() == [{name: row.get(name) for name in names} for row in rows], seed
        assert (made.added, made.changed, made.unchanged, made.removed.tolist()) == (added, changed, unchanged, removed)


def test_cells_compare_as_text_and_as_numbers():
    old = cells.of_values(["9.50", " a ", "", None, "1", "x"])
    assert merging.differs("price", old, cells.of_values(["9.5", "a", None, " ", "2", "x"])).tolist() == [False] * 4 + [
        True,
        False,
    ]
    assert merging.differs("price", old, cells.of_values([9.5, 1.0, None, None, 1.0, 2.0])).tolist() == [
        False,
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_row_without_a_key_keeps_its_old_cell(workspace: WorkspaceFolder):
    before = {row["item_id"]: row for row in rows_of(workspace, "items")}
    update(
        workspace, Dataset(items=[{"item_id": "item-01", "title": "new"}, {"item_id": "item-02", "category": "other"}])
    )
    after = {row["item_id"]: row for row in rows_of(workspace, "items")}
    assert (after["item-01"]["title"], after["item-01"]["category"]) == ("new", before["item-01"]["category"])
    assert (after["item-02"]["title"], after["item-02"]["category"]) == (before["item-02"]["title"], "other")
