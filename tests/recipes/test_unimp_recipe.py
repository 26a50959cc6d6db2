"""Recipes of UniMP: read by the same code as the others, and told apart by their key `model`."""

from __future__ import annotations

import pytest

from bundlecache.errors import RecipeError
from bundlecache.recipes.recipe import Recipe
from bundlecache.recipes.unimp_recipe import UnimpRecipe
from bundlecache.train.shipped_recipes import load_any_recipe, load_recipe, load_unimp_recipe


def test_the_key_model_chooses_the_recipe_and_survives_writing(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'model = "unimp"\n[loss]\ngamma = 1\n[data]\ntasks = ["recommend", "search"]\nshares = ["recommend:3"]\n'
    )
    recipe = load_any_recipe(path, ["lora.rank=4", "data.weights=recommend:2"])
    assert isinstance(recipe, UnimpRecipe)
    assert (recipe.loss.gamma, recipe.lora.rank, recipe.share("search"), recipe.weight("recommend")) == (1, 4, 0.25, 2)
    path.write_text(recipe.to_toml())
    assert load_unimp_recipe(path) == recipe
    assert isinstance(load_any_recipe("demo"), Recipe)


def test_a_recipe_of_the_other_model_or_of_none_is_one_sentence(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('model = "unimp"\n')
    with pytest.raises(RecipeError, match="for the model 'unimp', and one for 'bundle-mllm'"):
        load_recipe(path)
    path.write_text('model = "gpt"\n')
    with pytest.raises(RecipeError, match="there are bundle-mllm, unimp"):
        load_any_recipe(path)
    with pytest.raises(RecipeError, match=r"did you mean data\.history"):
        load_unimp_recipe(None, ["data.histry=3"])
    for wrong in ("data.shares=1,2", "data.weights=buy:1", "data.shares=search:-1"):
        with pytest.raises(RecipeError, match=r"each is a task and a number, and tasks are recommend, search"):
            load_unimp_recipe(None, [wrong])
    with pytest.raises(RecipeError, match="Every task has the share 0"):
        load_unimp_recipe(None, ["data.tasks=recommend", "data.shares=recommend:0"])
