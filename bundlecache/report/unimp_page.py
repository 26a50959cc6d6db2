"""The HTML page about a run of UniMP: a table per task with intervals, the difference to the best baseline, curves, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bench.task_bench import MAIN
from ..errors import CheckpointError, Command
from ..files import read_json
from ..workspace import read_manifest
from .charts import Drawing, Line, draw, smooth
from .render import bar, now, render
from .training_curves import log_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ASKS = {
    "recommend": "What does the user take next?",
    "search": "Which item does the user mean?",
    "select": "Which of three items does the user take?",
    "preference": "How many stars does the user give?",
    "explain": "What does the user say of it?",
}
LESS_IS_BETTER = ("MAE", "RMSE")
RANKED = ("HR@3", "HR@5", "HR@10", "NDCG@10", "MRR")


def write(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run and return its path, by default ``report.html`` in the run's folder.

    Raises
    ------
    CheckpointError
        When the run is not finished, or one of its files is damaged.
    """
    return render("unimp.html.j2", context(run), out or run / "report.html")


def context(run: Path) -> dict[str, Any]:
    """Everything the template shows, as plain data."""
    manifest = read_manifest(run)
    results = [_read(path) for path in sorted((run / "tasks").glob("*.json"))]
    results.sort(key=lambda result: list(ASKS).index(result["task"]))
    settings = manifest.get("recipe") or {}
    return {
        "run": run.name,
        "written": now(),
        "manifest": manifest,
        "sections": [section(result) for result in results],
        "charts": _charts(log_rows(run)),
        "settings": [
            (f"{table}.{key}", value)
            for table, keys in settings.items()
            if isinstance(keys, dict)
            for key, value in keys.items()
        ],
    }


def section(result: Mapping[str, Any]) -> dict[str, Any]:
    """One task: its methods with bars, and what the model's difference to the best baseline says."""
    main, methods = MAIN[result["task"]], result["methods"]
    end = max(method["intervals"][main][1] for method in methods) or 1.0
    figures = [name for name in (RANKED if main in RANKED else methods[0]["figures"]) if name in methods[0]["figures"]]
    rows = [
        {
            "name": method["name"],
            "kind": "model" if method.get("kind") == "model" else "content",
            "figures": [method["figures"][name] for name in figures],
            "interval": method["intervals"][main],
            "bar": bar(method["figures"][main], method["intervals"][main], end),
        }
        for method in methods
    ]
    best = next((method["name"] for method in methods if method.get("kind") != "model"), None)
    return {
        "task": result["task"],
        "asks": ASKS[result["task"]],
        "main": main,
        "n": result["n"],
        "n_items": result["n_items"],
        "questions": result["questions"],
        "names": figures,
        "rows": rows,
        "sentences": [_sentence(m, best, main) for m in methods if best and main in m.get("difference", {})],
    }


def _sentence(method: Mapping[str, Any], best: str, main: str) -> str:
    """What the difference of a model to the best baseline says, with its interval."""
    mean, low, high = method["difference"][main]
    sign = -1 if main in LESS_IS_BETTER else 1
    words = "cannot be told from"
    if low > 0 or high < 0:
        words = "is better than" if mean * sign > 0 else "is worse than"
    return f"{method['name']} {words} {best}, the best baseline: {main} {mean:+.3f} [{low:+.3f} {high:+.3f}], paired by question."


def _read(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = read_json(path)
        sound = made["task"] in ASKS and made["methods"] and {"n", "n_items", "questions"} <= made.keys()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged.", hint=Command("evaluate", "--run", path.parents[1].name)) from error
    if not sound:
        raise CheckpointError(f"{path} is damaged.", hint=Command("evaluate", "--run", path.parents[1].name))
    return made


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """The loss of training, and one figure of each task on validation questions, over the steps of all stages."""
    begins: dict[str, int] = {}
    end = 0
    for row in rows:
        begins.setdefault(row["stage"], end)
        end = max(end, begins[row["stage"]] + row["step"])
    rows = [{**row, "at": begins[row["stage"]] + row["step"]} for row in rows]
    marks = [(float(at), f"stage {name}") for name, at in begins.items()]
    loss: list[Line] = []
    for stage in begins:
        some = [row for row in rows if row["stage"] == stage and "loss" in row]
        x, y = [row["at"] for row in some], [float(row["loss"]) for row in some]
        if len(y) > 20:
            loss.append(Line(x, y, "faint"))
            y = smooth(y, max(2, len(y) // 12))
        loss.append(Line(x, y, "main"))
    charts = [draw("Training loss (lower is better)", loss, marks)]
    names: dict[str, str] = {}  # by task; the first one is the one that weights are chosen by
    for row in rows:
        for name in row:
            if name.startswith("valid_"):
                names.setdefault(name.split()[0], name)
    for name in names.values():
        lines = []
        for stage in begins:
            some = [row for row in rows if row["stage"] == stage and name in row]
            lines.append(Line([row["at"] for row in some], [float(row[name]) for row in some], "main", True))
        drawn = [mark for mark, line in zip(marks, lines, strict=True) if line.x]
        charts.append(draw(f"{name.removeprefix('valid_')} on validation questions", lines, drawn))
    return [chart for chart in charts if chart is not None]
