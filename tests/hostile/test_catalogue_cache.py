"""The cached tables of a catalogue under attack: the answer of the input tables, or one sentence; never another answer."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.forked import CODE, Forked, start
from helpers.random_catalogue import content_of

from bundlecache.catalogue import cache, splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.workspace import WorkspaceFolder
from hostile import worlds
from hostile.judge import judge_call

ITEMS = 200


def make(root: Path, shift: int = 0) -> WorkspaceFolder:
    """A catalogue of 200 items; others of the same sizes by ``shift``."""
    items = [{"item_id": f"i{i:03}", "title": f"thing {(i + shift) % 10}", "price": 5} for i in range(ITEMS)]
    bundles = [
        {"bundle_id": f"b{b}", "item_ids": [f"i{(3 * b + k + shift) % ITEMS:03}" for k in range(3)]} for b in range(60)
    ]
    clicks = [{"user_id": f"u{k % 9}", "item_id": f"i{(k + shift) % 9:03}"} for k in range(99)]
    worlds.write_jsonl(root, {"items": items, "bundles": bundles, "interactions": clicks})
    return WorkspaceFolder(root)


def answer(shop: WorkspaceFolder) -> tuple[object, ...]:
    """All that a catalogue holds, and its splits."""
    catalogue = Catalogue.read(shop)
    return (*content_of(catalogue), splits.assign(catalogue).tolist())


@pytest.fixture
def shop(tmp_path: Path) -> WorkspaceFolder:
    return make(tmp_path / "shop")


@pytest.fixture
def wanted(tmp_path: Path) -> tuple[object, ...]:
    return answer(make(tmp_path / "same"))


def folder_of(shop: WorkspaceFolder) -> Path:
    (folder,) = shop.catalogue_cache.iterdir()
    return folder


MANIFESTS = {
    "list": "[]", "number": "3", "null": "null", "text": '"x"', "empty": "", "deep": "[" * 20_000, "no files": '{"notes": []}',
    "files is a list": '{"key": "KEY", "files": [], "notes": []}', "no tables": '{"key": "KEY", "files": {}, "notes": []}',
    "one table": '{"key": "KEY", "files": {"items": [1, 2, "x"]}, "notes": []}', "no digest": '{"key": "KEY", "files": {"items": 3}, "notes": []}',
    "a path": '{"key": "KEY", "files": {"../../items": [1, 2, "x"]}, "notes": []}', "notes is a number": None, "lengths are words": None,
}  # fmt: skip


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_that_is_none(shop, wanted, manifest):
    answer(shop)
    made = folder_of(shop) / cache.MADE
    content = json.loads(made.read_text("utf-8"))
    if manifest == "notes is a number":
        content["notes"] = 3
    elif manifest == "lengths are words":
        content["files"] = {name: ["x", "y", "z"] for name in content["files"]}
    made.write_text((MANIFESTS[manifest] or json.dumps(content)).replace("KEY", made.parent.name), "utf-8")
    assert answer(shop) == wanted
    assert answer(shop) == wanted


@pytest.mark.parametrize("seed", range(12))
def test_bytes_of_any_cached_file_changed(shop, wanted, seed):
    answer(shop)
    rng = random.Random(seed)
    path = rng.choice(sorted(path for path in folder_of(shop).iterdir()))
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    harm = seed % 4
    if harm == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif harm == 1:
        content = content[:at]
    elif harm == 2:
        content += content[at:]
    else:
        content[at:] = bytes(len(content) - at)
    path.write_bytes(content)
    assert answer(shop) == wanted


def test_the_cache_of_another_workspace_under_the_name_of_ours(shop, wanted, tmp_path):
    other = make(tmp_path / "other", shift=1)
    assert answer(other) != wanted
    answer(shop)
    name = folder_of(shop).name
    shutil.rmtree(shop.catalogue_cache)
    shutil.copytree(folder_of(other), shop.catalogue_cache / name)
    assert answer(shop) == wanted


@pytest.mark.parametrize("name", ["items", "keys", "bundles", "users", "edges", "split"])
def test_one_file_of_another_workspace(shop, wanted, tmp_path, name):
    other = make(tmp_path / "other", shift=1)
    answer(other)
    answer(shop)
    (ours,) = folder_of(shop).glob(f"{name}*.*")
    (theirs,) = folder_of(other).glob(f"{name}*.*")
    shutil.copy2(theirs, ours)
    assert answer(shop) == wanted


def test_splits_of_the_right_length_that_are_not_ours(shop, wanted):
    answer(shop)
    (file,) = folder_of(shop).glob("split-*.npy")
    np.save(file, np.zeros(60, np.uint8))
    assert answer(shop) == wanted


@pytest.mark.parametrize("place", ["catalogue", "key", "made.json", "items.arrow"])
@pytest.mark.parametrize("kind", ["file", "folder", "circle", "dangling link"])
def test_something_else_in_the_place_of_a_cached_file(shop, wanted, place, kind):
    answer(shop)
    folder = folder_of(shop)
    path = {"catalogue": folder.parent, "key": folder}.get(place, folder / place)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name if kind == "circle" else "nothing")
    assert answer(shop) == wanted
    assert answer(shop) == wanted


@pytest.mark.parametrize("limit", [0, 100, 1000, 5000])
def test_a_full_disk_leaves_no_half_cache(shop, wanted, limit):
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most[1]))  # Python ignores the signal that comes with it
    try:
        assert answer(shop) == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert not list(shop.catalogue_cache.rglob(".unfinished-*"))
    assert answer(shop) == wanted
    assert folder_of(shop).is_dir()


def test_an_edit_of_the_same_size_within_one_clock_tick(shop, tmp_path):
    wanted = answer(make(tmp_path / "edited", shift=1))
    answer(shop)
    for path in shop.root.glob("*.jsonl"):
        before = path.stat()
        path.write_bytes((tmp_path / "edited" / path.name).read_bytes())
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert answer(shop) == wanted


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_a_table_that_changes_while_it_is_parsed(shop, tmp_path, monkeypatch, change):
    from bundlecache.catalogue import catalogue as module

    original, path = module.parse, shop.root / "items.jsonl"
    edited = (make(tmp_path / "edited", shift=1).root / "items.jsonl").read_bytes()

    def parse(paths):
        found = original(paths)
        path.unlink() if change == "deleted" else path.write_bytes(edited)
        return found

    monkeypatch.setattr(module, "parse", parse)
    judge_call(lambda: Catalogue.read(shop))
    monkeypatch.undo()
    path.write_bytes(edited)
    assert [*Catalogue.read(shop).titles] == [*Catalogue.read(WorkspaceFolder(tmp_path / "edited")).titles]


BUILD_FOR_EVER = """
import shutil, sys
from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.workspace import WorkspaceFolder
shop = WorkspaceFolder(__import__("pathlib").Path(sys.argv[1]))
print("ready", flush=True)
while True:
    splits.assign(Catalogue.read(shop))
    shutil.rmtree(shop.catalogue_cache, ignore_errors=True)
"""


def builder(shop: WorkspaceFolder) -> Forked:
    """A process that builds the cache and deletes it, again and again."""
    process = start(CODE, BUILD_FOR_EVER, shop.root)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_a_build_that_is_killed_at_any_moment_is_never_read(shop, wanted):
    rng = random.Random(0)
    for _ in range(5):
        process = builder(shop)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert answer(shop) == wanted
    assert len([*shop.catalogue_cache.iterdir()]) == 1, "what was left is gone"


@pytest.mark.slow
def test_two_processes_that_build_and_delete_at_once(shop, wanted):
    processes = [builder(shop) for _ in range(2)]
    try:
        for _ in range(60):
            assert answer(shop) == wanted
        assert [process.poll() for process in processes] == [None, None], "both still build"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert answer(shop) == wanted
