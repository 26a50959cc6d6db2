"""Loads the recipes and ablation grids that ship with the project, by name, or those in other TOML files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundlecache.bench import ablation
from bundlecache.recipes import recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPES = Path(__file__).parent / "recipes"
GRIDS = Path(__file__).parent / "grids"


def load_recipe(spec: str | Path | None = None, overrides: Sequence[str] = ()) -> recipe.Recipe:
    """The recipe of a shipped name or a TOML file, with ``section.key=value`` overrides; see `recipe.load`."""
    return recipe.load(spec, overrides, shipped=RECIPES)


def read_grid(spec: str | Path) -> ablation.Grid:
    """The grid of a shipped name or a TOML file; see `ablation.read`."""
    return ablation.read(spec, GRIDS, load_recipe)
