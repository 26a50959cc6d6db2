"""The bench's results as one table: methods down, question sets across; in the terminal, as CSV, as a page.

``bench/`` of a workspace holds ``results.json`` (as `bench` describes, one entry per family of sets),
``table.csv`` (one row per method and family) and ``index.html``.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from ..files import write_text

if TYPE_CHECKING:
    from pathlib import Path

Results = list[dict[str, Any]]
FIGURES = ("hit@1", "hit@3", "hit@5", "mrr", "valid_ratio")


def headings(results: Results) -> list[str]:
    """A short name per family: ``random10`` where only one family is made that way, else its whole name."""
    short = [f"{r['questions']['negatives']}{r['questions']['n_options']}" for r in results]
    return [s if short.count(s) == 1 else r["questions"]["name"] for s, r in zip(short, results, strict=True)]


def rows(results: Results) -> list[dict[str, Any]]:
    """One row per method, best first by its mean: HitRate@1 and half its interval by family, and seconds in all.

    ``seconds`` is the time to answer all sets, fitting included; a model's training stands beside it.
    """
    names = headings(results)
    out: dict[str, dict[str, Any]] = {}
    for name, result in zip(names, results, strict=True):
        for method in result["methods"]:
            row = out.setdefault(method["name"], {"method": method["name"], "kind": method["kind"], "seconds": 0.0})
            low, high = method["hit@1_interval"]
            row[name], row[f"{name} ±"] = method["hit@1"], (high - low) / 2
            row["seconds"] += method["seconds"] or 0.0
            row["training_seconds"] = method.get("training_seconds")
    return sorted(out.values(), key=lambda row: -sum(row.get(name, 0.0) for name in names))


def cells(results: Results) -> list[dict[str, Any]]:
    """One row per method and family, for spreadsheets."""
    return [
        {
            "questions": result["questions"]["name"],
            "sha256": result["questions"]["sha256"],
            "n": result["questions"]["n_questions"],
            "options": result["questions"]["n_options"],
            "method": method["name"],
            "kind": method["kind"],
            **{name: round(method[name], 4) if name in method else None for name in FIGURES},
            "low": round(method["hit@1_interval"][0], 4),
            "high": round(method["hit@1_interval"][1], 4),
            "seconds": method.get("seconds"),
            "training_seconds": method.get("training_seconds"),
        }
        for result in results
        for method in [*result["methods"], *({**probe, "kind": "probe"} for probe in result["probes"])]
    ]


def save(folder: Path, results: Results) -> Path:
    """Write the three files; gives the page's path."""
    from . import bench_pages as boards

    table = cells(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table)
    for name, content in (
        ("results.json", json.dumps(results, indent=1) + "\n"),
        ("table.csv", text.getvalue()),
    ):
        write_text(folder / name, content)
    return boards.write_bench(folder, results)
