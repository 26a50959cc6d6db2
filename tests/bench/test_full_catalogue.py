"""The whole catalogue as options: every method ranks it as it answers question by question."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.html_page import HtmlPage
from helpers.parity_catalogue import FITTED, parity_catalogue, parity_matrices
from helpers.random_catalogue import personal_catalogue

from bundlecache.baselines.content import cosines
from bundlecache.baselines.graphs import item_knn, popular, popularity
from bundlecache.baselines.personal import PersonalRanker
from bundlecache.baselines.rankers import CosineRanker, ItemScoreRanker
from bundlecache.baselines.sources import Sources
from bundlecache.bench import benchmark as bench
from bundlecache.bench import full_catalogue, full_results, held_out_items, proposals
from bundlecache.bench.full_catalogue import FirstFew
from bundlecache.bench.held_out_items import HeldOut
from bundlecache.bench.slices import Slicer
from bundlecache.candidates.index import Index
from bundlecache.questions import freeze as questions
from bundlecache.questions.question_file import Questions
from bundlecache.questions.user_history import UserHistories
from bundlecache.report import bench_pages


def known(name, score):
    """A ranker whose score of every option is ``score(partial, options)``."""
    return SimpleNamespace(
        name=name,
        kind="content",
        scores=lambda asked: np.array([score(p, o) for p, o in zip(asked.partial, asked.options, strict=True)], float),
    )


@pytest.fixture(scope="module")
def shop():
    return parity_catalogue(test_bundles_of=4)


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
        asked = Questions(
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
    monkeypatch.setattr(held_out_items, "MAX_SCORES", 7 * len(shop))  # seven questions at once
    some = dataclasses.replace(
        held, bundle_ids=held.bundle_ids[:20], partial=[p[: 1 + r % 3] for r, p in enumerate(held.partial[:20])],
        truth=held.truth[:20], history=held.history[:20],
    )  # fmt: skip
    places, _ = full_catalogue.rank([ranker], some, len(shop))[ranker.name]
    better, level = naive(ranker, some, len(shop))
    assert places.better.tolist() == better
    assert places.level.tolist() == level


def test_who_knows_finds_all_and_who_guesses_finds_a_share(shop, held):
    right = dict(zip(map(str, held.partial), held.truth, strict=True))
    n = len(shop)
    rankers = [
        known("knows", lambda partial, options: options == right[str(partial)]),
        known(
            "partial first", lambda partial, options: np.isin(options, partial) * 2 + (options == right[str(partial)])
        ),
        ItemScoreRanker("random", "chance", lambda: np.zeros(n)),
    ]
    results = full_catalogue.run(rankers, held, Slicer(shop))
    rows = {row.name: row for row in results.methods}
    for name in ("knows", "partial first"):
        assert [rows[name].figures[figure] for figure in full_results.FIGURES] == pytest.approx([1.0] * 13)
    left = n - 3  # less the partial bundle
    assert rows["random"].figures["recall@20"] == pytest.approx(20 / left)
    assert rows["random"].figures["recall@100"] == 1.0
    assert rows["random"].figures["mrr"] == pytest.approx((1 / np.arange(1, left + 1)).mean())
    assert rows["random"].figures["ndcg@5"] == pytest.approx((1 / np.log2(np.arange(2, 7))).sum() / left)
    assert results.methods[-1].name == "random"
    assert "guessing puts 50.0% there" in results.findings[0]


def test_the_interval_is_over_bundles_not_over_their_items(shop, sets):
    def interval(held):
        half = ItemScoreRanker("half", "content", lambda: np.arange(len(shop)) % 2 * 1.0)
        return np.diff(full_catalogue.run([half], held, Slicer(shop)).methods[0].intervals["recall@20"])[0]

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
    first = ItemScoreRanker(
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


def test_scores_of_a_model_that_adds_count_beside_those_among_the_whole_catalogue(shop, held):
    first = ItemScoreRanker("first", "content", lambda: -np.arange(len(shop)))
    silent = known("silent", lambda _partial, options: np.zeros(len(options)))
    backwards = known("backwards", lambda _partial, options: 2.0 * options)  # turns the order of the first ten
    few = [FirstFew(first, second, shop, few=10, adds=True) for second in (silent, backwards)]
    found = {name: places.better for name, (places, _) in full_catalogue.rank([first], held, len(shop), few).items()}
    before = found["first"]
    assert found["silent, first 10"].tolist() == before.tolist()
    assert found["backwards, first 10"].tolist() == np.where(before < 10, 9 - before, before).tolist()


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
        return dataclasses.replace(results, methods=[dataclasses.replace(row, seconds=0.0) for row in results.methods])

    path = full_results.save(tmp_path, made())
    assert json.loads(path.read_text()) == json.loads(json.dumps(made().to_dict()))
    assert full_results.FullCatalogueResult.from_dict(json.loads(path.read_text())) == made()
    head, line = path.with_suffix(".csv").read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    row = made().methods[0]
    assert float(cells["recall@20"]) == pytest.approx(row.figures["recall@20"], abs=1e-6)
    assert float(cells["mrr low"]) == pytest.approx(row.intervals["mrr"][0], abs=1e-6)


def test_the_page_shows_every_figure_with_its_interval_and_links_the_bench(shop, held, sets, tmp_path):
    n = len(shop)
    rankers = [
        ItemScoreRanker("by row", "content", lambda: -np.arange(n)),
        ItemScoreRanker("<b>", "chance", lambda: np.zeros(n)),
    ]
    few = FirstFew(rankers[0], dataclasses.replace(rankers[0], name="model", kind="model"), shop)
    results = full_catalogue.run(rankers, held, Slicer(shop), [few])
    page = bench_pages.write_full(tmp_path, results)
    text = page.read_text("utf-8")
    shown = HtmlPage(text)
    assert shown.open == shown.crooked == []
    assert "<b>" not in text
    for row in results.methods:
        assert row.name in shown.text
        for figure in full_results.FIGURES:
            low, high = row.intervals[figure]
            assert f"{row.figures[figure]:.3f} {low:.3f}\u2013{high:.3f}" in shown.text
    assert all(sentence in shown.text for sentence in results.findings)
    for group in results.slices["popularity"]:
        assert f" {group.group} " in shown.text
    assert "<nav hidden>" in text
    board = bench_pages.write_bench(tmp_path, bench.run(bench.BenchSetup(rankers), sets[:1]))
    for one, other in ((page, board), (board, page)):
        assert f'<nav><a href="{other.name}">' in one.read_text("utf-8")
    bench_pages.write_full(tmp_path, results)
    assert f'<nav><a href="{board.name}">' in page.read_text("utf-8")


def test_among_the_whole_catalogue_a_history_is_no_option_and_is_worth_what_it_tells():
    shop = personal_catalogue()
    parity = CosineRanker("parity", "content", lambda: (np.eye(2)[np.arange(200) % 2], np.ones(200, bool)))
    asked, valid = (questions.freeze(shop, split=part, n_options=4) for part in ("test", "valid"))
    method = PersonalRanker(parity, UserHistories(shop, 5), lambda: [valid])
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
    rows = {row.name: row for row in results.methods}
    told = rows["parity + history"].on_top_of
    assert told.name == "parity"
    assert told.delta == pytest.approx(
        rows["parity + history"].figures["recall@20"] - rows["parity"].figures["recall@20"]
    )
    assert told.interval[0] > 0
    assert rows["parity + history"].figures["recall@100"] == pytest.approx(1.0, abs=0.03)
    assert any("elsewhere adds to parity (" in sentence for sentence in results.findings)
    assert any("In 100 of the queries up to 5 items" in sentence for sentence in results.findings)


@pytest.fixture(scope="module")
def large():
    """A catalogue, its held-out items, and an exact index over vectors that tell what goes with what."""
    shop = parity_catalogue(test_bundles_of=4)
    known = Sources(shop, parity_matrices())
    held = HeldOut.of([questions.freeze(shop, split="test", n_options=5)], shop)
    return known, held, Index.build(list(known.matrices.values()), kind="flat")


def small(monkeypatch, *, proposed: int, neighbours: int = 3, popular: int = 2):
    for name, value in (("PROPOSED", proposed), ("NEIGHBOURS", neighbours), ("POPULAR", popular)):
        monkeypatch.setattr(proposals, name, value)


def test_proposals_are_distinct_and_hold_nothing_of_the_bundle(large, monkeypatch):
    known, held, index = large
    small(monkeypatch, proposed=12)
    made = proposals.propose(index, known, held)
    assert made.items.shape == (len(held), 12)
    for mine, given in zip(made.items, held.partial, strict=True):
        assert np.array_equal(np.unique(mine), mine)
        assert not np.isin(mine, given).any()


def test_proposals_begin_with_neighbours_and_popular_items_and_end_with_the_nearest(large, monkeypatch):
    known, held, index = large
    small(monkeypatch, proposed=12, neighbours=2, popular=3)
    made = proposals.propose(index, known, held)
    best = np.argsort(-popular(known), kind="stable")
    nearest, _ = index.search(index.query(held.partial), 12, held.partial)
    for row, (mine, given) in enumerate(zip(made.items, held.partial, strict=True)):
        assert set(best[~np.isin(best, given)][:3].tolist()) <= set(mine.tolist())
        assert len(np.intersect1d(mine, nearest[row])) >= 12 - 3 - 2 * 2


def test_all_items_proposed_are_the_whole_catalogue_to_the_last_digit(large, monkeypatch):
    known, held, index = large
    count = len(known.catalogue)
    small(monkeypatch, proposed=count)
    made = proposals.propose(index, known, held)
    rankers = known.rankers(popularity, item_knn, cosines)
    everything = full_catalogue.rank(rankers, held, count)
    for name, (places, _) in full_catalogue.rank(rankers, held, count, proposals=made).items():
        assert np.array_equal(places.better, everything[name][0].better)
        assert np.array_equal(places.level, everything[name][0].level)
    assert set(made.recall(rankers, held).values()) == {1.0}


def test_a_truth_that_is_not_proposed_stands_behind_all_that_are(large):
    known, held, _ = large
    count = len(known.catalogue)
    items = np.stack([np.setdiff1d(np.arange(count), [*given, t])[:9] for given, t in zip(held.partial, held.truth)])  # noqa: B905
    none = np.zeros((len(held), 0), np.int32)
    items[0, 0] = held.truth[0]
    items[0].sort()
    few = proposals.Proposals(items.astype(np.int32), none, count, "flat", 1.0)
    ranker = ItemScoreRanker("the truth first", "content", lambda: (np.arange(count) == held.truth[0]).astype(float))
    reranking = FirstFew(ranker, ranker, known.catalogue, few=5)
    found = full_catalogue.rank([ranker], held, count, [reranking], proposals=few)
    for places, _ in found.values():
        assert (places.better[0], places.level[0]) == (0, 1)
        missed = held.truth != held.truth[0]
        assert (places.better[missed] == 9).all()
        assert (
            places.level[missed] == [count - 9 - len(given) for given in np.array(held.partial, object)[missed]]
        ).all()
    assert few.info(held).found == pytest.approx(1 / len(held))


def test_the_share_of_the_first_twenty_that_is_proposed_is_measured(large):
    known, held, _ = large
    count = len(known.catalogue)
    best = np.array([np.setdiff1d(np.arange(count), given)[:20] for given in held.partial])
    rest = np.array([np.setdiff1d(np.arange(count), given)[20:30] for given in held.partial])
    ranker = ItemScoreRanker("low index first", "content", lambda: -np.arange(float(count)))
    items, none = np.hstack([best[:, :10], rest]).astype(np.int32), np.zeros((len(held), 0), np.int32)
    half = proposals.Proposals(items, none, count, "flat", 1.0)
    assert half.recall([ranker], held) == {"low index first": 0.5}


def test_results_say_that_proposals_were_ranked_and_come_back_from_json(large, monkeypatch):
    known, held, index = large
    small(monkeypatch, proposed=15)
    made = proposals.propose(index, known, held)
    rankers = known.rankers(popularity, cosines)
    shares = made.recall(rankers, held)
    results = full_catalogue.run(rankers, held, Slicer(known.catalogue), proposals=made, recall=shares)
    said = " ".join(results.findings)
    assert "each method ranks exactly 15 items of a question" in said
    assert f"{made.info(held).found * 100:.1f}% of the held-out items are proposed" in said
    again = full_results.FullCatalogueResult.from_dict(json.loads(json.dumps(results.to_dict())))
    assert again.held_out == results.held_out
    assert {row.name: row.proposed for row in again.methods} == shares


def test_items_that_are_not_proposed_are_counted_by_those_drawn_by_lot(large, monkeypatch):
    known, held, index = large
    count, rankers = len(known.catalogue), known.rankers(popularity, item_knn, cosines)
    small(monkeypatch, proposed=20)
    made = proposals.propose(index, known, held)  # so few items that all others are drawn
    assert made.width == count - max(len(given) for given in held.partial)
    everything = full_catalogue.rank(rankers, held, count)
    there = (made.items == held.truth[:, None]).any(axis=1)
    assert there.any()
    for name, (places, _) in full_catalogue.rank(rankers, held, count, proposals=made).items():
        assert np.array_equal(places.better[there], everything[name][0].better[there])
        assert np.array_equal(places.level[there], everything[name][0].level[there])
    monkeypatch.setattr(proposals, "SAMPLED", 5)
    few = proposals.propose(index, known, held)
    ranker = ItemScoreRanker("all alike", "content", lambda: np.zeros(count))
    places, _ = full_catalogue.rank([ranker], held, count, proposals=few)["all alike"]
    assert (places.level[there] == [count - len(given) for given in np.array(held.partial, object)[there]]).all()
