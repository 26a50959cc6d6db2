"""The HTML page about a run of UniMP: a table per task with intervals, the difference to the best baseline, curves, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..workspace import read_manifest
from .charts import Drawing, Line, draw
from .render import now, render
from .task_page import sections
from .training_curves import log_rows, loss_chart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


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
    settings = manifest.get("recipe") or {}
    return {
        "run": run.name,
        "written": now(),
        "manifest": manifest,
        "results": sections(run / "tasks"),
        "charts": _charts(log_rows(run)),
        "settings": [
            (f"{table}.{key}", value)
            for table, keys in settings.items()
            if isinstance(keys, dict)
            for key, value in keys.items()
        ],
    }


def _charts(rows: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """The loss of training, and one figure of each task on validation questions, over the steps of all stages."""
    begins: dict[str, int] = {}
    end = 0
    for row in rows:
        begins.setdefault(row["stage"], end)
        end = max(end, begins[row["stage"]] + row["step"])
    rows = [{**row, "at": begins[row["stage"]] + row["step"]} for row in rows]
    marks = [(float(at), f"stage {name}") for name, at in begins.items()]
    charts = [loss_chart(rows, marks)]
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
