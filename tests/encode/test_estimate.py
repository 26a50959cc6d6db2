"""`encode --dry-run` and `--limit`: what would be encoded, without storing anything; receipts of a part balance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.encode_shop import Nodes, Shop, Titles, Toy

from bundlecache.encode import estimate
from bundlecache.encode.estimate import Estimate, estimate_all
from bundlecache.errors import EncoderError
from bundlecache.store.table_schema import Identity


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, 20)


def look(shop: Shop, *encoders: Toy, **options: Any) -> list[Estimate]:
    found = estimate_all(encoders or [Toy()], shop.catalogue, shop.workspace, shop.store, **options)
    assert all(each.balances for each in found)
    return found


def counts(found: Estimate) -> tuple[int, ...]:
    return found.items, found.to_encode, found.cached, found.failed, found.absent, found.contents


def test_a_dry_run_says_what_the_run_then_does_and_stores_nothing(shop: Shop) -> None:
    shop.run()
    shop.put("item-3", "edited")  # other content
    shop.put("item-4", "content 7")  # a copy of a stored row
    shop.put("new-1", "fresh")
    shop.put("new-2", "fresh")  # two items, one content
    shop.images["item-5"] = None  # nothing to encode
    shop.images["item-6"] = "images/gone.bin"  # cannot be read
    before = {path: path.stat().st_mtime_ns for path in shop.workspace.store.rglob("*") if path.is_file()}
    (found,) = look(shop)
    after = {path: path.stat().st_mtime_ns for path in shop.workspace.store.rglob("*") if path.is_file()}
    assert counts(found) == (22, 4, 16, 1, 1, 2)
    assert {path for path in after if before.get(path) != after[path]} <= {
        shop.workspace.store / "hashes/image.parquet"
    }
    receipt = shop.run()
    assert (receipt.encoded, receipt.cached, receipt.failed, receipt.absent) == (4, 16, 1, 1)
    assert receipt.forwards == 1, "both contents are one batch; the copy costs no forward"
    assert counts(look(shop)[0]) == (22, 0, 20, 1, 1, 0)


def test_failures_of_before_are_not_tried_unless_asked_for(shop: Shop) -> None:
    shop.put("item-2", "BAD")
    shop.run()
    assert counts(look(shop)[0]) == (20, 0, 19, 1, 0, 0)
    assert counts(look(shop, retry_failed=True)[0]) == (20, 1, 19, 0, 0, 1)


def test_the_time_is_that_of_a_sample_which_is_really_encoded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SAMPLE_PARTS", 1)
    monkeypatch.setattr(estimate, "PART_BATCHES", 2)
    shop.put("item-2", "BAD")
    encoder = Toy(batch_size=4)
    (found,) = look(shop, encoder)
    assert found.sampled == 8, "a batch to warm up, and a part of two batches"
    assert sum(encoder.batches) in (11, 12), "the bad picture may be among the sample"
    assert found.seconds == pytest.approx(found.contents / found.contents_per_second)
    (twice,) = look(shop, encoder, devices=2)
    assert twice.contents_per_second
    assert twice.seconds


def test_a_broken_encoder_shows_in_the_dry_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 0)
    for i in range(40):
        shop.put(f"item-{i}", f"POISON {i}")
    with pytest.raises(EncoderError, match="failed on 32 items in a row"):
        look(shop, Toy(batch_size=64))


def test_texts_and_graphs_count_what_they_lack_as_absent(shop: Shop) -> None:
    texts, nodes = Titles(), Nodes()
    assert counts(look(shop, texts)[0]) == (20, 19, 0, 0, 1, 19)
    (graph,) = look(shop, nodes)
    assert counts(graph) == (20, 19, 0, 0, 1, 19)
    assert (graph.seconds, graph.measured, nodes.batches) == (None, "", []), "a graph is learned as a whole"
    nodes.measure_learning = lambda: (38.0, "2 of at most 9 passes")  # type: ignore[attr-defined]
    (graph,) = look(shop, nodes)
    assert (graph.seconds, graph.measured, graph.sampled) == (pytest.approx(38.0), "2 of at most 9 passes", 0)
    shop.run(nodes)
    assert look(shop, nodes)[0].seconds is None, "nothing is left to learn"


def test_encoders_of_one_modality_are_estimated_each_by_its_own_table(shop: Shop) -> None:
    one, other = Toy(spec="toy:one"), Toy(spec="toy:other", dim=6)
    shop.run(one)
    first, second = look(shop, one, other)
    assert (first.spec, first.cached, first.to_encode) == ("toy:one", 20, 0)
    assert (second.spec, second.cached, second.to_encode) == ("toy:other", 0, 20)


def test_the_bytes_are_those_that_the_run_then_writes(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 3000)
    wide = Toy(dim=512, batch_size=512)
    wide.vector = lambda content: np.random.default_rng(len(content)).normal(size=512).astype(np.float32)  # type: ignore[method-assign]
    (found,) = look(shop, wide)
    shop.run(wide)
    size = sum(path.stat().st_size for path in (shop.workspace.store / f"{found.table}.lance" / "data").iterdir())
    assert 0.9 < found.table_bytes / size < 1.1
    shop.store.matrix(shop.catalogue.item_ids, "image")
    made = next((shop.workspace.store / "matrices" / Identity.of(wide).table_name).glob("*-*"))
    size = sum((made / name).stat().st_size for name in ("vectors.npy", "mask.npy"))
    assert found.matrix_bytes == pytest.approx(size, abs=512)


def test_a_limited_run_balances_over_its_items_and_says_the_limit(shop: Shop) -> None:
    assert look(shop, limit=5)[0].items == 5
    receipt = shop.run(limit=5)
    assert (receipt.limit, receipt.items, receipt.encoded) == (5, 5, 5)
    assert shop.store.receipts()[-1]["limit"] == 5
    assert look(shop, limit=7)[0].to_encode == 2
    receipt = shop.run()
    assert (receipt.limit, receipt.items, receipt.encoded, receipt.cached) == (None, 20, 15, 5)
