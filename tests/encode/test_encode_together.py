"""Several encoders in one pass: one read for all that read alike, and everything else as if each had run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.encode_shop import Nodes, Shop, Titles, Toy

from bundlecache.encode.progress import Progress
from bundlecache.errors import EncoderError, MediaError
from bundlecache.store.table_schema import Identity


class Watched(Toy):
    """Notes what it reads; its vectors are the toy's, turned by ``turn`` places."""

    turn = 0

    def __init__(self, spec: str, **changes: Any) -> None:
        super().__init__(spec=f"toy:{spec}", **changes)
        self.reads: list[str] = []

    def read(self, source: Path | str) -> bytes:
        self.reads.append(Path(source).read_text())
        return super().read(source)

    def vector(self, content: bytes) -> np.ndarray:
        return np.roll(super().vector(content), self.turn)


class Picky(Watched):
    def prepare(self, raw: bytes) -> bytes:
        if raw == b"content 2":
            raise MediaError("too small for this one")
        return raw


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path / "shop", 11)
    shop.put("bad", "BAD")
    shop.put("poison", "POISON")
    shop.put("twin", "content 3")
    return shop


def both() -> tuple[Watched, Picky]:
    return Watched("a", batch_size=4), Picky("b", batch_size=3, turn=5, dim=10)


def test_one_pass_stores_what_separate_runs_store_and_reads_each_file_once(shop: Shop, tmp_path: Path) -> None:
    apart = Shop(tmp_path / "apart", 0)
    for item_id, uri in shop.images.items():
        apart.put(item_id, (shop.workspace.root / str(uri)).read_text())
    a, b = both()
    receipts = shop.run_all(a, b)
    alone = [apart.run(encoder) for encoder in both()]
    for encoder, one, other in zip((a, b), receipts, alone, strict=True):
        assert shop.rows(encoder) == apart.rows(encoder)
        assert shop.errors(encoder) == apart.errors(encoder)
        counts = ("spec", "table", "items", "encoded", "cached", "failed", "absent", "forwards", "reused")
        assert [getattr(one, name) for name in counts] == [getattr(other, name) for name in counts]
    assert set(shop.errors(b)) - set(shop.errors(a)) == {"item-2"}
    assert len(a.reads) == len(set(a.reads)) == 13, "each content once"
    assert b.reads == [], "what reads alike shares a read"
    assert shop.store.current("image").table == Identity.of(b).table_name, "as if the last had run last"
    assert [receipt["spec"] for receipt in shop.store.receipts()] == ["toy:a", "toy:b"]


def test_what_one_encoder_has_is_read_for_the_other_only(shop: Shop) -> None:
    a, b = both()
    shop.run(a, limit=6)
    shop.put("item-1", "edited")
    a, b = both()
    first, second = shop.run_all(a, b)
    assert (first.cached, second.cached) == (5, 0)
    assert len(a.reads) + len(b.reads) == 13
    assert a.batches != b.batches
    assert "content 0" in b.reads
    assert "content 0" not in a.reads
    assert "edited" in a.reads + b.reads
    again = shop.run_all(*both())
    assert [(receipt.forwards, receipt.cached, receipt.failed) for receipt in again] == [(0, 12, 2), (0, 11, 3)]


def test_encoders_that_read_differently_read_each_for_themselves(shop: Shop) -> None:
    a, b = both()
    b.reading = "other bytes"
    shop.run_all(a, b)
    assert sorted(a.reads) == sorted(b.reads)


def test_a_failed_read_fails_for_all_and_a_broken_encoder_stops_the_run_without_loss(shop: Shop) -> None:
    class Broken(Watched):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            if any(sample.startswith(b"late") for sample in samples):
                raise RuntimeError("no kernel image")
            return super().encode(samples)

    for i in range(80):
        shop.put(f"late-{i}", f"late {i}")
    a, b = Watched("a"), Broken("b")
    with pytest.raises(EncoderError, match="toy:b failed on 32 items in a row"):
        shop.run_all(a, b)
    stored = len(shop.rows(a))
    assert len(shop.rows(b)) == 12
    assert stored >= 12 + 32
    assert shop.errors(a)["bad"] == ("decode", "the picture is cut off")
    receipt = shop.run(Watched("a"))
    assert (receipt.cached, receipt.encoded, receipt.failed) == (stored, 92 - stored, 2)


def test_too_many_errors_of_one_encoder_stop_the_run(shop: Shop) -> None:
    with pytest.raises(EncoderError, match="3 items failed and 2 were allowed"):
        shop.run_all(*both(), max_errors=2)


def test_progress_counts_an_item_once_for_each_encoder(shop: Shop) -> None:
    seen: list[Progress] = []
    receipts = shop.run_all(*both(), progress=seen.append)
    assert (seen[-1].done, seen[-1].total, seen[-1].spec) == (28, 28, "toy:a + toy:b")
    assert seen[-1].failed == sum(receipt.failed for receipt in receipts) == 5
    for receipt in receipts:
        assert 0 <= receipt.decode_share + receipt.forward_share + receipt.write_share <= 1


def test_encoders_of_different_modalities_or_twice_the_same_are_refused(shop: Shop) -> None:
    with pytest.raises(EncoderError, match="one modality, not image and text"):
        shop.run_all(Toy(), Titles())
    with pytest.raises(EncoderError, match="given twice: toy:bytes, toy:bytes"):
        shop.run_all(Toy(), Toy())


def test_each_graph_knows_its_own_items(shop: Shop) -> None:
    class Other(Nodes):
        spec = "toy:other"

        def has(self, item_id: str) -> bool:
            return item_id not in ("item-3", "item-4", "item-5")

    assert [receipt.absent for receipt in shop.run_all(Nodes(), Other())] == [1, 3]


def test_token_features_are_stored_beside_vectors_of_the_same_pass(shop: Shop) -> None:
    class Tokens(Watched):
        tokens = 3

        def encode(self, samples: list[bytes]) -> np.ndarray:
            return np.stack([super(Tokens, self).encode(samples) + 1000 * t for t in range(3)], axis=1)

    tokens = Tokens("tokens", dtype="float32")
    shop.run_all(tokens, Watched("a", dtype="float32"))
    ids = ["item-0", "item-7"]
    stored = shop.store.matrix(ids, "image", "toy:tokens").vectors  # [2, t, d]
    plain = shop.store.matrix(ids, "image").vectors  # [2, d]
    np.testing.assert_array_equal(stored, plain[:, None] + np.array([0, 1000, 2000], np.float32)[None, :, None])


def test_decoding_threads_compute_alone_and_the_encoder_keeps_its_threads(shop: Shop) -> None:
    torch = pytest.importorskip("torch")
    before, seen = torch.get_num_threads(), set()

    class Torch(Toy):
        def prepare(self, raw: bytes) -> bytes:
            seen.add(torch.get_num_threads())
            return raw

    torch.set_num_threads(3)
    try:
        shop.run(Torch())
        assert (seen, torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(before)
