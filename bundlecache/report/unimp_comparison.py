"""Two runs of UniMP on the same frozen questions: their differences in settings, and in the figures of every task.

A difference is that of the first run to the second, paired by question (`TaskResult.save_values`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..bench.bootstrap import intervals
from ..bench.task_bench import MAIN, read_values
from ..errors import BundlecacheError, Command
from ..files import read_json
from ..recipes.unimp_recipe import UnimpRecipe
from ..workspace import read_manifest
from .comparison import settings, vectors
from .render import now, render
from .task_page import ASKS, LABELS, SHOWN

if TYPE_CHECKING:
    from pathlib import Path


def write(run: Path, against: Path, out: Path | None = None) -> tuple[Path, list[str]]:
    """Write the page that holds ``run`` against another run, by default into ``run``; its path, and what it says.

    Raises
    ------
    BundlecacheError
        When both are one run, or have answered no frozen questions in common.
    CheckpointError
        When one of them is not finished, or one of their files is damaged.
    """
    found = compare(run, against)
    path = render("unimp_comparison.html.j2", found | {"made": now()}, out or run / f"against-{against.name}.html")
    return path, [each["sentence"] for each in found["tasks"]]


def compare(run: Path, against: Path) -> dict[str, Any]:
    """Everything the page shows, as plain data; the exceptions are those of :func:`write`."""
    if run.resolve() == against.resolve():
        raise BundlecacheError(f"{run.name} cannot be compared with itself.", hint="--against another run")
    manifests = read_manifest(run), read_manifest(against)
    tasks: list[dict[str, Any]] = []
    others: list[str] = []
    for name in dict.fromkeys(path.stem for each in (run, against) for path in sorted((each / "tasks").glob("*.json"))):
        made = _paired(name, run, against)
        others.append(made) if isinstance(made, str) else tasks.append(made)
    if not tasks:
        told = others[0] if others else f"Neither {run.name} nor {against.name} was evaluated yet."
        raise BundlecacheError(
            told, hint=[Command("evaluate", "--run", run.name), "and", Command("evaluate", "--run", against.name)]
        )
    order = list(ASKS)
    names = (run.name, against.name)
    return {
        "a": run.name,
        "b": against.name,
        "tasks": sorted(tasks, key=lambda each: (order.index(each["task"]), each["name"])),
        "others": others,
        "settings": settings(*manifests, UnimpRecipe.sections()),
        "vectors": vectors(*manifests),
        "stages": [{"run": name, "stages": m["stages"]} for name, m in zip(names, manifests, strict=True)],
    }


def _paired(name: str, run: Path, against: Path) -> dict[str, Any] | str:
    """One task as the page shows it, or a sentence why it is not compared."""
    results, values = [], []
    for each in (run, against):
        path = each / "tasks" / f"{name}.json"
        if not path.is_file():
            return f"{name} was answered by {(against if each is run else run).name} only."
        results.append(_read(path))
        found = read_values(path, each.name)
        if found is None:
            return f"{each.name} holds no single answers to {name}, as runs have that were evaluated by an earlier version."
        values.append(found)
    about = [(result["questions"]["sha256"], result["n"], result["n_items"]) for result in results]
    if about[0] != about[1]:
        return f"{run.name} and {against.name} answered different questions under the name {name}, or other samples of them."
    task = str(results[0]["task"])
    figures = [_figures(result, each.name) for result, each in zip(results, (run, against), strict=True)]
    paired = [figure for figure in values[0] if figure in values[1] and figure != "RMSE"]
    apart = np.stack([values[0][figure] - values[1][figure] for figure in paired], axis=1)  # [q, figures]
    ranges = dict(zip(paired, intervals(apart).tolist(), strict=True))
    shown = SHOWN.get(task, tuple(figures[0]))
    rows: list[dict[str, Any]] = [
        {
            "name": LABELS.get(figure, figure),
            "a": figures[0][figure],
            "b": figures[1][figure],
            "delta": figures[0][figure] - figures[1][figure] if figure in ranges else None,
            "interval": ranges.get(figure),
        }
        for figure in shown
    ]
    main = next(row for row in rows if row["name"] == LABELS.get(MAIN[task], MAIN[task]))
    return {
        "task": task,
        "title": ASKS[task],
        "name": name,
        "n": int(results[0]["n"]),
        "sha256": str(results[0]["questions"]["sha256"]),
        "rows": rows,
        "less": MAIN[task] == "MAE",
        "level": main["interval"][0] <= 0 <= main["interval"][1],
        "sentence": _sentence(task, main, run.name, against.name),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        made = read_json(path)
        return {name: made[name] for name in ("task", "n", "n_items", "questions", "methods")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundlecacheError(
            f"{path} is damaged.", hint=Command("evaluate", "--run", path.parent.parent.name)
        ) from error


def _figures(result: dict[str, Any], name: str) -> dict[str, float]:
    return next({f: float(v) for f, v in row["figures"].items()} for row in result["methods"] if row["name"] == name)


def _sentence(task: str, main: dict[str, Any], a: str, b: str) -> str:
    """Which of two runs is better at a task, or that this cannot be told."""
    (low, high), less = main["interval"], MAIN[task] == "MAE"
    said = f"{task}: {main['name']} {main['a']:.3f} of {a}, {main['b']:.3f} of {b}"
    span = f"{main['delta']:+.3f} [{low:+.3f} {high:+.3f}]".replace("-", "\u2212")
    if low <= 0 <= high:
        return f"{said}: the two cannot be told apart ({span})."
    return f"{said}: {a} is {'better' if (main['delta'] > 0) != less else 'worse'} ({span})."
