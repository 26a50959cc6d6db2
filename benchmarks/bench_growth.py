"""Measures how the cost of the bench grows with a catalogue: fitting and answering by method, probes, slices, ranking.

    python benchmarks/scale_data.py --items 10000 --out exports/10k
    bundlecache import tables exports/10k --data shops/10k
    bundlecache encode --modality text --data shops/10k
    bundlecache questions --data shops/10k          # and the same for 100k and more
    python benchmarks/bench_growth.py shops/10k shops/100k

Prints, for every workspace, processor seconds and the growth of peak memory by step, and between the smallest and the
largest workspace the exponent with which each step grows: 1 is linear in the items. At most 5,000 questions of a set are
asked (``--sample``), so answering should not grow at all. ``--without "set encoder,learned ranker"`` leaves methods out.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundlecache.questions.sample import MAX_QUESTIONS

TIME_BAR, MEMORY_BAR = 1.1, 1.0  # of the exponents
SHORT_SECONDS, SMALL_MB = 1.0, 50.0  # below which an exponent says nothing


@dataclass(frozen=True)
class Step:
    """One step at one size: processor seconds, and by how many MB it raised the peak of resident memory."""

    name: str
    n_items: int
    seconds: float
    peak_mb: float


def measure(workspace: Path, sample: int = MAX_QUESTIONS, without: Sequence[str] = ()) -> list[Step]:
    """All steps of ``bench --no-models`` on the first test set of a workspace, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (workspace, sample, tuple(without)))


def exponent(small: Step, large: Step, of: Callable[[Step], float]) -> float:
    """The power of the number of items with which a figure grows.

    >>> exponent(Step("x", 10, 1.0, 5), Step("x", 1000, 100.0, 5), lambda step: step.seconds)
    1.0
    """
    low, high = (max(of(step), 1e-3) for step in (small, large))
    return round(math.log(high / low) / math.log(large.n_items / small.n_items), 2)


def _measured(workspace: Path, sample: int, without: Sequence[str]) -> list[Step]:
    steps: list[Step] = []
    count = 1

    def step(name: str, work: Callable[[], Any]) -> Any:
        _reset_peak()
        before, began = _resident_mb("VmRSS"), time.process_time()
        made = work()
        seconds, peak = time.process_time() - began, max(_resident_mb("VmHWM") - before, 0.0)
        steps.append(Step(name, count, round(seconds, 2), round(peak, 1)))
        print(f"{workspace.name}: {name}: {seconds:.2f} s, {peak:.0f} MB", file=sys.stderr, flush=True)
        return made

    import bundlecache
    from bundlecache.baselines.registry import all_makers
    from bundlecache.bench import benchmark, leakage_probes
    from bundlecache.bench.fitting_costs import FittingCosts
    from bundlecache.bench.slices import Slicer
    from bundlecache.questions.sample import sample as sampled

    shop = step("open", lambda: bundlecache.open(workspace, quiet=True))
    count = len(shop.catalogue)
    asked = step("read questions", lambda: sampled(shop.question_sets(shop.all_test_sets()[:1])[0], sample))
    sources = shop.sources(step("read vectors", shop.every_matrix))
    step("training graphs", lambda: sources.graphs)
    rankers = [
        ranker
        for ranker in step("make methods", lambda: sources.rankers(*all_makers()))
        if not any(name in ranker.name for name in without)
    ]
    costs = FittingCosts()
    for ranker in rankers:
        step(f"fit {ranker.name}", lambda ranker=ranker: costs.fit(ranker, asked))
    scores = [step(f"answer {ranker.name}", lambda ranker=ranker: ranker.scores(asked)) for ranker in rankers]
    probes = step("make probes", lambda: leakage_probes.all_probes(sources))
    step(
        "answer probes", lambda: leakage_probes.run(probes, asked, scores[:2], [ranker.name for ranker in rankers[:2]])
    )
    step("known leaks", lambda: benchmark.leaks_of(sources))
    setup = benchmark.BenchSetup(rankers=rankers, slicer=Slicer(shop.catalogue), costs=costs)
    methods = [
        benchmark.MethodScores(ranker.name, ranker.kind, found) for ranker, found in zip(rankers, scores, strict=True)
    ]
    step("tables and slices", lambda: benchmark.summarise(setup, [asked], [methods]))
    return steps


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _resident_mb(name: str) -> float:
    """``VmRSS`` or ``VmHWM`` (its peak) of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _table(measured: Sequence[Sequence[Step]]) -> Iterator[str]:
    """A line per step: seconds and MB at every size, and both exponents from the smallest to the largest."""
    sizes = [steps[-1].n_items for steps in measured]
    yield f"{'step':<40}" + "".join(f"{size:>12,} s{'MB':>8}" for size in sizes) + "   exponents"
    by_name = [{step.name: step for step in steps} for steps in measured]
    for name in by_name[-1]:
        row = [found.get(name) for found in by_name]
        cells = "".join(f"{step.seconds:>14.2f}{step.peak_mb:>8.0f}" if step else " " * 22 for step in row)
        yield f"{name:<40}{cells}" + _exponents(row)


def _exponents(row: Sequence[Step | None]) -> str:
    first, last = row[0], row[-1]
    if first is None or last is None or first.n_items == last.n_items:
        return ""
    time_of = exponent(first, last, lambda step: step.seconds) if last.seconds >= SHORT_SECONDS else None
    memory_of = exponent(first, last, lambda step: max(step.peak_mb, SMALL_MB)) if last.peak_mb >= SMALL_MB else None
    said = [
        "" if value is None else f"{value:.2f}{'!' if value > bar else ''}"
        for value, bar in ((time_of, TIME_BAR), (memory_of, MEMORY_BAR))
    ]
    return f"   {said[0]:>6} {said[1]:>6}"


def main() -> None:
    """Measure the workspaces that are named, smallest first, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspaces", nargs="+", type=Path)
    parser.add_argument("--sample", type=int, default=MAX_QUESTIONS, help="questions of a set; 0 asks all")
    parser.add_argument("--without", default="", help="methods to leave out, separated by commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    without = [name for name in given.without.split(",") if name]
    measured = [measure(workspace, given.sample, without) for workspace in given.workspaces]
    if given.json:
        print(json.dumps([[asdict(step) for step in steps] for steps in measured], indent=1))
        return
    print("\n".join(_table(measured)))


if __name__ == "__main__":
    main()
