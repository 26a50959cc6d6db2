"""Fragments that other processes write: committed once, by the table's writer, or never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.encode_shop import Shop, Toy
from helpers.pool_encoders import check_equal, make, toys

from bundlecache.encode.worker import Worker
from bundlecache.errors import StoreError
from bundlecache.store.table_schema import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bundlecache.encode.encoder import EncoderInfo
    from bundlecache.encode.protocol import Part, PartResult
    from bundlecache.store.fragments import FragmentTarget

NAMES = [f"item-{i}" for i in range(40)]
HASHES = [f"hash {i}" for i in range(40)]
VECTORS = np.random.default_rng(0).standard_normal((40, Toy.dim)).astype(np.float16)


class HerePool:
    """Workers that write fragments, in this process: what `--engine ray` runs on other machines."""

    size, writes = 2, True

    def __init__(self) -> None:
        self.encoders: list[EncoderInfo] = Worker(toys, "cpu", 1).describe()

    def map(self, parts: Iterable[Part], targets: Sequence[FragmentTarget] = ()) -> Iterator[list[PartResult]]:
        worker = Worker(toys, "cpu", 1, targets)
        yield from map(worker.encode, parts)

    def __enter__(self) -> HerePool:
        return self

    def __exit__(self, *exception: object) -> None: ...


def data_files(shop: Shop) -> int:
    return len(list(shop.workspace.store.glob("*.lance/data/*.lance")))


def test_writing_workers_leave_the_rows_and_receipts_of_one_process(tmp_path: Path):
    alone, together = make(tmp_path / "alone"), make(tmp_path / "together")
    check_equal(alone, together, HerePool())
    for shop in (alone, together):  # of these, two have a row that a fragment cannot replace
        shop.put("item-5", "edited")
        shop.put("item-6", "new here")
        shop.put("item-new", "new here")
    one, other = alone.run_all(*toys("cpu")), together.run_all(*HerePool().encoders, pool=HerePool())
    assert [(r.encoded, r.cached, r.reused) for r in one] == [(r.encoded, r.cached, r.reused) for r in other]
    for toy in toys("cpu"):
        assert together.rows(toy) == alone.rows(toy)


def test_workers_write_the_rows_and_send_back_none(tmp_path: Path):
    shop = Shop(tmp_path, 20)
    sent: list[PartResult] = []

    class Watched(HerePool):
        def map(self, parts: Iterable[Part], targets: Sequence[FragmentTarget] = ()) -> Iterator[list[PartResult]]:
            for results in super().map(parts, targets):
                sent.extend(results)
                yield results

    shop.run_all(*Watched().encoders, pool=Watched())
    assert sum(len(result.written) for result in sent) == 40
    assert not any(result.rows for result in sent)


def test_fragments_that_nobody_committed_are_lost_and_removed(tmp_path: Path):
    shop, whole = Shop(tmp_path / "killed", 40), Shop(tmp_path / "whole", 40)
    with shop.store.writer(Identity.of(Toy())) as table:
        table.target().write(NAMES[:20], HASHES[:20], VECTORS[:20])
    assert data_files(shop) == 1
    assert shop.store.tables()[0].rows == 0
    assert shop.run().encoded == 40
    whole.run()
    assert shop.rows() == whole.rows()
    assert data_files(shop) == data_files(whole)


def test_one_commit_holds_the_fragments_of_all_workers(tmp_path: Path):
    shop = Shop(tmp_path, 0)
    with shop.store.writer(Identity.of(Toy())) as table:
        target = table.target()
        made = [target.write(NAMES[low : low + 10], HASHES[low : low + 10], VECTORS[low : low + 10]) for low in (0, 10)]
        before = shop.store.location.dataset(table.name).version
        table.append_fragments([fragment for part in made for fragment in part], NAMES[:20])
        assert shop.store.location.dataset(table.name).version == before + 1
    rows = shop.store.location.dataset(table.name).to_table()
    assert rows["item_id"].to_pylist() == NAMES[:20]


@pytest.mark.parametrize("fault", ["twice", "fewer rows than said", "another row's vector"])
def test_a_wrong_fragment_is_taken_back(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch):
    shop = Shop(tmp_path, 0)
    with shop.store.writer(Identity.of(Toy())) as table:
        table.write(NAMES[:10], HASHES[:10], VECTORS[:10])
        target = table.target()
        if fault == "another row's vector":
            target = replace(target, keyed=False)  # the checksum then fits no row of this table
        low = 5 if fault == "twice" else 10
        made = target.write(NAMES[low:20], HASHES[low:20], VECTORS[low:20])
        said = NAMES[low:25] if fault.startswith("fewer") else NAMES[low:20]
        with pytest.raises(StoreError, match="did not read back"):
            table.append_fragments(made, said)
    assert [row["item_id"] for row in shop.rows()] == sorted(NAMES[:10])
