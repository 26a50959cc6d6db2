"""Protocols: any number of options, the whole catalogue, groups of questions; answers known by construction."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_baselines import FITTED, catalogue
from test_questions import make
from test_report import Page

from bundlecache.baselines.personal import Personal
from bundlecache.baselines.rankers import ByItem, ByVector
from bundlecache.baselines.registry import all_baselines
from bundlecache.bench import benchmark as bench
from bundlecache.bench import full_catalogue, slices
from bundlecache.bench.full_catalogue import FirstFew, HeldOut
from bundlecache.bench.metrics import Places
from bundlecache.bench.slices import Slicer
from bundlecache.catalogue import splits
from bundlecache.catalogue.model import Interactions
from bundlecache.errors import QuestionsError
from bundlecache.questions import freeze as questions
from bundlecache.questions.user_history import UserHistories
from bundlecache.report import leaderboard


def known(name, score):
    """A ranker whose score of every option is ``score(partial, options)``."""
    return SimpleNamespace(
        name=name,
        kind="content",
        scores=lambda asked: np.array([score(p, o) for p, o in zip(asked.partial, asked.options, strict=True)], float),
    )


# --- n options -------------------------------------------------------------------------------------


def test_sets_of_5_10_20_and_50_options_stand_in_one_table_each_against_its_own_chance():
    shop = make()
    sets = [questions.freeze(shop, split="test", n_options=n) for n in (50, 5, 20, 10)]
    results = bench.run(sets, all_baselines(shop, {}))
    assert [r["questions"]["name"] for r in results] == [
        "test-random5",
        "test-random10",
        "test-random20",
        "test-random50",
    ]
    for result, n in zip(results, (5, 10, 20, 50), strict=True):
        random = next(row for row in result["methods"] if row["name"] == "random")
        assert [random[f"hit@{k}"] for k in (1, 3, 5)] == pytest.approx([1 / n, 3 / n, 5 / n])
        assert not any(row["succeeds"] for row in result["probes"])


# --- the whole catalogue -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop():
    return catalogue(test_bundles_of=4)


@pytest.fixture(scope="module")
def sets(shop):
    return [questions.freeze(shop, split="test", n_options=5, seed=s) for s in (0, 0, 1)]


@pytest.fixture(scope="module")
def held(shop, sets):
    return HeldOut.of(sets, shop)


def test_what_several_sets_hold_out_is_asked_once_and_is_hashed(shop, sets, held):
    assert len(sets[0]) == 50
    twice = {
        (b, int(o[t])) for asked in sets for b, o, t in zip(asked.bundle_ids, asked.options, asked.truth, strict=True)
    }
    assert len(held) == len(twice) > 50
    assert held.sha256 == HeldOut.of(sets, shop).sha256 != HeldOut.of(sets[:1], shop).sha256
    for bundle_id, partial, truth in zip(held.bundle_ids, held.partial, held.truth, strict=True):
        whole = shop.bundles.items[shop.bundles.ids.index(bundle_id)]
        assert sorted([*partial, truth]) == sorted(whole)


def naive(ranker, held, n):
    """Each question alone, all items less its partial bundle as options."""
    better, level = [], []
    for row in range(len(held)):
        options = np.setdiff1d(np.arange(n), held.partial[row])
        asked = questions.Questions(
            "one", "test", "all", 0, ["b"], [held.partial[row]], options[None], np.zeros(1, int), f"{row}", {}
        )
        scores = ranker.scores(asked)[0]
        own = scores[np.flatnonzero(options == held.truth[row])[0]]
        better.append(int((scores > own).sum()))
        level.append(int((scores == own).sum()))
    return better, level


@pytest.mark.parametrize("name", list(FITTED))
def test_every_method_ranks_the_catalogue_in_chunks_as_it_does_question_by_question(name, shop, held, monkeypatch):
    ranker = FITTED[name]
    monkeypatch.setattr(full_catalogue, "CELLS", 7 * len(shop))  # seven questions at once
    some = dataclasses.replace(
        held, bundle_ids=held.bundle_ids[:20], partial=[p[: 1 + r % 3] for r, p in enumerate(held.partial[:20])],
        truth=held.truth[:20], history=held.history[:20],
    )  # fmt: skip
    places, _ = full_catalogue.rank([ranker], some, len(shop))[ranker.name]
    better, level = naive(ranker, some, len(shop))
    assert places.better.tolist() == better
    assert places.level.tolist() == level


def test_who_knows_finds_all_who_guesses_finds_a_share_and_the_partial_bundle_is_no_rival(shop, held):
    right = dict(zip(map(str, held.partial), held.truth, strict=True))
    n = len(shop)
    rankers = [
        known("knows", lambda partial, options: options == right[str(partial)]),
        known(
            "partial first", lambda partial, options: np.isin(options, partial) * 2 + (options == right[str(partial)])
        ),
        ByItem("random", "chance", lambda: np.zeros(n)),
    ]
    results = full_catalogue.run(rankers, held, Slicer(shop))
    rows = {row["name"]: row for row in results["methods"]}
    for name in ("knows", "partial first"):
        assert [rows[name][figure] for figure in full_catalogue.FIGURES] == pytest.approx([1.0] * 13)
    left = n - 3  # less the partial bundle
    assert rows["random"]["recall@20"] == pytest.approx(20 / left)
    assert rows["random"]["recall@100"] == 1.0
    assert rows["random"]["mrr"] == pytest.approx((1 / np.arange(1, left + 1)).mean())
    assert rows["random"]["ndcg@5"] == pytest.approx((1 / np.log2(np.arange(2, 7))).sum() / left)
    assert results["methods"][-1]["name"] == "random"
    assert "guessing puts 50.0% there" in results["verdict"][0]


def test_the_interval_is_over_bundles_so_that_asking_more_of_each_makes_none_narrower(shop, sets):
    def interval(held):
        half = ByItem("half", "content", lambda: np.arange(len(shop)) % 2 * 1.0)
        return np.diff(full_catalogue.run([half], held, Slicer(shop))["methods"][0]["recall@20_interval"])[0]

    once = HeldOut.of(sets[:1], shop)
    again = dataclasses.replace(
        once,
        bundle_ids=once.bundle_ids * 3,
        partial=once.partial * 3,
        truth=np.tile(once.truth, 3),
        history=once.history * 3,
    )
    assert interval(again) == pytest.approx(interval(once))


def test_a_model_that_sees_the_first_few_lifts_only_what_it_is_shown(shop, held):
    n = len(shop)
    first = ByItem(
        "first", "content", lambda: -np.arange(n)
    )  # by its row: some truths are among the first ten, some not
    second = known("second", lambda partial, options: np.isin(options, held.truth))
    right = dict(zip(map(str, held.partial), held.truth, strict=True))
    second.scores = lambda asked: np.array(
        [o == right[str(p)] for p, o in zip(asked.partial, asked.options, strict=True)], float
    )
    few = FirstFew(first, second, shop, few=10)
    found = full_catalogue.rank([first], held, n, [few])
    before, after = found["first"][0].better, found["second, first 10"][0].better
    assert 0 < (before < 10).sum() < len(held)
    assert after.tolist() == np.where(before < 10, 0, before).tolist()


def test_ties_at_the_edge_of_what_is_shown_share_the_places_that_are_left(shop):
    asked = questions.freeze(shop, split="test", n_options=5)
    scores = np.zeros(asked.options.shape)  # all tie: the first three columns are shown
    flat = known("flat", lambda _partial, options: np.zeros(len(options)))
    places = FirstFew(flat, flat, shop, few=3).places(asked, scores)
    shown = asked.truth < 3
    assert places.better.tolist() == np.where(shown, 0, 3).tolist()
    assert places.level.tolist() == np.where(shown, 3, 2).tolist()
    scores[:, 4] = -1  # the last is beyond the tie
    last = asked.truth == 4
    places = FirstFew(flat, flat, shop, few=3).places(asked, scores)
    assert set(places.better[last]) == {4}
    assert set(places.level[last]) == {1}


def test_the_same_run_twice_gives_the_same_file_and_the_csv_holds_its_figures(shop, held, tmp_path):
    def made():
        ranker = [known("by row", lambda _partial, options: -options)]
        results = full_catalogue.run(ranker, held, Slicer(shop))
        for row in results["methods"]:
            row["seconds"] = 0.0
        return results

    page = full_catalogue.save(tmp_path, made())
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(json.dumps(made()))
    head, line = page.with_suffix(".csv").read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    row = made()["methods"][0]
    assert float(cells["recall@20"]) == pytest.approx(row["recall@20"], abs=1e-6)
    assert float(cells["mrr low"]) == pytest.approx(row["mrr_interval"][0], abs=1e-6)


def test_the_page_shows_every_figure_with_its_interval_and_is_linked_with_the_bench_where_both_exist(
    shop, held, sets, tmp_path
):
    n = len(shop)
    rankers = [ByItem("by row", "content", lambda: -np.arange(n)), ByItem("<b>", "chance", lambda: np.zeros(n))]
    few = FirstFew(rankers[0], dataclasses.replace(rankers[0], name="model", kind="model"), shop)
    results = full_catalogue.run(rankers, held, Slicer(shop), [few])
    page = full_catalogue.save(tmp_path, results)
    text = page.read_text("utf-8")
    shown = Page(text)
    assert shown.open == shown.crooked == []
    assert "<b>" not in text
    for row in results["methods"]:
        assert row["name"] in shown.text
        for figure in full_catalogue.FIGURES:
            low, high = row[f"{figure}_interval"]
            assert f"{row[figure]:.3f} {low:.3f}\u2013{high:.3f}" in shown.text
    assert all(sentence in shown.text for sentence in results["verdict"])
    for group in results["slices"]["popularity"]:
        assert f" {group['group']} " in shown.text
    assert "<nav hidden>" in text
    board = leaderboard.save(tmp_path, bench.run(sets[:1], rankers))
    for one, other in ((page, board), (board, page)):
        assert f'<nav><a href="{other.name}">' in one.read_text("utf-8")
    full_catalogue.save(tmp_path, results)
    assert f'<nav><a href="{board.name}">' in page.read_text("utf-8")


# --- groups of questions -------------------------------------------------------------------------------


def test_groups_follow_from_the_truth_and_from_training_alone():
    shop = make(60, 400)
    some = [0, 1, 2, 3]
    split = ["train"] * 300 + ["test"] * 100
    bundles = dataclasses.replace(shop.bundles, split=split)
    for b in range(300):
        bundles.items[b] = bundles.items[b][bundles.items[b] > 3]  # no training bundle holds them
    shop = dataclasses.replace(shop, bundles=bundles)
    truth, length = np.array([*some * 10, *range(20, 60)]), np.repeat([2, 3, 5, 6], 20)
    number, names = Slicer(shop).labels(truth, length)
    assert names["cold"] == ["seen", "cold"]
    assert number["cold"].tolist() == [1] * 40 + [0] * 40
    assert names["length"] == ["2", "3", "5", "6"]
    assert names["popularity"][0] == "0"  # all cold ones in one group, though they are four tenths
    assert (number["popularity"] == 0).sum() == 40
    counts = np.bincount(np.concatenate(bundles.items[:300]), minlength=60)
    for g, name in enumerate(names["popularity"]):
        low, _, high = name.partition("-")
        inside = counts[truth[number["popularity"] == g]]
        assert (inside.min(), inside.max()) == (int(low), int(high or low))


def test_a_method_that_is_right_on_one_category_alone_shows_it():
    shop = make()
    asked = questions.freeze(shop, split="test", n_options=5)
    held = asked.options[np.arange(len(asked)), asked.truth]
    kind = np.array([int(c[-1]) for c in shop.column("category")])
    scores = np.eye(5)[np.where(kind[held] == 3, asked.truth, (asked.truth + 1) % 5)]
    result = bench.summarise([asked], [[bench.Scored("threes", "content", scores)]], slicer=Slicer(shop))
    groups = {group["group"]: group for group in result["slices"]["category"]}
    large = {name for name, count in zip(*np.unique(kind[held], return_counts=True), strict=True) if count >= 20}
    for name, group in groups.items():
        row = group["methods"][0]
        if name.startswith("all > "):
            assert int(name[-1]) in large
            assert row["hit@1"] == (name == "all > kind 3")
            assert row["hit@1_interval"] == [row["hit@1"]] * 2
    assert sum(group["n"] for group in groups.values()) == len(asked)
    for way in slices.WAYS:
        told = sum(group["n"] * group["methods"][0]["hit@1"] for group in result["slices"][way])
        assert told / len(asked) == pytest.approx(result["methods"][0]["hit@1"], abs=1e-5)


def test_small_categories_join_the_step_above_and_what_stays_small_is_marked():
    labels = ["A > x"] * 25 + ["A > y"] * 12 + ["A > z"] * 12 + ["B"] * 3 + [None] * 2
    number, names = slices.by_category(labels)
    assert names == ["A > x", "A", "other"]
    assert np.bincount(number).tolist() == [25, 24, 5]
    shop = make()
    made = Slicer(shop).slices(np.zeros(54, int), np.full(54, 2), {"m": {"f": np.ones(54)}}, main="f")
    assert [group["small"] for group in made["length"]] == [False]
    few = Slicer(shop).slices(np.zeros(5, int), np.full(5, 2), {"m": {"f": np.ones(5)}}, main="f")
    assert [group["small"] for way in slices.WAYS for group in few[way]] == [True] * 4


def test_lengths_too_rare_join_their_neighbours_and_are_called_so():
    length = np.array([2] * 5 + [3] * 30 + [4] * 30 + [5] * 10 + [9] * 12)
    number, names = slices.in_order(length, length)
    assert names == ["2-3", "4", "5-9"]
    assert np.bincount(number).tolist() == [35, 30, 22]


def test_a_way_to_group_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(QuestionsError, match="category, length, popularity, cold"):
        slices.chosen(["colour"])
    assert slices.chosen(["cold", "length", "cold"]) == ["cold", "length"]


def test_places_beyond_k_gain_nothing_and_ties_share():
    places = Places(np.array([0, 4, 5, 3]), np.array([1, 1, 1, 4]))
    assert places.within(5).tolist() == [1, 1, 0, 0.5]
    assert places.ndcg(5) == pytest.approx([1, 1 / np.log2(6), 0, (1 / np.log2(5) + 1 / np.log2(6)) / 4])
    assert places.reciprocal() == pytest.approx([1, 1 / 5, 1 / 6, (1 / 4 + 1 / 5 + 1 / 6 + 1 / 7) / 4])


# --- a user's history ------------------------------------------------------------------------------------


def personal_shop(*, of_bundles_only: bool = False):
    """Bundles of random items, and users who elsewhere take only items of the parity of what their bundle lacks."""
    shop = make(200, 300)
    rng = np.random.default_rng(5)
    split = ["train"] * 100 + ["valid"] * 100 + ["test"] * 100
    shop = dataclasses.replace(shop, bundles=dataclasses.replace(shop.bundles, split=split))
    truths = {b: t for part in ("valid", "test") for b, _, t in splits.hold_out(shop, part)}
    edges = []
    for b, items in enumerate(shop.bundles.items):
        liked = rng.choice(100, 12, replace=False) * 2 + truths.get(b, b) % 2
        edges += [(b, int(i)) for i in items] + ([] if of_bundles_only else [(b, int(i)) for i in liked])
    user, item = np.array(edges, np.int32).T
    groups = list(shop.bundles.group)
    return dataclasses.replace(shop, interactions=Interactions([f"u{b}" for b in range(300)], user, item, groups))


def test_a_history_holds_nothing_of_held_out_bundles_and_no_option_and_its_end_is_the_latest():
    shop = personal_shop()
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
    shop = personal_shop()
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
    shop = personal_shop()
    parity = ByVector("parity", "content", lambda: (np.eye(2)[np.arange(200) % 2], np.ones(200, bool)))
    asked, valid = (questions.freeze(shop, split=part, n_options=4) for part in ("test", "valid"))
    method = Personal(parity, UserHistories(shop, 5), lambda: [valid])
    results = bench.run([asked], [parity, method])[0]
    rows = {row["name"]: row for row in results["methods"]}
    held = asked.options[np.arange(len(asked)), asked.truth]
    alike = (asked.options % 2 == held[:, None] % 2).sum(axis=1)
    assert rows["parity + history"]["hit@1"] == pytest.approx((1 / alike).mean(), abs=0.02)
    assert rows["parity + history"]["on_top_of"]["interval"][0] > 0.05
    assert method.weights[1] > 4 * method.weights[0]
    assert any(
        sentence.startswith("What the bundle's user took elsewhere adds to parity (") for sentence in results["verdict"]
    )
    nothing = personal_shop(of_bundles_only=True)
    assert not any(len(history) for history in UserHistories(nothing, 5).of(asked))
    alone = Personal(parity, UserHistories(nothing, 5), lambda: [valid])
    right = (bench.hits(method.scores(asked), asked.truth).mean() for method in (alone, parity))
    assert next(right) == pytest.approx(next(right))


def test_among_the_whole_catalogue_a_history_is_no_option_and_is_worth_what_it_tells():
    shop = personal_shop()
    parity = ByVector("parity", "content", lambda: (np.eye(2)[np.arange(200) % 2], np.ones(200, bool)))
    asked, valid = (questions.freeze(shop, split=part, n_options=4) for part in ("test", "valid"))
    method = Personal(parity, UserHistories(shop, 5), lambda: [valid])
    held = HeldOut.of([asked], shop, method.histories)
    seen = []
    for rows, chunk in held.chunks(len(shop)):
        for row, options, truth in zip(rows, chunk.options, chunk.truth, strict=True):
            assert options[truth] == held.truth[row]
            assert not {*options} & {*held.partial[row], *held.history[row]}
            assert len(options) + len(held.partial[row]) + 5 == len(shop)
        seen += ([h.tolist() for h in method.histories.of(chunk)] == [held.history[row].tolist() for row in rows],)
    assert all(seen)
    results = full_catalogue.run([parity, method], held, Slicer(shop))
    rows = {row["name"]: row for row in results["methods"]}
    told = rows["parity + history"]["on_top_of"]
    assert told["name"] == "parity"
    assert told["delta"] == pytest.approx(rows["parity + history"]["recall@20"] - rows["parity"]["recall@20"])
    assert told["interval"][0] > 0
    assert rows["parity + history"]["recall@100"] == pytest.approx(1.0, abs=0.03)
    assert any("elsewhere adds to parity (" in sentence for sentence in results["verdict"])
    assert any("In 100 of the queries up to 5 items" in sentence for sentence in results["verdict"])


def test_a_history_that_tells_nothing_gets_next_to_no_weight():
    shop = personal_shop()
    rng = np.random.default_rng(0)
    noise = dataclasses.replace(shop.interactions, item=rng.integers(0, 200, len(shop.interactions)).astype(np.int32))
    shop = dataclasses.replace(shop, interactions=noise)
    parity = ByVector("parity", "content", lambda: (np.eye(2)[np.arange(200) % 2], np.ones(200, bool)))
    valid = questions.freeze(shop, split="valid", n_options=10)
    assert Personal(parity, UserHistories(shop, 5), lambda: [valid]).weights[1] < 0.2
