"""Loads the recipes and ablation grids that ship with the project, by name, or those in other TOML files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundlecache.bench import ablation
from bundlecache.recipes import any_recipe
from bundlecache.recipes.recipe import Recipe
from bundlecache.recipes.unimp_recipe import UnimpRecipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bundlecache.recipes.any_recipe import AnyRecipe

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "evidence"
"""What `bundlecache train` trains when no recipe is named: on the demo it finds a tenth more than `demo` (docs/results.md)."""
GRIDS = Path(__file__).parent / "grids"


def load_recipe(spec: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of Bundle-MLLM of a shipped name or a TOML file, with overrides; see `RecipeTables.load`."""
    return Recipe.load(spec, overrides, shipped=RECIPES)


def load_unimp_recipe(spec: str | Path | None = None, overrides: Sequence[str] = ()) -> UnimpRecipe:
    """The same of UniMP."""
    return UnimpRecipe.load(spec, overrides, shipped=RECIPES)


def load_any_recipe(spec: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """The recipe of a shipped name or a TOML file, of whatever model its key ``model`` says."""
    return any_recipe.load(spec, overrides, shipped=RECIPES)


def read_grid(spec: str | Path) -> ablation.Grid:
    """The grid of a shipped name or a TOML file; see `ablation.read`."""
    return ablation.read(spec, GRIDS, load_any_recipe)
