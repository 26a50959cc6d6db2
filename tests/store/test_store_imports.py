"""Vectors from elsewhere land on the right items, and what does not fit is one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.toy_vectors import names, patches, vectors

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.errors import BundlecacheError
from bundlecache.store import import_vectors as imports
from bundlecache.store.store import Store

COUNT = 12
SHUFFLED = [f"item-{i}" for i in np.random.default_rng(5).permutation(COUNT)]


def catalogue(item_ids: list[str] | None = None) -> Catalogue:
    item_ids = item_ids or names(COUNT)
    images = {"image": [f"photos/{i}.jpg" for i in range(len(item_ids))]}
    return Catalogue(item_ids, [""] * len(item_ids), images, Bundles(), Interactions())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def imported(store: Store, source: Path, *, ids: Path | None = None, of: Catalogue | None = None) -> imports.Imported:
    found = imports.read(source, of or catalogue(), "image", "mine", ids)
    store.write(found.identity, found.item_ids, found.vectors)
    return found


def lines(path: Path, item_ids: list[str]) -> Path:
    path.write_text("".join(f"{item_id}\n" for item_id in item_ids))
    return path


def expected(rows: np.ndarray, item_ids: list[str]) -> np.ndarray:
    """Rows of ``item_ids`` in the order of the catalogue."""
    return rows[[item_ids.index(item_id) for item_id in names(COUNT)]]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 6)])
def test_parquet_of_any_list_type_lands_on_the_right_items_nulls_and_all(
    store: Store, tmp_path: Path, kind: pa.DataType
) -> None:
    """Flattening a column that holds a null was seen to shift every row behind it."""
    rows = vectors(COUNT).astype(np.float32)
    cells = [None if i == 3 else row.tolist() for i, row in enumerate(rows)]
    table = pa.table({"item_id": [*SHUFFLED, "stranger"], "vector": pa.array([*cells, [1.0] * 6], kind)})
    pq.write_table(pa.concat_tables([table.slice(0, 5), table.slice(5)]), tmp_path / "v.parquet", row_group_size=4)
    found = imported(store, tmp_path / "v.parquet")
    assert (found.given, found.unknown, len(found.item_ids)) == (COUNT, 1, COUNT - 1)
    matrix = store.matrix(names(COUNT), "image", "import:mine")
    assert matrix.mask.tolist() == [item_id != SHUFFLED[3] for item_id in names(COUNT)]
    assert np.array_equal(matrix.vectors[matrix.mask], expected(rows, SHUFFLED)[matrix.mask])


@pytest.mark.parametrize("rows", [vectors(COUNT), vectors(COUNT).astype(np.float32), patches(COUNT)])
def test_npy_with_ids_keeps_its_type_and_tokens(store: Store, tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "v.npy", rows)
    imported(store, tmp_path / "v.npy", ids=lines(tmp_path / "order.txt", SHUFFLED))
    matrix = store.matrix(names(COUNT), "image", "import:mine")
    assert matrix.vectors.dtype == rows.dtype
    assert np.array_equal(matrix.vectors, expected(rows, SHUFFLED))
    lines(tmp_path / "v.ids.txt", SHUFFLED)
    assert imports.read(tmp_path / "v.npy", catalogue(), "image", "mine").item_ids == SHUFFLED


def test_what_was_exported_as_npy_can_be_imported(store: Store, tmp_path: Path) -> None:
    rows = vectors(COUNT)
    rows[4] = 0
    np.save(tmp_path / "v.npy", rows)
    first = imported(store, tmp_path / "v.npy", ids=lines(tmp_path / "order.txt", names(COUNT)))
    (path,) = store.export(tmp_path / "out", "npy", names(COUNT))
    assert np.load(path.with_name("mask.npy")).sum() == COUNT - 1
    other = Store(tmp_path / "other")
    found = imported(other, path.parent)
    assert (found.given, found.identity.dtype) == (COUNT - 1, first.identity.dtype)
    matrix = other.matrix(names(COUNT), "image")
    assert np.array_equal(matrix.vectors, rows)
    assert not matrix.mask[4]


@pytest.mark.parametrize("shape", [(COUNT, 6), (COUNT, 1, 6)])
def test_feature_files_of_bundle_datasets_are_in_the_order_of_their_numbers(
    store: Store, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    import torch

    rows = vectors(COUNT).astype(np.float32)
    torch.save(torch.from_numpy(rows.reshape(shape)), tmp_path / "content_feature.pt")
    numbered = catalogue([str(i) for i in np.random.default_rng(3).permutation(COUNT)])
    imported(store, tmp_path / "content_feature.pt", of=numbered)
    matrix = store.matrix([str(i) for i in range(COUNT)], "image")
    assert np.array_equal(matrix.vectors, rows)
    with pytest.raises(BundlecacheError, match="does not say which items its 12 rows are") as error:
        imported(store, tmp_path / "content_feature.pt")
    assert "--ids" in str(error.value.hint)
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(BundlecacheError, match="cannot be loaded as plain tensors"):
        imported(store, tmp_path / "evil.pt")


@pytest.mark.parametrize("named", ["id", "stem", "path"])
def test_clip_retrieval_folders_are_joined_by_name_and_never_by_order(store: Store, tmp_path: Path, named: str) -> None:
    """Its parts hold what its readers found, in an order of their own; ids may keep the file's ending."""
    rows = vectors(COUNT)
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    forms = {"id": "{0}.jpg", "stem": "/far/away/{0}.webp", "path": "photos/{1}.jpg"}
    paths = [forms[named].format(item_id, item_id.removeprefix("item-")) for item_id in SHUFFLED]
    for part, cut in enumerate((slice(0, 7), slice(7, COUNT))):
        np.save(tmp_path / "img_emb" / f"img_emb_{part}.npy", rows[cut])
        pq.write_table(pa.table({"image_path": paths[cut]}), tmp_path / "metadata" / f"metadata_{part}.parquet")
    assert imported(store, tmp_path).unknown == 0
    assert np.array_equal(store.matrix(names(COUNT), "image").vectors, expected(rows, SHUFFLED))


