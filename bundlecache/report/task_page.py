"""The page of `bench --task`: the results of all tasks in one folder, a table and bars for each."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..bench.task_bench import MAIN
from ..files import read_json
from .render import bar, now, render

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "index.html"
ASKS = {
    "recommend": "What does the user take next?",
    "search": "Which item does the user mean?",
    "select": "Which of three items does the user take?",
    "preference": "How many stars does the user give?",
    "explain": "What does the user say of it?",
}
LABELS = {"first": "first right"}
SHOWN = {
    "recommend": ("HR@10", "HR@5", "HR@3", "NDCG@10", "MRR"),
    "search": ("HR@10", "HR@5", "HR@3", "NDCG@10", "MRR"),
}
"""The figures of a table where the file holds more."""


def write_tasks(folder: Path) -> Path:
    """Write index.html of all results in a folder."""
    return render("tasks.html.j2", {"results": sections(folder), "made": now()}, folder / PAGE)


def sections(folder: Path) -> list[dict[str, Any]]:
    """All results in a folder, in the order of the tasks; files that are none are passed over."""
    results = []
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            results.append(section_of(read_json(path)))
    order = list(ASKS)
    return sorted(results, key=lambda each: (order.index(each["task"]), each["name"]))


def section_of(result: dict[str, Any]) -> dict[str, Any]:
    """One task as the templates show it; ``result`` is what `TaskResult.to_dict` gives."""
    task, asked, main = result["task"], result["questions"], MAIN[result["task"]]
    figures = [name for name in SHOWN.get(task, result["methods"][0]["figures"]) if name != main]
    end = _axis_end(max(float(method["intervals"][main][1]) for method in result["methods"]))
    rows = []
    for method in result["methods"]:
        low, high = method["intervals"][main]
        rows.append(
            {
                "name": str(method["name"]),
                "kind": method.get("kind", "chance" if method["name"] == "random" else "collaborative"),
                "value": float(method["figures"][main]),
                "interval": (float(low), float(high)),
                "bar": bar(float(method["figures"][main]), (low, high), end),
                "figures": [float(method["figures"][name]) for name in figures],
                "seeds": [float(value) for value in method.get("by_seed", {}).get(main, [])],
                "difference": method.get("difference", {}).get(main),
                "seconds": method.get("seconds"),
            }
        )
    return {
        "task": task,
        "title": ASKS[task],
        "name": str(asked["name"]),
        "asked": asked,
        "n": int(result["n"]),
        "n_items": int(result["n_items"]),
        "main": LABELS.get(main, main),
        "figures": [LABELS.get(name, name) for name in figures],
        "rows": rows,
        "end": end,
        "best": next((row["name"] for row in rows if row["kind"] != "model"), ""),
        "seeds": max(len(row["seeds"]) for row in rows),
        "timed": any(row["seconds"] is not None for row in rows),
    }


def _axis_end(top: float) -> float:
    """The round number above the largest figure.

    >>> _axis_end(0.164), _axis_end(1.13), _axis_end(0)
    (0.2, 1.2, 0.1)
    """
    return max(1, math.ceil(top * 10)) / 10
