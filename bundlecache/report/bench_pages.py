"""The bench's two pages: all methods on the same questions, and among the whole catalogue; each names the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bench import full_catalogue
from ..bench.slices import WAYS, ends, leading
from ..files import write_text
from . import leaderboard
from .charts import curves
from .run_page import axis_end, bar, render

if TYPE_CHECKING:
    from pathlib import Path

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


def write_bench(folder: Path, results: list[dict[str, Any]]) -> Path:
    """The page of `leaderboard`: the table, and per family of question sets the verdict, the probes and groups."""
    names, table = leaderboard.headings(results), leaderboard.rows(results)
    values = {
        "names": names,
        "rows": table,
        "kinds": _kinds(table),
        "trained": any(row["training_seconds"] for row in table),
        "families": [
            {**result, "heading": name, "groups": _groups(result, "hit@1")}
            for name, result in zip(names, results, strict=True)
        ],
    }
    return _linked("bench.html.j2", values, folder / BENCH, folder / FULL)


def write_full(folder: Path, results: dict[str, Any]) -> Path:
    """The page of `full_catalogue`: Recall, NDCG and MRR of every method with intervals, and groups."""
    main, held, rows = full_catalogue.MAIN, results["held_out"], results["methods"]
    guess = min(1.0, 20 / held["n_items"])
    end = axis_end([guess, *(row[f"{main}_interval"][1] for row in rows)])
    best = {row["kind"]: row for row in reversed(rows)}  # of every kind
    drawn = [best[kind] for kind in KINDS if kind in best]
    values = {
        "held": held,
        "verdict": results["verdict"],
        "rows": [{**row, "bar": bar(row[main], row[f"{main}_interval"], end)} for row in rows],
        "best": rows[0],
        "axis_end": end,
        "guess": round(guess / end * 100, 2),
        "kinds": _kinds(rows),
        "depths": full_catalogue.DEPTHS,
        "drawn": drawn,
        "charts": [
            _curves("Recall@k: found among the first k", "recall", drawn),
            _curves("NDCG@k: and how far in front", "ndcg", drawn),
        ],
        "groups": _groups(results, main),
    }
    return _linked("full.html.j2", values, folder / FULL, folder / BENCH)


def _kinds(rows: list[dict[str, Any]]) -> dict[str, str]:
    there = {row["kind"] for row in rows}
    return {kind: words for kind, words in KINDS.items() if kind in there}


def _curves(title: str, figure: str, rows: list[dict[str, Any]]) -> Drawing | None:
    depths = full_catalogue.DEPTHS
    lines = [([row[f"{figure}@{k}"] for k in depths], row["kind"]) for row in rows]
    return curves(title, depths, lines, percent=figure == "recall")


def _groups(results: dict[str, Any], main: str) -> list[dict[str, Any]]:
    """Tables of the leading methods by groups of questions; ways with a single group tell nothing."""
    methods = leading(results)
    found = []
    for way in WAYS:
        groups = results.get("slices", {}).get(way, [])
        rows = []
        for name, group in zip(ends([group["group"] for group in groups]), groups, strict=True):
            of = {row["name"]: row for row in group["methods"]}
            cells = [(of[row["name"]][main], of[row["name"]][f"{main}_interval"]) for row in methods]
            rows.append({"group": name, "n": group["n"], "small": group["small"], "cells": cells})
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
