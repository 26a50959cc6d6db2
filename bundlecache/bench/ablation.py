"""Ablations: a grid of settings, one training per cell and seed, and the table of what they reached.

A grid is a TOML file::

    recipe = "demo"
    seeds = [0, 1, 2]
    negatives = ["random", "hard"]   # test questions that every cell answers

    [vary]                            # one at a time, against the recipe; cross = true takes all combinations
    "prompt.separator" = ["soft", "hard", "none"]
    "run.strategy" = [["text", "fusion"], ["joint"]]

A cell that is finished is known by its recipe, seed, questions and vectors, and is never trained again.
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
from .bootstrap import seeds_interval

KEYS = {"recipe": str, "seeds": list, "negatives": list, "cross": bool, "set": dict, "vary": dict}


@dataclass(frozen=True)
class Cell:
    """One recipe of the grid; ``changed`` says in what it differs from the first one."""

    changed: dict[str, Any]
    recipe: Recipe

    @property
    def words(self) -> str:
        """``prompt.separator=none``; the recipe itself has no words."""
        return ", ".join(f"{key}={_plain(value)}" for key, value in self.changed.items())

    def key(self, seed: int, about: Mapping[str, Any]) -> str:
        """What names the cell's folder: a hash of recipe, seed and ``about`` (questions, vectors)."""
        settings = self.recipe.to_dict()
        settings["run"]["validation"] = (
            "valid-random10"  # a retired setting: what was finished before it went stays known
        )
        if not settings["prompt"]["without_titles"]:
            del settings["prompt"]["without_titles"]  # a newer setting: keys of earlier points stay the same
        cause = json.dumps([settings, seed, about], sort_keys=True)
        return hashlib.blake2b(cause.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class Grid:
    """What a grid file says."""

    name: str
    seeds: tuple[int, ...]
    negatives: tuple[str, ...]
    cells: list[Cell]  # the recipe as it stands first


def read(spec: str | Path, shipped: Path | None, load_recipe: Callable[[str, list[str]], Recipe]) -> Grid:
    """Read a grid.

    Parameters
    ----------
    spec
        A TOML file, or the name of one in the folder ``shipped``.
    load_recipe
        Gives the recipe of a name or file, with ``section.key=value`` overrides.

    Raises
    ------
    RecipeError
        When it is missing or no grid, or one of its settings or values is not allowed.
    """
    path, tables = recipes.read_toml(spec, shipped, "grid", "give a name or a TOML file")
    for key, value in tables.items():
        if key not in KEYS or not isinstance(value, KEYS[key]):
            raise RecipeError(f"{path}: a grid has no {key!r} like that.", hint=f"it takes {', '.join(KEYS)}")
    vary = tables.get("vary", {})
    if not vary or not all(isinstance(values, list) and values for values in vary.values()):
        raise RecipeError(f"{path} varies nothing.", hint='[vary] "lora.rank" = [4, 8, 16]')
    seeds = tables.get("seeds", [0])
    if not seeds or not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds):
        raise RecipeError(f"{path}: seeds are whole numbers.", hint="seeds = [0, 1, 2]")
    recipe = load_recipe(tables.get("recipe", "demo"), [_setting(*item) for item in tables.get("set", {}).items()])
    cells = _cells(recipe, vary, cross=tables.get("cross", False))
    negatives = tuple(map(str, tables.get("negatives", ["random", "hard"])))
    return Grid(path.stem, tuple(seeds), negatives, cells)


def _cells(recipe: Recipe, vary: Mapping[str, Sequence[Any]], *, cross: bool) -> list[Cell]:
    axes = [[(key, value) for value in values] for key, values in vary.items()]
    choices = list(product(*axes)) if cross else [(choice,) for axis in axes for choice in axis]
    cells = [Cell({}, recipe)]
    for choice in choices:
        made = recipes.from_dict(recipe.to_dict(), [_setting(*item) for item in choice], name=recipe.name)
        own = {key: value for key, value in choice if _value(made, key) != _value(recipe, key)}
        if own and all(made != cell.recipe for cell in cells):
            cells.append(Cell(own, made))
    return cells


