"""The life of a store: damage is found and mended, space is freed, and what trained a model is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lance
import lancedb
import numpy as np
import pytest
from helpers.paths import TOP
from helpers.toy_vectors import PICTURES, TOKENS, names, patches, vectors

from bundlecache.errors import StoreError
from bundlecache.store import drift, maintenance, verify
from bundlecache.store.location import folder_bytes
from bundlecache.store.store import Store, TableInfo
from bundlecache.store.table_schema import Identity

OTHER = Identity("image", "toy:other", "f", "p", "float32", 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def head(store: Store) -> TableInfo:
    """The only table, whatever is wrong with its rows."""
    (info,) = store.tables(heads=True)
    return info


def uri(store: Store, identity: Identity = PICTURES) -> str:
    return str(store.path / f"{identity.table_name}.lance")


# --- verify ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identity", "given"), [(PICTURES, vectors(40)), (TOKENS, patches(40))])
def test_a_sound_table_is_sound_with_its_matrix(store: Store, identity: Identity, given: np.ndarray) -> None:
    given = given.copy()
    given[3] = 0  # one that failed has no row
    info = store.write(identity, names(40), given)
    store.matrix(names(40), "image", identity.spec)
    damage = verify.verify(store, info, names(40))
    assert not damage
    assert damage.rows == 39


@pytest.mark.parametrize("together", [False, True])
def test_damaged_and_doubled_rows_are_named_taken_out_and_made_again(store: Store, together: bool) -> None:
    store.write(PICTURES, names(40), vectors(40))
    lancedb.connect(str(store.path)).open_table(PICTURES.table_name).update(
        where="item_id IN ('item-2', 'item-30')", values={"vector": [9.0] * 6}
    )
    lance.write_dataset(lance.dataset(uri(store)).to_table().slice(0, 1), uri(store), mode="append")
    if together:
        lance.dataset(uri(store)).optimize.compact_files()
    damage = verify.verify(store, store.current("image"))
    assert sorted(damage.item_ids) == ["item-2", "item-30"]
    assert damage.doubled == ["item-0"]
    assert "2 rows are not what was written" in str(damage)
    verify.repair(store, store.current("image"), damage)
    info = store.current("image")
    assert info.rows == 37, "nothing that is sound is lost"
    assert not verify.verify(store, info)
    assert store.write(PICTURES, names(40), vectors(40)).rows == 40
    assert np.array_equal(store.matrix(names(40), "image").vectors, vectors(40))


@pytest.mark.parametrize(("column", "named"), [("item_id", "item-2\x1b"), ("content_hash", "item-2")])
def test_a_damaged_id_or_hash_is_found_too_and_leaves_no_phantom(store: Store, column: str, named: str) -> None:
    """A flipped byte in an id makes a row of no item, beside an item without a row."""
    store.write(PICTURES, names(40), vectors(40))
    table = lancedb.connect(str(store.path)).open_table(PICTURES.table_name)
    table.update(where="item_id = 'item-2'", values={column: "item-2\x1b"})
    damage = verify.verify(store, store.current("image"))
    assert damage.item_ids == [named]
    with pytest.raises(StoreError, match=r"1 row of .* did not pass the checksum"):
        store.matrix(names(40), "image")
    verify.repair(store, store.current("image"), damage)
    store.write(PICTURES, names(40), vectors(40))
    info = store.current("image")
    assert sorted(store.live_ids(info).to_pylist()) == sorted(names(40))
    assert not verify.verify(store, info, names(40))


def test_a_file_that_cannot_be_read_costs_its_own_rows_only(store: Store) -> None:
    store.write(PICTURES, names(40), vectors(40))
    store.write(PICTURES, [f"more-{i}" for i in range(9)], vectors(9, seed=1))
    piece = lance.dataset(uri(store)).get_fragments()[-1]
    path = Path(uri(store)) / "data" / piece.data_files()[0].path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    damage = verify.verify(store, head(store))
    assert (damage.pieces, damage.lost, damage.item_ids) == ([piece.fragment_id], 9, [])
    verify.repair(store, head(store), damage)
    assert not verify.verify(store, store.current("image"))
    assert np.array_equal(store.matrix(names(40), "image").vectors, vectors(40))


def test_a_matrix_that_differs_from_the_rows_is_found_and_made_again(store: Store) -> None:
    """What training reads is the matrix: a power cut may damage it while the table is sound."""
    info = store.write(PICTURES, names(40), vectors(40))
    path = Path(str(store.matrix(names(40), "image").vectors.filename))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    damage = verify.verify(store, info, names(40))
    assert damage.matrices == [path.parent]
    assert not damage.item_ids
    verify.repair(store, info, damage)
    assert np.array_equal(store.matrix(names(40), "image").vectors, vectors(40))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_bytes_flip_verify_ends_in_words_and_repair_in_a_sound_table(store: Store, seed: int) -> None:
    store.write(PICTURES, names(200), vectors(200))
    store.write(PICTURES, [f"more-{i}" for i in range(200)], vectors(200, seed=1))
    rng = np.random.default_rng(seed)
    path = sorted((Path(uri(store)) / "data").iterdir())[seed % 2]
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 5).tolist():
        content[place] ^= 0xFF
    path.write_bytes(content)
    damage = verify.verify(store, head(store))
    assert str(damage)
    verify.repair(store, head(store), damage)
    assert not verify.verify(store, head(store))
    if head(store).rows:
        left = store.matrix(names(200), "image")
        assert np.array_equal(left.vectors[left.mask], vectors(200)[left.mask]), "what is left is what was written"
    assert store.write(PICTURES, names(200), vectors(200)).rows >= 200


# --- compact, drop, tags --------------------------------------------------------------------------------


def test_compact_frees_space_and_keeps_the_rows_and_the_matrix(store: Store) -> None:
    for seed in range(4):
        store.write(PICTURES, names(500), vectors(500, seed))
    store.write(PICTURES, names(600), vectors(600, 3))  # 100 more, in a piece of their own
    matrix = store.matrix(names(500), "image")
    store.matrix(names(3), "image")  # of other items: nobody asks for it
    info = store.current("image")
    before, after = maintenance.compact(store, info, names(500), [])
    folder = Path(uri(store))
    assert store.current("image").version > info.version
    assert after == folder_bytes(folder) + folder_bytes(store.path / "matrices" / info.table)
    assert after < 0.6 * before
    assert len(lance.dataset(uri(store)).versions()) == 1
    left = store.path / "matrices" / info.table
    (made,) = left.iterdir()
    stamp = (made / "vectors.npy").stat().st_mtime_ns
    again = store.matrix(names(500), "image")
    assert (made / "vectors.npy").stat().st_mtime_ns == stamp, "compaction alone makes no new matrix"
    assert np.array_equal(again.vectors, vectors(500, 3))
    assert np.array_equal(matrix.vectors, vectors(500, 3))
    assert maintenance.compact(store, store.current("image"), names(500), [])[1] == after


def test_what_trained_a_model_survives_tidying_and_compacting_until_the_run_is_gone(store: Store) -> None:
    store.write(PICTURES, names(50), vectors(50))
    trained = store.matrix(names(50), "image")
    maintenance.tag(store, "first", [trained])
    for seed in range(1, 4):
        info = store.write(PICTURES, names(50), vectors(50, seed))
    assert maintenance.tags(store, info) == {"run-first": trained.version}
    assert maintenance.changed_items(store, info, trained.version) == 50
    with store.writer(PICTURES) as table:
        table.wrote = True
        table.tidy()
    maintenance.compact(store, info, names(50), ["first"])
    info = store.current("image")
    kept = drift.snapshot(store, info, "run-first")
    assert np.array_equal(kept.vectors, vectors(50))
    with pytest.raises(StoreError, match="is what first was trained on"):
        maintenance.drop(store, info, ["first"])
    maintenance.compact(store, info, names(50), [])
    assert maintenance.tags(store, info) == {}
    assert maintenance.changed_items(store, info, trained.version) is None
    with pytest.raises(StoreError, match="has no version 'run-first' any more"):
        drift.snapshot(store, info, "run-first")


def test_a_run_that_is_trained_again_holds_its_newest_version(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    maintenance.tag(store, "first", [store.matrix(names(5), "image")])
    store.write(PICTURES, names(5), vectors(5, seed=1))
    second = store.matrix(names(5), "image")
    maintenance.tag(store, "first", [second])
    assert maintenance.tags(store, store.current("image")) == {"run-first": second.version}


def test_a_version_that_is_gone_cannot_be_tagged(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    old = store.matrix(names(5), "image")
    info = store.write(PICTURES, names(5), vectors(5, seed=1))
    maintenance.compact(store, info, names(5), [])
    with pytest.raises(StoreError, match="written anew just now"):
        maintenance.tag(store, "first", [old])


def test_only_what_is_named_is_dropped(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    store.write(TOKENS, names(5), patches(5))
    store.write(OTHER, names(5), vectors(5, dim=3))
    infos = store.tables()
    assert maintenance.choose(infos, [], old_encoders=False) == []
    assert [info.spec for info in maintenance.choose(infos, [], old_encoders=True)] == ["toy:pictures"], "tokens stay"
    assert [info.spec for info in maintenance.choose(infos, ["toy:patches"], old_encoders=False)] == ["toy:patches"]
    with pytest.raises(StoreError, match="no table and no encoder 'toy:none'"):
        maintenance.choose(infos, ["toy:none"], old_encoders=False)
    store.matrix(names(5), "image", "toy:pictures")
    (info,) = maintenance.choose(infos, [PICTURES.table_name], old_encoders=False)
    assert maintenance.drop(store, info, []) > 0
    assert [path for path in store.path.rglob(f"*{PICTURES.table_name}*") if "locks" not in path.parts] == []
    assert {info.spec for info in store.tables()} == {"toy:patches", "toy:other"}


def test_matrices_of_a_deleted_table_never_pass_for_those_of_a_new_one(store: Store) -> None:
    """Versions of a table begin at 1 again when somebody deletes its folder, as our own hints advise."""
    import shutil

    store.write(PICTURES, names(5), vectors(5))
    store.matrix(names(5), "image")
    shutil.rmtree(uri(store))
    store.write(PICTURES, names(5), vectors(5, seed=1))
    assert np.array_equal(store.matrix(names(5), "image").vectors, vectors(5, seed=1))
    shutil.rmtree(uri(store))
    assert maintenance.sweep(store) > 0
    assert list((store.path / "matrices").iterdir()) == []


# --- drift ----------------------------------------------------------------------------------------------


def test_drift_counts_rows_and_measures_the_changed_ones(store: Store) -> None:
    given = vectors(60).astype(np.float32)
    identity = Identity("image", "toy:wide", "f", "p", "float32", 6)
    old = store.write(identity, names(50), given[:50])
    maintenance.tag(store, "first", [store.matrix(names(50), "image")])
    turned = given[:60].copy()
    turned[:10] = -given[:10]  # the opposite direction
    info = store.write(identity, names(60), turned)
    verify.repair(store, info, verify.Damage(60, ["item-49"], [], [], 0, []))
    info = store.current("image")
    moved = drift.compare("image", drift.find(store, info, None), drift.snapshot(store, info))
    assert (moved.kept, moved.added, moved.removed, moved.changed) == (39, 10, 1, 10)
    assert moved.cosine_mean == pytest.approx(-1)
    assert moved.old == f"{info.table}@{old.version}"
    assert 0 < moved.overlap_at_10 < 1
    for start in ("first", "run-first", str(old.version)):
        assert drift.find(store, info, start).name == moved.old


def test_vectors_that_were_only_turned_as_a_whole_keep_their_neighbours(store: Store) -> None:
    given = vectors(80).astype(np.float32)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    for spec, rows in (("toy:a", given), ("toy:b", given @ rotation.astype(np.float32))):
        store.write(Identity("image", spec, "f", "p", "float32", 6), names(80), rows)
    info = store.current("image", "toy:b")
    moved = drift.compare("image", drift.find(store, info, "toy:a"), drift.snapshot(store, info))
    assert moved.overlap_at_10 == 1
    assert moved.changed == 80
    assert moved.cosine_mean < 0.9
    store.write(OTHER, names(80), vectors(80, dim=3).astype(np.float32))
    info = store.current("image")
    moved = drift.compare("image", drift.find(store, info, "toy:a"), drift.snapshot(store, info))
    assert moved.cosine_mean is None, "no cosine between vectors of different width"
    assert 0 < moved.overlap_at_10 < 1


def test_drift_says_what_there_is_to_compare_with(store: Store) -> None:
    store.write(PICTURES, names(5), vectors(5))
    info = store.current("image")
    with pytest.raises(StoreError, match=r"no tag of .* there are: none"):
        drift.find(store, info, "someday")
    for version in ("77", "9" * 30):
        with pytest.raises(StoreError, match=f"has no version {version}"):
            drift.find(store, info, version)
    with pytest.raises(StoreError, match="one version of"):
        drift.find(store, info, None)
    store.write(TOKENS, names(5), patches(5))
    token_rows = drift.snapshot(store, store.current("image", "toy:patches"))
    assert token_rows.vectors.shape == (5, 6)
    assert np.allclose(token_rows.vectors, patches(5).astype(np.float32).mean(axis=1), atol=1e-2)


# --- several processes ----------------------------------------------------------------------------------


WRITER = """
import sys, time
import numpy as np
from bundlecache.errors import StoreError
from bundlecache.store.store import Store
from bundlecache.store.table_schema import Identity
identity = Identity("image", "toy:pictures", "f" * 64, "none", "float16", 6)
refused = 0
for round in range(4):
    rows = np.random.default_rng(round).normal(size=(40, 6)).astype(np.float16)
    while True:
        try:
            Store(sys.argv[1]).write(identity, [f"item-{i}" for i in range(10 * round, 10 * round + 40)], rows)
            break
        except StoreError as error:
            assert "Another process is writing" in str(error), error
            time.sleep(0.01)
