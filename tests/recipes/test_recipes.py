"""Recipes: every shipped file loads, mistakes are named, and what was resolved can be written and read back."""

from __future__ import annotations

import dataclasses

import pytest

from bundlecache.errors import RecipeError
from bundlecache.recipes import recipe as recipes
from bundlecache.train.shipped_recipes import RECIPES, load_any_recipe, load_recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_opens_with_the_commands_that_run_it(path):
    assert load_any_recipe(path.stem).name == path.stem
    comment = path.read_text().split("\n[", 1)[0]
    assert "bundlecache train" in comment


def test_every_setting_has_a_sentence_and_a_default():
    for setting in recipes.Recipe().settings():
        assert recipes.describe(setting.key).endswith(".")
        assert setting.source == "default"


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("lora.rnk=4", "lora.rank"), ("lorra.rank=4", "lora.rank"), ("fusion.residul=true", "fusion.residual")],
)
def test_an_unknown_key_names_the_nearest_one(given, nearest):
    with pytest.raises(RecipeError, match=rf"did you mean {nearest}\?"):
        load_recipe(None, [given])


@pytest.mark.parametrize(
    "given",
    ["lora.rank=four", "lora.rank=0", "lora.rank=true", "prompt.template=poem", "run.strategy=[]", "lora.dropout=[1]"],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(given):
    with pytest.raises(RecipeError, match=given.partition("=")[0]):
        load_recipe(None, [given])


@pytest.mark.parametrize("text", ["[lora\nrank=4", "rank = 4", "[lorry]\nrank = 4"])
def test_a_broken_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(RecipeError, match="demo"):
        load_recipe("dmeo")


def test_overrides_win_over_the_file_and_every_value_knows_its_source(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[lora]\nrank = 4\nalpha = 8\n[run]\nstrategy = ["joint"]\n')
    recipe = load_recipe(path, ["lora.rank=2", "base.model=/some/folder", "lora.targets=q_proj,k_proj"])
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.run.strategy) == (2, 8.0, ("joint",))
    assert (recipe.base.model, recipe.lora.targets) == ("/some/folder", ("q_proj", "k_proj"))
    source = {s.key: s.source for s in recipe.settings()}
    assert source["lora.rank"] == "--set lora.rank=2"
    assert source["lora.alpha"] == str(path)
    assert source["lora.dropout"] == "default"
    assert str(recipe.settings()[0]) == 'base.model="/some/folder" (--set base.model=/some/folder)'


def test_a_resolved_recipe_is_read_back_equal(tmp_path):
    recipe = load_recipe("paper", ['prompt.item=an "odd" word\\', "fusion.modalities=image,graph"])
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert load_recipe(path) == recipe
    assert recipes.from_dict(recipe.to_dict()) == recipe
    assert dataclasses.replace(recipe, name="other") == recipe


def test_a_retired_setting_is_read_from_a_file_and_refused_as_an_override(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text('[run]\nvalidation = "valid-random10"\nseed = 5\n')
    assert load_recipe(path).run.seed == 5
    with pytest.raises(RecipeError, match=r"no setting 'run\.validation'"):
        load_recipe(None, ["run.validation=valid-random10"])


def test_a_recipe_nested_too_deeply_is_one_sentence(tmp_path):
    path = tmp_path / "deep.toml"
    path.write_text("x = " + "[" * 20_000 + "]" * 20_000)
    with pytest.raises(RecipeError):
        load_recipe(path)
