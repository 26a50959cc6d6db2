"""The store against np.memmap, in one run: bulk write, full read, random batches of training.

    python benchmarks/store.py --quick
    python benchmarks/store.py --json
    python benchmarks/store.py --folder /dev/shm        # without the disk

Bulk write: ``Store.writer().write``, checksums and read-back included, against filling a memmap with the
same vectors; both wait until the disk has it all. Full read: all rows in their order through the store's
matrix (the first time it is made from the table, later it is mapped). Random batch: 256 rows of it.

Token features, 256 x 1024 float16 an item (512 KiB): written 128 items at a time, as Stage A does, and random
batches of 120 items, from the store's matrix and, to show why there is one, from the Lance table by ``take``.

Every figure is the least of several interleaved repeats. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bundlecache.store.store import Store
from bundlecache.store.table_schema import Identity, as_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

BARS = {
    "bulk write": 1.5,
    "full read, mapped": 1.25,
    "random batch of 256": 1.25,
    "tokens, random batch of 120": 2.0,
}
NAMES = (
    "bulk write",
    "full read, first time",
    "full read, mapped",
    "random batch of 256",
    "tokens, write",
    "tokens, full read, first time",
    "tokens, random batch of 120",
    "tokens, batch by Lance take",
)
BATCH, BATCHES, READS = 256, 200, 4
TOKENS, TOKENS_WIDE, TOKENS_BATCH, TOKENS_COMMIT, TOKENS_READS = 256, 1024, 120, 128, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--items", type=int, default=2000, help="with token features")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder if left out")
    parser.add_argument("--quick", action="store_true", help="100,000 rows, 10 repeats; 400 items with tokens")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.repeats, options.items = 100_000, 10, 400
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds = measure(Path(folder), options.rows, options.dim, options.repeats)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        seconds |= measure_tokens(Path(folder), options.items, repeats=max(2, options.repeats // 3))
    rows = []
    for name in NAMES:
        ours, base = min(seconds[f"{name}: store"]), min(seconds[f"{name}: memmap"])
        ratio, bar = ours / base, BARS.get(name)
        met = bar is None or ratio <= bar
        rows.append({"what": name, "store_s": ours, "memmap_s": base, "ratio": ratio, "bar": bar, "met": met})
    if options.json:
        shape = {"rows": options.rows, "dim": options.dim, "dtype": "float16"}
        shape |= {"items": options.items, "tokens": [TOKENS, TOKENS_WIDE]}
        print(json.dumps({**shape, "results": rows}, indent=1))
    else:
        print(
            f"{options.rows:,} x {options.dim} float16, and {options.items:,} items of {TOKENS} x {TOKENS_WIDE} tokens; "
            f"least of {options.repeats} interleaved repeats"
        )
        for row in rows:
            verdict = "" if row["bar"] is None else f"bar {row['bar']:.2f}  {'met' if row['met'] else 'MISSED'}"
            print(
                f"{row['what']:30} store {row['store_s']:9.5f} s  memmap {row['memmap_s']:9.5f} s  "
                f"ratio {row['ratio']:6.2f}  {verdict}"
            )
    sys.exit(0 if all(row["met"] for row in rows) else 1)


def measure(folder: Path, count: int, dim: int, repeats: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, dim), dtype=np.float32).astype(np.float16)
    item_ids = [f"item-{i}" for i in range(count)]
    hashes = [f"{i:032x}" for i in range(count)]
    identity = Identity("image", "benchmark:normal", "f" * 64, "none", "float16", dim)
    plain, seconds = folder / "plain.bin", defaultdict[str, list[float]](list)

    def clock(name: str, action: Callable[[], object]) -> None:
        began = time.perf_counter()
        action()
        seconds[name].append(time.perf_counter() - began)

    def write_plain() -> None:
        mapped = np.memmap(plain, np.float16, "w+", shape=(count, dim))
        mapped[:] = vectors
        mapped.flush()

    def write_store() -> None:
        with store.writer(identity) as table:
            table.write(item_ids, hashes, vectors)
        for path in (folder / "store").rglob("*"):  # Lance leaves this to the system; flush above does not
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())

    for _ in range(repeats):
        plain.unlink(missing_ok=True)
        shutil.rmtree(folder / "store", ignore_errors=True)
        store = Store(folder / "store")
        clock("bulk write: memmap", write_plain)
        clock("bulk write: store", write_store)
        mapped = np.memmap(plain, np.float16, "r", shape=(count, dim))
        clock("full read, first time: memmap", lambda: np.array(mapped))  # noqa: B023 - called at once
        clock("full read, first time: store", lambda: np.array(store.matrix(item_ids, "image").vectors))  # noqa: B023
        matrix = store.matrix(item_ids, "image").vectors
        assert np.array_equal(matrix.view(np.uint16), vectors.view(np.uint16))
        picks = rng.integers(0, count, (BATCHES, BATCH))
        for turn in range(READS):
            # Who reads first alternates: the second finds the first one's pages pushed out of the CPU's caches.
            for name, rows in (("memmap", mapped), ("store", matrix))[:: 1 if turn % 2 else -1]:
                clock(f"full read, mapped: {name}", lambda: np.array(rows))  # noqa: B023
                clock(f"random batch of 256: {name}", lambda: [rows[pick] for pick in picks])  # noqa: B023
    for name in ("random batch of 256: memmap", "random batch of 256: store"):
        seconds[name] = [value / BATCHES for value in seconds[name]]
    return seconds


def measure_tokens(folder: Path, count: int, repeats: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    shape = (TOKENS, TOKENS_WIDE)
    some = rng.standard_normal((TOKENS_COMMIT, *shape), dtype=np.float32).astype(np.float16)  # one commit
    item_ids = [f"item-{i}" for i in range(count)]
    identity = Identity("image", "benchmark:tokens", "f" * 64, "none", "float16", TOKENS_WIDE, TOKENS)
    plain, seconds = folder / "plain.bin", defaultdict[str, list[float]](list)
    lows = range(0, count, TOKENS_COMMIT)

    def clock(name: str, action: Callable[[], object]) -> None:
        began = time.perf_counter()
        action()
        seconds[f"tokens, {name}"].append(time.perf_counter() - began)

    def part(low: int) -> np.ndarray:
        rows = some[: min(TOKENS_COMMIT, count - low)]
        rows[:, 0, 0] = np.arange(low, low + len(rows)) % 2048  # which float16 holds exactly: rows are told apart
        return rows

    def write_plain() -> None:
        mapped = np.memmap(plain, np.float16, "w+", shape=(count, *shape))
        for low in lows:
            mapped[low : low + TOKENS_COMMIT] = part(low)
        mapped.flush()

    def write_store() -> None:
        with store.writer(identity) as table:
            for low in lows:
                rows = part(low)
                table.write(item_ids[low : low + len(rows)], ["0" * 32] * len(rows), rows)
        for path in (folder / "store").rglob("*.lance"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())

    for _ in range(repeats):
        plain.unlink(missing_ok=True)
        shutil.rmtree(folder / "store", ignore_errors=True)
        store = Store(folder / "store")
        clock("write: memmap", write_plain)
        clock("write: store", write_store)
        mapped = np.memmap(plain, np.float16, "r", shape=(count, *shape))
        clock("full read, first time: memmap", lambda: np.array(mapped))  # noqa: B023 - called at once
        clock("full read, first time: store", lambda: store.matrix(item_ids, "image", identity.spec))  # noqa: B023
        matrix = store.matrix(item_ids, "image", identity.spec).vectors
        np.array(matrix)  # into memory, as the other is
        assert np.array_equal(matrix[:, 0, :9], mapped[:, 0, :9])
        dataset = store.dataset(store.current("image", identity.spec))
        for turn in range(TOKENS_READS):
            pick = rng.integers(0, count, TOKENS_BATCH)
            for name, rows in (("memmap", mapped), ("store", matrix))[:: 1 if turn % 2 else -1]:
                clock(f"random batch of 120: {name}", lambda: rows[pick])  # noqa: B023
            clock("batch by Lance take: store", lambda: as_numpy(dataset.take(pick, columns=["vector"])["vector"]))  # noqa: B023
    seconds["tokens, batch by Lance take: memmap"] = seconds["tokens, random batch of 120: memmap"]
    return seconds


if __name__ == "__main__":
    main()