@pytest.mark.parametrize(("rows", "width"), [((6, 6), 6), ((7, 5), 4)])
def test_clip_retrieval_parts_that_do_not_fit_their_metadata_are_refused(
    store: Store, tmp_path: Path, rows: tuple[int, int], width: int
) -> None:
    """In sum they may fit, with the vectors of one part on the items of another."""
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    for part, (count, cut) in enumerate(zip(rows, (slice(0, 7), slice(7, COUNT)), strict=True)):
        np.save(tmp_path / "img_emb" / f"img_emb_{part}.npy", vectors(COUNT)[:count, : width if part else None])
        pq.write_table(pa.table({"item_id": names(COUNT)[cut]}), tmp_path / "metadata" / f"metadata_{part}.parquet")
    with pytest.raises(BundlecacheError, match=r"img_emb_[01].npy has the shape .*, its metadata \d rows"):
        imported(store, tmp_path)


def test_rows_that_are_no_vectors_are_errors_of_their_own_items(store: Store, tmp_path: Path) -> None:
    rows = vectors(COUNT).astype(np.float32)
    rows[2, 3], rows[7] = np.nan, 0
    np.save(tmp_path / "v.npy", rows)
    found = imported(store, tmp_path / "v.npy", ids=lines(tmp_path / "order.txt", names(COUNT)))
    reasons = store.errors(found.identity.table_name)
    assert dict(zip(reasons["item_id"].to_pylist(), reasons["reason"].to_pylist(), strict=True)) == {
        "item-2": "the vector is not finite in float32",
        "item-7": "the vector is all zero",
    }