"""


def test_two_processes_that_write_the_same_keys_double_none_of_them(store: Store) -> None:
    """Lance alone doubles every key when two upserts meet, and reports nothing."""
    both = [subprocess.Popen([sys.executable, "-c", WRITER, str(store.path)], cwd=TOP) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    rows = lance.dataset(uri(store)).to_table(columns=["item_id"])["item_id"].to_pylist()
    assert len(rows) == len(set(rows)) == 70
    assert not verify.verify(store, store.current("image"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_read_the_matrices_of_a_store_opened_before(store: Store) -> None:
    """A Lance dataset dies or hangs in a forked worker; what training reads must not touch one."""
    import torch

    store.write(PICTURES, names(64), vectors(64))
    store.write(TOKENS, names(64), patches(64))
    matrices = [store.matrix(names(64), "image"), store.matrix(names(64), "image", "toy:patches")]

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
            one, tokens = (np.array(matrix.vectors[row]) for matrix in matrices)
            return torch.from_numpy(one), torch.from_numpy(tokens)

    loader = torch.utils.data.DataLoader(
        Rows(), batch_size=16, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    for got, expected in zip(map(torch.cat, zip(*loader, strict=True)), (vectors(64), patches(64)), strict=True):
        assert np.array_equal(got.numpy(), expected)
