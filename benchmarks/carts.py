"""A file of carts, completed by `Workspace.complete_file` in blocks, against one `Run.complete` for each cart.

    python benchmarks/carts.py --quick             # 1,000 carts, 100 of them one by one
    python benchmarks/carts.py --data shop --json  # a workspace with a run, in place of the demo trained for a few steps

Carts are the bundles of the catalogue, each cut at random, in long form (order_id, item). Seconds are processor seconds
of one process; loading the run again, which the file does, is in its figure. Both ways must give the same items. Exits with 1 if they do not, or when
blocks are not at least twice as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from serve import prepared

import bundlecache as bc

BAR = 2.0  # times as many carts a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer carts")
    parser.add_argument("--data", type=Path, help="a workspace with a run")
    parser.add_argument("--carts", type=int, default=10_000)
    parser.add_argument("--one-by-one", type=int, default=500, help="carts that are completed one by one too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.carts, options.one_by_one = min(options.carts, 1000), min(options.one_by_one, 100)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.data or prepared(Path(folder)), Path(folder), options.carts, options.one_by_one)
    print(json.dumps(found, indent=1) if options.json else "\n".join(f"{name:24} {found[name]}" for name in found))
    sys.exit(0 if found["same items"] and found["faster"] >= BAR else 1)


def measure(data: Path, folder: Path, count: int, alone: int) -> dict[str, float | bool | int | str]:
    """Carts a second in both ways, and whether they give the same items."""
    shop = bc.open(data, quiet=True)
    run = shop.run()
    rng = np.random.default_rng(0)
    ids = shop.catalogue.item_ids
    bundles = [np.array([ids[i] for i in items]) for items in shop.catalogue.bundles.items if len(items) > 1]
    carts = [
        rng.choice(bundles[at], rng.integers(1, len(bundles[at])), replace=False).tolist()
        for at in rng.integers(0, len(bundles), count).tolist()
    ]
    rows = [(f"c{at}", item) for at, items in enumerate(carts) for item in items]
    source, out = folder / "carts.parquet", folder / "completions.parquet"
    pq.write_table(pa.table({"order_id": [row[0] for row in rows], "item": [row[1] for row in rows]}), source)
    run.complete(carts[0])
    began = time.process_time()
    one_by_one = [[each.item_id for each in run.complete(items, 10)] for items in carts[:alone]]
    single = (time.process_time() - began) / alone
    began = time.process_time()
    shop.complete_file(source, out, 10)
    many = (time.process_time() - began) / count
    answers = pq.read_table(out)["completions"].to_pylist()
    return {
        "items": len(ids),
        "carts": count,
        "method": run.ranker(None, "auto", {"permutations": 1, "at_once": None})[0],
        "ms a cart, one by one": round(1000 * single, 2),
        "ms a cart, file": round(1000 * many, 2),
        "carts a second, file": round(1 / many, 1),
        "faster": round(single / many, 2),
        "same items": answers[:alone] == one_by_one,
    }


if __name__ == "__main__":
    main()
