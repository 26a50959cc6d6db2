"""A server under load: a full queue, a reload, and the end by SIGTERM lose no request without a word."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from helpers.paths import TOP
from helpers.server import WAIT_SECONDS, Client, free_port, serving

from bundlecache.project.serving.cart import Cart
from bundlecache.serve.batching import Batcher, Job, QueueFullError, StoppedError
from bundlecache.serve.figures_folder import LOCK, remove_left_over
from bundlecache.serve.metrics import Metrics
from bundlecache.serve.settings import ServeSettings
from bundlecache.serve.state import Serving, collect

ENDED = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
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


def test_reloads_share_a_load_free_the_old_state_and_other_runs_follow(trained: Path, tmp_path: Path):
    root = shutil.copytree(trained, tmp_path / "shop")
    shutil.copytree(root / "runs" / "first", root / "runs" / "second")
    (root / "runs" / "latest").write_text("second", "utf-8")
    metrics, gate = Metrics(), threading.Event()
    state = Serving(ServeSettings(str(root)), metrics, lambda: None)

    async def go():
        await state.in_loader(state.load)
        old, busy = state.ready(), asyncio.create_task(state.in_loader(lambda: gate.wait(20)))
        reloads = [asyncio.create_task(state.reload()) for _ in range(5)]
        await asyncio.sleep(0)
        other = asyncio.create_task(state.chosen("first"))  # asked for while the reload is under way
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(busy, *reloads)
        assert (await other).session is state.ready().session
        return weakref.ref(old)

    old = run_async(go())
    assert metrics.registry.get_sample_value("bundlecache_reloads_total", {"result": "done"}) == 2
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


@contextmanager
def started(trained: Path, tmp_path: Path, *more: str):
    """The command line's own server, in processes of its own, with the temporary files in a folder of the test."""
    port = free_port()
    command = [sys.executable, "-m", "bundlecache.cli", "serve", "--data", str(trained), "--port", str(port), *more]
    log, environment = tmp_path / "log", {**os.environ, "TMPDIR": str(tmp_path)}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=TOP, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process, Client(port), log
        finally:
            process.kill()
            process.wait()


def test_two_workers_answer_count_together_and_finish_on_sigterm(trained: Path, tmp_path: Path):
    bundles = {"bundles": [{"items": GIVEN, "options": 20}] * 64}
    with started(trained, tmp_path, "--workers", "2") as (process, client, log), ThreadPoolExecutor(4) as pool:
        until = time.monotonic() + WAIT_SECONDS
        while log.read_text().count("answering with run first") < 2 and time.monotonic() < until:
            time.sleep(0.1)
        (folder,) = tmp_path.glob("bundlecache-metrics-*")
        workers = sorted({int(path.stem.rpartition("_")[2]) for path in folder.glob("*.db")})
        assert len(workers) == 2
        for other in workers:  # does not answer for a moment
            os.kill(other, signal.SIGSTOP)
            try:
                assert client.complete(GIVEN).json["run"] == "first"
            finally:
                os.kill(other, signal.SIGCONT)
        figures = client.get("/metrics").body.decode()
        assert 'bundlecache_requests_total{endpoint="/complete",status="200"} 2.0' in figures
        asked = [pool.submit(client.ask, "POST", "/complete/batch", bundles) for _ in range(4)]
        time.sleep(0.3)  # they are under way
        process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
        assert process.wait(60) in ENDED
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        assert not folder.exists()
    assert [len(answer.json["answers"]) for answer in answers] == [64] * 4
    assert "Traceback" not in log.read_text()


def test_what_a_dead_worker_counted_stays_and_its_queue_goes(tmp_path: Path):
    script = """
import os
from bundlecache.serve.metrics import Metrics
metrics = Metrics()
if not (child := os.fork()):
    metrics.queue.set(5)
    metrics.batches.observe(3)
    os._exit(0)
os.waitpid(child, 0)
metrics.queue.set(2)
print(metrics.summary(), end="")
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=TOP, env=environment, capture_output=True, text=True)
    assert "waiting: 2\n" in done.stdout, done.stderr
    carts = done.stdout.splitlines()[-1].split()
    assert carts == ["all", "1", "3.00", "3", "4", "4"], "carts are whole, so are their quantiles"


def test_the_figures_of_a_killed_server_are_removed_and_those_of_a_living_one_stay(tmp_path: Path):
    left, living = tmp_path / "bundlecache-metrics-1", tmp_path / "bundlecache-metrics-2"
    for folder in (left, living):
        folder.mkdir()
        (folder / "counter_1.db").touch()
    with FileLock(living / LOCK):
        for folder in (left, living):
            os.utime(folder, (0, 0))
        remove_left_over(tmp_path)
    assert (left.exists(), living.exists()) == (False, True)


def test_a_server_that_cannot_load_ends_with_one_sentence(tmp_path: Path):
    command = [sys.executable, "-m", "bundlecache.cli", "serve", "--data", str(tmp_path), "--port", str(free_port())]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds no items" in done.stderr
    assert "Traceback" not in done.stderr
