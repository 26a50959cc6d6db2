"""Ablations: a grid of settings, one training per grid point and seed, and the table of what they answer rightly.

For Bundle-MLLM that is HitRate@1 of each question set, for UniMP the main figure of each task.

A grid is a TOML file::

    recipe = "demo"
    seeds = [0, 1, 2]
    negatives = ["random", "hard"]   # test questions that every grid point answers

    [vary]                            # one at a time, against the recipe; cross = true takes all combinations
    "prompt.separator" = ["soft", "hard", "none"]
    "run.strategy" = [["text", "fusion"], ["joint"]]

A finished grid point is identified by its recipe, seed, questions and vectors, and is never trained again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RecipeError
from ..files import write_text
from ..recipes import recipe as recipes
from ..recipes.recipe import Recipe
from ..recipes.unimp_recipe import UnimpRecipe
from .bootstrap import seeds_interval
from .result_rows import Interval

KEYS = {"recipe": str, "seeds": list, "negatives": list, "cross": bool, "set": dict, "vary": dict}


@dataclass(frozen=True)
class GridPoint:
    """One recipe of the grid; ``changed`` holds the settings in which it differs from the grid's own recipe."""

    changed: dict[str, Any]
    recipe: Recipe | UnimpRecipe

    @property
    def words(self) -> str:
        """The changed settings, for instance ``prompt.separator=none``; empty for the grid's own recipe."""
        return ", ".join(f"{key}={_plain(value)}" for key, value in self.changed.items())

    def key(self, seed: int, about: Mapping[str, Any]) -> str:
        """The name of the grid point's folder: a hash of recipe, seed and ``about`` (questions, vectors)."""
        settings = self.recipe.to_dict()
        if isinstance(self.recipe, Recipe):
            settings["run"]["validation"] = (
                "valid-random10"  # a removed setting: grid points finished before its removal keep their key
            )
            if not settings["prompt"]["without_titles"]:
                del settings["prompt"]["without_titles"]  # a newer setting: earlier grid points keep their key
        cause = json.dumps([settings, seed, about], sort_keys=True)
        return hashlib.blake2b(cause.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Grid:
    """The contents of a grid file."""

    name: str
    seeds: tuple[int, ...]
    negatives: tuple[str, ...]
    points: list[GridPoint]  # the grid's own recipe first

    @property
    def figure(self) -> str:
        """What the columns of its table show."""
        return "HitRate@1" if isinstance(self.points[0].recipe, Recipe) else "main figure of each task"


def read(spec: str | Path, shipped: Path | None, load_recipe: Callable[[str, list[str]], Recipe | UnimpRecipe]) -> Grid:
    """Read a grid.

    Parameters
    ----------
    spec
        A TOML file, or the name of one in the folder ``shipped``.
    load_recipe
        Returns the recipe of a name or file, with ``section.key=value`` overrides.

    Raises
    ------
    RecipeError
        When the file is missing or is not a grid, or one of its settings or values is not allowed.
    """
    path, tables = recipes.read_toml(spec, shipped, "grid", "give a name or a TOML file")
    for key, value in tables.items():
        if key not in KEYS or not isinstance(value, KEYS[key]):
            raise RecipeError(
                f"{path}: {key!r} is not a setting of a grid, or has the wrong type.",
                hint=f"settings: {', '.join(KEYS)}",
            )
    vary = tables.get("vary", {})
    if not vary or not all(isinstance(values, list) and values for values in vary.values()):
        raise RecipeError(f"{path} varies nothing.", hint='[vary] "lora.rank" = [4, 8, 16]')
    seeds = tables.get("seeds", [0])
    if not seeds or not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds):
        raise RecipeError(f"{path}: seeds are whole numbers.", hint="seeds = [0, 1, 2]")
    recipe = load_recipe(tables.get("recipe", "demo"), [_setting(*item) for item in tables.get("set", {}).items()])
    points = _grid_points(recipe, vary, cross=tables.get("cross", False))
    negatives = tuple(map(str, tables.get("negatives", ["random", "hard"])))
    return Grid(path.stem, tuple(seeds), negatives, points)


def _grid_points(recipe: Recipe | UnimpRecipe, vary: Mapping[str, Sequence[Any]], *, cross: bool) -> list[GridPoint]:
    axes = [[(key, value) for value in values] for key, values in vary.items()]
    choices = list(product(*axes)) if cross else [(choice,) for axis in axes for choice in axis]
    points = [GridPoint({}, recipe)]
    for choice in choices:
        made = type(recipe).from_dict(recipe.to_dict(), [_setting(*item) for item in choice], name=recipe.name)
        own = {key: value for key, value in choice if _value(made, key) != _value(recipe, key)}
        if own and all(made != point.recipe for point in points):
            points.append(GridPoint(own, made))
    return points


def _setting(key: str, value: Any) -> str:
    """``key=value`` as TOML; these values are written the same way in JSON and TOML."""
    return f"{key}={json.dumps(value)}"


