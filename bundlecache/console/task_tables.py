"""The tables of `bench --task` and of an evaluated UniMP run: methods down, figures across, the interval of the main one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bench.task_bench import MAIN
from .output import say, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..bench.task_bench import TaskResult

RANKED = ("HR@3", "HR@5", "HR@10", "NDCG@10", "MRR")  # in a terminal of 80 columns; the file has all of them
HEADINGS = {"first": "first right"}


def show_task(path: Path, result: TaskResult, as_json: bool) -> None:
    """All methods on one task, the best first; ``path`` is the file of the results."""
    if as_json:
        show({"path": str(path), "result": result.to_dict()}, as_json, [])
        return
    _table(result)
    say(f"Results: {path}, with all tasks so far on a page: {path.parent / 'index.html'}")


def show_tasks(made: Sequence[tuple[Path, TaskResult]], as_json: bool) -> None:
    """A table per task, and the folder of their files."""
    if as_json:
        show([{"path": str(path), "result": result.to_dict()} for path, result in made], as_json, [])
        return
    for _, result in made:
        _table(result)
    say(f"Results: {made[0][0].parent}, on a page: {made[0][0].parent / 'index.html'}")


def _table(result: TaskResult) -> None:
    main = MAIN[result.task]
    heading = HEADINGS.get(main, main)
    rows = []
    for method in result.methods:
        figures = RANKED if result.task in ("recommend", "search") else method.figures
        row: dict[str, object] = {"method": method.name}
        row |= {HEADINGS.get(name, name): method.figures[name] for name in figures}
        row[f"95 % of {heading}"] = "{:.3f}-{:.3f}".format(*method.intervals[main])
        rows.append(row)
    asked = result.questions
    among = {"select": "3 candidates each", "preference": "stars", "explain": "what users said"}.get(
        result.task, f"among {result.n_items:,} items"
    )
    amount = f"{result.n:,} of {asked['sample']['of']:,}" if "sample" in asked else f"{result.n:,}"
    show(None, False, rows, title=f"{asked['name']}: {amount} test questions, {among}")
    say(
        f"Questions {asked['sha256'][:12]}; {asked['k_core']}-core of {asked['n_users']:,} users, {asked['n_interactions']:,} interactions."
    )
    for method in result.methods:
        if method.by_seed and len(set(method.by_seed[main])) > 1:
            say(f"{method.name}, seed by seed: {heading} {' '.join(f'{value:.3f}' for value in method.by_seed[main])}")
    best = result.best_baseline
    for method in result.methods:
        if best is not None and main in method.difference:
            mean, low, high = method.difference[main]
            say(
                f"{method.name} against {best.name}, question by question: {heading} {mean:+.3f} [{low:+.3f} {high:+.3f}]"
            )
