"""Tables on an object store: the rows of a local run, from any machine, and one sentence for what it refuses."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import object_store
from helpers.encode_shop import Shop, Toy, stored
from helpers.runner import printed_json
from helpers.shop import make_shop

from bundlecache.errors import BundlecacheError, StoreError
from bundlecache.store import location
from bundlecache.store.store import Store
from bundlecache.store.table_schema import Identity
from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store.serving() as url:
        yield url


@pytest.fixture
def options(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """How to reach it; the keys are in the environment."""
    for name, value in object_store.KEYS.items():
        monkeypatch.setenv(name, value)
    return object_store.options_of(endpoint)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"s3://shop/{tmp_path.name}"


def test_rows_on_an_object_store_equal_those_in_a_folder(tmp_path: Path, options: dict[str, str], address: str):
    here, there = Shop(tmp_path / "here", 12), Shop(tmp_path / "there", 12)
    location.set_location(there.workspace.store, address, options)
    for shop in (here, there):
        shop.put("item-3", "BAD")
        shop.put("item-5", "content 4")  # the same picture as another's
        receipt = shop.run()
        assert (receipt.encoded, receipt.failed, receipt.reused) == (11, 1, 1)
        assert shop.run().cached == 11
        shop.put("item-7", "edited")
        assert shop.run().encoded == 1
    assert there.rows() == here.rows()
    assert not list(there.workspace.store.glob("*.lance"))
    assert np.array_equal(there.vector("item-7"), stored("edited"))
    assert there.vector("item-3") is None
    assert there.errors() == here.errors()
    own, other = there.store.tables()[0], here.store.tables()[0]
    assert (own.table, own.rows, own.failed) == (other.table, other.rows, other.failed)
    assert own.size_bytes > 0


def test_a_second_machine_needs_the_address_alone(tmp_path: Path, options: dict[str, str], address: str):
    first, second = Shop(tmp_path / "first", 6), Shop(tmp_path / "second", 6)
    location.set_location(first.workspace.store, address, options)
    first.run()
    location.set_location(second.workspace.store, f"{address}/", options)
    assert np.array_equal(second.vector("item-2"), stored("content 2"))
    receipt = second.run()
    assert (receipt.cached, receipt.forwards) == (6, 0)


def test_two_machines_at_once_double_no_item(tmp_path: Path, options: dict[str, str], address: str):
    first, second = Shop(tmp_path / "first", 8), Shop(tmp_path / "second", 8)
    for shop in (first, second):
        location.set_location(shop.workspace.store, address, options)
    vectors = np.ones((1, Toy.dim), np.float16)
    with first.store.writer(Identity.of(Toy())) as table:
        table.write(["item-0"], ["a hash"], vectors)
        second.run()
        for item_id in ("item-0", "item-1"):  # would replace, would append
            with pytest.raises(StoreError, match="Another machine or program has written"):
                table.write([item_id], ["a hash"], vectors)
    assert first.run().cached == 8
    assert [row["item_id"] for row in first.rows()] == sorted(first.images)


class Slow(Toy):
    def encode(self, samples: list[bytes]) -> np.ndarray:
        time.sleep(0.05)
        return super().encode(samples)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, options: dict[str, str], address: str):
    shop, whole = Shop(tmp_path / "killed", 80), Shop(tmp_path / "whole", 80)
    location.set_location(shop.workspace.store, address, options)
    child = shop.start(__file__, forks=False)
    table, deadline = Identity.of(Toy()).table_name, time.monotonic() + 240
    tables = location.StoreLocation(shop.workspace.store)
    while time.monotonic() < deadline and child.poll() is None:
        if tables.has(table) and tables.dataset(table).count_rows() >= 8:
            break
        time.sleep(0.05)
    child.kill()
    child.communicate()
    receipt = shop.run()
    assert receipt.cached >= 8
    assert receipt.encoded > 0
    assert receipt.cached + receipt.encoded == 80
    whole.run()
    assert shop.rows() == whole.rows()


def test_every_verb_finds_the_tables_where_encode_put_them(tmp_path: Path, options: dict[str, str], address: str):
    root = make_shop(tmp_path / "shop")
    reach = [part for name, value in options.items() for part in ("--store-option", f"{name}={value}")]
    assert printed_json("encode", "--modality", "text", "--data", root, "--store", address, *reach)[0]["encoded"] > 0
    assert not list((root / "store").glob("*.lance"))
    assert "secret" not in (root / "store" / location.LOCATION_FILE).read_text()
    rows = printed_json("status", "--data", root)["store"][0]["rows"]
    assert rows > 0
    for verb in (("verify", "--sample", "0"), ("compact",), ("export", "--out", tmp_path / "out"), ("candidates",)):
        assert printed_json(*verb, "--data", root)
    assert len(list((tmp_path / "out").glob("text--*.parquet"))) == 1
    joined = make_shop(tmp_path / "joined")
    assert printed_json("status", "--data", joined, "--store", address, *reach)["store"][0]["rows"] == rows


def test_what_the_object_store_refuses_is_one_sentence_soon(tmp_path: Path, options: dict[str, str], address: str):
    root = tmp_path / "store"
    for where, changes, words in (
        ("s3://no-such-bucket/shop", {}, "NoSuchBucket"),
        (address, {"endpoint": "http://127.0.0.1:1"}, "nothing answers there"),
    ):
        began = time.monotonic()
        with pytest.raises(StoreError, match=words):
            location.set_location(root, where, {**options, **changes})
        assert time.monotonic() - began < 60  # minutes of retries would be more
    assert not (root / location.LOCATION_FILE).exists()
    shop = Shop(tmp_path, 3)
    location.set_location(root, address, options)
    shop.run()
    note = json.loads((root / location.LOCATION_FILE).read_text())
    note["options"]["endpoint"] = "http://127.0.0.1:1"
    (root / location.LOCATION_FILE).write_text(json.dumps(note))
    for action in (shop.run, shop.store.tables):
        with pytest.raises(StoreError, match="nothing answers there"):
            action()


def test_addresses_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, str], address: str):
    for where, given, words in (
        ("shop/vectors", options, "no address of an object store"),
        (address, {"secret_access_key": "x"}, "is a secret"),
    ):
        with pytest.raises(StoreError, match=words):
            location.set_location(tmp_path / "store", where, given)
    shop = Shop(tmp_path, 2)
    shop.run()
    with pytest.raises(StoreError, match="tables of its own"):
        location.set_location(shop.workspace.store, address, options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / location.LOCATION_FILE).write_text("{")
    with pytest.raises(StoreError, match="does not say where"):
        Store(tmp_path / "other").tables()
    root = make_shop(tmp_path / "shop")
    for given, words in (
        (["--store", address, "--store-option", "region"], "NAME=VALUE"),
        (["--store-option", "region=x"], "without --store"),
    ):
        with pytest.raises(BundlecacheError, match=words):
            printed_json("status", "--data", root, *given)


if __name__ == "__main__":
    child = Shop.reopen(WorkspaceFolder(Path(sys.argv[1])).root)
    child.run(Slow(), commit_rows=4, commit_seconds=0.1)
