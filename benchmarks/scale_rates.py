"""The rates that docs/scale.md reckons with, in processor seconds of one thread.

    python benchmarks/scale_rates.py --quick          # 20,000 items
    python benchmarks/scale_rates.py --json           # 100,000 items

Titles are made from a seed and encoded by `descriptor:text`; vectors of 384 numbers in half precision are made from a
seed: 500 clusters in 96 dimensions, bent into 384. Each rate is that of one step of the way, on this machine's disk:

plan        the driver of `encode`: hash the titles, compare with the table, bytes of memory an item
encode      a worker: `descriptor:text` on titles (a network takes what `benchmarks/encode.py` says)
write       a worker: rows as fragments (`FragmentTarget.write`)
commit      the driver: one commit of 64 fragments, read back
matrix      a machine that trains or searches: rows in the catalogue's order, made once per version
disk        `candidates --index disk`: build, and search with 99 % recall
lance       `candidates --engine lance`: build, and search with 99 % recall
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bundlecache.candidates.index import Index
from bundlecache.candidates.lance_index import LanceTables
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.encode.plan import plan
from bundlecache.encode.run import run
from bundlecache.encode.scan import scan_items
from bundlecache.features import registry
from bundlecache.store.store import Store
from bundlecache.store.table_schema import Identity
from bundlecache.workspace import WorkspaceFolder

WIDTH, HIDDEN, CLUSTERS, FRAGMENTS, QUERIES = 384, 96, 500, 64, 500
IDENTITY = Identity("image", "made:clusters", "0" * 64, "as they are", "float16", WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="20,000 items")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = Rates(quiet=options.json)
        measure(Path(folder), 20_000 if options.quick else options.items, rates)
    if options.json:
        print(json.dumps(rates, indent=1))


class Rates(dict):
    """Figures by name, each printed when it is known."""

    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self.quiet = quiet

    def __setitem__(self, name: str, value: float) -> None:
        super().__setitem__(name, value)
        if not self.quiet:
            print(f"{name:40} {value:>14,.4g}", flush=True)


def measure(root: Path, count: int, rates: Rates) -> None:
    rng = np.random.default_rng(0)
    ids = [f"item-{i:08}" for i in range(count)]
    words = rng.integers(5000, size=(count, 4)).tolist()
    titles = [f"word{a} word{b} word{c} {d}" for a, b, c, d in words]
    catalogue = Catalogue(ids, titles, {}, Bundles(), Interactions())
    folder = WorkspaceFolder(root)
    store = Store(folder.store)
    rates["items"] = count
    encoder = registry.load("descriptor:text", modality="text", catalogue=catalogue)
    with Clock() as clock:
        run(encoder, catalogue, folder, store)
    rates["encode a title, us"] = clock.seconds / count * 1e6
    with store.writer(Identity.of(encoder)) as table:
        before = resident()
        with Clock() as clock:
            scan = scan_items("text", catalogue, folder, workers=1)
            planned = plan(scan, table, retry_failed=False)
        rates["plan an item that is stored, us"] = clock.seconds / count * 1e6
        rates["plan an item that is stored, bytes"] = (resident() - before) / count
        del scan, planned
    hidden = rng.standard_normal((CLUSTERS, HIDDEN))[rng.integers(CLUSTERS, size=count)]
    hidden += 0.7 * rng.standard_normal((count, HIDDEN))
    vectors = np.tanh(hidden @ rng.standard_normal((HIDDEN, WIDTH)) / HIDDEN**0.5).astype(np.float16)
    with store.writer(IDENTITY) as table:
        target, size = table.target(), count // FRAGMENTS
        cuts = [(low, low + size) for low in range(0, size * FRAGMENTS, size)]
        hashes = [f"{i:032x}" for i in range(count)]
        with Clock() as clock:
            made = [target.write(ids[low:high], hashes[low:high], vectors[low:high]) for low, high in cuts]
        rates["write a row, us"] = clock.seconds / count * 1e6
        with Clock() as clock:
            table.append_fragments([one for part in made for one in part], ids[: size * FRAGMENTS])
        rates["commit a fragment, ms"] = clock.seconds / FRAGMENTS * 1e3
    info = next(info for info in store.tables() if info.modality == "image")
    rates["a row on disk, bytes"] = info.size_bytes / info.rows
    with Clock() as clock:
        matrix = store.matrix(ids, "image")
    rates["matrix of a row, us"] = clock.seconds / count * 1e6
    given = [np.array([i]) for i in rng.choice(size * FRAGMENTS, QUERIES, replace=False)]
    for name, how in {
        "disk": {"kind": "disk", "folder": root / "disk"},
        "lance": {"tables": LanceTables(store.location, folder.candidates / "indexes", catalogue)},
    }.items():
        with Clock() as clock:
            index = Index.build([matrix], memory=1e9, **how)
        rates[f"{name}: build and tune, us an item"] = clock.seconds / count * 1e6
        with Clock() as clock:
            index.search(index.query(given), 20, given)
        rates[f"{name}: search, ms a query"] = clock.seconds / QUERIES * 1e3
        rates[f"{name}: recall@20"] = float(index.report["recall@20"])
        rates[f"{name}: effort"] = index.effort
        files = (root / "disk").rglob("*") if name == "disk" else folder.candidates.rglob("*.lance/_indices/**/*")
        rates[f"{name}: file, bytes an item"] = sum(file.stat().st_size for file in files if file.is_file()) / count
    rates["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """``seconds`` of the processor, of all threads, in the block."""

    def __enter__(self) -> Clock:
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began


def resident() -> int:
    """Bytes of memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
