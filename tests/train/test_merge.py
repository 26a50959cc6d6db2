"""A run goes out as a plain language model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import train_shop as world
from helpers.runner import invoke
from helpers.shop import make_shop
from transformers import AutoModelForCausalLM, AutoTokenizer

from bundlecache.errors import CheckpointError
from bundlecache.train import checkpoint, merge
from bundlecache.train.inference import scoring
from bundlecache.train.prompts.builder import ITEM, SEPARATOR
from bundlecache.train.training import loop

HIDDEN, RANK, CONTENT, GRAPH = 32, 3, 12, 8


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def valid(cat):
    return world.questions(cat)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"), hidden=HIDDEN)


@pytest.mark.parametrize("separator", ["soft", "none"])
def test_a_merged_run_is_a_plain_model_with_the_same_letter_logits(cat, valid, base, tmp_path, separator):
    recipe = world.recipe(
        base, prompt={"separator": separator, "template": "auto"}, joint_stage={"lr": 3e-2, "steps": 8}
    )
    loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", stage="joint")
    model = checkpoint.load(tmp_path / "run", cat, world.matrices(), "cpu")
    before = scoring.score(model, valid).logits
    prompts = [model.prompts.spell(g, o, "mm") for g, o in zip(valid.partial, valid.options, strict=True)]
    letters = model.prompts.letters[: valid.n_options]
    merge.merge(model, cat.item_ids, tmp_path / "plain")

    from safetensors.torch import load_file

    plain, items = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "plain"),
        load_file(tmp_path / "plain/items.safetensors"),
    )
    assert (tmp_path / "plain" / "item_ids.txt").read_text().split() == cat.item_ids
    assert ("separator" in items) == (separator == "soft")
    assert not any("lora" in name for name in plain.state_dict())
    table = plain.get_input_embeddings().weight.detach()
    for ids, wanted in zip(prompts, before, strict=True):
        rows = [
            items["separator"] if i == SEPARATOR else items["tokens"][ITEM - i] if i <= ITEM else table[i] for i in ids
        ]
        with torch.inference_mode():
            logits = plain(inputs_embeds=torch.stack(rows)[None]).logits[0, -1, letters]
        np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").get_vocab() == model.prompts.tokenizer.get_vocab()
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "the wording `paper`" in card
    assert "`auto`" not in card
    assert f"{model.prompts.text_of(np.array([0]), np.array([0, 1]), 'mm')}\n" in card
    with pytest.raises(CheckpointError, match="holds something"):
        merge.merge(model, cat.item_ids, tmp_path / "plain")


def test_merge_is_typed(tmp_path):
    root = make_shop(tmp_path)

    def typed(*args):
        done = invoke(*args, "--data", root)
        return done.exception.message if done.exception else done.output

    quick = [x for s in ("text", "fusion") for x in ("--set", f"{s}_stage.steps=1")]
    typed("train", "--recipe", "demo", "--name", "mine", *quick, "--set", "fusion_stage.contrastive_steps=0")
    printed = typed("merge", "mine", "--out", tmp_path / "plain")
    assert "mine ->" in printed
    assert "shards" not in printed
    assert (tmp_path / "plain" / "items.safetensors").is_file()
    assert "holds something" in typed("merge", "--out", tmp_path / "plain")
