"""Histories of users: nothing of held-out bundles in them, and worth what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.random_catalogue import personal_catalogue

from bundlecache.baselines.personal import PersonalRanker
from bundlecache.baselines.rankers import CosineRanker
from bundlecache.bench import benchmark as bench
from bundlecache.bench.metrics import hits
from bundlecache.questions import freeze as questions
from bundlecache.questions.user_history import UserHistories


def test_a_history_holds_nothing_held_out_and_ends_with_the_latest():
    shop = personal_catalogue()
    asked = questions.freeze(shop, split="test", n_options=10)
    for latest in (3, 100):
        given = UserHistories(shop, latest).of(asked)
        assert max(map(len, given)) <= latest
        for bundle_id, history, options in zip(asked.bundle_ids, given, asked.options, strict=True):
            b = shop.bundles.ids.index(bundle_id)
            assert not set(history) & ({*shop.bundles.items[b]} | {*options})
            rows = shop.interactions.item[shop.interactions.user == b].tolist()
            left = [i for i in rows if i not in {*shop.bundles.items[b], *options}]
            assert history.tolist() == left[-latest:]


def test_the_items_of_a_sister_bundle_that_is_held_out_too_are_no_history():
    shop = personal_catalogue()
    group = [*shop.bundles.group[:298], "g298", "g298"]
    shop = dataclasses.replace(
        shop,
        bundles=dataclasses.replace(shop.bundles, group=group),
        interactions=dataclasses.replace(shop.interactions, group=group),
    )
    asked = questions.freeze(shop, split="test", n_options=10)
    row = asked.bundle_ids.index("b298")
    assert not set(UserHistories(shop, 99).of(asked)[row]) & {*shop.bundles.items[298], *shop.bundles.items[299]}


def test_a_history_is_worth_what_it_tells_and_bundles_alone_leave_none():
    shop = personal_catalogue()
    parity = CosineRanker("parity", "content", lambda: (np.eye(2)[np.arange(200) % 2], np.ones(200, bool)))
    asked, valid = (questions.freeze(shop, split=part, n_options=4) for part in ("test", "valid"))
    method = PersonalRanker(parity, UserHistories(shop, 5), lambda: [valid])
    results = bench.run(bench.BenchSetup([parity, method]), [asked])[0]
    rows = results.by_name()
    held = asked.options[np.arange(len(asked)), asked.truth]
    alike = (asked.options % 2 == held[:, None] % 2).sum(axis=1)
    assert rows["parity + history"].hit1 == pytest.approx((1 / alike).mean(), abs=0.02)
    assert rows["parity + history"].on_top_of.interval[0] > 0.05
    assert method.weights[1] > 4 * method.weights[0]
    assert any(
        sentence.startswith("What the bundle's user took elsewhere adds to parity (") for sentence in results.findings
    )
    nothing = personal_catalogue(of_bundles_only=True)
    assert not any(len(history) for history in UserHistories(nothing, 5).of(asked))
    alone = PersonalRanker(parity, UserHistories(nothing, 5), lambda: [valid])
    right = (hits(method.scores(asked), asked.truth).mean() for method in (alone, parity))
    assert next(right) == pytest.approx(next(right))


def test_a_history_that_tells_nothing_gets_next_to_no_weight():
    shop = personal_catalogue()
    rng = np.random.default_rng(0)
    noise = dataclasses.replace(shop.interactions, item=rng.integers(0, 200, len(shop.interactions)).astype(np.int32))
    shop = dataclasses.replace(shop, interactions=noise)
    parity = CosineRanker("parity", "content", lambda: (np.eye(2)[np.arange(200) % 2], np.ones(200, bool)))
    valid = questions.freeze(shop, split="valid", n_options=10)
    assert PersonalRanker(parity, UserHistories(shop, 5), lambda: [valid]).weights[1] < 0.2
