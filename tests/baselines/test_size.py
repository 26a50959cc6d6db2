"""Baselines of a large catalogue: the same digits in blocks, bounded questions to learn from, and progress of fitting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.random_catalogue import random_catalogue
from scipy.sparse import csr_array

from bundlecache.baselines import content, rankers, sources
from bundlecache.baselines.graphs import co_occurrence, popularity, without_huge_baskets
from bundlecache.baselines.learned import LearnedRanker
from bundlecache.baselines.registry import Sources
from bundlecache.baselines.text_features import Documents
from bundlecache.bench.fitting_costs import FittingCosts
from bundlecache.catalogue import splits
from bundlecache.catalogue.columns import Strings
from bundlecache.questions import freeze as questions


def test_tf_idf_has_the_known_weights_and_length_one():
    rows = Documents.of([["red", "mug", "red"], ["mug"], [], ["lid"]]).tf_idf().toarray()
    red, mug = (1 + math.log(2)) * math.log(4), math.log(2)
    length = math.hypot(red, mug)
    assert rows[0].tolist() == pytest.approx([red / length, mug / length, 0])
    assert rows[1:].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_documents_differ_only_where_their_words_do():
    assert not Documents.of([]).differ()
    assert not Documents.of([[], ["a", "b"], [], ["a", "b"]]).differ()
    assert Documents.of([["a", "b"], ["b", "a"]]).differ()
    assert Documents.of([["a"], ["a", "a"]]).differ()


def test_rare_categories_share_the_slot_without_worth(monkeypatch):
    labels = Strings(["b", "a", None, "c", "a", "b"])
    baskets = csr_array(np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]], np.float32))
    _, slot = content._category_pmi(labels, baskets)
    assert slot.tolist() == [1, 0, 3, 2, 0, 1]
    monkeypatch.setattr(content, "SLOTS", 2)
    pmi, slot = content._category_pmi(labels, baskets)
    assert slot.tolist() == [1, 0, 2, 2, 0, 1]
    assert not pmi[[2]].toarray().any()


@pytest.mark.parametrize("size", [2, 7, 4096])
def test_blocks_of_any_size_give_the_same_nearest_words(size, monkeypatch):
    catalogue = random_catalogue(300, 200)
    asked = questions.freeze(catalogue, split="test")
    ranker = list(content.title_words(Sources(catalogue, {})))[1]
    features = content.title_features(Sources(catalogue, {}))
    alone = [
        (features[options] @ features[given].T).toarray().max(axis=1)
        for options, given in zip(asked.options, asked.partial, strict=True)
    ]
    monkeypatch.setattr(rankers, "BLOCK", size)
    monkeypatch.setattr(rankers, "CHUNK", size)
    assert np.array_equal(ranker.scores(asked), np.round(alone, 6))


@pytest.mark.parametrize("n_items", [40, 100_000])
def test_options_are_numbered_alike_in_small_and_large_catalogues(n_items):
    options = np.array([[31, 7, 9], [9, 9, 2]])
    items, place = rankers.distinct(options, n_items)
    assert items.tolist() == [2, 7, 9, 31]
    assert np.array_equal(items[place], options)


def test_no_more_than_a_stated_number_of_bundles_is_learned_from(monkeypatch):
    catalogue = random_catalogue(300, 400)
    whole = Sources(catalogue, {})
    monkeypatch.setattr(sources, "MAX_ASKED", 20)
    few = Sources(catalogue, {})
    assert [len(asked) for asked in few.validation] == [20, 20]
    assert {name for asked in few.validation for name in asked.bundle_ids} <= set(whole.validation[0].bundle_ids)
    for (fold, asked), (all_of_it, everything) in zip(few.folds, whole.folds, strict=True):
        assert [len(each) for each in asked] == [20] * 6
        assert {name for each in asked for name in each.bundle_ids} <= set(everything[0].bundle_ids)
        assert fold.catalogue.bundles.ids == all_of_it.catalogue.bundles.ids  # what training sees stays the same


def test_a_catalogue_that_is_not_larger_is_asked_as_before(monkeypatch):
    catalogue = random_catalogue(300, 400)
    valid = int((splits.assign(catalogue) == "valid").sum())
    whole = [asked.sha256 for asked in Sources(catalogue, {}).validation]
    monkeypatch.setattr(sources, "MAX_ASKED", valid)
    assert [asked.sha256 for asked in Sources(catalogue, {}).validation] == whole


def test_fitting_tells_every_step_up_to_the_last():
    catalogue = random_catalogue(200, 120)
    known = Sources(catalogue, {})
    asked = questions.freeze(catalogue, split="test")
    learned = LearnedRanker("learned ranker", "content", known)
    told: list[tuple[int, int, str]] = []
    FittingCosts().fit_all([*known.rankers(popularity, co_occurrence), learned], asked, lambda *step: told.append(step))
    done = [step[0] for step in told]
    assert done == sorted(done)
    assert len({step[1] for step in told}) == 1
    assert told[-1][0] == told[-1][1]
    assert told[0][2] == "popularity"
    assert any(step[2].startswith("learned ranker: ") for step in told)
    assert known.listeners == []


def test_words_of_items_are_counted_once_for_all_folds():
    known = Sources(random_catalogue(200, 120), {})
    rows = content.title_features(known)
    assert all(content.title_features(fold) is rows for fold, _ in known.folds)


def test_a_huge_basket_loses_items_by_lot_and_all_others_none():
    rng = np.random.default_rng(3)
    cells = rng.random((6, 50)) < 0.1
    cells[2] = True
    baskets = csr_array(cells.astype(np.float32))
    cut = without_huge_baskets(baskets, 20)
    assert cut.sum(axis=1).tolist() == [20 if row == 2 else count for row, count in enumerate(cells.sum(axis=1))]
    assert not (cut.toarray() > cells).any()
    assert np.array_equal(cut.toarray(), without_huge_baskets(baskets, 20).toarray())
    assert without_huge_baskets(baskets, 50) is baskets
