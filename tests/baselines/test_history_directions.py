"""Directions of items from histories: near for what is taken together, and a baseline that recommends by them."""

from __future__ import annotations

import numpy as np
from helpers.histories import histories_of, training_of

from bundlecache.baselines.history_directions import history_directions, neighbour_ranker


def directions(sequences: list[list[int]], n_items: int) -> np.ndarray:
    vectors = history_directions(histories_of(sequences), n_items)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def test_items_that_are_taken_one_soon_after_the_other_have_like_directions():
    rng = np.random.default_rng(0)
    kinds = [rng.permutation([k % 2 + 2 * i for i in range(6)]).tolist() for k in range(80)]  # even ones, or odd ones
    vectors = directions(kinds, 14)
    cosines = vectors @ vectors.T
    even, odd = slice(0, 12, 2), slice(1, 12, 2)
    assert cosines[even, even].min() > 0.2 > 0.05 > np.abs(cosines[even, odd]).max()
    assert not vectors[12:].any()  # items that nobody took


def test_distance_in_a_history_counts_and_other_users_are_no_neighbours():
    near = directions([[0, 1, 8, 9, 2, 3]] * 20 + [[4, 5]] * 20, 10)
    assert near[0] @ near[1] > near[0] @ near[3] + 0.2
    assert abs(float(near[3] @ near[4])) < 0.05  # the last of one user and the first of the next


def test_the_baseline_recommends_what_is_like_the_latest_items_and_unknown_items_last():
    rng = np.random.default_rng(1)
    sequences = [rng.permutation(np.arange(k % 2, 16, 2)).tolist() for k in range(60)]  # even items, or odd ones
    training, asked = training_of(sequences, titles=[f"thing {i}" for i in range(18)])
    scores = neighbour_ranker(training).scores(asked)
    for row, history in zip(scores, asked.history, strict=True):
        mine = np.arange(history[0] % 2, 16, 2)
        others = np.setdiff1d(np.arange(16), mine)
        assert row[mine].min() > row[others].max() > row[16:].max()


def test_histories_of_one_item_each_tell_nothing():
    assert not history_directions(histories_of([[0], [1], [2]]), 400).any()
