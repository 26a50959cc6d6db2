"""Similar items: order, filters and mistakes, on vectors whose angles are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runner import invoke, printed_json

import bundlecache as bc
from bundlecache.candidates import ann, index_file
from bundlecache.candidates.index import Index
from bundlecache.store.table_schema import Identity

if TYPE_CHECKING:
    from pathlib import Path

DEGREES = {"a": 0, "b": 10, "c": 30, "d": 60, "e": 90}  # of the pictures' vectors; "f" has none


@pytest.fixture
def fan(tmp_path: Path) -> bc.Workspace:
    """Six items; the text vector of each is at the same angle on the other side."""
    items = {"item_id": [*DEGREES, "f"], "title": [f"thing {name}" for name in "abcdef"], "price": [*range(6)]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    shop = bc.open(tmp_path, quiet=True)
    angles = np.deg2rad([*DEGREES.values()])
    for modality, sign in (("image", 1), ("text", -1)):
        vectors = np.stack([np.cos(angles), sign * np.sin(angles)], axis=1).astype(np.float32)
        shop.store.write(Identity(modality, f"toy:{modality}", "f" * 64, "none", "float32", 2), [*DEGREES], vectors)
    return shop


def test_similar_items_come_in_the_order_of_their_angle(fan: bc.Workspace):
    rows = fan.similar("b", 10, modality="image")
    assert [(row.rank, row.item_id) for row in rows] == [(1, "a"), (2, "c"), (3, "d"), (4, "e")]
    assert [row.similarity for row in rows] == [round(float(np.cos(np.deg2rad(x))), 4) for x in (10, 20, 50, 80)]
    assert [row.item_id for row in fan.similar("b", 1, encoder="toy:text")] == ["a"]
    assert [row.item_id for row in fan.similar("b", 2, where=["price>1"])] == ["c", "d"]
    with_command = printed_json("similar", "b", "--k", 2, "--modality", "image", "--data", fan.folder.root)
    assert with_command == [vars(row) for row in rows[:2]]


def test_new_vectors_are_seen_by_the_same_workspace(fan: bc.Workspace):
    assert fan.similar("a", 1, modality="image")[0].item_id == "b"
    vectors = np.array([[1, 0], [1, 0]], np.float32)
    fan.store.write(Identity("image", "toy:image", "f" * 64, "none", "float32", 2), ["a", "f"], vectors)
    assert fan.similar("a", 1, modality="image")[0].item_id == "f"


def test_many_items_are_searched_by_the_index_that_candidates_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ids = [f"i{number:03}" for number in range(600)]
    pq.write_table(pa.table({"item_id": ids, "title": ids}), tmp_path / "items.parquet")
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    scanning, asking = bc.open(tmp_path, quiet=True), bc.open(tmp_path, quiet=True)
    scanning.store.write(Identity("text", "toy:text", "f" * 64, "none", "float32", 8), ids, vectors)
    exact = [scanning.similar(item, 5) for item in ids[:9]]
    matrices = asking.matrices(["text"])
    index_file.save(
        Index.build(matrices, kind="ivf"), index_file.index_path(asking.folder, matrices), asking.catalogue.item_ids
    )
    monkeypatch.setattr(ann, "MIN_INDEXED_ITEMS", 500)
    assert [asking.similar(item, 5) for item in ids[:9]] == exact
    (index,) = asking.similar_indexes.values()
    assert index.kind == "ivf"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["z"], "is none of the 6 items"),
        (["f", "--modality", "image"], "'f' has no vector of image"),
        (["a", "--modality", "audio"], "holds no audio vectors"),
        (["a", "--where", "price=5"], "No other item that fulfils --where has a vector"),
        (["a", "--encoder", "toy:image", "--modality", "image"], "Only one of --modality, --encoder and --run"),
    ],
)
def test_a_mistake_is_one_sentence(fan: bc.Workspace, asked: list[str], sentence: str):
    result = invoke("similar", *asked, "--data", fan.folder.root)
    assert isinstance(result.exception, bc.BundlecacheError)
    assert sentence in result.exception.message


def test_k_out_of_range_is_one_sentence_in_the_library(fan: bc.Workspace):
    for k in (0, 10_001):
        with pytest.raises(bc.BundlecacheError, match="candidates can be asked for"):
            fan.similar("a", k)