def test_what_does_not_fit_is_one_sentence(store: Store, tmp_path: Path) -> None:
    import torch

    kind = pa.list_(pa.float32())
    ids = lines(tmp_path / "order.txt", names(COUNT))
    np.save(tmp_path / "flat.npy", np.zeros(COUNT))
    np.save(tmp_path / "counts.npy", np.ones((COUNT, 3), np.int64))
    np.save(tmp_path / "few.npy", vectors(3))
    np.save(tmp_path / "good.npy", vectors(COUNT))
    np.save(tmp_path / "number.npy", np.float32(1))
    np.save(tmp_path / "objects.npy", np.array([[1], "a"], object), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    (tmp_path / "broken.parquet").write_bytes(b"nothing")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", vectors(3))
    pq.write_table(pa.table({"item_id": ["item-0", "item-1"], "vector": [[1.0], [1.0, 2.0]]}), tmp_path / "rag.parquet")
    pq.write_table(pa.table({"item_id": ["item-0"], "size": [3]}), tmp_path / "none.parquet")
    pq.write_table(pa.table({"item_id": ["item-0"], "vector": [["a"]]}), tmp_path / "words.parquet")
    exported = tmp_path / "exported"
    exported.mkdir()
    np.save(exported / "vectors.npy", vectors(COUNT))
    np.save(exported / "mask.npy", np.ones(COUNT + 1, bool))
    lines(exported / "ids.txt", names(COUNT))
    dense = torch.ones(COUNT, 3)
    torch.save(dense.to_sparse(), tmp_path / "sparse.pt")
    torch.save(dense.to(torch.complex64), tmp_path / "complex.pt")
    torch.save(dense.int(), tmp_path / "counts.pt")
    torch.save(torch.tensor(1.0), tmp_path / "number.pt")
    pq.write_table(pa.table({"item_id": ["item-0"], "vector": pa.array([None], kind)}), tmp_path / "null.parquet")
    lines(tmp_path / "twice.txt", ["item-1", *names(COUNT - 1)])
    lines(tmp_path / "strangers.txt", [f"stranger-{i}" for i in range(COUNT)])
    cases = [
        ("flat.npy", ids, r"float64 of shape \[12\]"),
        ("counts.npy", ids, r"int64 of shape \[12, 3\]"),
        ("number.npy", ids, r"float32 of shape \[1\]"),
        ("number.pt", ids, r"float32 of shape \[1\]"),
        ("sparse.pt", ids, "layout sparse_coo; needed is a dense one"),
        ("complex.pt", ids, "complex numbers; needed is a dense one"),
        ("counts.pt", ids, "torch.int32"),
        ("null.parquet", None, "holds no vector"),
        ("exported", None, r"12 vectors, but its mask.npy has the shape \[13\]"),
        ("few.npy", ids, "3 vectors, against 12 item ids"),
        ("good.npy", None, "does not say which items"),
        ("good.npy", tmp_path / "nowhere.txt", "cannot be read: No such file"),
        ("good.npy", tmp_path / "twice.txt", "12 rows of 11 items; the first that stands twice is 'item-1'"),
        ("good.npy", tmp_path / "strangers.txt", r"None of the ids of .* \(12\)"),
        ("objects.npy", ids, "no array that can be read"),
        ("broken.npy", ids, "no array that can be read"),
        ("broken.parquet", None, "no Parquet file that can be read"),
        ("broken.pt", ids, "cannot be loaded as plain tensors"),
        ("rag.parquet", None, "of the lengths 1, 2"),
        ("none.parquet", None, "the columns item_id, size; needed are item_id and a vector column"),
        ("words.parquet", None, "holds lists of string"),
        ("empty", None, "nothing that vectors can be read from"),
        ("order.txt", None, "nothing that vectors can be read from"),
        ("nowhere", None, "There is no "),
        ("", None, r"metadata_0.parquet is no Parquet file"),
    ]
    for name, given, sentence in cases:
        with pytest.raises(BundlecacheError, match=sentence):
            imported(store, tmp_path / name, ids=given)
    assert not store.path.exists(), "nothing was stored"


# --- files of others that lie ---------------------------------------------------------------------------


def _tensor_file(path: Path, kind: str) -> Path:
    import torch

    made = {
        "meta": lambda: torch.ones(COUNT, 3, device="meta"),
        "sparse": lambda: torch.ones(COUNT, 3).to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "expanded": lambda: torch.ones(1).expand(COUNT, 1 << 40),
        "integers": lambda: torch.ones(COUNT, 3, dtype=torch.int64),
        "text": lambda: "vectors",
    }[kind]()
    torch.save(made, path)
    return path


@pytest.mark.parametrize("kind", ["meta", "sparse", "nested", "expanded", "integers", "text"])
def test_a_tensor_file_without_plain_numbers_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = _tensor_file(tmp_path / "x.pt", kind)
    with pytest.raises(BundlecacheError, match="needed") as caught:
        imports.read(path, catalogue(), "image", "mine", lines(tmp_path / "ids.txt", names(COUNT)))
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["0-d", "2-d", "npz", "floats", "objects", "too few", "FIFO", "folder", "long"])
def test_ids_that_are_no_column_of_ids_are_one_sentence(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "x.npy", vectors(COUNT))
    ids = tmp_path / "ids.npy"
    array = {"0-d": np.array(3), "2-d": np.array([names(COUNT)]), "floats": np.ones(COUNT), "too few": np.array(["a"])}
    if kind in array:
        np.save(ids, array[kind])
    elif kind == "npz":
        with ids.open("wb") as file:
            np.savez(file, a=np.ones(3))
    elif kind == "objects":
        np.save(ids, np.array([{}] * COUNT, object), allow_pickle=True)
    elif kind == "FIFO":
        os.mkfifo(ids := tmp_path / "ids.txt")
    elif kind == "folder":
        (ids := tmp_path / "ids.txt").mkdir()
    elif kind == "long":
        ids = tmp_path / ("x" * 300)
    with pytest.raises(BundlecacheError, match=r"id") as caught:
        imports.read(tmp_path / "x.npy", catalogue(), "image", "mine", ids)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["text", "integers", "bytes"])
def test_ids_in_an_npy_file_may_be_texts_bytes_or_integers(tmp_path: Path, kind: str) -> None:
    given = np.arange(COUNT) if kind == "integers" else np.array([str(i) for i in range(COUNT)])
    np.save(tmp_path / "ids.npy", given.astype("S") if kind == "bytes" else given)
    np.save(tmp_path / "x.npy", vectors(COUNT))
    of = catalogue([str(i) for i in range(COUNT)])
    assert imports.read(tmp_path / "x.npy", of, "image", "mine", tmp_path / "ids.npy").item_ids == of.item_ids
