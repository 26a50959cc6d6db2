"""Measures how long a command takes before its work begins: processor seconds of a new process, by commands and parts.

    python benchmarks/cold_start.py            # the demo catalogue, trained for a few steps in a temporary folder
    python benchmarks/cold_start.py --quick    # one round instead of three
    python benchmarks/cold_start.py --data DIR --rounds 5 --json    # a workspace that has a run

Every row runs in processes of its own, all rows in turn in every round; the figure is the minimum over all rounds. Ratios
are to `import torch` and to `import torch, transformers`, so that machines can be compared. A completion in a process that is
already warm is timed too.
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

from pyarrow import parquet

TOP = Path(__file__).resolve().parent.parent
SETTINGS = ("text_stage.steps=5", "fusion_stage.steps=5", "fusion_stage.contrastive_steps=2")
TORCH, TRANSFORMERS = "import torch", "import torch, transformers"
PARTS = {
    TORCH: "import torch",
    TRANSFORMERS: "import torch, transformers",
    "LLaMA as transformers imports it": "import bundlecache, torch, peft; from transformers import LlamaForCausalLM",
    "load and adapt the embedded base": (
        "import torch; from bundlecache import lean_imports; lean_imports.enable();"
        " from bundlecache.recipes.settings import Base, Lora; from bundlecache.train.model import llm;"
        " llm.add_lora(llm.load(Base(), torch.device('cpu')).model, Lora())"
    ),
}
COMMANDS = (
    ("--help",),
    ("status",),
    ("similar", "ITEM"),
    ("candidates",),
    ("recommend", "USER"),
    ("complete", "ITEM", "ITEM"),
)
WARM = (
    "import time, bundlecache as bc; shop = bc.open({data!r}, quiet=True); run = shop.run('latest');"
    " ids = shop.catalogue.item_ids; run.complete(ids[:2]); began = time.process_time(); run.complete(ids[2:4]);"
    " print(time.process_time() - began)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--data", type=Path, help="a workspace with a run, instead of the demo")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.data or prepared(Path(folder)), 1 if options.quick else options.rounds)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    least = found["processor_seconds"]
    print(f"{'':<34} {'processor s':>12} {'of torch':>9} {'of both':>8}")
    for name, seconds in least.items():
        print(f"{name:<34} {seconds:12.2f} {seconds / least[TORCH]:9.2f} {seconds / least[TRANSFORMERS]:8.2f}")
    print(f"{'complete, warm':<34} {found['warm_seconds']:12.3f}")


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
    items, users = (
        parquet.read_table(data / f"{table}.parquet", columns=[name])[name][:2].to_pylist()
        for table, name in (("items", "item_id"), ("interactions", "user_id"))
    )
    rows = {name: ["-c", code] for name, code in PARTS.items()}
    for command in COMMANDS:
        given = iter(items)
        typed = [next(given) if word == "ITEM" else users[0] if word == "USER" else word for word in command]
        where = [] if command == ("--help",) else ["--data", str(data)]
        rows[f"bundlecache {command[0]}"] = ["-m", "bundlecache.cli", *typed, *where]
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, arguments in rows.items():
            least[name] = min(least.get(name, float("inf")), run(arguments))
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
