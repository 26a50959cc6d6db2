"""Groups of questions: they follow from the truth and from training alone, and small ones are joined."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.bench_setup import summarise
from helpers.random_catalogue import random_catalogue, with_cells

from bundlecache.bench import benchmark as bench
from bundlecache.bench import slices
from bundlecache.bench.slices import Slicer
from bundlecache.errors import QuestionsError
from bundlecache.questions import freeze as questions


def test_groups_follow_from_the_truth_and_from_training_alone():
    shop = random_catalogue(60, 400)
    some = [0, 1, 2, 3]
    split = ["train"] * 300 + ["test"] * 100
    shop = dataclasses.replace(shop, bundles=shop.bundles.with_split(split))
    items = shop.bundles.items
    shop = with_cells(shop, items={b: items[b][items[b] > 3] for b in range(300)})  # no training bundle holds them
    truth, length = np.array([*some * 10, *range(20, 60)]), np.repeat([2, 3, 5, 6], 20)
    number, names = Slicer(shop).labels(truth, length)
    assert names["cold"] == ["seen", "cold"]
    assert number["cold"].tolist() == [1] * 40 + [0] * 40
    assert names["length"] == ["2", "3", "5", "6"]
    assert names["popularity"][0] == "0"  # all cold ones in one group, though they are four tenths
    assert (number["popularity"] == 0).sum() == 40
    counts = np.bincount(np.concatenate(shop.bundles.items[:300]), minlength=60)
    for g, name in enumerate(names["popularity"]):
        low, _, high = name.partition("-")
        inside = counts[truth[number["popularity"] == g]]
        assert (inside.min(), inside.max()) == (int(low), int(high or low))


def test_a_method_that_is_right_on_one_category_alone_shows_it():
    shop = random_catalogue()
    asked = questions.freeze(shop, split="test", n_options=5)
    held = asked.options[np.arange(len(asked)), asked.truth]
    kind = np.array([int(c[-1]) for c in shop.column("category")])
    scores = np.eye(5)[np.where(kind[held] == 3, asked.truth, (asked.truth + 1) % 5)]
    result = summarise([asked], [[bench.MethodScores("threes", "content", scores)]], slicer=Slicer(shop))
    groups = {group.group: group for group in result.slices["category"]}
    large = {name for name, count in zip(*np.unique(kind[held], return_counts=True), strict=True) if count >= 20}
    for name, group in groups.items():
        row = group.methods[0]
        if name.startswith("all > "):
            assert int(name[-1]) in large
            assert row.value == (name == "all > kind 3")
            assert row.interval == (row.value,) * 2
    assert sum(group.n for group in groups.values()) == len(asked)
    for way in slices.WAYS:
        told = sum(group.n * group.methods[0].value for group in result.slices[way])
        assert told / len(asked) == pytest.approx(result.methods[0].hit1, abs=1e-5)


def test_small_categories_join_the_step_above_and_what_stays_small_is_marked():
    labels = ["A > x"] * 25 + ["A > y"] * 12 + ["A > z"] * 12 + ["B"] * 3 + [None] * 2
    number, names = slices.by_category(labels)
    assert names == ["A > x", "A", "other"]
    assert np.bincount(number).tolist() == [25, 24, 5]
    shop = random_catalogue()
    made = Slicer(shop).slices(np.zeros(54, int), np.full(54, 2), {"m": {"f": np.ones(54)}}, main="f")
    assert [group.small for group in made["length"]] == [False]
    few = Slicer(shop).slices(np.zeros(5, int), np.full(5, 2), {"m": {"f": np.ones(5)}}, main="f")
    assert [group.small for way in slices.WAYS for group in few[way]] == [True] * 4


def test_lengths_too_rare_join_their_neighbours_and_are_called_so():
    length = np.array([2] * 5 + [3] * 30 + [4] * 30 + [5] * 10 + [9] * 12)
    number, names = slices.in_order(length, length)
    assert names == ["2-3", "4", "5-9"]
    assert np.bincount(number).tolist() == [35, 30, 22]


def test_a_way_to_group_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(QuestionsError, match="category, length, popularity, cold"):
        slices.chosen(["colour"])
    assert slices.chosen(["cold", "length", "cold"]) == ["cold", "length"]