def _setting(key: str, value: Any) -> str:
    """``key=value`` as TOML, which JSON's words for these values are."""
    return f"{key}={json.dumps(value)}"


def _value(recipe: Recipe, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(recipe, section), name)


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def row(cell: Cell, results: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table from a cell's results (one a seed) beside those of the recipe itself.

    A result is ``{"seed", "hits": {column: [q] of 0 and 1}, "questions": {column: sha256}, "seconds"}``; there is a
    change where both answered the same questions with the same seeds. Intervals are of 95 % and count both
    what questions are drawn and what seeds: seeds first, then questions, are drawn again.
    """
    made: dict[str, Any] = {"changed": cell.words, "seeds": len(results), "seconds": sum(r["seconds"] for r in results)}
    for name in results[0]["hits"] if results else ():
        values = np.array([r["hits"][name] for r in results], np.float64)  # [seeds, q]
        low, high = seeds_interval(values)
        made[name] = {"mean": float(values.mean()), "each": values.mean(1).tolist(), "interval": [low, high]}
        asked = [(r["seed"], r["questions"][name]) for r in results]
        if cell.changed and asked == [(r["seed"], r["questions"].get(name)) for r in reference]:
            apart = values - np.array([r["hits"][name] for r in reference], np.float64)
            low, high = seeds_interval(apart)
            made[name] |= {"change": float(apart.mean()), "change_interval": [low, high]}
    return made


def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows for a terminal: mean and interval of every column, and the change."""
    made = []
    for r in rows:
        cells = {key: value for key, value in r.items() if isinstance(value, dict)}
        line = {"changed": r["changed"] or "the recipe"}
        for name, figures in cells.items():
            low, high = figures["interval"]
            line[name] = f"{figures['mean']:.3f} [{low:.3f}-{high:.3f}]"
            if "change" in figures:
                line[name] += f" {figures['change']:+.3f}"
        made.append(line)
    return made


def save(folder: Path, grid: Grid, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``table.csv``, ``table.md`` and ``results.json`` into ``folder``."""
    flat = [_flat(r) for r in rows]
    names = list(dict.fromkeys(key for r in flat for key in r))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(flat)
    for name, content in (
        ("table.csv", text.getvalue()),
        ("table.md", markdown(grid, rows)),
        ("results.json", json.dumps({"grid": grid.name, "seeds": grid.seeds, "rows": rows}, indent=1) + "\n"),
    ):
        write_text(folder / name, content)


def markdown(grid: Grid, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown: mean, the seeds one by one, and the 95 % interval of every column."""
    sets = list(dict.fromkeys(key for r in rows for key, value in r.items() if isinstance(value, dict)))
    lines = [f"| {grid.name}: HitRate@1 | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    lines += [
        f"| {r['changed'] or 'the recipe'} | " + " | ".join(_figures(r.get(s)) for s in sets) + " |" for r in rows
    ]
    return "\n".join(lines) + "\n"


def _figures(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    each = " ".join(f"{value:.3f}" for value in figures["each"]) if len(figures["each"]) > 1 else ""
    low, high = figures["interval"]
    return f"{figures['mean']:.3f}" + (f" ({each})" if each else "") + f" [{low:.3f}-{high:.3f}]"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {key: value["mean"], f"{key} low": value["interval"][0], f"{key} high": value["interval"][1]}
            flat |= {f"{key} #{k}": each for k, each in enumerate(value["each"])}
            if "change" in value:
                flat |= {f"{key} change": value["change"]}
                flat |= dict(zip((f"{key} change low", f"{key} change high"), value["change_interval"], strict=True))
        else:
            flat[key] = value
    return flat
