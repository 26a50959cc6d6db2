"""The bench's two pages: all methods on the same questions, and among the whole catalogue; each links to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bench import full_results, leaderboard
from ..bench.slices import WAYS, Method, ends, leading
from ..files import write_text
from .charts import curves
from .render import axis_end, bar, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ..bench.full_results import FullCatalogueResult, FullMethodResult
    from ..bench.result_rows import Slices
    from ..bench.results import QuestionSetResult
    from .charts import Drawing

BENCH, FULL = "index.html", "full.html"
HIDDEN = "<nav hidden>"  # of the link to the other page, as long as there is none
KINDS = {
    "model": "language model",
    "personal": "with what the user took elsewhere",
    "collaborative": "who took what",
    "content": "what items are like",
    "chance": "guessing",
}
GROUPS = {
    "category": "By category of the right item",
    "length": "By how many items the bundle has",
    "popularity": "By how popular the right item is",
    "cold": "By whether the right item was seen in a bundle",
}


def write_bench(folder: Path, results: Sequence[QuestionSetResult]) -> Path:
    """The page of `bench.leaderboard`: the table, and per family of question sets the findings, the probes and groups."""
    names, table = leaderboard.headings(results), leaderboard.rows(results)
    values = {
        "names": names,
        "rows": table,
        "kinds": _kinds(row.kind for row in table),
        "trained": any(row.training_seconds for row in table),
        "families": [
            {"result": result, "heading": name, "groups": _groups(result.slices, leading(result.methods))}
            for name, result in zip(names, results, strict=True)
        ],
    }
    return _linked("bench.html.j2", values, folder / BENCH, folder / FULL)


def write_full(folder: Path, results: FullCatalogueResult) -> Path:
    """The page of `bench.full_catalogue`: Recall, NDCG and MRR of every method with intervals, and groups."""
    held, rows = results.held_out, results.methods
    guess = min(1.0, 20 / held.n_items)
    end = axis_end([guess, *(row.intervals[full_results.MAIN][1] for row in rows)])
    best = {row.kind: row for row in reversed(rows)}  # of every kind
    drawn = [best[kind] for kind in KINDS if kind in best]
    values = {
        "held": held,
        "findings": results.findings,
        "rows": [{**row.to_dict(), "bar": bar(row.value, row.intervals[full_results.MAIN], end)} for row in rows],
        "best": rows[0],
        "axis_end": end,
        "guess": round(guess / end * 100, 2),
        "kinds": _kinds(row.kind for row in rows),
        "depths": full_results.DEPTHS,
        "drawn": drawn,
        "charts": [
            _curves("Recall@k: found among the first k", "recall", drawn),
            _curves("NDCG@k: and how far in front", "ndcg", drawn),
        ],
        "groups": _groups(results.slices, leading(rows)),
    }
    return _linked("full.html.j2", values, folder / FULL, folder / BENCH)


def _kinds(kinds: Iterable[str]) -> dict[str, str]:
    there = set(kinds)
    return {kind: words for kind, words in KINDS.items() if kind in there}


def _curves(title: str, figure: str, rows: Sequence[FullMethodResult]) -> Drawing | None:
    depths = full_results.DEPTHS
    lines = [([row.figures[f"{figure}@{k}"] for k in depths], row.kind) for row in rows]
    return curves(title, depths, lines, percent=figure == "recall")


def _groups(slices: Slices, methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Tables of the leading methods by groups of questions; ways with a single group tell nothing."""
    found = []
    for way in WAYS:
        groups = slices.get(way, [])
        rows = []
        for name, group in zip(ends([group.group for group in groups]), groups, strict=True):
            of = group.by_name()
            cells = [(of[row.name].value, of[row.name].interval) for row in methods]
            rows.append({"group": name, "n": group.n, "small": group.small, "cells": cells})
        if len(rows) > 1:
            found.append({"title": GROUPS[way], "methods": methods, "rows": rows})
    return found


def _linked(template: str, values: dict[str, Any], path: Path, other: Path) -> Path:
    """Write a page; where the other one stands beside it, each links to the other."""
    there = other.is_file()
    render(template, {**values, "linked": there}, path)
    if there and HIDDEN in (text := other.read_text("utf-8", "replace")):
        write_text(other, text.replace(HIDDEN, "<nav>"))
    return path
