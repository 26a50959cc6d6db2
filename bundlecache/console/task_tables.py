"""The table of `bench --task`: methods down, figures across, the interval of the figure that orders them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bench.task_bench import MAIN
from .output import say, show

if TYPE_CHECKING:
    from pathlib import Path

    from ..bench.task_bench import TaskResult

RANKED = ("HR@3", "HR@5", "HR@10", "NDCG@10", "MRR")  # in a terminal of 80 columns; the file has all of them
HEADINGS = {"first": "first right"}


def show_task(path: Path, result: TaskResult, as_json: bool) -> None:
    """All methods on one task, the best first; ``path`` is the file of the results."""
    if as_json:
        show({"path": str(path), "result": result.to_dict()}, as_json, [])
        return
    main = MAIN[result.task]
    rows = []
    for method in result.methods:
        figures = RANKED if result.task in ("recommend", "search") else method.figures
        row: dict[str, object] = {"method": method.name}
        row |= {HEADINGS.get(name, name): method.figures[name] for name in figures}
        row[f"95 % of {HEADINGS.get(main, main)}"] = "{:.3f}-{:.3f}".format(*method.intervals[main])
        rows.append(row)
    asked = result.questions
    among = {"select": "3 candidates each", "preference": "stars"}.get(result.task, f"among {result.n_items:,} items")
    show(None, False, rows, title=f"{asked['name']}: {result.n:,} test questions, {among}")
    say(
        f"Questions {asked['sha256'][:12]}; {asked['k_core']}-core of {asked['n_users']:,} users, {asked['n_interactions']:,} interactions."
    )
    say(f"Results: {path}")
