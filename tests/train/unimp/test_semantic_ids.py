"""Semantic ids and their prefix tree: known codes, stable growth, and what may follow a beginning."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.matrices import matrix

from bundlecache.errors import BundlecacheError
from bundlecache.train.unimp import semantic_ids
from bundlecache.train.unimp.trie import Trie

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


def test_a_trie_allows_what_follows_a_beginning_and_nothing_else():
    rng = np.random.default_rng(0)
    sequences = np.unique(rng.integers(7, size=(80, 3)), axis=0)
    tree = Trie.of(rng.permutation(sequences))
    for first in range(8):
        begun = sequences[sequences[:, 0] == first]
        assert tree.allowed([first]).tolist() == sorted(set(begun[:, 1].tolist()))
        for second in range(8):
            rest = begun[begun[:, 1] == second, 2]
            assert tree.allowed([first, second]).tolist() == sorted(rest.tolist())
    assert tree.allowed(sequences[0].tolist()).tolist() == []
    with pytest.raises(ValueError, match="equal"):
        Trie.of(np.array([[1, 2], [1, 2]]))
