"""The recipes and ablation grids that ship with the project, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundlecache.bench import ablation
from bundlecache.recipes import recipe as recipes

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPES = Path(__file__).parent / "recipes"
GRIDS = Path(__file__).parent / "grids"


def load_recipe(spec: str | Path | None, overrides: Sequence[str] = ()) -> recipes.Recipe:
    """The recipe of a shipped name or a TOML file, with ``section.key=value`` overrides; see `recipe.load`."""
    return recipes.load(spec, overrides)


def read_grid(spec: str | Path) -> ablation.Grid:
    """The grid of a shipped name or a TOML file; see `ablation.read`."""
    return ablation.read(spec)
