"""Every verb on catalogues of 0, 1, 2 and 12 items, with and without a store: a result, or one sentence with a hint."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runner import invoke

from hostile import worlds
from hostile.judge import judge_command

COUNTS = (0, 1, 2, 12)
VERBS = [
    "status",
    "status --errors",
    "encode --modality text",
    "encode --modality image",
    "encode --modality graph",
    "encode --dry-run",
    "questions --options 2",
    "questions --options 4 --negatives hard",
    "questions --export OUT",
    "candidates --k 1",
    "candidates --k 20 --modality text",
    "candidates --where price<3",
    "complete i0",
    "complete i0 i1 --k 3",
    "complete i0 --with popularity",
    "complete nobody",
    "train --resume none",
    "evaluate",
    "bench --no-models",
    "bench --full --no-models",
    "report",
    "merge --out OUT",
    "verify",
    "verify --repair",
    "compact",
    "drift",
    "export --out OUT",
    "export --format npy --out OUT",
    "import tables SELF --data NEW",
    "import clhe SELF --data NEW",
    "import bundlerec SELF --data NEW",
    "import folder SELF --data NEW",
    "update SELF",
]
SCHEMAS = {
    "items": pa.schema({"item_id": pa.string(), "title": pa.string(), "price": pa.int64(), "image": pa.string(), "category": pa.string()}),
    "bundles": pa.schema({"bundle_id": pa.string(), "item_ids": pa.list_(pa.string()), "split": pa.string(), "group": pa.string()}),
    "interactions": pa.schema({"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.string()}),
}  # fmt: skip


@pytest.fixture(scope="module", params=[(n, stored) for n in COUNTS for stored in (False, True)], ids=str)
def small(request, tmp_path_factory):
    """A catalogue of the first n items with what is left of bundles and interactions, encoded or not."""
    count, stored = request.param
    known = {f"i{i}" for i in range(count)}
    tables = worlds.rows()
    tables["items"] = tables["items"][:count]
    tables["bundles"] = [row for row in tables["bundles"] if known.issuperset(row["item_ids"])]
    tables["interactions"] = [row for row in tables["interactions"] if row["item_id"] in known]
    root = tmp_path_factory.mktemp("small") / "shop"
    root.mkdir()
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[name]), root / f"{name}.parquet")
    if stored:
        invoke("encode", "--data", root)  # an empty catalogue is refused: judged below
    return root


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_on_a_small_catalogue(small, verb, tmp_path):
    shop = shutil.copytree(small, tmp_path / "shop")
    places = {"SELF": shop, "NEW": tmp_path / "new", "OUT": tmp_path / "out"}
    words = [places.get(word, word) for word in verb.split()]
    judge_command(*words, *([] if "--data" in words else ["--data", shop]))
