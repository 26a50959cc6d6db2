"""Hard negatives: they are what they say by construction, the dial turns, and nothing right is offered as wrong."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.errors import QuestionsError
from bundlecache.questions import hardness
from bundlecache.questions.freeze import freeze, name_of
from bundlecache.questions.hard_negatives import HardNegatives
from bundlecache.questions.right_answers import RightAnswers
from bundlecache.recipes.settings import Data
from bundlecache.store.store import Matrix
from bundlecache.train.training.sampler import QuestionSampler

ITEMS, CLUMPS = 600, 6


def matrix(vectors, mask=None, modality="image") -> Matrix:
    mask = np.ones(len(vectors), bool) if mask is None else mask
    return Matrix(modality, f"test:{modality}", f"{modality}--x", "f00", 1, np.asarray(vectors, np.float32), mask)


@pytest.fixture(scope="module")
def world():
    """600 items in 6 clumps of looks and 6 categories that cut across them, 300 bundles, buyers of even and of odd items."""
    rng = np.random.default_rng(0)
    clump, category = np.arange(ITEMS) % CLUMPS, np.arange(ITEMS) // 100
    vectors = np.eye(CLUMPS, 24)[clump] + 0.1 * rng.normal(size=(ITEMS, 24))
    members = [rng.choice(ITEMS, 4, replace=False).astype(np.int32) for _ in range(300)]
    bundles = Bundles(
        [f"b{b}" for b in range(300)],
        members,
        [("train", "train", "train", "valid", "test")[b % 5] for b in range(300)],
        [f"b{b}" for b in range(300)],
        [None] * 300,
    )
    user = np.repeat(np.arange(200), 12)
    item = np.concatenate([2 * rng.choice(ITEMS // 2, 12, replace=False) + u % 2 for u in range(200)])
    catalogue = Catalogue(
        [f"item{i}" for i in range(ITEMS)],
        [f"title {i}" for i in range(ITEMS)],
        {"category": [f"All > Kind {c // 2} > Leaf {c}" for c in category]},
        bundles,
        Interactions([f"u{u}" for u in range(200)], user.astype(np.int32), item.astype(np.int32), [""] * 200),
    )
    return catalogue, {"image": matrix(vectors)}, clump, category


def test_nearest_options_look_like_the_truth(world):
    catalogue, matrices, clump, _ = world
    asked = freeze(catalogue, split="test", negatives="nearest:image", matrices=matrices)
    truth = asked.options[np.arange(len(asked)), asked.truth]
    assert (clump[asked.options] == clump[truth][:, None]).mean() > 0.9


@pytest.mark.parametrize("copies", [1, 6])
def test_how_many_neighbours_are_kept_of_each_item_changes_no_option(
    world, copies: int, monkeypatch: pytest.MonkeyPatch
):
    """Also where thousands of items are banned, and where vectors are equal."""
    catalogue, _, _, _ = world
    rough = np.random.default_rng(2).normal(size=(ITEMS // copies, 4))
    matrices = {"image": matrix(np.repeat(rough, copies, axis=0))}

    def picks(kept: int) -> list[list[int]]:
        monkeypatch.setattr(hardness, "MAX_TABLE_DEPTH", kept)
        hard, rng = HardNegatives(catalogue, "nearest:image", 1.0, matrices), random.Random(0)
        banned = [np.random.default_rng(row).choice(ITEMS, 5 + 40 * (row % 9), replace=False) for row in range(80)]
        return [hard.pick(rng, np.arange(2), row, 5, taken).tolist() for row, taken in enumerate(banned)]

    whole = picks(10**6)
    assert all(len(each) for each in whole)
    for kept in (3, 30, 150):
        assert picks(kept) == whole


def test_the_truth_is_neither_in_the_middle_nor_the_odd_one_out(world):
    catalogue, _, _, _ = world
    sphere = matrix(np.random.default_rng(1).normal(size=(ITEMS, 3)))
    right = []
    for seed in range(6):
        drawn = freeze(catalogue, split="test", negatives="nearest:image", matrices={"image": sphere}, seed=seed)
        shown = sphere.vectors[drawn.options]  # [q, n, d]
        shown = shown / np.linalg.norm(shown, axis=2, keepdims=True)
        middle = np.einsum("qad,qbd->qab", shown, shown).sum(2)
        right.append([(middle.argmax(1) == drawn.truth).mean(), (middle.argmin(1) == drawn.truth).mean()])
    assert np.mean(right, 0).max() < 0.16, f"360 questions, chance is .10: {np.mean(right, 0)}"


def test_options_of_the_same_category_share_all_of_its_path_or_as_much_as_there_is(world):
    catalogue, _, _, category = world
    asked = freeze(catalogue, split="test", negatives="same-category")
    truth = asked.options[np.arange(len(asked)), asked.truth]
    assert (category[asked.options] == category[truth][:, None]).all()
    few = HardNegatives(catalogue, "same-category", 1.0, n_options=100)
    pool = len(np.flatnonzero(category == category[7])) - 1
    cell = np.flatnonzero(few.strata.number == few.strata.number[7])
    near = [i for i in cell.tolist() if category[i] == category[7] and i != 7]
    picked = few.pick(random.Random(0), np.array([1]), 7, min(pool, len(near)) + 20, set())
    assert set(near) <= set(picked.tolist()), "the leaf first"
    beside = np.setdiff1d(picked, near)
    kind = np.flatnonzero(np.isin(cell, cell[category[cell] // 2 == category[7] // 2]))
    assert (category[beside] // 2 == category[7] // 2).all() or len(kind) < len(picked), "then its parent"


def test_popularity_matched_options_are_the_closest_in_popularity(world):
    catalogue, _, _, _ = world
    hard = HardNegatives(catalogue, "popularity-matched")
    popularity = np.log2(1 + hard.strata.popularity)
    for truth in (3, 50, 201):
        picked = hard.pick(random.Random(1), np.array([9]), truth, 9, {9})
        cell = np.setdiff1d(np.flatnonzero(hard.strata.number == hard.strata.number[truth]), [truth, 9])
        gaps = np.sort(np.abs(popularity[cell] - popularity[truth]))
        assert np.allclose(np.sort(np.abs(popularity[picked] - popularity[truth])), gaps[:9])


def test_co_occurring_options_were_bought_with_the_partial_bundle(world):
    catalogue, _, _, _ = world
    alone = dataclasses.replace(catalogue, bundles=dataclasses.replace(catalogue.bundles, items=_spread(catalogue)))
    asked = freeze(alone, split="test", negatives="co-occurring")
    plain = freeze(alone, split="test", negatives="random")

    def bought_along(questions_):
        edges = splits.training_graph(alone, "user-item")
        return np.mean(
            [_shared(edges, partial, row) for partial, row in zip(questions_.partial, questions_.options, strict=True)]
        )

    assert bought_along(asked) > 2 * bought_along(plain)


def _spread(catalogue):
    """The members of every bundle of one parity, as buyers are."""
    return [np.unique(items // 2 * 2).astype(np.int32) for items in catalogue.bundles.items]


def _shared(edges, partial, options):
    users = np.unique(edges[np.isin(edges[:, 1], partial), 0])
    bought = edges[np.isin(edges[:, 0], users), 1]
    return np.isin(options, bought).mean()


def test_the_dial_goes_from_the_matched_pool_to_the_nearest(world):
    catalogue, matrices, clump, _ = world
    alike = []
    for difficulty in (0, 0.3, 0.6, 1):
        asked = freeze(catalogue, split="test", negatives="nearest:image", difficulty=difficulty, matrices=matrices)
        truth = asked.options[np.arange(len(asked)), asked.truth]
        alike.append(((clump[asked.options] == clump[truth][:, None]).sum(1) - 1).mean() / 9)
    assert alike == sorted(alike)
    assert alike[0] < 0.25, "1 of 6 clumps by chance"
    assert alike[-1] > 0.9
    assert name_of("test", "nearest:image", 10, difficulty=0.3) == "test-nearest_image@30-10"


@pytest.mark.parametrize("kind", ["nearest:image", "same-category", "popularity-matched", "co-occurring"])
def test_what_is_bundled_elsewhere_with_the_partial_bundle_is_never_wrong(world, kind):
    catalogue, matrices, _, _ = world
    held = splits.hold_out(catalogue, "test")
    # Every test bundle's partial stands again in another bundle, with ten neighbours of the truth beside it.
    twins = [np.concatenate([partial, (truth + CLUMPS * np.arange(1, 11)) % ITEMS]) for _, partial, truth in held]
    bundles = catalogue.bundles
    more = dataclasses.replace(
        catalogue,
        bundles=Bundles(
            [*bundles.ids, *(f"x{t}" for t in range(len(twins)))],
            [*bundles.items, *(np.unique(twin).astype(np.int32) for twin in twins)],
            [*bundles.split, *["valid"] * len(twins)],
            [*bundles.group, *(f"x{t}" for t in range(len(twins)))],
            [*bundles.name, *[None] * len(twins)],
        ),
    )
    asked = freeze(more, split="test", negatives=kind, matrices=matrices)
    for row, twin in enumerate(twins):
        wrong = np.delete(asked.options[row], asked.truth[row])
        assert not np.isin(wrong, twin).any()
    free = freeze(catalogue, split="test", negatives="nearest:image", matrices=matrices)
    assert any(np.isin(np.delete(free.options[q], free.truth[q]), twins[q]).any() for q in range(len(free)))


def test_frozen_questions_are_distinct_repeatable_and_say_how_they_were_drawn(world):
    catalogue, matrices, _, _ = world
    kind = "nearest:image+same-category+co-occurring"
    asked = freeze(catalogue, split="test", negatives=kind, difficulty=0.8, matrices=matrices)
    again = freeze(catalogue, split="test", negatives=kind, difficulty=0.8, matrices=matrices)
    assert asked.sha256 == again.sha256
    assert all(len(set(row)) == 10 for row in asked.options.tolist())
    assert asked.header["difficulty"] == 0.8
    assert asked.header["vectors"]["image"]["table"] == "image--x"
    assert np.bincount(asked.truth, minlength=10).min() >= len(asked) // 10
    other = freeze(catalogue, split="test", negatives=kind, difficulty=0.7, matrices=matrices)
    assert other.sha256 != asked.sha256
    assert other.name != asked.name


def test_a_truth_without_a_vector_gets_matched_options_and_the_header_counts_them(world):
    catalogue, matrices, _, _ = world
    blind = {"image": matrix(matrices["image"].vectors, np.arange(ITEMS) % 2 == 0)}
    asked = freeze(catalogue, split="test", negatives="nearest:image", matrices=blind)
    odd = asked.options[np.arange(len(asked)), asked.truth] % 2 == 1
    wrong = asked.options[~odd] % 2
    assert not wrong.any(), "items without a picture are near to nothing"
    assert asked.header["filled"] == 9 * odd.sum()


def test_training_draws_hard_options_and_knows_training_bundles_only(world):
    catalogue, matrices, clump, _ = world
    settings = Data(options=6, batch=16, negatives="nearest:image")
    supply = QuestionSampler(catalogue, settings, _lengths, 0, matrices=matrices)
    again = QuestionSampler(catalogue, settings, _lengths, 0, matrices=matrices)
    guard = RightAnswers(supply.bundles, catalogue.titles)
    alike = []
    for step in range(20):
        drawn = supply.batch(step)
        assert (drawn.options == again.batch(step).options).all()
        for given, row, right in zip(drawn.partial, drawn.options, drawn.truth, strict=True):
            wrong = np.delete(row, right)
            assert len(set(row.tolist()) | set(given.tolist())) == len(row) + len(given)
            assert not np.isin(wrong, guard.of(given, int(row[right]))).any()
            alike.append((clump[wrong] == clump[row[right]]).mean())
    assert np.mean(alike) > 0.9


def test_training_sees_no_held_out_bundle_through_its_options(world):
    catalogue, matrices, _, _ = world
    bundles = catalogue.bundles
    turned = [
        items[::-1] if part == "train" else (items + 1) % ITEMS
        for items, part in zip(bundles.items, bundles.split, strict=True)
    ]
    moved = dataclasses.replace(
        catalogue,
        bundles=dataclasses.replace(
            bundles,
            items=[i if p == "train" else t for i, t, p in zip(bundles.items, turned, bundles.split, strict=True)],
        ),
    )
    for kind in ("nearest:image", "same-category", "popularity-matched", "co-occurring"):
        settings = Data(options=6, negatives=kind)
        one, other = (QuestionSampler(c, settings, _lengths, 0, matrices=matrices).batch(3) for c in (catalogue, moved))
        assert (one.options == other.options).all()


def _lengths(given, options, taken):
    return np.array([len(g) for g in given])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"negatives": "nearest:audio"}, "need its vectors, but there are those of image"),
        ({"negatives": "nearest"}, "no negatives 'nearest'"),
        ({"negatives": "nearest:image+hard"}, "negatives hard are not joined"),
        ({"negatives": "nearest:image", "difficulty": 1.5}, "from 0"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(world, given, sentence):
    catalogue, matrices, _, _ = world
    with pytest.raises(QuestionsError, match=sentence):
        freeze(catalogue, split="test", matrices=matrices, **given)


def test_same_category_without_categories_says_what_to_type(world):
    catalogue = dataclasses.replace(world[0], columns={})
    with pytest.raises(QuestionsError, match="need a column category"):
        freeze(catalogue, split="test", negatives="same-category")
