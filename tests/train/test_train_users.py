"""A user's history in the prompt: the latest last, nothing that is asked about, in training and in answering alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import train_shop as world

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Interactions
from bundlecache.errors import CatalogueError
from bundlecache.questions.freeze import freeze
from bundlecache.questions.user_history import UserHistories
from bundlecache.recipes.settings import Data, Prompt
from bundlecache.train import checkpoint
from bundlecache.train.inference import scoring
from bundlecache.train.prompts.builder import PromptBuilder
from bundlecache.train.training import loop
from bundlecache.train.training.sampler import QuestionSampler


@pytest.fixture(scope="module")
def cat():
    """The planted catalogue, whose users also took six items that stand in none of their bundles or in some."""
    plain = world.catalogue()
    rng = np.random.default_rng(2)
    edges = [
        (b, int(i)) for b, items in enumerate(plain.bundles.items) for i in [*items, *rng.choice(world.ITEMS, 6, False)]
    ]
    user, item = np.array(edges, np.int32).T
    interactions = Interactions([f"u{b}" for b in range(120)], user, item, list(plain.bundles.group))
    return dataclasses.replace(plain, interactions=interactions)


def lengths(given, options, taken):
    return np.array([len(g) + len(t) for g, t in zip(given, taken, strict=True)])


def test_a_training_history_tells_nothing_of_its_own_bundles_or_options(cat):
    sister = dataclasses.replace(cat.bundles, group=[f"user-{b // 2}" for b in range(len(cat.bundles))])
    groups = dataclasses.replace(cat.interactions, group=[f"user-{b // 2}" for b in range(len(cat.bundles))])
    cat = dataclasses.replace(cat, bundles=sister, interactions=groups)
    supply = QuestionSampler(cat, Data(options=4, batch=8, bucket=2), lengths, 0, histories=UserHistories(cat, 3))
    train = np.flatnonzero(splits.assign(cat) == "train")
    told = 0
    for step in range(10):
        drawn = supply.batch(step)
        for taken, given, options, truth in zip(drawn.history, drawn.partial, drawn.options, drawn.truth, strict=True):
            shown = {*given.tolist(), int(options[truth])}
            homes = [b for b in train if shown <= set(cat.bundles.items[b].tolist())]
            assert len(taken) <= 3
            assert not set(taken.tolist()) & {*shown, *options.tolist()}
            mates = [{*cat.bundles.items[b].tolist(), *cat.bundles.items[b ^ 1].tolist()} for b in homes]
            assert any(not set(taken.tolist()) & both for both in mates)
            told += len(taken)
    assert told > 100


def test_the_latest_items_are_told_and_others_cost_no_token(cat, tmp_path):
    from transformers import AutoTokenizer

    from bundlecache.train.model.llm import EMBEDDED

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    titles = ["red lamp", "blue mug", "bell", "chime"]
    builder = PromptBuilder(tokenizer, titles, Prompt(history=2), 4, tmp_path)
    asked = [np.array([0])], [np.array([1, 3])], "text"
    ids = builder.build(*asked, [np.array([3, 1, 2])]).ids[0]
    whole = "History: blue mug; bell;\nBundle: red lamp;\nOptions: A blue mug; B chime;\nAnswer:"
    assert ids.tolist() == [tokenizer.bos_token_id, *tokenizer([whole], add_special_tokens=False)["input_ids"][0]]
    plain = PromptBuilder(tokenizer, titles, Prompt(), 4, tmp_path)
    for builder_of, taken in ((builder, None), (builder, [np.array([], int)]), (plain, [np.array([1, 2])])):
        assert builder_of.build(*asked, taken).ids.tolist() == plain.build(*asked).ids.tolist()


def test_a_model_is_trained_on_histories_and_goes_on_telling_them_when_loaded(cat, tmp_path):
    base = world.save_base(tmp_path / "base")
    valid, test = (freeze(cat, split=split, n_options=4) for split in ("valid", "test"))
    sections = {
        "prompt": {"history": 4},
        "joint_stage": {"steps": 8, "evaluate_every": 4, "lr": 1e-2},
        "run": {"strategy": ["joint"], "select": "loss"},
    }
    done = loop.train(cat, world.matrices(), valid, world.recipe(base, **sections), tmp_path / "run", seed=0)
    model = checkpoint.load(done.run, cat, world.matrices())
    assert model.histories == UserHistories(cat, 4)
    variants = scoring.score_variants(model, test)
    told = scoring.score(model, test)
    assert (variants.answers["Bundle-MLLM"].logits == told.logits).all()
    untold = scoring.score(model, test, with_history=False)
    assert (variants.ablation["history"].logits == untold.logits).all()
    assert np.abs(told.logits - untold.logits).max() > 1e-3


def test_a_users_history_holds_each_item_once_where_it_was_taken_last(cat):
    edges = Interactions(["ann", "bob"], np.array([0, 1, 0, 0, 0]), np.array([5, 9, 7, 5, 8]), ["g", "h"])
    histories = UserHistories(dataclasses.replace(cat, interactions=edges), 2)
    assert histories.of_user("ann", []).tolist() == [5, 8]
    assert histories.of_user("ann", [8]).tolist() == [7, 5]
    with pytest.raises(CatalogueError, match="no user 'anne'"):
        histories.of_user("anne", [])
