"""A server under load: a full queue, a reload, and the end by SIGTERM lose no request without a word."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.paths import TOP
from helpers.server import Client, free_port, serving

from bundlecache.project.serving.cart import Cart
from bundlecache.serve.batching import Batcher, Job, QueueFullError, StoppedError
from bundlecache.serve.metrics import Metrics
from bundlecache.serve.settings import ServeSettings
from bundlecache.serve.state import Serving, collect

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = ["item-02", "item-04"]


def run_async(work):
    return asyncio.run(asyncio.wait_for(work, 30))


def test_whoever_waits_while_a_batch_runs_is_in_the_next_one():
    sizes = []

    async def go():
        batcher = Batcher(
            lambda jobs: [time.sleep(0.05) or [cart * 2 for cart in job.carts] for job in jobs],
            queue=100,
            batch=8,
            tell=sizes.append,
        )
        batcher.start()
        found = await asyncio.gather(*(batcher.ask(None, [n], 10) for n in range(12)))
        await batcher.stop()
        return found

    assert run_async(go()) == [[n * 2] for n in range(12)]
    assert sizes == [8, 4]


def test_a_full_queue_refuses_a_stopped_one_too_and_what_waits_is_answered():
    async def go():
        gate = threading.Event()
        batcher = Batcher(
            lambda jobs: gate.wait(20) and [list(job.carts) for job in jobs], queue=3, batch=1, tell=lambda _: None
        )
        batcher.start()
        asked = []
        for n in range(4):  # one is under way, three wait
            asked.append(asyncio.create_task(batcher.ask(None, [n], 20)))
            await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError) as full:
            await batcher.ask(None, [9], 20)
        asked[3].cancel()  # a client that went away
        gate.set()
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(StoppedError):
            await batcher.ask(None, [9], 20)
        await stopping
        return full.value.retry_after, [task.result() for task in asked[:3]]

    assert run_async(go()) == (1, [[0], [1], [2]])


def test_one_broken_batch_does_not_end_the_server():
    async def go():
        def work(jobs):
            if jobs[0].carts == [0]:
                raise ValueError("broken")
            return [list(job.carts) for job in jobs]

        batcher = Batcher(work, queue=10, batch=1, tell=lambda _: None)
        batcher.start()
        with pytest.raises(ValueError, match="broken"):
            await batcher.ask(None, [0], 10)
        found = await batcher.ask(None, [1], 10)
        await batcher.stop()
        return found

    assert run_async(go()) == [1]


def test_more_clients_than_may_wait_are_told_when_to_come_again(trained: Path):
    with serving(trained, queue=1, batch=1) as client, ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: client.complete(GIVEN, why=False), range(72)))
    statuses = {answer.status for answer in answers}
    assert statuses == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert "wait already" in refused.json["error"]


def test_a_new_run_takes_over_under_load_and_no_request_fails(trained: Path, tmp_path: Path):
    root = shutil.copytree(trained, tmp_path / "shop")
    with serving(root, watch_seconds=0.2) as client:
        ended, answers = threading.Event(), []

        def load():
            while not ended.is_set():
                answers.append(client.complete(GIVEN, why=False))

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        shutil.copytree(root / "runs" / "first", root / "runs" / "second")
        (root / "runs" / "latest").write_text("second", "utf-8")  # noticed without being told
        until = time.monotonic() + 60
        while client.get("/health/ready").json["run"] != "second" and time.monotonic() < until:
            time.sleep(0.05)
        told = client.ask("POST", "/reload").json  # and on demand
        ended.set()
        for thread in threads:
            thread.join()
        side_by_side = [client.complete(GIVEN, run=run).json["run"] for run in ("first", "second")]
    assert (told["run"], told["changed"]) == ("second", False)
    assert side_by_side == ["first", "second"]
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["run"] for answer in answers} == {"first", "second"}


def test_a_workspace_that_broke_is_not_taken_over(trained: Path, tmp_path: Path):
    root = shutil.copytree(trained, tmp_path / "shop")
    with serving(root) as client:
        (root / "items.parquet").write_bytes(b"damaged")
        refused = client.ask("POST", "/reload")
        assert (refused.status, set(refused.json)) == (503, {"error", "hint"})
        assert "shop/items.parquet" in refused.json["error"]
        assert str(root) not in refused.json["error"], "where files lie is told to nobody"
        assert client.complete(GIVEN).status == 200


def test_a_reload_frees_the_old_state_and_other_runs_are_loaded_for_the_new_one(trained: Path, tmp_path: Path):
    root = shutil.copytree(trained, tmp_path / "shop")
    shutil.copytree(root / "runs" / "first", root / "runs" / "second")
    (root / "runs" / "latest").write_text("second", "utf-8")
    state = Serving(ServeSettings(str(root)), Metrics(), lambda: None)

    async def go():
        await state.in_loader(state.load)
        old, reload = state.ready(), asyncio.create_task(state.in_loader(state.load))
        await asyncio.sleep(0)
        other = await state.chosen("first")  # asked for while the reload is under way
        assert other.session is state.ready().session
        assert await reload
        return weakref.ref(old)

    old = run_async(go())
    state.end()
    until = time.monotonic() + 30
    while old() is not None and time.monotonic() < until:
        time.sleep(0.1)  # until its calibration has ended
        collect()
    assert old() is None, "the old model stays in memory"


def test_a_request_that_fails_harms_none_of_those_answered_with_it(trained: Path):
    state = Serving(ServeSettings(str(trained)), Metrics(), lambda: None)
    state.load()
    state.end()
    resident, done = state.ready(), Future()
    carts = [resident.cart(GIVEN), Cart(np.array([10**6])), resident.cart(GIVEN)]
    first, broken, third = state._answer([Job(resident, [cart], done) for cart in carts])
    assert isinstance(broken, IndexError)
    assert len(first[0].items) == len(third[0].items) == 5
    resident.matrices = {**resident.matrices, "text:again": resident.matrices["text"]}
    assert resident.search.find("warmest").searched == "meaning", "of two fields of a text, one is searched"


@pytest.fixture
def started(trained: Path, tmp_path: Path):
    """The command line's own server, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "bundlecache.cli", "serve", "--data", str(trained), "--port", str(port)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, cwd=TOP, stdout=log, stderr=subprocess.STDOUT)
    client = Client(port)
    try:
        client.wait_ready()
        yield process, client, tmp_path / "log"
    finally:
        process.kill()
        process.wait()


def test_sigterm_finishes_what_is_under_way(started):
    process, client, log = started
    bundles = {"bundles": [{"items": GIVEN, "options": 20}] * 64}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.ask, "POST", "/complete/batch", bundles) for _ in range(4)]
        time.sleep(0.3)  # they are under way
        process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
    assert process.wait(30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    assert {answer.status for answer in answers} == {200}
    assert all(len(answer.json["answers"]) == 64 for answer in answers)
    assert "Traceback" not in log.read_text()


def test_a_server_that_cannot_load_ends_with_one_sentence(tmp_path: Path):
    command = [sys.executable, "-m", "bundlecache.cli", "serve", "--data", str(tmp_path), "--port", str(free_port())]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds no items" in done.stderr
    assert "Traceback" not in done.stderr
