from __future__ import annotations

import numpy as np
import pytest

from bundlecache.bench.metrics import Places, bootstrap, hits, mcnemar, measure, paired_difference, reciprocal_ranks


def by_lot(scores: np.ndarray, truth: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    """HitRate@1 and MRR when ties are really broken by lot, with plain sorting: the slow reference."""
    rng = np.random.default_rng(0)
    first, mrr = [], []
    for _ in range(draws):
        noise = rng.random(scores.shape)
        order = np.lexsort((noise, -scores), axis=1)
        place = (order == truth[:, None]).argmax(1) + 1
        first.append((place == 1).mean())
        mrr.append((1 / place).mean())
    return float(np.mean(first)), float(np.mean(mrr))


def test_average_ties_are_what_breaking_ties_by_lot_gives():
    rng = np.random.default_rng(1)
    scores, truth = rng.integers(0, 3, (50, 10)), rng.integers(0, 10, 50)
    first, mrr = by_lot(scores, truth)
    assert hits(scores, truth).mean() == pytest.approx(first, abs=0.004)
    assert reciprocal_ranks(scores, truth).mean() == pytest.approx(mrr, abs=0.004)


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 50])
def test_unique_is_never_above_average_nor_average_above_min(levels):
    rng = np.random.default_rng(levels)
    scores, truth = rng.integers(0, levels, (200, 7)), rng.integers(0, 7, 200)
    for k in (1, 3, 5):
        unique, average, least = (hits(scores, truth, k, ties) for ties in ("unique", "average", "min"))
        assert (unique <= average).all()
        assert (average <= least).all()


def test_a_method_that_ties_everything_scores_exactly_chance():
    metrics = measure(np.zeros((40, 10)), np.arange(40) % 10)
    assert (metrics.hit1, metrics.hit3, metrics.hit5) == (pytest.approx(0.1), pytest.approx(0.3), pytest.approx(0.5))
    assert metrics.mrr == pytest.approx(sum(1 / r for r in range(1, 11)) / 10)


def test_invalid_answers_stay_in_the_denominator():
    scores, truth = np.eye(4), np.arange(4)
    metrics = measure(scores, truth, np.array([True, False, False, True]))
    assert (metrics.hit1, metrics.valid_ratio, metrics.hit1_valid_only) == (0.5, 0.5, 1.0)
    assert measure(scores, truth, np.zeros(4, bool)).hit1_valid_only == 0.0


def test_nan_scores_are_misses_and_invalid_never_hits():
    scores = np.array([[np.nan, 1.0], [np.nan, np.nan], [2.0, 1.0]])
    metrics = measure(scores, np.array([0, 0, 0]))
    assert (metrics.hit1, metrics.valid_ratio) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert hits(scores, np.array([1, 0, 0])).tolist() == [0.0, 0.0, 1.0]


def test_bootstrap_equals_drawing_questions_one_by_one():
    rng = np.random.default_rng(2)
    values = rng.choice([0.0, 0.5, 1.0], 200)
    plain = [rng.choice(values, 200).mean() for _ in range(4000)]
    assert bootstrap(values) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.01)


def test_same_seed_gives_the_same_interval_to_the_last_digit():
    values = np.random.default_rng(3).random(300)
    assert bootstrap(values, seed=5) == bootstrap(values, seed=5) != bootstrap(values, seed=6)


def test_paired_interval_is_narrower_than_the_methods_own_where_they_agree():
    a = np.repeat([1.0, 0.0], 200)
    b = a.copy()
    b[:12] = 0
    delta, low, high = paired_difference(a, b)
    assert delta == pytest.approx(0.03)
    assert 0 < low < high < 0.06 < np.diff(bootstrap(a))[0]
    assert mcnemar(a, b) == pytest.approx(2 * 0.5**12)


@pytest.mark.parametrize(
    ("scores", "truth"),
    [(np.zeros((0, 4)), np.zeros(0, int)), (np.zeros((2, 4)), np.array([0, 4])), (np.zeros(4), np.array([0]))],
)
def test_impossible_input_is_refused(scores, truth):
    with pytest.raises(ValueError, match=r"question|options|\[q, n\]"):
        measure(scores, truth)


def test_places_beyond_k_gain_nothing_and_ties_share():
    places = Places(np.array([0, 4, 5, 3]), np.array([1, 1, 1, 4]))
    assert places.within(5).tolist() == [1, 1, 0, 0.5]
    assert places.ndcg(5) == pytest.approx([1, 1 / np.log2(6), 0, (1 / np.log2(5) + 1 / np.log2(6)) / 4])
    assert places.reciprocal() == pytest.approx([1, 1 / 5, 1 / 6, (1 / 4 + 1 / 5 + 1 / 6 + 1 / 7) / 4])
