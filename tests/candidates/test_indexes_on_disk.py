"""Indexes for more vectors than memory: FAISS's with its lists in a file, LanceDB's over the tables of the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import object_store
from helpers.runner import invoke
from helpers.shop import make_shop

from bundlecache.candidates import ann, disk_index, item_vectors
from bundlecache.candidates.index import Index
from bundlecache.candidates.index_file import index_path, open_index
from bundlecache.candidates.lance_index import LanceTables
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.errors import BundlecacheError
from bundlecache.store import location
from bundlecache.store.store import Store
from bundlecache.store.table_schema import Identity
from bundlecache.workspace import WorkspaceFolder

COUNT, WIDTH = 5000, 16
NAMES = [f"item-{i}" for i in range(COUNT)]


def identity(modality: str) -> Identity:
    return Identity(modality, f"toy:{modality}", modality[0] * 64, "as it is", "float16", WIDTH)


class World:
    """5,000 items in clumps with a picture and a text each, in tables in another order; item-7 has lost its picture."""

    def __init__(self, root: Path, address: str | None = None, options: dict[str, str] | None = None) -> None:
        self.folder = WorkspaceFolder(root)
        if address is not None:
            location.set_location(self.folder.store, address, options or {})
        self.store = Store(self.folder.store)
        self.catalogue = Catalogue(NAMES, NAMES, {}, Bundles(), Interactions())
        self.rng = np.random.default_rng(0)
        for modality in ("image", "text"):
            self.write(modality)
        with self.store.writer(identity("image")) as table:
            table.update_status(["item-7"], {}, dead=["item-7"])

    def write(self, modality: str) -> None:
        centres = self.rng.normal(size=(100, WIDTH))
        vectors = centres[self.rng.integers(100, size=COUNT)] + 0.4 * self.rng.normal(size=(COUNT, WIDTH))
        order = self.rng.permutation(COUNT)
        self.store.write(identity(modality), [NAMES[i] for i in order], vectors.astype(np.float16))

    def matrices(self, *modalities: str):
        return {name: self.store.matrix(NAMES, name) for name in modalities}

    def tables(self) -> LanceTables:
        return LanceTables(self.store.location, self.folder.candidates / "indexes", self.catalogue)

    def open(self, *modalities: str, **options) -> tuple[Index, bool]:
        return open_index(self.folder, self.catalogue, self.matrices(*modalities), **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def recall(index: Index, given: list[np.ndarray]) -> float:
    exact = Index.build([part.matrix for part in index.vectors.parts], kind="flat", memory=0)
    found, best = (each.search(each.query(given), 20, given)[0] for each in (index, exact))
    return float(np.mean([np.isin(mine, its).mean() for mine, its in zip(found, best, strict=True)]))


@pytest.mark.parametrize("modalities", [("image",), ("image", "text")])
def test_lance_has_the_recall_that_it_says_on_queries_it_never_saw(world: World, modalities: tuple[str, ...]):
    before = [info.version for info in world.store.tables()]
    index, kept = world.open(*modalities, tables=world.tables())
    assert not kept
    assert index.kind == "lance"
    assert index.words.startswith("lance, recall@20 0.99") or index.words.startswith("lance, recall@20 1.0")
    rng = np.random.default_rng(5)
    assert recall(index, list(rng.choice(COUNT, (100, 1), replace=False))) >= 0.98
    assert [info.version for info in world.store.tables()] == before, "the tables of the store have no new version"
    again, kept = world.open(*modalities, tables=world.tables())
    assert kept
    assert again.report["recall@20"] == index.report["recall@20"]
    for each in (index, again):
        items, _ = each.search(each.query([np.array([7])]), 5, [np.array([7])])
        assert (items[0] >= 0).all() if len(modalities) > 1 else (items[0] == -1).all()


def test_rows_that_are_no_longer_valid_are_never_found(world: World):
    index, _ = world.open("image", tables=world.tables())
    table = world.store.location.dataset(identity("image").table_name)
    assert table.count_rows() == COUNT
    vector = table.to_table(columns=["vector"], filter="item_id = 'item-7'")["vector"][0].values.to_numpy()
    items, _ = index.search(vector[None].astype(np.float32), 20)
    assert 7 not in items


def test_lance_indexes_anew_where_the_vectors_changed(tmp_path: Path):
    world = World(tmp_path)
    world.open("image", tables=world.tables())
    folder = world.folder.candidates / "indexes"
    (old,) = folder.glob("*.lance")
    world.write("image")
    index, kept = world.open("image", tables=world.tables())
    assert not kept
    assert "is built again" in index.report["remark"]
    (new,) = folder.glob("*.lance")
    assert new.name != old.name
    for file in new.rglob("*.idx"):
        file.write_bytes(b"")
    index, kept = world.open("image", tables=world.tables(), rebuild=True)
    assert recall(index, [np.array([i]) for i in range(50)]) >= 0.98


def test_lance_on_an_object_store_finds_what_it_finds_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
):
    for name, value in object_store.KEYS.items():
        monkeypatch.setenv(name, value)
    with object_store.serving() as endpoint:
        there = World(tmp_path, f"s3://shop/{tmp_path.name}", object_store.options_of(endpoint))
        index, _ = there.open("image", tables=there.tables())
        given = [np.array([i]) for i in range(50)]
        assert recall(index, given) >= 0.98
        assert not list(tmp_path.rglob("*.lance"))
        assert len(there.store.tables()) == 2, "an index is no table of vectors"
        _, kept = there.open("image", tables=there.tables())
        assert kept


def test_a_file_index_in_pieces_finds_what_one_in_memory_finds(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(item_vectors, "BLOCK_ITEMS", 1000)
    matrices = world.matrices("image")
    folder = world.folder.candidates / "pieces"
    disk = Index.build(matrices, kind="disk", memory=1e5, folder=folder)
    (building,) = folder.iterdir()
    assert [file.name for file in building.iterdir()] == ["lists.ivfdata"]
    assert not capfd.readouterr().out, "what FAISS prints would break --json"
    memory = Index.build(matrices, kind="ivf")
    given = [np.array([i]) for i in range(50)]
    for mine, its in zip(*(each.search(each.query(given), 20, given) for each in (disk, memory)), strict=True):
        np.testing.assert_array_equal(mine, its)
    del disk
    assert not list(folder.iterdir()), "what nobody kept is deleted"


def test_a_file_index_is_kept_and_built_again_where_its_lists_are_damaged(world: World):
    options = {"kind": "disk"}
    index, kept = world.open("text", **options)
    assert not kept
    assert index.report["size_bytes"] < 100_000, "what stands in memory"
    again, kept = world.open("text", **options)
    assert kept
    given = [np.array([i]) for i in range(50)]
    for mine, its in zip(*(each.search(each.query(given), 20, given) for each in (index, again)), strict=True):
        np.testing.assert_array_equal(mine, its)
    del index, again
    lists = disk_index.lists_file(index_path(world.folder, world.matrices("text"), **options))
    lists.write_bytes(lists.read_bytes()[:-8])
    mended, kept = world.open("text", **options)
    assert not kept
    assert "size of its lists" in mended.report["remark"]
    assert world.open("text", **options)[1]


def test_a_file_is_chosen_where_neither_vectors_nor_bytes_fit():
    width, count = 512, 100_000_000
    assert ann.plan("auto", count, width, memory=64e9) == ["pq", "flat"]
    assert ann.plan("auto", count, width, memory=1e9) == ["disk", "flat"]
    assert ann.plan("disk", count, width, memory=1e9) == ["disk"]


def test_the_engine_is_typed_and_what_it_cannot_do_is_said(tmp_path: Path):
    shop = make_shop(tmp_path / "shop")
    assert invoke("encode", "--modality", "text", "--data", shop).exit_code == 0
    done = invoke("candidates", "--engine", "lance", "--data", shop)
    assert done.exit_code == 0, done.output
    assert "learns from 4,096 items or more" in " ".join(done.stderr.split())
    for given, words in (
        (["--engine", "annoy"], "there are faiss and lance"),
        (["--engine", "lance", "--index", "pq"], "is one of FAISS"),
    ):
        refused = invoke("candidates", *given, "--data", shop)
        assert isinstance(refused.exception, BundlecacheError)
        assert words in refused.exception.message
