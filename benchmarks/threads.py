"""Threads: training steps and scorings of the embedded base under four settings, on a quiet and on a busy machine.

    python benchmarks/threads.py --quick
    python benchmarks/threads.py --json

Each value of the table is measured in a process of its own, because OpenMP reads its variables when torch is imported.

======================  ==================================================================
``default``             OpenMP's own settings
``passive``             ``OMP_WAIT_POLICY=PASSIVE``: waiting threads sleep
``one thread``          ``OMP_NUM_THREADS=1``
``passive, one thread`` both
``bundlecache``         what ``bundlecache.threads.prepare`` sets when a workspace is opened
======================  ==================================================================

``busy`` means that one endless loop per core runs beside the measurement. The work is 20 steps of the fusion stage of
the recipe ``demo`` with batches of 32 questions, and 50 scorings of 32 questions, on random vectors of the demo's widths.
The table holds medians of the repetitions, in seconds of the wall clock; ``cpu`` is processor time.

Exits with 1 when the setting of bundlecache is more than 1.5 times as slow as the default on a quiet machine, or not
faster than it on a busy one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parent.parent
PREPARED = "bundlecache"
VARIABLES = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "passive, one thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
    PREPARED: {},
}
QUIET_BAR = 1.5  # of the default's seconds
WIDTHS = {"text": 128, "image": 132, "audio": 98, "graph": 64}
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repetition instead of three")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scorings", type=int, default=50)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepared", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.steps, options.scorings, prepared=options.prepared)))
        return
    rows = []
    for machine in ("quiet", "busy"):
        for setting in VARIABLES:
            with busy_cores(os.cpu_count() or 1 if machine == "busy" else 0):
                runs = [measure(setting, options) for _ in range(1 if options.quick else 3)]
            row = {"machine": machine, "setting": setting} | {key: median(r[key] for r in runs) for key in runs[0]}
            rows.append(row)
            if not options.json:
                print(
                    f"{machine:6} {setting:20} {options.steps} steps {row['train_s']:6.2f} s (cpu {row['train_cpu_s']:6.2f})"
                    f"  {options.scorings} scorings {row['score_s']:6.2f} s (cpu {row['score_cpu_s']:6.2f})",
                    flush=True,
                )
    seconds = {(row["machine"], row["setting"]): row["train_s"] + row["score_s"] for row in rows}
    quiet = seconds["quiet", PREPARED] / seconds["quiet", "default"]
    busy = seconds["busy", PREPARED] / seconds["busy", "default"]
    met = quiet <= QUIET_BAR and busy <= 1
    if options.json:
        print(
            json.dumps({"load": os.getloadavg()[0], "rows": rows, "quiet": quiet, "busy": busy, "met": met}, indent=1)
        )
    else:
        print(
            f"bundlecache by default: quiet {quiet:.2f} (bar {QUIET_BAR}), busy {busy:.2f} (bar 1)  {'met' if met else 'MISSED'}"
        )
    sys.exit(0 if met else 1)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """``count`` endless loops beside what is measured."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(setting: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one process under the variables of ``setting``."""
    free = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_"))}
    command = [sys.executable, __file__, "--worker", "--steps", str(options.steps), "--scorings", str(options.scorings)]
    command += ["--prepared"] * (setting == PREPARED)
    done = subprocess.run(command, env=free | VARIABLES[setting], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(steps: int, scorings: int, *, prepared: bool) -> dict[str, float]:
    """Wall and processor seconds of ``steps`` training steps and ``scorings`` scorings in this process."""
    sys.path.insert(0, str(TOP))
    if prepared:
        from bundlecache import threads

        threads.prepare()
    import numpy as np
    import torch

    import bundlecache  # noqa: F401 - before torch
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.store.store import Matrix
    from bundlecache.train.inference.scoring import score_options
    from bundlecache.train.model.bundle_mllm import build
    from bundlecache.train.shipped_recipes import load_recipe
    from bundlecache.workspace import WorkspaceFolder

    catalogue = Catalogue.read(WorkspaceFolder(TOP / "data"))
    rng = np.random.default_rng(0)
    matrices = {
        name: Matrix(
            name,
            f"random:{name}",
            name,
            "0" * 64,
            1,
            rng.normal(size=(len(catalogue.titles), width)).astype(np.float16),
            np.ones(len(catalogue.titles), bool),
        )
        for name, width in WIDTHS.items()
    }
    torch.manual_seed(0)
    model = build(catalogue.titles, matrices, load_recipe("demo", []), torch.device("cpu"))
    model.mode = "mm"
    parameters = model.train_only("fusion")
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    partial = [rng.choice(len(catalogue.titles), 3, replace=False) for _ in range(BATCH)]
    offered = [rng.choice(len(catalogue.titles), 10, replace=False) for _ in range(BATCH)]
    truth = rng.integers(0, 10, BATCH)

    def step() -> None:
        loss = model(model.prompts.build(partial, offered, "mm"), truth, 10, "mm")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def timed(call: object, count: int) -> tuple[float, float]:
        call()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            call()
        return time.perf_counter() - wall, time.process_time() - cpu

    model.train()
    train_s, train_cpu_s = timed(step, steps)
    model.eval()
    score_s, score_cpu_s = timed(lambda: score_options(model, partial, np.stack(offered)), scorings)
    return {"train_s": train_s, "train_cpu_s": train_cpu_s, "score_s": score_s, "score_cpu_s": score_cpu_s}


if __name__ == "__main__":
    main()
