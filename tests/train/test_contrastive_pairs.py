"""The pairs of the contrastive steps: alike as their kind says, and none of a bundle or user that is held out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import train_shop as world
from torch.nn import functional as F

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Interactions
from bundlecache.errors import RecipeError
from bundlecache.train import checkpoint
from bundlecache.train.training.contrastive import Pairs, drawn_loss
from bundlecache.train.training.loop import train

KIND = np.arange(world.ITEMS) // 2 % 3


@pytest.fixture(scope="module")
def shop():
    """Users 0 to 119 made a bundle each, 120 to 129 none; each took three items, its own number further each time."""
    cat = world.catalogue()
    user = np.repeat(np.arange(130), 3).astype(np.int32)
    item = ((user + 5 * np.tile(np.arange(3), 130)) % world.ITEMS).astype(np.int32)
    order = np.random.default_rng(0).permutation(130)  # users stand in no order, a user's rows in that of time
    rows = (3 * np.argsort(order)[:, None] + np.arange(3)).ravel()
    names = [f"user-{u}" for u in range(130)]
    category = [None if i % 10 == 9 else ["wood", "clay", "wool"][KIND[i]] for i in range(world.ITEMS)]
    interactions = Interactions(names, user[rows], item[rows], names)
    return dataclasses.replace(cat, interactions=interactions, columns={"category": category})


def drawn(kind, shop, times=40):
    pairs = Pairs.of(kind, shop, shop.bundles.items.take(np.flatnonzero(splits.assign(shop) == "train")))
    rng = np.random.default_rng(0)
    return [np.stack(pairs.draw(rng), axis=1) for _ in range(times)]


def test_two_items_of_a_training_bundle(shop):
    train = [set(shop.bundles.items[b].tolist()) for b in np.flatnonzero(splits.assign(shop) == "train")]
    for one, other in np.concatenate(drawn("bundles", shop, 3)):
        assert one != other
        assert any({one, other} <= bundle for bundle in train)


def test_two_items_of_one_category_and_one_pair_of_each(shop):
    for pairs in drawn("categories", shop):
        assert (KIND[pairs[:, 0]] == KIND[pairs[:, 1]]).all()
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert sorted(KIND[pairs[:, 0]]) == [0, 1, 2], "two pairs of a category would be wrong for each other"
        assert not (pairs % 10 == 9).any(), "an item without a category is like no other"


def test_two_items_that_a_user_took_one_after_the_other_and_no_user_who_made_a_held_out_bundle(shop):
    pairs = np.concatenate(drawn("histories", shop))
    assert ((pairs[:, 1] - pairs[:, 0]) % world.ITEMS == 5).all()
    split = splits.assign(shop)
    known = {u for u in range(130) if u >= 120 or split[u] == "train"}
    allowed = {((u + 5 * k) % world.ITEMS, (u + 5 * k + 5) % world.ITEMS) for u in known for k in (0, 1)}
    assert {tuple(pair) for pair in pairs.tolist()} == allowed


def test_a_pair_of_one_kind_is_no_wrong_pair_of_another(shop):
    one = Pairs(world.catalogue().bundles.items.take([0]))
    kinds, rng = [one, one], np.random.default_rng(0)
    table = torch.nn.Embedding(world.ITEMS, 4)
    loss = drawn_loss(kinds, rng, lambda items: table(torch.from_numpy(items)))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6), "one pair of a kind has nothing to be told from"


@pytest.mark.parametrize(("kind", "needs"), [("categories", "column category"), ("histories", "interactions.parquet")])
def test_a_kind_that_the_catalogue_has_no_data_for_is_refused_before_training(kind, needs, tmp_path):
    cat, base = world.catalogue(), world.save_base(tmp_path / "base")
    stage = {"steps": 2, "contrastive_steps": 1, "contrastive_pairs": ["bundles", kind]}
    recipe = world.recipe(base, fusion_stage=stage, run={"strategy": ["text", "fusion"]})
    with pytest.raises(RecipeError, match=f"contrastive_pairs takes {kind}") as caught:
        train(cat, world.matrices(), world.questions(cat), recipe, tmp_path / "run")
    assert needs in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_items_of_a_category_get_like_tokens(shop, tmp_path):
    base = world.save_base(tmp_path / "base")
    rng = np.random.default_rng(0)
    image = np.eye(3)[KIND] + rng.normal(0, 0.3, (world.ITEMS, 3))
    alike = {}
    for steps in (0, 60):
        stage = {"steps": 0, "contrastive_steps": steps, "contrastive_pairs": ["categories"], "lr": 1e-2}
        recipe = world.recipe(base, fusion_stage=stage, run={"strategy": ["fusion"]})
        run = tmp_path / f"run{steps}"
        train(shop, {"image": world.matrix("image", image)}, world.questions(shop), recipe, run)
        model = checkpoint.load(run, shop, {"image": world.matrix("image", image)}, device="cpu")
        tokens = F.normalize(model.item_tokens(np.arange(world.ITEMS)).detach(), dim=-1)
        cosine, same = (tokens @ tokens.T).numpy(), KIND[:, None] == KIND[None]
        alike[steps] = cosine[same].mean() - cosine[~same].mean()
    assert alike[60] > alike[0] + 0.2
