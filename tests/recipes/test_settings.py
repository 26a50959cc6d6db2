"""Settings: what makes no sense is refused in one sentence, before anything is loaded."""

from __future__ import annotations

import pytest

from bundlecache.errors import RecipeError
from bundlecache.recipes import recipe as recipes

STAGES = ("text_stage", "fusion_stage", "joint_stage")
STAGE = {
    "average": ("-0.1 1", "0 0.98"),
    "steps": ("-1 1000000001", "0"),
    "lr": ("-1e-4", "0"),
    "final_lr": ("-0.1 1.1", "0 1"),
    "warmup": ("-1 1000000001", "0"),
    "weight_decay": ("-0.1", "0"),
    "clip": ("-1", "0"),
    "evaluate_every": ("0 1000000001", "1"),
    "patience": ("-1 1000000001", "0"),
    "contrastive_steps": ("-1 1000000001", "0"),
}
EDGES = {  # setting -> values beyond its bounds, and the last ones within
    "prompt.max_title_tokens": ("0 65537", "1"),
    "prompt.max_given": ("0 1001", "1 1000"),
    "prompt.history": ("-1 1001", "0 1000"),
    "lora.rank": ("0 65537", "1 65536"),
    "lora.alpha": ("0 -1", "0.5"),
    "lora.dropout": ("-0.1 1", "0 0.9"),
    "fusion.width": ("0 65537", "1"),
    "fusion.hidden": ("[-1] [64,-5] -1,2 [65537]", "[0,256] 768,256 []"),
    "fusion.projector_width": ("0 65537", "1"),
    "fusion.input_dropout": ("-0.1 1", "0 0.9"),
    "fusion.modality_dropout": ("-0.1 1", "0 0.9"),
    "data.options": ("1 1001", "2 1000"),
    "data.batch": ("0 65537", "1"),
    "data.accumulate": ("0 65537", "1"),
    "data.difficulty": ("-0.1 1.1", "0 1"),
    "data.curriculum": ("-0.1 1.1", "0 1"),
    "data.bucket": ("0 65537", "1"),
    "lora.last_layers": ("-1 65537", "0"),
    "run.validation_questions": ("-1 1000000001", "0 1"),
    "run.seed": ("-1 4294967296", "0 4294967295"),
    "run.max_minutes": ("-1", "0"),
    "run.save_minutes": ("-1", "0"),
    "run.save_every": ("-1 1000000001", "0"),
    **{f"{stage}.{name}": edges for stage in STAGES for name, edges in STAGE.items()},
}


def is_number(setting):
    """Whether it is a number, or a list of them."""
    return setting.key == "fusion.hidden" or (type(setting.value) in (int, float))


def test_every_numeric_setting_takes_its_bounds_and_nothing_beyond():
    assert set(EDGES) == {setting.key for setting in recipes.Recipe().settings() if is_number(setting)}
    for key, (beyond, within) in EDGES.items():
        for value in beyond.split():
            with pytest.raises(
                RecipeError, match=rf"^{key} is .*, but must be (at|more|less) (least|most|than) [\d,]+\. \("
            ):
                recipes.load(None, [f"{key}={value}"])
        for value in within.split():
            recipes.load(None, [f"{key}={value}"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1" + "0" * 400])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(RecipeError, match=r"lr is .*, but it takes a number"):
        recipes.load(None, [f"text_stage.lr={value}"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("lora.rank=four", "lora.rank is 'four', but it takes a whole number."),
        ("fusion.hidden=[true]", "fusion.hidden is [True], but it takes a list of whole numbers."),
        ("lora.targets=3", "lora.targets is 3, but it takes a list of words."),
        ("run.strategy=text,sleep", "run.strategy is 'text,sleep'; allowed are text, fusion, joint."),
        ("lora.rank=1" + "0" * 60, "lora.rank is a whole number of more than 30 digits, but must be at most 65,536."),
        ("data.batch=1.5", "data.batch is 1.5, but it takes a whole number."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(given, sentence):
    with pytest.raises(RecipeError) as caught:
        recipes.from_dict({}, [given])
    assert caught.value.message == sentence
    assert caught.value.hint == recipes.describe(given.partition("=")[0])


def test_a_value_of_thousands_of_digits_is_refused_in_a_short_sentence():
    with pytest.raises(RecipeError, match="but it takes a whole number") as caught:
        recipes.from_dict({}, ["lora.rank=1" + "0" * 6000])
    assert len(caught.value.message) < 300
