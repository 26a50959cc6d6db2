"""Loads the recipes and ablation grids that ship with the project, by name, or those in other TOML files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundlecache.bench import ablation
from bundlecache.errors import RecipeError
from bundlecache.recipes.recipe import Recipe
from bundlecache.recipes.recipe_tables import BUNDLE_MLLM, MODEL_KEY, read_toml
from bundlecache.recipes.unimp_recipe import UnimpRecipe
from bundlecache.text import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "evidence"
"""What `bundlecache train` trains when no recipe is named: on the demo it finds a tenth more than `demo` (docs/results.md)."""
GRIDS = Path(__file__).parent / "grids"
MODELS: dict[str, type[Recipe | UnimpRecipe]] = {kind.MODEL: kind for kind in (Recipe, UnimpRecipe)}
"""What a recipe may say of its model, and the class of its settings."""


def load_recipe(spec: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of Bundle-MLLM of a shipped name or a TOML file, with overrides; see `RecipeTables.load`."""
    return Recipe.load(spec, overrides, shipped=RECIPES)


def load_unimp_recipe(spec: str | Path | None = None, overrides: Sequence[str] = ()) -> UnimpRecipe:
    """The same of UniMP."""
    return UnimpRecipe.load(spec, overrides, shipped=RECIPES)


def load_any_recipe(spec: str | Path, overrides: Sequence[str] = ()) -> Recipe | UnimpRecipe:
    """The recipe of a shipped name or a TOML file, of whatever model its key ``model`` says.

    Raises
    ------
    RecipeError
        Also when there is no such model.
    """
    path, tables = read_toml(spec, RECIPES, "recipe", "--recipe takes one of these names or a TOML file")
    model = tables.get(MODEL_KEY, BUNDLE_MLLM)
    if not isinstance(model, str) or model not in MODELS:
        raise RecipeError(f"{path} is a recipe of the model {quoted(str(model))}; there are {listed(list(MODELS))}.")
    return MODELS[model].load(spec, overrides, shipped=RECIPES)


def read_grid(spec: str | Path) -> ablation.Grid:
    """The grid of a shipped name or a TOML file; see `ablation.read`."""
    return ablation.read(spec, GRIDS, load_recipe)
