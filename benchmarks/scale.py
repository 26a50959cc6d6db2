"""Measures how the cost of each command grows with the catalogue: 10,000, 100,000 and 1,000,000 items.

    python benchmarks/scale.py --quick            # 10,000 and 100,000 items
    python benchmarks/scale.py                    # and 1,000,000 (5,000,000 interactions, 200,000 bundles)
    python benchmarks/scale.py --steps import,status --sizes 10000,1000000

Every step is a process of its own on the workspace that the steps before it made (`scale_data.py`), with one thread. The
bench has a script of its own (`bench_growth.py`). Printed are seconds, processor seconds and peak memory, and the exponent of their growth between the two largest sizes:
1 is linear. The exit code is 1 where a bar is missed: exponents of 1.1 (processor seconds) and 1.0 (memory), and at
1,000,000 items the limits in `LIMITS`. Processor seconds are compared, because machines are shared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

MAKE = Path(__file__).with_name("scale_data.py")
QUICK, FULL = (10_000, 100_000), (10_000, 100_000, 1_000_000)
MAX_EXPONENTS = {"processor_seconds": 1.1, "megabytes": 1.0}
LARGE = 1_000_000
LIMITS = {  # at LARGE items: processor seconds, megabytes
    "import": (60, 1500),
    "status": (2, 500),
    "questions": (60, 3000),
    "open": (1, 500),
    "start of training": (20, None),
}
FEW_STEPS = (
    "text_stage.steps=1",
    "fusion_stage.steps=1",
    "fusion_stage.contrastive_steps=0",
    "run.validation_questions=100",
)
COMPLETIONS = """
import json, sys, bundlecache as bc
shop = bc.open(sys.argv[1], quiet=True)
run = shop.run("latest")
for bundle in shop.catalogue.bundles.items[:100]:
    run.complete([shop.catalogue.item_ids[i] for i in bundle[:2]], k=5)
"""
OPEN = "import sys, bundlecache as bc; shop = bc.open(sys.argv[1], quiet=True); shop.catalogue.indices(shop.catalogue.item_ids[:10])"


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    step: str
    items: int
    seconds: float
    processor_seconds: float
    megabytes: float


def steps(raw: Path, newer: Path, data: Path) -> dict[str, list[str]]:
    """The commands in their order."""
    bundlecache = [sys.executable, "-m", "bundlecache.cli"]
    to = ["--data", str(data)]
    settings = [word for setting in FEW_STEPS for word in ("--set", setting)]
    return {
        "import": [*bundlecache, "import", "tables", str(raw), *to],
        "status": [*bundlecache, "status", *to],
        "open": [sys.executable, "-c", OPEN, str(data)],
        "encode text": [*bundlecache, "encode", "--modality", "text", *to],
        "encode text again": [*bundlecache, "encode", "--modality", "text", *to],
        "status when encoded": [*bundlecache, "status", *to],
        "encode graph": [*bundlecache, "encode", "--modality", "graph", "--encoder", "lightgcn:user-item", *to],
        "questions": [*bundlecache, "questions", *to],
        "candidates": [*bundlecache, "candidates", "--k", "20", *to],
        "start of training": [*bundlecache, "train", "--recipe", "demo", "--name", "few", *settings, *to],
        "100 completions": [sys.executable, "-c", COMPLETIONS, str(data)],
        "update": [*bundlecache, "update", str(newer), *to],
    }


def measured(step: str, items: int, command: list[str]) -> Cost:
    """Run a command and wait for it.

    Raises
    ------
    SystemExit
        When it fails; with the end of what it printed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)]
        process = os.posix_spawn(command[0], command, environment, file_actions=actions)
        _, status, usage = os.wait4(process, 0)
        seconds = time.monotonic() - began
        if os.waitstatus_to_exitcode(status):
            output.seek(0)
            raise SystemExit(f"{step} with {items:,} items failed:\n{output.read().decode(errors='replace')[-3000:]}")
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(step, items, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def exponent(costs: list[Cost], figure: str) -> float:
    """The slope of ``figure`` between the two largest sizes in a plot of logarithms; nan for one size."""
    if len(costs) < 2:
        return math.nan
    (a, x), (b, y) = [(each.items, getattr(each, figure)) for each in sorted(costs, key=lambda each: each.items)[-2:]]
    return math.log(y / x) / math.log(b / a)


def missed(costs: list[Cost]) -> list[str]:
    """A sentence for every bar that the costs of one step miss."""
    step = costs[0].step
    found = [
        f"{step}: {figure.replace('_', ' ')} grow with an exponent of {exponent(costs, figure):.2f} (bar {bar})"
        for figure, bar in MAX_EXPONENTS.items()
        if exponent(costs, figure) > bar
    ]
    for cost in costs:
        for limit, figure in zip(LIMITS.get(step, ()), MAX_EXPONENTS, strict=False):
            if cost.items == LARGE and limit is not None and getattr(cost, figure) > limit:
                taken = f"{getattr(cost, figure):,.1f} {figure.replace('_', ' ')}"
                found.append(f"{step}: {taken} at {LARGE:,} items (bar {limit:,})")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 and 100,000 items")
    parser.add_argument("--sizes", help="numbers of items, separated by commas")
    parser.add_argument("--steps", help="measure these steps alone, in the order of the table")
    parser.add_argument("--folder", type=Path, help="keep the workspaces here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else (QUICK if options.quick else FULL)
    asked = options.steps.split(",") if options.steps else list(steps(Path(), Path(), Path()))
    costs: dict[str, list[Cost]] = {step: [] for step in asked}
    folder = options.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        for items in sizes:
            raw, newer, data = (folder / f"{part}-{items}" for part in ("raw", "newer", "shop"))
            if not raw.is_dir():
                # In a process of its own: the peak memory of this one would count for all processes that it starts.
                subprocess.run([sys.executable, MAKE, "--items", str(items), "--out", raw], check=True)
            if "update" in asked and not newer.is_dir():
                subprocess.run([sys.executable, MAKE, "--newer", raw, "--out", newer], check=True)
            for step, command in steps(raw, newer, data).items():
                if step in asked:
                    cost = measured(step, items, command)
                    costs[step].append(cost)
                    print(json.dumps(asdict(cost)), file=sys.stderr)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    failures = [sentence for each in costs.values() for sentence in missed(each)]
    if options.json:
        print(json.dumps({"costs": [asdict(cost) for each in costs.values() for cost in each], "missed": failures}))
    else:
        show(costs)
        print("\n".join(failures) or "All bars are met.")
    return 1 if failures else 0


def show(costs: dict[str, list[Cost]]) -> None:
    """Print a table: a row per step, three figures per size, two exponents."""
    sizes = [cost.items for cost in next(iter(costs.values()))]
    print("| step | " + " | ".join(f"{size:,} items: s, processor s, MB" for size in sizes) + " | exponents |")
    print("|---|" + "---|" * (len(sizes) + 1))
    for step, rows in costs.items():
        cells = [f"{row.seconds:,.1f}, {row.processor_seconds:,.1f}, {row.megabytes:,.0f}" for row in rows]
        grown = ", ".join(f"{exponent(rows, figure):.2f}" for figure in MAX_EXPONENTS)
        print(f"| {step} | {' | '.join(cells)} | {grown} |")


if __name__ == "__main__":
    sys.exit(main())
