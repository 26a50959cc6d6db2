"""Measures a cold `bundlecache complete` with the embedded base: processor seconds of a new process, and of its parts.

    python benchmarks/cold_start.py            # the demo catalogue, trained for a few steps in a temporary folder
    python benchmarks/cold_start.py --rounds 5 --json

Every part runs in processes of its own, all parts in turn in every round; the figure is the minimum over all rounds. Ratios
are to `import torch`, so that machines can be compared. A completion in a process that is already warm is timed too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
SETTINGS = ("text_stage.steps=5", "fusion_stage.steps=5", "fusion_stage.contrastive_steps=2")
PARTS = {
    "import torch": "import torch",
    "import the LLM's libraries": "import bundlecache, torch, peft; from transformers import AutoTokenizer, LlamaForCausalLM",
    "open the workspace": "import bundlecache as bc; bc.open({data!r}, quiet=True)",
    "complete, cold": (
        "import bundlecache as bc; shop = bc.open({data!r}, quiet=True);"
        " shop.run('latest').complete(shop.catalogue.item_ids[:2])"
    ),
}
WARM = (
    "import time, bundlecache as bc; shop = bc.open({data!r}, quiet=True); run = shop.run('latest');"
    " ids = shop.catalogue.item_ids; run.complete(ids[:2]); began = time.process_time(); run.complete(ids[2:4]);"
    " print(time.process_time() - began)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(prepared(Path(folder)), options.rounds)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'part':<28} {'processor s':>12} {'of import torch':>16}")
    for name, seconds in found["processor_seconds"].items():
        print(f"{name:<28} {seconds:12.2f} {seconds / found['processor_seconds']['import torch']:16.2f}")
    print(f"{'complete, warm':<28} {found['warm_seconds']:12.3f}")


def prepared(folder: Path) -> Path:
    """The demo catalogue, encoded, with a run of a few steps."""
    data = folder / "data"
    shutil.copytree(
        TOP / "data", data, ignore=shutil.ignore_patterns("store", "runs", "questions", "candidates", "bench")
    )
    run(["-m", "bundlecache.cli", "encode", "--data", str(data)])
    run(
        [
            "-m",
            "bundlecache.cli",
            "train",
            "--recipe",
            "demo",
            "--data",
            str(data),
            *(x for s in SETTINGS for x in ("--set", s)),
        ]
    )
    return data


def measure(data: Path, rounds: int) -> dict[str, Any]:
    """Least processor seconds of every part over all rounds."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, code in PARTS.items():
            least[name] = min(least.get(name, float("inf")), run(["-c", code.format(data=str(data))]))
    warm = subprocess.run(
        [sys.executable, "-c", WARM.format(data=str(data))], cwd=TOP, capture_output=True, text=True, check=True
    )
    return {"processor_seconds": least, "warm_seconds": float(warm.stdout.split()[-1])}


def run(arguments: list[str]) -> float:
    """Processor seconds of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=TOP, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
