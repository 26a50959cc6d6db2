"""Drawing by codes: what is retrieved, what prompts hold and label, and that a trained model draws what it was shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import unimp_shop as shop

from bundlecache.catalogue.columns import Lists, Strings
from bundlecache.errors import StoreError
from bundlecache.questions.task_file import TaskQuestions
from bundlecache.train.unimp import checkpoint, drawing
from bundlecache.train.unimp.answers import UnimpAnswers
from bundlecache.train.unimp.figures import figures

CODES, PATCHES, WITHOUT = 8, 6, 3
CPU = torch.device("cpu")


def asked(queries: list[str], targets: list[int], shown: list[list[int]] | None = None) -> TaskQuestions:
    """Questions of ``draw`` by users who took items 1 and 2."""
    n = len(queries)
    history = Lists.of(2 * np.arange(n + 1), np.tile(np.array([1, 2], np.int32), n))
    users = Strings([f"u{q}" for q in range(n)])
    made = TaskQuestions(
        "draw", {"name": "draw"}, users, np.zeros(n, bool), history, np.array(targets), Strings(queries)
    )
    return made if shown is None else replace(made, candidates=np.array(shown))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    recipe = shop.recipe(
        shop.save_base(tmp_path_factory.mktemp("base")), data={"tasks": ["search", "draw"]}, loss={"gamma": 0}
    )
    torch.manual_seed(0)
    return checkpoint.assemble(shop.catalogue(), recipe, shop.pictures(), None, CPU, drawn=shop.codes(CODES, PATCHES))


def test_labels_are_the_codes_of_the_target_and_the_end(parts):
    batch, words = parts.prompts.train([asked(["red lamp"], [5], [[2, 7]])]), parts.model.vocabulary
    assert batch.ids[batch.labels].tolist() == [
        *(words.codes.start - 1 + parts.drawn.vectors[5, :, 0]).astype(int).tolist(),
        words.end_of_chunk,
    ]
    shown = [int(token) for token in batch.ids[0] if token in words.codes]
    assert len(shown) == 3 * PATCHES  # two retrieved items, and the target
    assert shown[:PATCHES] == (words.codes.start - 1 + parts.drawn.vectors[2, :, 0]).astype(int).tolist()
    assert (batch.ids[0] == words.image).sum() == 2
    assert batch.images.tolist() == [[2, 7]]
    prompt = parts.prompts.ask(asked(["red lamp"], [5], [[2, 7]]))
    assert prompt.ids[0].tolist() == batch.ids[0, : prompt.ids.shape[1]].tolist()
    assert not prompt.labels.any()


def test_the_best_items_of_a_search_that_have_codes_are_retrieved_and_in_training_never_the_target(parts):
    model, prompts = parts.model, parts.prompts
    some = asked(["red lamp", "blue mug"], [5, 9])
    scores = UnimpAnswers(model, prompts).scores(replace(some, task="search"))
    scores[:, WITHOUT] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")
    model.train()
    assert drawing.retrieve(model, prompts, some).candidates.tolist() == best[:, :2].tolist()
    assert model.training
    aimed = replace(some, target=best[:, 0].astype(np.int32))
    assert drawing.retrieve(model, prompts, aimed, without_target=True).candidates.tolist() == best[:, 1:3].tolist()


def test_a_model_draws_the_pictures_that_it_learnt_and_finds_them_likely(parts):
    some = asked(["red lamp", "blue mug"], [5, 9], [[2, 7], [2, 8]])
    model, prompts = parts.model, parts.prompts
    before = figures(model, prompts, {"draw": some}, "draw")
    optimizer = torch.optim.AdamW(model.train_only("multitask"), lr=1e-2)
    for _ in range(40):
        batch = prompts.train([some])
        optimizer.zero_grad()
        model.train()(batch).backward()
        optimizer.step()
    shown, drawn = UnimpAnswers(model, prompts).draw(some)
    np.testing.assert_array_equal(drawn, parts.drawn.vectors[some.target, :, 0])
    assert shown.tolist() == [[2, 7], [2, 8]]
    found, drawn = UnimpAnswers(model, prompts).draw(replace(some, candidates=np.zeros(0, np.int32)))
    assert found.tolist() == drawing.retrieve(model, prompts, some).candidates.tolist()
    assert drawn.shape == (2, PATCHES)
    assert ((drawn >= 1) & (drawn <= CODES)).all()
    after = figures(model, prompts, {"draw": some}, "draw")
    assert after.main > 2 * before.main
    assert after.loss == pytest.approx(-np.log(after.main))


def test_codes_that_do_not_fit_are_one_sentence(parts):
    drawing.check_count(shop.codes(CODES), CODES)
    with pytest.raises(StoreError, match=f"up to {CODES + 1}, and the model was built for {CODES}"):
        drawing.check_count(shop.codes(CODES + 1), CODES)
    with pytest.raises(StoreError, match="stores features, not codes of pictures"):
        drawing.count_of(shop.pictures())
    few = np.arange(shop.ITEMS) < 2
    with pytest.raises(StoreError, match="2 items have picture codes"):
        drawing.count_of(replace(shop.codes(), mask=few))
