"""The mapped tables of a catalogue are those of its input tables, whatever happened to them or to the mapped files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.random_catalogue import content_of

from bundlecache.catalogue import cache, input_tables, splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> WorkspaceFolder:
    ids = [f"i{n}" for n in range(30)]
    pq.write_table(
        pa.table({"item_id": ids, "title": [f"title {n}" for n in ids], "price": [1.5] * 30}),
        tmp_path / "items.parquet",
    )
    bundles = [[*ids[b : b + 4], "gone"] for b in range(20)]
    pq.write_table(
        pa.table({"bundle_id": [f"b{n}" for n in range(20)], "item_ids": bundles}), tmp_path / "bundles.parquet"
    )
    (tmp_path / "interactions.csv").write_text(
        "user_id,item_id\n" + "".join(f"u{n % 5},i{n}\n" for n in range(30)), "utf-8"
    )
    return WorkspaceFolder(tmp_path)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever input tables are parsed."""
    counted: list[int] = []
    original = input_tables._items
    monkeypatch.setattr(input_tables, "_items", lambda *args: counted.append(1) or original(*args))
    return counted


def test_a_second_reading_parses_nothing_and_is_the_same(shop: WorkspaceFolder, parses: list[int]):
    first, second = Catalogue.read(shop), Catalogue.read(shop)
    assert len(parses) == 1
    assert content_of(first) == content_of(second)
    assert splits.assign(first).tolist() == splits.assign(second).tolist()
    assert first.notes == [
        "bundles.parquet names 20 items that are not in the catalogue, 'gone' among them; they are left out."
    ]


def test_an_edited_table_is_parsed_again_and_its_old_files_go(shop: WorkspaceFolder, parses: list[int]):
    Catalogue.read(shop)
    path = shop.root / "interactions.csv"
    before = path.stat()
    path.write_text(path.read_text("utf-8").replace("u1,i6", "u1,i7"), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time
    assert Catalogue.read(shop).interactions.item.tolist() != Catalogue.read(shop).bundles.items.values.tolist()
    assert len(parses) == 2
    assert len([*shop.catalogue_cache.iterdir()]) == 1


@pytest.mark.parametrize("harm", ["truncated", "flipped", "swapped", "deleted", "no list", "half"])
def test_damaged_files_are_made_anew_without_a_word(shop: WorkspaceFolder, parses: list[int], harm: str):
    wanted = content_of(Catalogue.read(shop))
    (folder,) = shop.catalogue_cache.iterdir()
    edges, made = folder / "edges.arrow", folder / "made.json"
    raw = edges.read_bytes()
    if harm == "truncated":
        edges.write_bytes(raw[:-9])
    elif harm == "flipped":
        edges.write_bytes(raw[:300] + bytes([raw[300] ^ 1]) + raw[301:])
    elif harm == "swapped":
        shutil.copy(folder / "users.arrow", edges)
    elif harm == "deleted":
        edges.unlink()
    elif harm == "no list":
        made.write_text("[]", "utf-8")
    else:
        made.write_text(made.read_text("utf-8")[:40], "utf-8")
    assert content_of(Catalogue.read(shop)) == wanted
    assert content_of(Catalogue.read(shop)) == wanted
    assert len(parses) == 2


def test_splits_that_do_not_fit_are_computed_again(shop: WorkspaceFolder):
    wanted = splits.assign(Catalogue.read(shop)).tolist()
    (file,) = shop.catalogue_cache.glob("*/split-*.npy")
    for wrong in (np.zeros(3, np.uint8), np.full(len(wanted), 9, np.uint8), np.zeros(len(wanted))):
        np.save(file, wrong)
        assert splits.assign(Catalogue.read(shop)).tolist() == wanted
    file.write_bytes(b"junk")
    assert splits.assign(Catalogue.read(shop)).tolist() == wanted


def test_splits_follow_the_kept_ones_of_the_same_tables(shop: WorkspaceFolder):
    before = Catalogue.read(shop)
    assert splits.keep(shop, before) is None
    again = Catalogue.read(shop)
    assert splits.assign(again).tolist() == splits.assign(before).tolist()
    assert len([*shop.catalogue_cache.glob("*/split-*.npy")]) == 2, "one for each content of splits.parquet"


def test_where_the_cache_cannot_be_written_the_tables_are_read_each_time(shop: WorkspaceFolder, parses: list[int]):
    wanted = content_of(Catalogue.read(shop))
    shutil.rmtree(shop.root / "store")
    (shop.root / "store").write_text("a file where a folder should be", "utf-8")
    assert content_of(Catalogue.read(shop)) == wanted
    assert content_of(Catalogue.read(shop)) == wanted
    assert len(parses) == 3


def test_the_files_of_a_killed_build_are_never_read_and_go_with_the_next_build(shop: WorkspaceFolder):
    left = shop.catalogue_cache / ".unfinished-0000"
    left.mkdir(parents=True)
    (left / "made.json").write_text(json.dumps({"files": {}, "notes": []}), "utf-8")
    Catalogue.read(shop)
    assert not left.exists()


@pytest.mark.parametrize("removed", [False, True])
def test_two_builders_at_once_both_have_the_cache_and_print_no_note(
    shop: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch, removed: bool
):
    monkeypatch.setattr(cache, "LARGE_ITEMS", 1)
    digest, faster = cache._digest, []

    def slow(path: Path) -> str:
        """Another builder does all its work while this one has written its first table."""
        if path.suffix == ".arrow" and not faster:
            faster.append(None)
            faster[0] = Catalogue.read(shop)
            if removed:  # as a process on another machine does, which cannot know that this one lives
                shutil.rmtree(path.parent)
        return digest(path)

    monkeypatch.setattr(cache, "_digest", slow)
    slower = Catalogue.read(shop)
    assert content_of(slower) == content_of(faster[0])
    assert slower.notes == faster[0].notes
    assert len(slower.notes) == 1, "about the item that is not in the catalogue"
    assert [*shop.catalogue_cache.iterdir()] == [slower.cached_in] == [faster[0].cached_in]


def test_only_a_process_that_lives_keeps_its_unfinished_folder_and_not_for_ever(shop: WorkspaceFolder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    others = [shop.catalogue_cache / f".unfinished-{pid}-0000" for pid in (os.getpid(), dead.pid, "x", 10**30)]
    for other in others:
        other.mkdir(parents=True)
    Catalogue.read(shop)
    assert [other.exists() for other in others] == [True, False, False, False]
    long_ago = time.time() - 2 * cache.ABANDONED_SECONDS
    os.utime(others[0], (long_ago, long_ago))
    (shop.root / "interactions.csv").write_text("user_id,item_id\nu1,i1\n", "utf-8")
    Catalogue.read(shop)
    assert not others[0].exists()
