"""The fixed sample of a question set: which questions stay, and what is said of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from bundlecache.baselines.rankers import ItemScoreRanker
from bundlecache.bench.benchmark import BenchSetup, run
from bundlecache.bench.results import QuestionSetResult
from bundlecache.console.parsing import sample_size
from bundlecache.errors import BundlecacheError
from bundlecache.questions.question_file import Questions
from bundlecache.questions.sample import info, sample


def made(name: str, lengths: list[int], seed: int = 0) -> Questions:
    """A question per bundle, its options drawn with the seed; the truth is always the first one."""
    rng = np.random.default_rng(seed)
    count = len(lengths)
    return Questions(
        name=name,
        split="test",
        negatives="random",
        seed=seed,
        bundle_ids=[f"b{k}" for k in range(count)],
        partial=[np.arange(length, dtype=np.int32) for length in lengths],
        options=np.stack([rng.permutation(50)[:10] for _ in range(count)]).astype(np.int32),
        truth=np.zeros(count, np.int64),
        sha256=hashlib.sha256(f"{name} {seed}".encode()).hexdigest(),
        header={},
    )


def test_a_set_that_is_not_larger_is_returned_as_it_is():
    whole = made("test-random10", [2, 3, 4])
    assert sample(whole, 3) is whole
    assert sample(whole, 100) is whole
    assert sample(whole, 0) is whole
    assert info(whole) is None


def test_the_sample_keeps_the_share_of_every_bundle_length():
    drawn = sample(made("test-random10", [1] * 600 + [2] * 300 + [5] * 100), 100)
    lengths = [len(given) for given in drawn.partial]
    assert [lengths.count(length) for length in (1, 2, 5)] == [60, 30, 10]


def test_rows_stay_together_and_in_their_order():
    whole = made("test-random10", [2] * 40)
    drawn = sample(whole, 7)
    rows = [whole.bundle_ids.index(name) for name in drawn.bundle_ids]
    assert rows == sorted(rows)
    assert len(set(rows)) == 7
    assert np.array_equal(drawn.options, whole.options[rows])
    assert np.array_equal(drawn.truth, whole.truth[rows])


def test_other_options_and_seeds_ask_about_the_same_bundles():
    random, hard = made("test-random10", [2] * 90), made("test-hard10", [2] * 90, seed=3)
    assert sample(random, 20).bundle_ids == sample(hard, 20).bundle_ids
    assert sample(random, 20).bundle_ids != sample(random, 20, seed=1).bundle_ids
    shuffled = replace(random, bundle_ids=random.bundle_ids[::-1])
    assert set(sample(random, 20).bundle_ids) == set(sample(shuffled, 20).bundle_ids)


def test_a_bundle_asked_about_twice_may_lose_one_question():
    whole = made("test-random10", [2] * 40)
    twice = replace(whole, bundle_ids=[f"b{k // 2}" for k in range(40)])
    assert len(sample(twice, 21)) == 21


def test_the_hash_says_which_set_and_which_sample():
    whole = made("test-random10", [2] * 40)
    assert sample(whole, 10).sha256 == sample(whole, 10).sha256
    others = [whole, sample(whole, 11), sample(whole, 10, seed=1), sample(replace(whole, sha256="other"), 10)]
    assert sample(whole, 10).sha256 not in [other.sha256 for other in others]
    drawn = info(sample(whole, 10))
    assert drawn is not None
    assert (drawn.n_questions, drawn.of, drawn.sha256) == (10, 40, whole.sha256)


def test_results_say_that_they_are_about_a_sample():
    whole = made("test-random10", [2] * 40)
    ranker = ItemScoreRanker("first", "content", lambda: -np.arange(50.0))
    (found,) = run(BenchSetup(rankers=[ranker]), [sample(whole, 10)])
    assert found.questions.amount == "10 of 40"
    assert any("10 of 40" in sentence and "--sample all" in sentence for sentence in found.findings)
    again = QuestionSetResult.from_dict(found.to_dict())
    assert again.questions == found.questions
    assert again.questions.samples[0].sha256 == whole.sha256
    (all_of_them,) = run(BenchSetup(rankers=[ranker]), [whole])
    assert "samples" not in all_of_them.to_dict()["questions"]
    assert all_of_them.questions.amount == "40"


@pytest.mark.parametrize("typed", ["-1", "many", "1.5", "1e3", "9" * 40])
def test_a_sample_that_is_no_number_of_questions_is_refused(typed: str):
    with pytest.raises(BundlecacheError, match="--sample"):
        sample_size(typed)
