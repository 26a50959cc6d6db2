"""Semantic ids and their search: known codes, stable growth, and a beam that equals the exact ranking."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.matrices import matrix

from bundlecache.errors import BundlecacheError
from bundlecache.train.unimp import semantic_ids
from bundlecache.train.unimp.trie import Trie, beam_search

ITEMS = 40
ID = [f"i{k}" for k in range(ITEMS)]


def near_corners(seed: int = 0) -> np.ndarray:
    """[40, 6] in four directions far apart; within each, ten items in five pairs of equal vectors."""
    rng = np.random.default_rng(seed)
    corner = np.eye(6)[np.arange(ITEMS) // 10]
    return (corner + 0.2 * rng.normal(size=(20, 6)).repeat(2, axis=0)).astype(np.float32)


def test_the_first_code_is_the_group_and_equal_vectors_differ_in_the_last_code_alone():
    ids = semantic_ids.learn([matrix(near_corners())], levels=2, codes=4, seed=0)
    assert ids.sizes == (5, 4, 32)
    assert len({tuple(row) for row in ids.codes.tolist()}) == ITEMS
    for group in range(4):
        assert len(set(ids.codes[10 * group : 10 * group + 10, 0])) == 1
    assert len(set(ids.codes[:, 0])) == 4
    pairs = ids.codes.reshape(20, 2, 3)
    assert (pairs[:, 0, :2] == pairs[:, 1, :2]).all()
    assert (pairs[:, 0, 2] != pairs[:, 1, 2]).all()
    assert ids.size == 32
    assert (ids.codes < np.array(ids.sizes)).all()
    assert (semantic_ids.learn([matrix(near_corners())], levels=2, codes=4, seed=0).codes == ids.codes).all()


def test_items_without_vectors_get_distinct_ids_of_their_own():
    there = np.arange(ITEMS) < 2  # so few that the codes behind the first hardly spread them
    ids = semantic_ids.learn([matrix(near_corners(), there)], levels=2, codes=4)
    assert len({tuple(row) for row in ids.codes.tolist()}) == ITEMS
    assert (ids.codes[2:, 0] == ids.sizes[0] - 1).all()
    assert (ids.codes[:2, 0] < ids.sizes[0] - 1).all()
    assert (ids.codes < np.array(ids.sizes)).all()
    with pytest.raises(BundlecacheError, match="No item has a vector"):
        semantic_ids.learn([matrix(near_corners(), np.zeros(ITEMS, bool))])


def test_known_items_keep_their_ids_when_others_come_and_the_order_changes(tmp_path):
    vectors = near_corners()
    old = np.r_[0:35]
    ids = semantic_ids.learn([matrix(vectors[old])], levels=2, codes=4)
    ids.save(tmp_path, [ID[k] for k in old])
    order = np.random.default_rng(1).permutation(ITEMS)
    there = order != 39  # one of the new items has no vector
    now = semantic_ids.load(tmp_path, [ID[k] for k in order], [matrix(vectors[order], there)])
    place = np.argsort(order)
    assert (now.codes[place[old]] == ids.codes).all()
    assert len({tuple(row) for row in now.codes.tolist()}) == ITEMS
    assert (now.codes[place[35], :2] == ids.codes[34, :2]).all()  # they have one vector
    assert (now.codes[place[36], :2] == now.codes[place[37], :2]).all()
    assert now.codes[place[39], 0] == ids.sizes[0] - 1
    (tmp_path / semantic_ids.CODEBOOK_FILE).write_bytes(b"x")
    with pytest.raises(BundlecacheError, match="damaged"):
        semantic_ids.load(tmp_path, ID, [matrix(vectors)])


def made_up_model(questions: int, vocabulary: int, depth: int):
    """Log-probabilities that depend on the question and on all tokens before."""
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(questions, vocabulary)), rng.normal(size=(depth, vocabulary, vocabulary))

    def step(question: np.ndarray, before: np.ndarray) -> np.ndarray:
        logits = weight[0][question].copy()
        for place in range(before.shape[1]):
            logits += weight[1][place, before[:, place]]
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    return step


def test_a_beam_as_wide_as_the_catalogue_is_the_exact_ranking():
    rng = np.random.default_rng(0)
    vocabulary, questions = 11, 3
    sequences = np.unique(rng.integers(vocabulary, size=(60, 3)), axis=0)
    step = made_up_model(questions, vocabulary, 3)
    exact = np.zeros((questions, len(sequences)))
    for q in range(questions):
        for item, tokens in enumerate(sequences):
            for place in range(3):
                exact[q, item] += step(np.array([q]), tokens[None, :place])[0, tokens[place]]
    found = beam_search(step, Trie.of(sequences), questions, len(sequences))
    assert found.question.tolist() == np.repeat(np.arange(questions), len(sequences)).tolist()
    ranked = found.sequence.reshape(questions, -1)
    assert (ranked == np.argsort(-exact, axis=1, kind="stable")).all()
    assert np.allclose(found.log_probability, np.take_along_axis(exact, ranked, 1).ravel())
    narrow = beam_search(step, Trie.of(sequences), questions, 5)
    assert len(narrow.sequence) == 5 * questions
    assert set(narrow.sequence.tolist()) <= set(range(len(sequences)))


def test_with_one_token_per_item_the_beam_is_the_softmax_over_item_columns():
    tokens = np.array([[4], [9], [2], [7]])
    step = made_up_model(2, 11, 1)
    logs = step(np.arange(2), np.zeros((2, 0), np.int64))[:, tokens[:, 0]]
    found = beam_search(step, Trie.of(tokens), 2, 3)
    assert found.sequence.reshape(2, 3).tolist() == np.argsort(-logs, axis=1)[:, :3].tolist()
    alone = beam_search(lambda question, before: step(question + 1, before), Trie.of(tokens), 1, 3)
    assert alone.sequence.tolist() == found.sequence[3:].tolist()
