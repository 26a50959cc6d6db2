"""Figures of a server for Prometheus, and the same as a page of text that a person reads."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ..files import process_lives

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEPS = ("wait", "encode", "retrieve", "rank", "why")


class Metrics:
    """Counters, histograms and gauges of one process; with several workers they are added up by prometheus_client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: Any = {"registry": self.registry, "namespace": "bundlecache"}
        self.requests = Counter("requests_total", "Requests by endpoint and status.", ["endpoint", "status"], **made)
        self.latency = Histogram(
            "request_seconds", "Seconds of a request by endpoint.", ["endpoint"], buckets=SECONDS, **made
        )
        self.steps = Histogram(
            "step_seconds", "Seconds of the steps of a batch of completions.", ["step"], buckets=SECONDS, **made
        )
        self.batches = Histogram("batch_carts", "Carts that one forward answered.", buckets=SIZES, **made)
        self.queue = Gauge("queue_carts", "Carts that wait.", multiprocess_mode="livesum", **made)
        self.reloads = Counter("reloads_total", "Reloads by result.", ["result"], **made)
        self.info = Gauge(
            "serving",
            "1 for the run and the store version that answer.",
            ["run", "store_version", "method"],
            multiprocess_mode="livemax",
            **made,
        )
        self._served: tuple[str, str, str] | None = None
        for step in STEPS:
            self.steps.labels(step)

    def serve(self, run: str | None, store_version: str, method: str) -> None:
        """Say which run and store version answer from now on."""
        labels = (run or "", store_version, method)
        if self._served is not None:
            self.info.labels(*self._served).set(0)  # with several workers a label cannot be removed
        self.info.labels(*labels).set(1)
        self._served = labels

    def text(self) -> bytes:
        """The figures in Prometheus' format, those of all workers together."""
        return generate_latest(self._collected())

    def _collected(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self.registry
        forget_dead(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return registry

    def summary(self) -> str:
        """The figures as lines that a person reads."""
        rows: list[str] = []
        families = {family.name: family for family in self._collected().collect()}

        def samples(name: str, suffix: str = "") -> list[Any]:
            family = families.get(f"bundlecache_{name}")
            wanted = f"bundlecache_{name}{suffix}"
            return [] if family is None else [sample for sample in family.samples if sample.name == wanted]

        for sample in samples("serving"):
            if not sample.value:
                continue
            labels = sample.labels
            rows.append(
                f"run: {labels['run'] or 'none'}, ranked by {labels['method']}; store {labels['store_version']}"
            )
        rows.append(f"waiting: {sum(sample.value for sample in samples('queue_carts')):.0f}")
        rows.append("")
        rows.append(f"{'endpoint':<24}{'status':>8}{'requests':>12}")
        rows += [
            f"{sample.labels['endpoint']:<24}{sample.labels['status']:>8}{sample.value:>12,.0f}"
            for sample in sorted(samples("requests", "_total"), key=lambda each: -each.value)
        ]
        rows += ["", f"{'seconds':<24}{'count':>8}{'mean':>12}{'p50':>12}{'p95':>12}{'p99':>12}"]
        rows += _histogram(samples("request_seconds", "_bucket"), samples("request_seconds", "_sum"), "endpoint")
        rows += _histogram(samples("step_seconds", "_bucket"), samples("step_seconds", "_sum"), "step")
        rows += ["", f"{'carts of a forward':<24}{'count':>8}{'mean':>12}{'p50':>12}{'p95':>12}{'p99':>12}"]
        rows += _histogram(samples("batch_carts", "_bucket"), samples("batch_carts", "_sum"), "", whole=True)
        return "\n".join(rows) + "\n"


def forget_dead(folder: Path) -> None:
    """Drop the gauges of workers that are gone: nothing waits in their queues. What they counted stays counted."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not process_lives(int(pid)):
            mark_process_dead(int(pid), str(folder))


def _histogram(buckets: list[Any], sums: list[Any], label: str, *, whole: bool = False) -> list[str]:
    """A line per label value: count, mean and quantiles, read off the buckets; ``whole`` numbers have whole quantiles."""
    by: dict[str, list[tuple[float, float]]] = {}
    for sample in buckets:
        by.setdefault(sample.labels.get(label, "all"), []).append((float(sample.labels["le"]), sample.value))
    totals = {sample.labels.get(label, "all"): sample.value for sample in sums}
    lines = []
    for name, counts in by.items():
        counts.sort()
        count = counts[-1][1]
        if not count:
            continue
        mean, quantiles = totals[name] / count, [_quantile(counts, q) for q in (0.5, 0.95, 0.99)]
        figures = [f"{mean:.2f}", *(str(math.ceil(q)) for q in quantiles)]
        if not whole:
            figures = [f"{figure:.4f}" for figure in (mean, *quantiles)]
        lines.append(f"{name:<24}{count:>8,.0f}" + "".join(f"{figure:>12}" for figure in figures))
    return lines


def _quantile(counts: list[tuple[float, float]], q: float) -> float:
    """The quantile of cumulative bucket counts, evenly spread within a bucket; the last finite bound beyond it."""
    wanted, low, before = q * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - before) / max(count - before, 1e-9)
        low, before = bound, count
    return low
