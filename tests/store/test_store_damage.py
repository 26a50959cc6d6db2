"""Files of a store that were edited, cut off or written by older versions: rebuilt silently, or one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_vectors import PICTURES, names, vectors

from bundlecache.encode.progress import Progress
from bundlecache.errors import BundlecacheError, StoreError
from bundlecache.names import tag_name
from bundlecache.store import drift, maintenance, verify
from bundlecache.store.coverage import encoders_in_use
from bundlecache.store.store import Store
from bundlecache.store.table_schema import IMPORTED, Identity

COUNT = 30


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.write(PICTURES, names(COUNT), vectors(COUNT))
    return made


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))


def _edit(path: Path, change) -> None:
    array = np.load(path).copy()
    np.save(path, change(array))


def _nan(array: np.ndarray) -> np.ndarray:
    array[3, 0] = np.nan
    return array


VECTORS = {
    "fewer rows": lambda path: _edit(path, lambda a: a[:-1]),
    "narrower": lambda path: _edit(path, lambda a: a[:, :-1]),
    "1-d": lambda path: _edit(path, lambda a: a.reshape(-1)),
    "0-d": lambda path: np.save(path, np.float32(1)),
    "texts": lambda path: _edit(path, lambda a: a.astype(str)),
    "another type": lambda path: _edit(path, lambda a: a.astype(np.float64)),
    "archive": _npz,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "half a header": lambda path: path.write_bytes(path.read_bytes().replace(b"}", b" ", 1)),
    "NaN": lambda path: _edit(path, _nan),
    "other numbers": lambda path: _edit(path, lambda a: -a),
    "gone": Path.unlink,
}
MASKS = {
    "short": lambda path: _edit(path, lambda a: a[:-1]),
    "integers": lambda path: _edit(path, lambda a: a.astype(int)),
    "inverted": lambda path: _edit(path, lambda a: ~a),
    "archive": _npz,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}
DAMAGES = [("vectors.npy", name, damage) for name, damage in VECTORS.items()]
DAMAGES += [("mask.npy", name, damage) for name, damage in MASKS.items()]


@pytest.mark.parametrize("recorded", [True, False], ids=["made now", "made by an older version"])
@pytest.mark.parametrize(("file", "name", "damage"), DAMAGES, ids=[f"{file} {name}" for file, name, _ in DAMAGES])
def test_a_damaged_matrix_is_made_again_silently(store: Store, file: str, name: str, damage, recorded: bool):
    ids = [*names(COUNT), "without a vector"]
    before = store.matrix(ids, "image")
    wanted, mask = before.vectors.copy(), before.mask.copy()
    del before
    (folder,) = (store.path / "matrices" / PICTURES.table_name).iterdir()
    if not recorded:
        (folder / "made.json").unlink()
    damage(folder / file)
    found = store.matrix(ids, "image")
    if name == "other numbers" and not recorded:
        return  # only `verify` can see that, as before
    assert np.array_equal(found.vectors, wanted)
    assert np.array_equal(found.mask, mask)
    info = store.current("image")
    assert str(verify.verify(store, info, ids)) == "sound"


def test_a_matrix_that_was_copied_is_read_once_and_not_made_again(store: Store, monkeypatch):
    ids = names(COUNT)
    wanted = store.matrix(ids, "image").vectors.copy()
    (folder,) = (store.path / "matrices" / PICTURES.table_name).iterdir()
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes())  # another time of writing
    monkeypatch.setattr("bundlecache.store.store.materialise", None)
    monkeypatch.setattr(
        "bundlecache.store.matrices.checksum", (real := __import__("bundlecache.store.table_schema")) and _counted
    )
    _counted.calls = 0
    for _ in range(2):
        assert np.array_equal(store.matrix(ids, "image").vectors, wanted)
    assert _counted.calls == 1
    del real


def _counted(rows: np.ndarray) -> np.ndarray:
    from bundlecache.store.table_schema import checksum

    _counted.calls += 1
    return checksum(rows)


@pytest.mark.parametrize(
    "content",
    ["", "{", "3", "[]", '{"address": 3, "options": {}}', '{"address": "s3://a/b", "options": {"region": 3}}',
     '{"address": "s3://a/b", "options": 3}', '{"address": null, "options": {}}', '{"address": "x", "options": {}}',
     "[" * 100_000, '{"address": ' + "9" * 6000 + "}"],
    ids=["empty", "half", "number", "list", "address 3", "region 3", "options 3", "null", "no address", "deep", "long number"],
)  # fmt: skip
def test_a_location_file_that_names_no_place_is_one_sentence(store: Store, content: str):
    (store.path / "place.json").write_text(content)
    with pytest.raises(StoreError, match="does not say where the tables are") as caught:
        store.tables()
    assert caught.value.hint == "delete it, then bundlecache encode --store ADDRESS"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"xxZ--{PICTURES.table_name}.json", "{}"),
        (f"20260101T000000.000000Z--{PICTURES.table_name}.json", "[" * 100_000),
        (f"99999999T999999.000000Z--{PICTURES.table_name}.json", "{}"),
        (f"20260101T000000.000000Z--{PICTURES.table_name}.json", "9" * 6000),
        (f"20260101T000000.000000Z--{PICTURES.table_name}.json", '{"table": ["a"], "finished": 1}'),
        (f"20260101T000000.000000Z--{PICTURES.table_name}.json", '{"table": "a", "finished": 1, "absent": "x"}'),
    ],
)
def test_a_damaged_receipt_is_passed_over(store: Store, name: str, content: str):
    (store.path / "receipts" / name).write_text(content)
    assert store.current("image").rows == COUNT
    assert [receipt["table"] for receipt in store.receipts()] == [PICTURES.table_name]
    store.write(PICTURES, names(COUNT), vectors(COUNT))


def test_verify_mends_tags_that_an_older_version_wrote(store: Store):
    """A run named é was accepted once, and every later training, compact and drift failed."""
    info = store.current("image")
    store.location.dataset(info.table).tags.create("run-é", info.version)
    store.location.dataset(info.table).tags.create("run-fine", info.version)
    (store.path / f"{info.table}.lance" / "_refs" / "tags" / "run-cut.json").write_text("{")
    matrix = store.matrix(names(COUNT), "image")
    maintenance.tag(store, "next", [matrix])  # training goes on
    for action in (
        lambda: maintenance.tags(store, info),
        lambda: maintenance.compact(store, info, names(COUNT), []),
        lambda: drift.find(store, info, None),
    ):
        with pytest.raises(StoreError, match="tag") as caught:
            action()
        assert caught.value.hint == "bundlecache verify --repair writes it anew"
    damage = verify.verify(store, info, names(COUNT))
    assert sorted(damage.tags) == ["run-cut", "run-é"]
    assert "2 tags cannot be read" in str(damage)
    verify.repair(store, info, damage)
    assert maintenance.tags(store, info) == dict.fromkeys([tag_name("é"), "run-fine", "run-next"], info.version)
    assert not verify.verify(store, info, names(COUNT))
    maintenance.compact(store, info, names(COUNT), ["é"])
    assert maintenance.tags(store, info) == {tag_name("é"): info.version}, "é still keeps its vectors"
    with pytest.raises(StoreError, match="é was trained on"):
        maintenance.drop(store, info, ["é"])


def test_drift_counts_items_that_left_the_catalogue(store: Store):
    info = store.current("image")
    old = drift.snapshot(store, info)
    now = drift.snapshot(store, info, item_ids=names(COUNT)[:-5])
    moved = drift.compare("image", old, now)
    assert (moved.kept, moved.added, moved.removed, moved.changed) == (COUNT - 5, 0, 5, 0)


def test_drift_finds_the_vectors_of_a_run_in_a_graph_that_was_learned_again(tmp_path: Path):
    store = Store(tmp_path / "store")
    first, second = (Identity("graph", "lightgcn:user-item", f, "p", "float32", 4) for f in ("one", "two"))
    rows = np.random.default_rng(0).standard_normal((COUNT, 4)).astype(np.float32)
    store.write(first, names(COUNT), rows)
    maintenance.tag(store, "second-run", [store.matrix(names(COUNT), "graph")])
    store.write(second, names(COUNT), -rows)
    info = store.current("graph")
    assert info.fingerprint == "two"
    for start in (None, "second-run"):
        moved = drift.compare("graph", drift.find(store, info, start), drift.snapshot(store, info))
        assert moved.changed == COUNT
        assert moved.old.startswith(first.table_name)


def test_a_plain_encode_can_repeat_the_encoders_of_the_store(store: Store):
    text = {"modality": "text", "fingerprint": "f", "preprocess": "p", "dtype": "float32", "dim": 4}
    rows = np.ones((COUNT, 4), np.float32)
    for spec in ("descriptor:text", "hf:MiniLM", "hf:MiniLM#title+category"):
        store.write(Identity(spec=spec, **text), names(COUNT), rows)
    store.write(Identity("audio", "import:mine", "f", IMPORTED, "float32", 4), names(COUNT), rows)
    used = {name: [info.spec for info in each.last_pass] for name, each in encoders_in_use(store).items()}
    assert used == {"text": ["hf:MiniLM", "hf:MiniLM#title+category"], "image": [PICTURES.spec], "audio": []}
    for info in encoders_in_use(store)["text"].last_pass:  # as a run does
        store.end_run(store.begin_run(info), info, {})
    assert store.current("text").spec == "hf:MiniLM#title+category", "the same table stays the current one"


def test_progress_says_how_long_the_rest_takes():
    shown = Progress("image", "a", "encode", 400, 1000, items_per_second=20.0)
    assert shown.remaining_seconds == 30
    assert Progress("image", "a", "look", 4, 10).remaining_seconds is None


def test_unreadable_json_of_a_matrix_is_no_traceback(store: Store):
    store.matrix(names(COUNT), "image")
    (folder,) = (store.path / "matrices" / PICTURES.table_name).iterdir()
    for content in ("", "[]", "{}", json.dumps({"stamps": 3, "content": 4})):
        (folder / "made.json").write_text(content)
        assert store.matrix(names(COUNT), "image").mask.all()


@pytest.mark.parametrize("name", ["é", "a#b", "", "x" * 300, "a/b"])
def test_imported_vectors_get_a_safe_name(store: Store, tmp_path: Path, name: str):
    from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
    from bundlecache.store import import_vectors

    with pytest.raises(BundlecacheError, match="name of an encoder"):
        import_vectors.read(tmp_path, Catalogue(names(3), [""] * 3, {}, Bundles(), Interactions()), "image", name)
