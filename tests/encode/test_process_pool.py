"""One encoder process per device: the rows of one process, and one sentence when a process dies."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
from helpers import pool_encoders as pool_world
from helpers.encode_shop import Shop
from helpers.paths import TOP
from helpers.runner import invoke, succeed
from helpers.shop import make_shop

from bundlecache.encode.process_pool import ProcessPool
from bundlecache.encode.progress import Progress
from bundlecache.errors import BundlecacheError, EncoderError
from bundlecache.store.store import Store

HERE = str(TOP / "tests")


def test_several_processes_leave_the_rows_failures_and_receipts_of_one(tmp_path: Path):
    with ProcessPool(pool_world.toys, ["cpu", "cpu"], workers=1) as pool:
        shop = pool_world.make(tmp_path / "pool")
        pool_world.check_equal(pool_world.make(tmp_path / "alone"), shop, pool)
        shop.put("item-11", "edited")
        assert [receipt.encoded for receipt in shop.run_all(*pool.encoders, pool=pool)] == [1, 1]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children(), "they end before the block is left"


def test_a_process_that_dies_is_one_sentence_and_what_is_stored_stays(tmp_path: Path):
    shop = Shop(tmp_path, 100)
    shop.put("item-90", "DIE")
    with (
        ProcessPool(pool_world.deadly, ["cpu"], workers=1) as pool,
        pytest.raises(EncoderError, match=r"process of cpu has died.*was encoded is stored"),
    ):
        shop.run_all(*pool.encoders, pool=pool)
    before = len(shop.rows())
    assert 0 < before < 100
    shop.put("item-90", "harmless")
    with ProcessPool(pool_world.deadly, ["cpu"], workers=1) as pool:
        (receipt,) = shop.run_all(*pool.encoders, pool=pool)
    assert (receipt.cached, receipt.encoded) == (before, 100 - before)


def test_ctrl_c_waits_for_nobody_and_keeps_what_came_home(tmp_path: Path):
    shop = Shop(tmp_path, 100)
    for place in range(32, 100):  # the first part is 32 items
        shop.put(f"item-{place}", f"SLOW {place}")

    def interrupt(progress: Progress) -> None:
        if progress.encoded:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ProcessPool(pool_world.slow, ["cpu"], workers=1) as pool:
        shop.run_all(*pool.encoders, pool=pool, progress=interrupt)
    assert time.monotonic() - began < 150
    assert not multiprocessing.active_children()
    assert len(shop.rows(pool_world.Slow())) == 32


def test_a_broken_encoder_is_told_once_and_nothing_is_held_against_the_items(tmp_path: Path):
    shop = Shop(tmp_path, 80)
    with (
        ProcessPool(pool_world.broken, ["cpu"], workers=1) as pool,
        pytest.raises(EncoderError, match=r"32 items in a row: ValueError: no kernel image"),
    ):
        shop.run_all(*pool.encoders, pool=pool)
    assert shop.errors() == {}
    with pytest.raises(EncoderError, match="names no folder") as caught:
        ProcessPool(pool_world.missing, ["cpu"], workers=1)
    assert caught.value.hint == "type another"
    with pytest.raises(EncoderError, match="cpu and meta would make different vectors"):
        ProcessPool(pool_world.by_device, ["cpu", "meta"], workers=1)


def test_the_limit_of_errors_stops_a_crew_too(tmp_path: Path):
    shop = Shop(tmp_path, 120)
    for place in range(40):
        shop.put(f"item-{place}", f"BAD {place}")
    with (
        ProcessPool(pool_world.toys, ["cpu"], workers=1) as pool,
        pytest.raises(EncoderError, match="5 were allowed"),
    ):
        shop.run_all(*pool.encoders, pool=pool, max_errors=5)


def test_no_process_outlives_the_one_that_writes(tmp_path: Path):
    shop = Shop(tmp_path, 1)
    parent = shop.start(__file__)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, children)):
        assert time.monotonic() < deadline, "an encoder process is an orphan"
        time.sleep(0.05)
    parent.communicate()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_the_command_takes_a_list_of_devices(tmp_path: Path):
    one, two = make_shop(tmp_path / "one"), make_shop(tmp_path / "two")
    succeed("encode", "--modality", "image", "--data", one)
    succeed("encode", "--modality", "image", "--data", two, "--device", "cpu,cpu")
    tables = [Store(root / "store") for root in (one, two)]
    rows = [sorted(s.dataset(s.current("image")).to_table().to_pylist(), key=lambda r: r["item_id"]) for s in tables]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "spark"], "no engine 'spark'"),
        (["--engine", "ray", "--device", "cuda:0,cuda:1"], "finds the GPUs of its cluster itself"),
        (["--ray-address", "head:6379"], "without --engine ray"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(tmp_path: Path, options: list[str], words: str):
    result = invoke("encode", "--modality", "image", "--data", make_shop(tmp_path), *options)
    assert isinstance(result.exception, BundlecacheError)
    assert words in str(result.exception)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    with ProcessPool(pool_world.toys, ["cpu", "cpu"], workers=1):
        sys.stdout.write(" ".join(str(child.pid) for child in multiprocessing.active_children()) + "\n")
        sys.stdout.flush()
        time.sleep(60)
