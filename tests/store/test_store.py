"""The store: what goes in comes out on the right row, and everything odd on the disk is one clear sentence."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP
from helpers.toy_vectors import PICTURES, TOKENS, names, patches, vectors

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.errors import EncoderError, StoreError
from bundlecache.files import replacing
from bundlecache.modalities import MODALITIES
from bundlecache.store import fragments, tables, verify
from bundlecache.store.coverage import coverage
from bundlecache.store.store import Store
from bundlecache.store.table_schema import BATCH_ROWS, Identity, as_numpy, checksum, flaws


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_empty_store_says_what_to_type_and_is_not_made_by_looking(store: Store) -> None:
    assert store.tables() == []
    assert store.modalities() == []
    assert store.receipts() == []
    for ask in (lambda: store.current("image"), lambda: store.matrix(["a"], "image")):
        with pytest.raises(StoreError, match="holds no image vectors") as error:
            ask()
        assert error.value.hint == "bundlecache encode --modality image"
    with pytest.raises(StoreError, match="holds no vectors"):
        store.export(store.path / "out")
    assert not store.path.exists()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_what_was_written_is_read_by_lancedb_and_by_matrix_on_the_right_rows(
    store: Store, dtype: str, dim: int
) -> None:
    """More rows than one batch: sliced lists were seen to land on the wrong rows after the first slice."""
    count = BATCH_ROWS + 1500
    identity = Identity("text", "toy:titles", "f", "p", dtype, dim)
    given = vectors(count, dim=dim).astype(dtype)
    given[(given == 0).all(axis=1)] = 1
    info = store.write(identity, names(count), given)
    assert (info.rows, info.failed, info.dim, info.dtype) == (count, 0, dim, dtype)
    table = lancedb.connect(str(store.path)).open_table(info.table).to_arrow()
    assert table["item_id"].to_pylist() == names(count)
    assert np.array_equal(as_numpy(table["vector"]), given)
    order = np.random.default_rng(1).permutation(count)
    matrix = store.matrix([f"item-{i}" for i in order], "text")
    assert matrix.vectors.dtype == dtype
    assert matrix.mask.all()
    assert np.array_equal(matrix.vectors, given[order])


def test_a_large_write_in_several_pieces_at_once_keeps_its_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "PIECE_BYTES", 1000)
    info = store.write(PICTURES, names(1000), vectors(1000))
    assert len(store.dataset(info).get_fragments()) == fragments.WRITERS
    assert store.dataset(info).to_table()["item_id"].to_pylist() == names(1000)
    assert np.array_equal(store.matrix(names(1000), "image").vectors, vectors(1000))


def test_a_matrix_has_the_order_asked_for_and_says_what_is_missing(store: Store) -> None:
    given = vectors(5)
    store.write(PICTURES, names(5), given)
    matrix = store.matrix(["item-3", "nobody", "item-0", "item-3"], "image")
    assert matrix.mask.tolist() == [True, False, True, True]
    assert np.array_equal(matrix.vectors, np.stack([given[3], 0 * given[0], given[0], given[3]]))
    assert (matrix.spec, matrix.fingerprint, matrix.table) == (PICTURES.spec, PICTURES.fingerprint, PICTURES.table_name)
    assert np.array_equal(store.matrix(["item-0", "item-2", "item-3"], "image").vectors, given[[0, 2, 3]])
    assert store.matrix([], "image").vectors.shape == (0, 6)


def test_a_matrix_is_made_once_per_version_then_mapped_and_the_old_one_is_removed(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    folder = store.path / "matrices" / PICTURES.table_name
    first = store.matrix(names(5), "image")
    assert isinstance(first.vectors, np.memmap)
    assert not first.vectors.flags.writeable
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    store.matrix(names(5), "image")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
    store.matrix(names(3), "image")
    assert len(list(folder.iterdir())) == 2, "another list of items is another matrix of the same version"
    store.write(PICTURES, names(5), vectors(5, seed=1))
    second = store.matrix(names(5), "image")
    assert [path.name.split("-")[0] for path in folder.iterdir()] == [str(second.version)]
    assert np.array_equal(second.vectors, vectors(5, seed=1))
    assert np.array_equal(first.vectors, vectors(5)), "who has mapped the old one goes on reading it"


def test_what_a_killed_process_left_of_a_matrix_is_not_taken_for_one(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    whole = Path(str(store.matrix(names(5), "image").vectors.filename)).parent
    half = whole.with_name(f".{whole.name}.0123abcd")
    whole.rename(half)
    (half / "mask.npy").unlink()
    os.utime(half, (0, 0))
    assert store.matrix(names(5), "image").mask.all()
    assert not half.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
def test_a_full_disk_while_a_matrix_is_made_leaves_nothing(store: Store) -> None:
    import resource

    store.write(PICTURES, names(500), vectors(500))
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be written: .*What it held before is unharmed"):
            store.matrix(names(500), "image")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert list((store.path / "matrices" / PICTURES.table_name).iterdir()) == []
    assert np.array_equal(store.matrix(names(500), "image").vectors, vectors(500))


@pytest.mark.parametrize("name", ["vectors.npy", "mask.npy"])
def test_a_damaged_matrix_is_made_again(store: Store, name: str) -> None:
    store.write(PICTURES, names(5), vectors(5))
    folder = Path(str(store.matrix(names(5), "image").vectors.filename)).parent
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    matrix = store.matrix(names(5), "image")
    assert matrix.mask.all()
    assert np.array_equal(matrix.vectors, vectors(5))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_matrix_survives_a_fork(store: Store) -> None:
    """Lance itself does not: data loading workers of Linux may be forked."""
    store.write(PICTURES, names(500), vectors(500))
    matrix = store.matrix(names(500), "image")
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(matrix.vectors[::-1], vectors(500)[::-1]) and matrix.mask.all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_vectors_made_elsewhere_are_checked_and_known_ones_cost_nothing(store: Store) -> None:
    given = vectors(6)
    given[1], given[4, 2] = 0, np.nan
    info = store.write(PICTURES, names(6), given)
    assert (info.rows, info.failed) == (4, 2)
    assert store.errors(info.table)["reason"].to_pylist() == [
        "the vector is all zero",
        "the vector is not finite in float16",
    ]
    assert store.matrix(names(6), "image").mask.tolist() == [True, False, True, True, False, True]
    assert store.write(PICTURES, names(6), given).version == info.version
    given[1] = 1
    mended = store.write(PICTURES, names(6), given)
    assert (mended.rows, mended.failed) == (5, 1)
    figures = ("items", "encoded", "cached", "failed", "absent", "forwards")
    assert [store.receipts()[0][name] for name in figures] == [6, 1, 4, 1, 0, 0]
    given[0] = np.inf
    assert store.write(PICTURES, names(6), given).rows == 4
    for ids, rows in ((["a", "a"], 2), (["a"], 2)):
        with pytest.raises(StoreError, match="needed are distinct ids"):
            store.write(PICTURES, ids, vectors(rows))


def test_a_damaged_vector_is_found_before_it_trains_anything(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    table = lancedb.connect(str(store.path)).open_table(PICTURES.table_name)
    table.update(where="item_id = 'item-2'", values={"vector": [9.0] * 6})
    for ask in (lambda: store.matrix(names(5), "image"), lambda: store.export(store.path / "out")):
        with pytest.raises(StoreError, match=r"1 row of .* did not pass the checksum"):
            ask()


@pytest.mark.parametrize("known", [False, True])
def test_a_commit_that_does_not_read_back_is_taken_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    store.write(PICTURES, names(5), vectors(5))
    right = fragments.record_batches

    def shifted(identity: Identity, item_ids: Any, hashes: Any, rows: np.ndarray, **how: Any) -> Any:
        return right(identity, item_ids, hashes, np.roll(rows, 1, axis=0), **how)

    for module in (fragments, tables):
        monkeypatch.setattr(module, "record_batches", shifted)
    more = names(5) if known else [f"more-{i}" for i in range(5)]
    with pytest.raises(StoreError, match="did not read back as it was written"):
        store.write(PICTURES, more, vectors(5, seed=1))
    assert store.current("image").rows == 5
    assert np.array_equal(store.matrix(names(5), "image").vectors, vectors(5))


def test_rows_that_another_program_doubled_are_noticed(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    uri = str(store.path / f"{PICTURES.table_name}.lance")
    lance.write_dataset(lance.dataset(uri).to_table().slice(0, 1), uri, mode="append")
    with pytest.raises(StoreError, match="1 item twice"):
        store.write(PICTURES, names(6), vectors(6))


def test_token_features_come_back_on_the_right_rows_with_their_shape(store: Store) -> None:
    count = 50
    given = patches(count)
    given[7], given[9, 2, 5] = 0, np.nan
    given[3, 0] = 0  # one empty patch is no flaw
    info = store.write(TOKENS, names(count), given)
    assert (info.rows, info.failed, info.tokens, info.dim) == (count - 2, 2, 3, 6)
    order = np.random.default_rng(1).permutation(count)
    matrix = store.matrix([f"item-{i}" for i in order], "image", "toy:patches")
    assert matrix.vectors.shape == (count, 3, 6)
    assert matrix.mask.tolist() == [i not in (7, 9) for i in order]
    assert np.array_equal(matrix.vectors[matrix.mask], given[order][matrix.mask])
    assert not matrix.vectors[~matrix.mask].any()
    more = patches(count, seed=2)
    store.write(TOKENS, names(count), more)  # known rows are replaced, new ones appended
    assert np.array_equal(store.matrix(names(count), "image", "toy:patches").vectors, more)
    with pytest.raises(StoreError, match=r"the shape \(2, 3, 6\)"):
        store.write(TOKENS, names(2), vectors(2))


def test_token_features_are_never_the_vectors_of_a_modality_unless_they_are_named(store: Store) -> None:
    store.write(TOKENS, names(2), patches(2))
    assert store.modalities() == []
    with pytest.raises(StoreError, match="holds no image vectors"):
        store.current("image")
    store.write(PICTURES, names(2), vectors(2))
    store.write(TOKENS, names(2), patches(2))
    assert store.current("image").table == PICTURES.table_name
    assert store.current("image", "toy:patches").table == TOKENS.table_name
    assert store.current("image", table=TOKENS.table_name).table == TOKENS.table_name
    catalogue = Catalogue(names(2), ["a", "b"], {}, Bundles(), Interactions())
    rows = {row["spec"]: row for row in coverage(store, catalogue)}
    assert [rows[spec]["current"] for spec in ("toy:pictures", "toy:patches")] == [True, False]
    assert [rows["toy:patches"][name] for name in ("tokens", "dim", "rows")] == [3, 6, 2]


def test_rows_of_every_width_can_be_written_and_replaced(store: Store) -> None:
    """Lance has an encoding that refuses rows of 4 KiB and more; token features are half a MiB."""
    for dtype, shape in (("float32", (1023,)), ("float32", (1024,)), ("float16", (2048,)), ("float16", (256, 1024))):
        tokens, dim = (0, *shape)[-2:]
        identity = Identity("text", f"toy:{dim}", "f", "p", dtype, dim, tokens)
        for seed in (0, 1):
            given = np.random.default_rng(seed).normal(size=(40, *shape)).astype(dtype)
            store.write(identity, names(40), given)
            assert np.array_equal(store.matrix(names(40), "text", identity.spec).vectors, given)


def test_tables_from_before_there_were_tokens_are_read_under_the_same_name(store: Store) -> None:
    header = json.loads(PICTURES.schema.metadata[b"bundlecache"])
    del header["tokens"]
    old = PICTURES.schema.with_metadata({"bundlecache": json.dumps({**header, "format_version": 1})})
    store.write(PICTURES, names(2), vectors(2))
    rows = lancedb.connect(str(store.path)).open_table(PICTURES.table_name).to_arrow()
    rows = rows.set_column(2, old.field("checksum"), pa.array(checksum(vectors(2))))  # of the vectors alone, then
    lancedb.connect(str(store.path)).drop_table(PICTURES.table_name)
    lance.write_dataset(rows.cast(old), str(store.path / f"{PICTURES.table_name}.lance"), schema=old)
    assert store.current("image").tokens == 0
    assert PICTURES.table_name.endswith("e836d714"), "tables that stand on somebody's disk keep their names"
    info = store.write(PICTURES, names(3), vectors(3))
    assert info.rows == 3
    assert np.array_equal(store.matrix(names(3), "image").vectors, vectors(3))
    assert not verify.verify(store, info, names(3))
    lancedb.connect(str(store.path)).open_table(PICTURES.table_name).update(
        where="item_id = 'item-2'", values={"vector": [9.0] * 6}
    )
    assert verify.verify(store, store.current("image")).item_ids == ["item-2"]


def test_what_is_not_ours_or_not_whole_is_passed_over(store: Store) -> None:
    store.write(PICTURES, names(2), vectors(2))
    lancedb.connect(str(store.path)).create_table("somebody_else", pa.table({"x": [1]}))
    (store.path / "image--half-made--00000000.lance" / "data").mkdir(parents=True)
    assert [info.table for info in store.tables()] == [PICTURES.table_name]


def test_a_process_that_died_while_it_made_the_table_stops_nobody(store: Store) -> None:
    (store.path / f"{PICTURES.table_name}.lance" / "data").mkdir(parents=True)
    assert store.write(PICTURES, names(2), vectors(2)).rows == 2


def test_the_end_of_a_run_removes_what_a_killed_one_left(store: Store) -> None:
    store.write(PICTURES, names(2), vectors(2))
    orphan = store.path / f"{PICTURES.table_name}.lance" / "data" / "0123456789abcdef.lance"
    orphan.write_bytes(b"half a file")
    store.write(PICTURES, names(2), vectors(2))
    assert not orphan.exists()
    assert store.matrix(names(2), "image").mask.all()


def test_damaged_files_beside_the_tables_are_one_sentence(store: Store) -> None:
    given = vectors(2)
    given[0] = 0
    info = store.write(PICTURES, names(2), given)
    (store.path / "errors" / f"{info.table}.parquet").write_bytes(b"garbage")
    for ask in (store.tables, lambda: store.errors(info.table), lambda: store.write(PICTURES, names(2), given)):
        with pytest.raises(StoreError, match=r"errors.*parquet is damaged"):
            ask()


def test_a_damaged_or_newer_table_is_one_sentence(store: Store) -> None:
    schema = PICTURES.schema.with_metadata({"bundlecache": json.dumps({"format_version": 99, "spec": "future:x"})})
    lancedb.connect(str(store.path)).create_table("image--future--1", schema=schema)
    with pytest.raises(StoreError, match="future:x were written by a newer bundlecache"):
        store.tables()
    for path in (store.path / "image--future--1.lance" / "_versions").iterdir():
        path.write_bytes(b"garbage")
    with pytest.raises(StoreError, match=r"image--future--1\.lance is damaged") as error:
        store.tables()
    assert "delete" in str(error.value.hint)


def test_writing_to_a_damaged_table_is_one_sentence_and_frees_the_lock(store: Store) -> None:
    store.write(PICTURES, names(2), vectors(2))
    for path in (store.path / f"{PICTURES.table_name}.lance" / "_versions").iterdir():
        path.write_bytes(b"garbage")
    for _ in range(2):
        with pytest.raises(StoreError, match="is damaged"):
            store.write(PICTURES, names(2), vectors(2))


def test_the_current_table_is_the_one_of_the_last_run_and_specs_can_be_asked_for(store: Store) -> None:
    other = Identity("image", "toy:other", "f", "p", "float32", 3)
    store.write(PICTURES, names(2), vectors(2))
    store.write(other, names(2), vectors(2, dim=3))
    assert store.current("image").spec == "toy:other"
    assert store.current("image", "toy:pictures").table == PICTURES.table_name
    with pytest.raises(StoreError, match="no image vectors of toy:none; it has those of toy:other, toy:pictures"):
        store.current("image", "toy:none")
    store.write(PICTURES, names(2), vectors(2))
    assert store.current("image").spec == "toy:pictures"
    store.begin_run(Identity("image", "toy:empty", "f", "p", "float16", 3))
    assert store.current("image").spec == "toy:pictures", "a run that has stored nothing yet takes nothing away"
    assert [receipt["spec"] for receipt in store.receipts()] == ["toy:other", "toy:pictures"]


def test_modalities_come_in_the_order_of_the_house(store: Store) -> None:
    for modality in ("graph", "audio", "image", "text"):
        store.write(Identity(modality, "toy:x", "f", "p", "float16", 6), names(2), vectors(2))
    assert store.modalities() == list(MODALITIES)


def test_an_export_is_read_in_three_lines(store: Store, tmp_path: Path) -> None:
    given = vectors(5)
    given[3] = 0
    store.write(PICTURES, names(5), given)
    (path,) = store.export(tmp_path / "out")
    table = pq.read_table(path)
    matrix = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    assert matrix.dtype == np.float32
    assert np.array_equal(matrix, given[[0, 1, 2, 4]].astype(np.float32))
    assert table["item_id"].to_pylist() == ["item-0", "item-1", "item-2", "item-4"]
    assert json.loads(table.schema.metadata[b"bundlecache"])["spec"] == "toy:pictures"
    with pytest.raises(StoreError, match="only as parquet"):
        store.export(tmp_path, "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        store.export(tmp_path / "file" / "x")


def test_status_accounts_for_every_item_of_the_catalogue(store: Store) -> None:
    images = [None if i == 9 else f"{i}.png" for i in range(10)]
    catalogue = Catalogue(
        names(10), [""] * 2 + ["title"] * 8, {"image": images}, Bundles(["b"], [np.array([0, 1])]), Interactions()
    )
    given = vectors(7)
    given[0] = 0
    store.write(PICTURES, [*names(6), "left the catalogue"], given)
    rows = {row["modality"]: row for row in coverage(store, catalogue)}
    assert [rows["image"][name] for name in ("rows", "missing", "failed", "absent")] == [5, 3, 1, 1]
    assert [rows["text"][name] for name in ("rows", "missing", "failed", "absent")] == [0, 8, 0, 2]
    assert [rows["graph"][name] for name in ("rows", "missing", "failed", "absent")] == [0, 2, 0, 8]
    assert "audio" not in rows, "a modality that neither side has is no row"
    assert rows["image"]["current"]
    assert rows["image"]["size_bytes"] > 0


def test_table_names_are_folder_names_on_every_system() -> None:
    for spec in ("open_clip:local-dir:/a b/c", "x:\\\\y*?<>|", "a" * 300, "hf:org/name@rev.", "子"):
        name = Identity("text", spec, "f", "p", "float16", 4).table_name
        assert len(name) < 90
        assert all(letter.isascii() and (letter.isalnum() or letter in "-.") for letter in name)
        assert name[-8:].isalnum()


def test_only_the_dtypes_that_are_stored_exactly_are_allowed() -> None:
    with pytest.raises(EncoderError, match="bfloat16; allowed are float16, float32, int8"):
        Identity("text", "x", "f", "p", "bfloat16", 4)


def test_checksums_see_every_bit_and_every_swap() -> None:
    rows = vectors(4, dim=7)
    sums = checksum(rows)
    for place in range(7):
        changed = rows.copy()
        changed.view(np.uint16)[:, place] ^= 1
        assert (checksum(changed) != sums).all()
    swapped = rows.copy()
    swapped[:, [0, 6]] = rows[:, [6, 0]]
    assert (checksum(swapped) != sums).all()


def test_flaws_are_found_past_the_first_batch() -> None:
    rows = np.ones((BATCH_ROWS + 3, 2), np.float32)
    rows[-1, 1] = -np.inf
    rows[-2] = 0
    assert list(flaws(rows)) == [BATCH_ROWS + 1, BATCH_ROWS + 2]


def test_opening_a_store_of_some_tables_loads_no_model_library(store: Store, tmp_path: Path) -> None:
    import subprocess

    store.write(PICTURES, names(2), vectors(2))
    code = (
        f"from bundlecache.store.store import Store; import sys; assert len(Store({str(store.path)!r}).tables()) == 1; "
        "assert not {'torch', 'lancedb'} & set(sys.modules), 'too heavy for a look'"
    )
    top = TOP
    subprocess.run([sys.executable, "-c", code], check=True, cwd=top)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
def test_files_appear_with_the_rights_of_any_new_file_without_touching_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask is the whole process's: another thread's files would be open to all meanwhile."""
    (tmp_path / "any").write_text("")
    monkeypatch.delattr(os, "umask")
    with replacing(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_receipts_do_not_pile_up_and_a_table_keeps_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundlecache.store.receipts.KEEP_RECEIPTS", 3)
    other = Identity("image", "toy:other", "f", "p", "float16", 6)
    store.write(other, names(2), vectors(2))
    for count in range(1, 6):
        store.write(PICTURES, names(count), vectors(count))
    kept = sorted((store.path / "receipts").glob(f"*--{PICTURES.table_name}.json"))
    assert [json.loads(path.read_text())["items"] for path in kept] == [3, 4, 5]
    assert [receipt["table"] for receipt in store.receipts()] == [other.table_name, PICTURES.table_name]


def test_a_damaged_receipt_is_passed_over(store: Store) -> None:
    store.write(PICTURES, names(2), vectors(2))
    (store.path / "receipts" / f"29991231T000000.000000Z--{PICTURES.table_name}.json").write_text("{")
    assert len(store.receipts()) == 1
    assert store.current("image").rows == 2


@pytest.mark.parametrize("seed", range(6))
def test_bytes_that_flipped_on_the_disk_are_a_sentence_for_every_reader(store: Store, seed: int) -> None:
    store.write(PICTURES, names(300), vectors(300))
    rng = np.random.default_rng(seed)
    for path in store.path.glob("*.lance/data/*"):
        content = bytearray(path.read_bytes())
        for place in rng.integers(0, len(content), 40).tolist():
            content[place] ^= 0xFF
        path.write_bytes(content)
    table = Catalogue(names(300), [""] * 300, {}, Bundles(), Interactions())
    noticed = 0
    for read in (
        lambda: store.matrix(names(300), "image"),
        lambda: store.export(store.path.parent / "out"),
        lambda: coverage(store, table),
        lambda: store.write(PICTURES, names(2), vectors(2)),
    ):
        try:
            read()
        except StoreError:
            noticed += 1
    assert noticed, "no reader noticed the damage"


@pytest.mark.skipif(os.name != "posix", reason="files are compared by their inodes")
def test_a_commit_waits_for_the_disk_for_every_file_of_the_new_version(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a table must not name files whose content never reached the disk."""
    synced: set[int] = set()
    right = os.fsync

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        right(handle)

    monkeypatch.setattr(os, "fsync", noted)
    for item_ids, seed in ((names(9), 0), (names(5), 1), ([*names(3), "new-1"], 2)):  # appended, replaced, both
        synced.clear()
        before = set((store.path / f"{PICTURES.table_name}.lance").rglob("*"))
        with store.writer(PICTURES) as table:
            table.write(item_ids, [f"{seed}"] * len(item_ids), vectors(len(item_ids), seed))
        made = set((store.path / f"{PICTURES.table_name}.lance").rglob("*")) - before
        new = [path for path in made if path.is_file() and path.parent.name in ("data", "_deletions", "_versions")]
        empty = {f"{2**64 - 2:020}.manifest"} if seed == 0 else set()  # version 1
        missed = [path.name for path in new if path.stat().st_ino not in synced and path.name not in empty]
        assert not missed, "but for the empty table, which holds nothing to lose"


def test_a_large_matrix_shows_its_progress_once_per_version(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []

    class Bar:
        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def step(self, done: int, total: int) -> None:
            steps.append((done, total))

    monkeypatch.setattr("bundlecache.store.store.SHOWN_BYTES", 0)
    count = 2 * BATCH_ROWS + 5
    store.write(PICTURES, names(count), vectors(count))
    shown = Store(store.path, lambda name: Bar())
    assert np.array_equal(shown.matrix(names(count), "image").vectors, vectors(count))
    assert steps == [(BATCH_ROWS, count), (2 * BATCH_ROWS, count), (count, count)]
    shown.matrix(names(count), "image")
    assert len(steps) == 3, "a matrix that is there is mapped"