def _value(recipe: Recipe | UnimpRecipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True)
class GridPointResult:
    """One training of a grid point: what it answered to every question set or task (a column of the table).

    ``hits`` are [q] of 0 and 1 per column, or whatever the figure of a task is the mean of, ``questions`` the SHA-256 of the column's question set, ``seconds`` the
    training time.
    """

    seed: int
    hits: dict[str, list[float]]
    questions: dict[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON of the grid point's result file."""
        return {"seed": self.seed, "hits": self.hits, "questions": self.questions, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> GridPointResult:
        """From the JSON of the grid point's result file."""
        return cls(row["seed"], row["hits"], row["questions"], row["seconds"])


@dataclass(frozen=True)
class AblationFigures:
    """The figure of a grid point on one question set or task, with 95 % intervals over seeds and questions.

    ``change`` is the difference to the grid's own recipe; None where questions or seeds are not the same.
    """

    mean: float
    each: list[float]  # one per seed
    interval: Interval
    change: float | None = None
    change_interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        made: dict[str, Any] = {"mean": self.mean, "each": self.each, "interval": list(self.interval)}
        if self.change_interval is not None:
            made |= {"change": self.change, "change_interval": list(self.change_interval)}
        return made


@dataclass(frozen=True)
class AblationTableRow:
    """One grid point: the changed settings, how many seeds, their training seconds, and figures by question set."""

    changed: str
    seeds: int
    seconds: float
    figures: dict[str, AblationFigures]

    @property
    def title(self) -> str:
        """The changed settings, or ``the recipe`` where nothing is changed."""
        return self.changed or "the recipe"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        made: dict[str, Any] = {"changed": self.changed, "seeds": self.seeds, "seconds": self.seconds}
        return made | {name: figures.to_dict() for name, figures in self.figures.items()}


def row(point: GridPoint, results: Sequence[GridPointResult], reference: Sequence[GridPointResult]) -> AblationTableRow:
    """A row of the table from a grid point's results (one per seed) and those of the grid's own recipe.

    A change is given where both answered the same questions with the same seeds. Intervals are of 95 %; the
    bootstrap draws seeds first, then questions, so that they include the variation of both.
    """
    figures = {}
    for name in results[0].hits if results else ():
        values = np.array([r.hits[name] for r in results], np.float64)  # [seeds, q]
        change = change_interval = None
        asked = [(r.seed, r.questions[name]) for r in results]
        if point.changed and asked == [(r.seed, r.questions.get(name)) for r in reference]:
            difference = values - np.array([r.hits[name] for r in reference], np.float64)
            change, change_interval = float(difference.mean()), seeds_interval(difference)
        figures[name] = AblationFigures(
            float(values.mean()), values.mean(1).tolist(), seeds_interval(values), change, change_interval
        )
    return AblationTableRow(point.words, len(results), sum(r.seconds for r in results), figures)


def shown(rows: Sequence[AblationTableRow]) -> list[dict[str, str]]:
    """The rows for a terminal: mean, interval and change of every column."""
    made = []
    for each in rows:
        line = {"changed": each.title}
        for name, figures in each.figures.items():
            low, high = figures.interval
            line[name] = f"{figures.mean:.3f} [{low:.3f}-{high:.3f}]"
            if figures.change is not None:
                line[name] += f" {figures.change:+.3f}"
        made.append(line)
    return made


def save(folder: Path, grid: Grid, rows: Sequence[AblationTableRow]) -> None:
    """Write ``table.csv``, ``table.md`` and ``results.json`` into ``folder``."""
    flat = [_csv_row(each) for each in rows]
    names = list(dict.fromkeys(key for each in flat for key in each))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(flat)
    results = {"grid": grid.name, "seeds": grid.seeds, "rows": [each.to_dict() for each in rows]}
    for name, content in (
        ("table.csv", text.getvalue()),
        ("table.md", markdown(grid, rows)),
        ("results.json", json.dumps(results, indent=1) + "\n"),
    ):
        write_text(folder / name, content)


def markdown(grid: Grid, rows: Sequence[AblationTableRow]) -> str:
    """The table as Markdown: mean, the value of every seed, and the 95 % interval of every column."""
    sets = list(dict.fromkeys(name for each in rows for name in each.figures))
    lines = [f"| {grid.name}: {grid.figure} | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    lines += [
        f"| {each.title} | " + " | ".join(_markdown_cell(each.figures.get(s)) for s in sets) + " |" for each in rows
    ]
    return "\n".join(lines) + "\n"


def _markdown_cell(figures: AblationFigures | None) -> str:
    if figures is None:
        return ""
    each = " ".join(f"{value:.3f}" for value in figures.each) if len(figures.each) > 1 else ""
    low, high = figures.interval
    return f"{figures.mean:.3f}" + (f" ({each})" if each else "") + f" [{low:.3f}-{high:.3f}]"


def _csv_row(row: AblationTableRow) -> dict[str, Any]:
    flat: dict[str, Any] = {"changed": row.changed, "seeds": row.seeds, "seconds": row.seconds}
    for key, figures in row.figures.items():
        flat |= {key: figures.mean, f"{key} low": figures.interval[0], f"{key} high": figures.interval[1]}
        flat |= {f"{key} #{k}": each for k, each in enumerate(figures.each)}
        if figures.change_interval is not None:
            low, high = figures.change_interval
            flat |= {f"{key} change": figures.change, f"{key} change low": low, f"{key} change high": high}
    return flat
