"""Recipes of every model: which class of settings a recipe has is said by its key ``model``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from ..text import listed, quoted
from .recipe import Recipe
from .recipe_tables import BUNDLE_MLLM, MODEL_KEY, read_toml, source_of
from .unimp_recipe import UnimpRecipe

AnyRecipe = Recipe | UnimpRecipe
MODELS: dict[str, type[Recipe] | type[UnimpRecipe]] = {Recipe.MODEL: Recipe, UnimpRecipe.MODEL: UnimpRecipe}


def load(spec: str | Path, overrides: Sequence[str] = (), *, shipped: Path | None = None) -> AnyRecipe:
    """The recipe of a shipped name or a TOML file, of whatever model; see `RecipeTables.load`.

    Raises
    ------
    RecipeError
        Also when there is no such model.
    """
    path, tables = read_toml(spec, shipped, "recipe", "--recipe takes one of these names or a TOML file")
    return from_dict(tables, overrides, name=path.stem, source=source_of(path, shipped))


def from_dict(
    tables: Mapping[str, Any], overrides: Sequence[str] = (), *, name: str = "defaults", source: str = "given"
) -> AnyRecipe:
    """The same of tables that were read already; see `RecipeTables.from_dict`.

    Raises
    ------
    RecipeError
        Also when there is no such model.
    """
    model = tables.get(MODEL_KEY, BUNDLE_MLLM)
    if not isinstance(model, str) or model not in MODELS:
        raise RecipeError(f"The recipe {name} is for the model {quoted(str(model))}; there are {listed(list(MODELS))}.")
    return MODELS[model].from_dict(tables, overrides, name=name, source=source)
