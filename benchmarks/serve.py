"""Measures `bundlecache serve` on the demo: latency, requests a second, memory over 10,000 requests, cold start.

    python benchmarks/serve.py --quick     # about two minutes on two cores
    python benchmarks/serve.py --data shop # a workspace with a run, in place of the demo trained for a few steps

Three servers answer the same carts, one after the other, each in a process of its own: the server, the server with
``--batch 1``, and a naive one, which calls `run.complete` of a loaded run for every request (20 lines of FastAPI, below).
The clients run on the same cores. Beside the wall-clock figures stand the server's processor milliseconds per request,
which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

TOP = Path(__file__).resolve().parent.parent
SETTINGS = {"text_stage.steps": 5, "fusion_stage.steps": 5, "fusion_stage.contrastive_steps": 2}
CLIENTS = (1, 8, 32)
TICKS = os.sysconf("SC_CLK_TCK")
SERVERS = {
    "batched": ["-m", "bundlecache.cli", "serve", "--queue", "1000"],
    "one by one": ["-m", "bundlecache.cli", "serve", "--queue", "1000", "--batch", "1"],
    "naive": [__file__, "--naive"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--data", type=Path, help="a workspace with a run")
    parser.add_argument("--memory", type=int, default=10_000, help="requests over which memory is watched")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--naive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.naive:
        naive(options.data, options.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or prepared(Path(folder))
        found = measure(data, 200 if options.quick else 1000, options.memory)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    show(found)


def prepared(folder: Path) -> Path:
    """The demo catalogue, encoded, with a run of a few steps: as large as one of many."""
    import bundlecache as bc

    data = folder / "data"
    inputs = shutil.ignore_patterns("store", "questions", "candidates", "runs", "bench", "ablations", "splits.parquet")
    shutil.copytree(TOP / "data", data, ignore=inputs)
    bc.open(data, quiet=True).train("demo", settings=SETTINGS, name="bench")
    return data


def naive(data: Path, port: int) -> None:
    """A server as one writes it in a quarter of an hour: the run is loaded once, every request is a forward of its own."""
    import uvicorn
    from fastapi import FastAPI

    import bundlecache as bc

    run, app = bc.open(data, quiet=True).run(), FastAPI()
    run.complete(list(run._session.catalogue.item_ids[:2]))

    @app.post("/complete")
    def complete(body: dict[str, Any]) -> Any:
        return run.complete(body["items"], body["k"]).to_dicts()

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {}

    uvicorn.run(app, port=port, log_level="warning")


def measure(data: Path, count: int, memory: int) -> dict[str, Any]:
    """Everything, for one workspace."""
    import bundlecache as bc

    shop = bc.open(data, quiet=True)
    items = np.array(list(shop.catalogue.item_ids))
    rng = np.random.default_rng(0)
    carts = [rng.choice(items, size, replace=False).tolist() for size in rng.integers(1, 6, max(memory, 1000))]
    found: dict[str, Any] = {"items": len(items), "run": shop.run().name, "cores": os.cpu_count(), "servers": {}}
    for name, command in SERVERS.items():
        with Server([sys.executable, *command], data) as server:
            rows = {str(n): server.load(carts[: count if n > 1 else count // 2], n) for n in CLIENTS}
            about: dict[str, Any] = {"clients": rows, "cold_start": server.started}
            if name == "batched":
                about["why, one client"] = server.load(carts[: count // 4], 1, why=True)
                about["100 options, one client"] = server.load(carts[: count // 8], 1, options=100)
                server.load(carts[:1000], 32)
                before = server.resident_mb()
                server.load(carts[:memory], 32)
                about["memory"] = {"requests": memory, "before_mb": before, "after_mb": server.resident_mb()}
            found["servers"][name] = about
    rates = {name: about["clients"]["32"] for name, about in found["servers"].items()}
    found["ratios at 32 clients"] = {
        f"requests/s, batched : {other}": round(rates["batched"]["per_second"] / rates[other]["per_second"], 2)
        for other in ("one by one", "naive")
    } | {
        f"processor time, {other} : batched": round(rates[other]["processor_ms"] / rates["batched"]["processor_ms"], 2)
        for other in ("one by one", "naive")
    }
    return found


class Server:
    """A server process that answers ``POST /complete``, until the block ends."""

    def __init__(self, command: list[str], data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [*command, "--data", str(data), "--port", str(self.port)]
        self.started: dict[str, float] = {}

    def __enter__(self) -> Server:
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOP), os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen(self._command, env=environment, stdout=subprocess.DEVNULL)
        while True:
            if self._process.poll() is not None:
                raise SystemExit(f"{' '.join(self._command)} ended with {self._process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=10).close()
                break
            except OSError:
                time.sleep(0.05)
        self.started = {
            "seconds": round(time.perf_counter() - began, 2),
            "processor_seconds": round(self._processor_seconds(), 2),
        }
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def load(self, carts: list[list[str]], clients: int, **more: Any) -> dict[str, float]:
        """Ask about every cart once, by so many clients at once."""
        asked = {"k": 5, "why": False, **more}
        bodies = [json.dumps({"items": cart, **asked}).encode() for cart in carts]
        processor, began = self._processor_seconds(), time.perf_counter()
        seconds = asyncio.run(clients_of(self.port, bodies, clients))
        wall, processor = time.perf_counter() - began, self._processor_seconds() - processor
        p50, p95, p99 = (round(float(1000 * np.quantile(seconds, q)), 1) for q in (0.5, 0.95, 0.99))
        each = round(1000 * processor / len(carts), 2)
        return {
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "per_second": round(len(carts) / wall, 1),
            "processor_ms": each,
        }

    def resident_mb(self) -> float:
        """Memory that the process holds."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return round(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024, 1)

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


async def clients_of(port: int, bodies: list[bytes], clients: int) -> list[float]:
    """The seconds of every request; each client keeps its connection and asks again when it is answered."""
    waiting, seconds = iter(bodies), list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in waiting:
            head = f"POST /complete HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            began = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            said = await reader.readexactly(int(length.split(b":")[1]))
            seconds.append(time.perf_counter() - began)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"the server answered {answer[:40]!r} {said[:300]!r}")
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds


def show(found: dict[str, Any]) -> None:
    """The figures as a table."""
    print(f"run {found['run']}, {found['items']:,} items, {found['cores']} cores\n")
    head = f"{'server':<12} {'clients':>24} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'requests/s':>11} {'processor ms':>13}"
    print(head)
    for name, about in found["servers"].items():
        rows = {**about["clients"], **{label: row for label, row in about.items() if label.endswith("client")}}
        for label, row in rows.items():
            figures = f"{row['p50_ms']:8.1f} {row['p95_ms']:8.1f} {row['p99_ms']:8.1f} {row['per_second']:11.1f}"
            print(f"{name:<12} {label:>24} {figures} {row['processor_ms']:13.2f}")
    for name, ratio in found["ratios at 32 clients"].items():
        print(f"at 32 clients, {name}: {ratio:.2f}")
    about = found["servers"]["batched"]
    memory, start = about["memory"], about["cold_start"]
    print(
        f"memory over {memory['requests']:,} requests: {memory['before_mb']:.0f} MB, then {memory['after_mb']:.0f} MB"
    )
    print(f"cold start until ready: {start['seconds']:.1f} s, {start['processor_seconds']:.1f} processor seconds")


if __name__ == "__main__":
    main()
