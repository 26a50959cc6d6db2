"""Training questions: fair, distinct, never about held-out bundles, and the same from the same seed."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from helpers import train_shop as world

from bundlecache.catalogue import splits
from bundlecache.errors import QuestionsError
from bundlecache.recipes.settings import Data
from bundlecache.train.training.sampler import QuestionSampler


def lengths(given, options, taken):
    return np.array([10 * len(g) for g in given])


def supply(cat, seed=0, **settings):
    return QuestionSampler(cat, Data(options=5, batch=8, bucket=4, **settings), lengths, seed)


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.mark.parametrize("negatives", ["random", "hard", "mixed"])
@pytest.mark.parametrize("partial", ["random", "all"])
def test_every_question_has_one_truth_and_wrong_options_from_outside(cat, negatives, partial):
    columns = {"category": [["wood", "clay"][i % 2] for i in range(len(cat))]}
    questions = supply(dataclasses.replace(cat, columns=columns), negatives=negatives, partial=partial)
    train = [frozenset(cat.bundles.items[b].tolist()) for b in np.flatnonzero(splits.assign(cat) == "train")]
    for step in range(8):
        drawn = questions.batch(step)
        assert len(drawn) == 8
        for given, options, truth in zip(drawn.partial, drawn.options, drawn.truth, strict=True):
            shown = set(given.tolist())
            homes = [bundle for bundle in train if shown | {options[truth]} <= bundle]
            assert homes
            assert options[truth] not in shown
            assert len(set(options.tolist())) == 5
            assert len(given) >= 1
            if partial == "all":
                assert any(shown | {options[truth]} == bundle for bundle in homes)
            wrong = set(options.tolist()) - {options[truth]}
            assert any(not wrong & bundle for bundle in homes)


def test_hard_options_are_of_the_truths_category(cat):
    columns = {"category": [["wood", "clay"][(i // 2) % 2] for i in range(len(cat))]}
    drawn = supply(dataclasses.replace(cat, columns=columns), negatives="hard").batch(0)
    assert all(len({(o // 2) % 2 for o in options}) == 1 for options in drawn.options.tolist())


def test_a_curriculum_goes_from_random_wrong_options_to_hard_ones_and_leaves_what_is_asked_about(cat):
    kinds = np.arange(len(cat)) // 2 % 2
    shop = dataclasses.replace(cat, columns={"category": [["wood", "clay"][k] for k in kinds]})
    settings = Data(options=5, batch=8, bucket=4, negatives="hard", curriculum=0.5)
    questions = QuestionSampler(shop, settings, lengths, 0, steps=80)
    plain = supply(shop, negatives="hard")
    drawn, hard = ([some.batch(step) for step in range(80)] for some in (questions, plain))
    like_truth = [(kinds[d.options] == kinds[d.options[:, :1]]).mean() for d in drawn]
    assert np.mean(like_truth[:4]) < 0.7 < np.mean(like_truth[12:28]) < np.mean(like_truth[40:])
    assert all((one.options == other.options).all() for one, other in zip(drawn[40:], hard[40:], strict=True))
    for one, other in zip(drawn[:4], hard[:4], strict=True):
        assert not (one.options == other.options).all()
    assert sorted(b for d in drawn[:4] for b in d.bundle) == sorted(b for d in hard[:4] for b in d.bundle)


def test_wrong_options_are_seen_in_training_as_the_truth_is(cat):
    titles = [*cat.titles, *["new thing"] * 60]
    more = dataclasses.replace(cat, item_ids=[*cat.item_ids, *[f"new-{i}" for i in range(60)]], titles=titles)
    questions = supply(more)
    assert max(int(questions.batch(step).options.max()) for step in range(20)) < len(cat)


def test_the_same_seed_draws_the_same_questions_in_any_order_and_another_seed_others(cat):
    one, two, other = supply(cat), supply(cat), supply(cat, seed=1)
    forward = [one.batch(step) for step in range(9)]
    backward = [two.batch(step) for step in range(8, -1, -1)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert (a.options == b.options).all()
        assert (a.truth == b.truth).all()
        assert all((x == y).all() for x, y in zip(a.partial, b.partial, strict=True))
    assert any((a.options != other.batch(k).options).any() for k, a in enumerate(forward))


def test_an_epoch_asks_about_every_training_bundle_and_the_truth_stands_everywhere(cat):
    questions = supply(cat, partial="all")
    asked = [
        frozenset([*g.tolist(), o[t]])
        for k in range(12)
        for d in [questions.batch(k)]
        for g, o, t in zip(d.partial, d.options, d.truth, strict=True)
    ]
    train = [frozenset(questions.bundles[b].tolist()) for b in range(len(questions.bundles))]
    assert set(asked[: len(train)]) <= set(train)
    assert set(train) <= set(asked)
    places = np.concatenate([questions.batch(k).truth for k in range(40)])
    assert np.bincount(places, minlength=5).min() > 0.6 * len(places) / 5


def test_held_out_bundles_are_never_asked_about(cat):
    held = [cat.bundles.ids[b] for b in np.flatnonzero(splits.assign(cat) == "train")][:40]
    questions = QuestionSampler(cat, Data(options=4, batch=4), lengths, 0, held_out=held)
    assert len(questions.bundles) == (splits.assign(cat) == "train").sum() - 40


def test_batches_hold_prompts_of_like_length(cat):
    questions = supply(cat)
    spread = np.mean([np.ptp(lengths(d.partial, d.options, d.history)) for d in map(questions.batch, range(16))])
    whole = np.ptp([len(g) * 10 for k in range(4) for g in questions.batch(k).partial])
    assert spread < whole


def test_the_draws_of_a_seed_stay_what_they_were(cat):
    cat = dataclasses.replace(cat, columns={"category": [["wood", "clay"][i % 2] for i in range(len(cat))]})
    questions = supply(cat, seed=3, negatives="mixed")
    drawn = [questions.batch(step) for step in (0, 5, 40)]
    digest = hashlib.sha256()
    for d in drawn:
        digest.update(np.concatenate([*d.partial, d.options.ravel(), d.truth]).astype(np.int64).tobytes())
    assert digest.hexdigest()[:16] == "621bb8b8bf2719e3", "training questions decide the digits of every run"


def test_too_small_a_catalogue_is_one_sentence(cat):
    with pytest.raises(QuestionsError, match="options"):
        QuestionSampler(cat, Data(options=47), lengths, 0)
    empty = dataclasses.replace(cat, bundles=dataclasses.replace(cat.bundles, split=["test"] * len(cat.bundles)))
    with pytest.raises(QuestionsError, match="training bundle"):
        supply(empty)
