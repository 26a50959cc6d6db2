"""Drawing by codes: what its prompts hold and label, and that a trained model draws what it was shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import unimp_shop as shop

from bundlecache.errors import StoreError
from bundlecache.store.store import Matrix
from bundlecache.train.model import llm as llms
from bundlecache.train.unimp.drawing import Drawing
from bundlecache.train.unimp.item_texts import ItemTexts
from bundlecache.train.unimp.model import build
from bundlecache.train.unimp.pictures import TokenTable
from bundlecache.train.unimp.vocabulary import AtomicIds, Vocabulary

CODES, PATCHES = 8, 6
CPU = torch.device("cpu")


def matrix(rows: np.ndarray) -> Matrix:
    mask = np.arange(len(rows)) != 3
    return Matrix("image", "test", "test", "f" * 64, 1, np.where(mask[:, None, None], rows, 0).astype(np.float32), mask)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    rng, catalogue = np.random.default_rng(0), shop.catalogue()
    recipe = shop.recipe(shop.save_base(tmp_path_factory.mktemp("base")))
    base = llms.load(recipe.base, CPU)
    texts = ItemTexts(base.tokenizer, catalogue, recipe.prompt)
    words = Vocabulary(base.model.get_input_embeddings().weight.shape[0], AtomicIds(shop.ITEMS), codes=CODES)
    torch.manual_seed(0)
    model = build(base, words, TokenTable(matrix(rng.normal(size=(shop.ITEMS, 3, 5))), CPU), recipe)
    return Drawing(model, texts, matrix(rng.integers(1, CODES + 1, (shop.ITEMS, PATCHES, 1))))


def test_labels_are_the_codes_of_the_target_and_the_end(drawing):
    batch, words = drawing.train([np.array([2, 7])], ["red lamp"], [5]), drawing.model.vocabulary
    assert batch.ids[batch.labels].tolist() == [
        *(words.codes.start - 1 + drawing.codes.vectors[5, :, 0]).astype(int).tolist(),
        words.end_of_chunk,
    ]
    shown = [int(token) for token in batch.ids[0] if token in words.codes]
    assert len(shown) == 3 * PATCHES  # two retrieved items, and the target
    assert (batch.ids[0] == words.image).sum() == 2
    assert batch.images.tolist() == [[2, 7]]
    scores = -np.arange(shop.ITEMS, dtype=float)[None]
    assert drawing.retrieved(np.roll(scores, 3, axis=1)).tolist() == [[4, 5]]  # 3 is best and has no codes


def test_a_model_draws_the_pictures_that_it_learnt(drawing):
    retrieved, queries, targets = [np.array([2, 7]), np.array([2, 8])], ["red lamp", "blue mug"], [5, 9]
    model = drawing.model
    optimizer = torch.optim.AdamW(model.train_only("multitask"), lr=1e-2)
    batch = drawing.train(retrieved, queries, targets)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.train()(batch)
        loss.backward()
        optimizer.step()
    drawn = drawing.draw(retrieved, queries)
    np.testing.assert_array_equal(drawn, drawing.codes.vectors[targets, :, 0])
    with pytest.raises(StoreError, match="no picture codes"):
        drawing.train(retrieved[:1], queries[:1], [3])
    many = matrix(np.full((shop.ITEMS, PATCHES, 1), CODES + 1))
    with pytest.raises(StoreError, match=f"up to {CODES + 1}"):
        Drawing(model, drawing.texts, many)
