"""Leak probes: each finds the leak that was built in, is named in words, and keeps quiet on sound questions."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from helpers.bench_setup import compare, summarise
from helpers.random_catalogue import random_catalogue, with_cells

from bundlecache.baselines.graphs import co_occurrence, item_knn, popularity
from bundlecache.baselines.registry import REGISTRY, Sources, all_baselines
from bundlecache.bench import benchmark as bench
from bundlecache.bench import leakage_probes as probes
from bundlecache.bench.metrics import hits
from bundlecache.catalogue import split_leaks, splits
from bundlecache.catalogue.catalogue import Interactions
from bundlecache.questions import freeze as questions
from bundlecache.questions.question_file import Questions
from bundlecache.store.store import Matrix
from bundlecache.train.set_encoder_baseline import LEARNERS

SIMPLE = (popularity, co_occurrence, item_knn)


def verdict(catalogue, asked, matrices=None, makers=SIMPLE) -> str:
    sources = Sources(catalogue, matrices or {})
    known = {"probes": probes.all_probes(sources), "leaks": bench.leaks_of(sources)}
    return " ".join(compare(sources.rankers(*makers), asked, **known).findings)


def with_options(asked, options, truth=None):
    return dataclasses.replace(asked, options=options.astype(np.int32), truth=asked.truth if truth is None else truth)


def any_items(asked, items, seed=0):
    """The same questions with wrong options from the whole catalogue, as random negatives are drawn elsewhere."""
    rng = np.random.default_rng(seed)
    options = np.stack([rng.choice(items, asked.n_options, replace=False) for _ in range(len(asked))])
    rows = np.arange(len(asked))
    options[rows, asked.truth] = asked.options[rows, asked.truth]
    return with_options(asked, options)


def put(asked, better) -> Questions:
    """The same questions, the truth exchanged for the option that ``better`` [q, n] prefers."""
    options = asked.options.copy()
    rows, best = np.arange(len(asked)), better.argmax(axis=1)
    options[rows, best], options[rows, asked.truth] = options[rows, asked.truth], options[rows, best]
    return with_options(asked, options)


def test_no_probe_succeeds_on_questions_that_are_drawn_here_and_the_verdict_says_so():
    catalogue = random_catalogue(900, 900)
    said = verdict(catalogue, questions.freeze(catalogue, split="test", negatives="hard"))
    assert "leak probes stand at chance: most popular, least popular" in said
    assert "label shuffle" in said
    assert "succeeds" not in said


def test_where_popularity_alone_answers_random_negatives_the_bench_says_so():
    catalogue = random_catalogue(900, 700, popular=True)
    asked = questions.freeze(catalogue, split="test")
    said = verdict(catalogue, any_items(asked, 900))
    assert "A leak probe succeeds: picking the most popular option finds" in said
    assert "These questions are solved by it." in said
    assert "the most popular option finds" not in verdict(random_catalogue(900, 700), any_items(asked, 900))


def test_picking_what_training_never_saw_is_found_out():
    catalogue = random_catalogue(900, 120)
    asked = questions.freeze(catalogue, split="test")
    bundled = np.bincount(splits.training_graph(catalogue, "bundle-item")[:, 1], minlength=900)
    seen = np.flatnonzero(bundled > 0)
    cold = bundled[asked.options[np.arange(len(asked)), asked.truth]] == 0
    rows = np.flatnonzero(cold)
    kept = dataclasses.replace(
        asked,
        bundle_ids=[asked.bundle_ids[r] for r in rows],
        partial=[asked.partial[r] for r in rows],
        options=asked.options[rows],
        truth=asked.truth[rows],
    )
    assert "picking the option least seen in training, or never" in verdict(catalogue, any_items(kept, seen))


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ("longest", "picking the longest title"),
        ("shortest", "picking the shortest title"),
        ("row", "whose row in the catalogue's index is nearest"),
        ("id", "whose id is nearest"),
        ("medoid", "most like the other options"),
        ("odd", "least like the other options"),
    ],
)
def test_each_leak_that_was_built_in_is_named(leak, words):
    catalogue = random_catalogue(400, 600)
    rng = np.random.default_rng(1)
    catalogue = dataclasses.replace(catalogue, titles=["x" * int(k) for k in rng.integers(5, 60, 400)])
    vectors = rng.normal(size=(400, 6))
    text = Matrix("text", "descriptor:text", "t", "f", 1, vectors.astype(np.float32), np.ones(400, bool))
    asked = questions.freeze(catalogue, split="test")
    place = {"row": np.arange(400), "id": probes.id_order(catalogue.item_ids)}
    if leak in place:
        at = place[leak]
        better = [
            -np.abs(at[o][:, None] - at[p][None]).min(1) for o, p in zip(asked.options, asked.partial, strict=True)
        ]
    elif leak in ("longest", "shortest"):
        better = np.array([len(t) for t in catalogue.titles])[asked.options] * (1 if leak == "longest" else -1)
    else:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        like = np.array([(unit[o] @ unit[o].T).sum(1) for o in asked.options])
        better = like if leak == "medoid" else -like
    mostly = np.where(rng.random(len(asked))[:, None] < 0.5, np.array(better, float), rng.random(asked.options.shape))
    said = verdict(catalogue, put(asked, mostly), {"text": text})
    assert f"A leak probe succeeds: picking the option {words}" in said or f"A leak probe succeeds: {words}" in said


def test_a_truth_that_loves_a_position_is_found_by_position_and_by_shuffled_answers():
    catalogue = random_catalogue(400, 600)
    asked = questions.freeze(catalogue, split="test")
    first = np.where(np.arange(len(asked)) % 3 == 0, asked.truth, 0)
    options = asked.options.copy()
    rows = np.arange(len(asked))
    options[rows, first], options[rows, asked.truth] = asked.options[rows, asked.truth], asked.options[rows, first]
    moved = with_options(asked, options, first)
    assert "picking the position at which the truth stood most often" in verdict(catalogue, moved)
    lazy = bench.MethodScores("lazy", "content", np.tile([1.0, *[0.0] * 9], (len(asked), 1)))
    results = summarise([moved], [[lazy]])
    assert results.probes[-1].words == "lazy against shuffled answers"
    assert results.probes[-1].succeeds


def pairs_catalogue():
    """Bundles are pairs of their own, users who made none buy at random, so only the held-out edges know the answer."""
    rng = np.random.default_rng(0)
    catalogue = random_catalogue(400, 200, categories=False)
    members = rng.permutation(400).reshape(200, 2)
    catalogue = dataclasses.replace(catalogue, bundles=dataclasses.replace(catalogue.bundles, items=members))
    edges = np.array([(u, i) for u in range(80) for i in rng.choice(400, 20, replace=False)], np.int32)
    people = [f"u{u}" for u in range(80)]
    return dataclasses.replace(catalogue, interactions=Interactions(people, edges[:, 0], edges[:, 1], list(people)))


def graph(catalogue, edges) -> Matrix:
    """Item vectors that are their baskets: what a graph that was trained on these edges knows at most."""
    vectors = np.zeros((len(catalogue), int(edges[:, 0].max()) + 1), np.float32)
    vectors[edges[:, 1], edges[:, 0]] = 1
    return Matrix("graph", "lightgcn:bundle-item", "g", "f", 1, vectors, vectors.any(axis=1))


def test_a_graph_that_was_trained_on_held_out_edges_is_found_out():
    catalogue = pairs_catalogue()
    asked = questions.freeze(catalogue, split="test")
    every = np.array([(b, i) for b, items in enumerate(catalogue.bundles.items) for i in items])
    leaking, fair = graph(catalogue, every), graph(catalogue, splits.training_graph(catalogue, "bundle-item"))
    from bundlecache.baselines.graphs import lightgcn

    said = verdict(catalogue, asked, {"graph": leaking}, (*SIMPLE, lightgcn))
    assert "LightGCN (bundle-item) looks as if it had seen the held-out edges: it finds 100.0%" in said
    said = verdict(catalogue, asked, {"graph": fair}, (*SIMPLE, lightgcn))
    assert "seen the held-out" not in said
    assert "leak" not in said.replace("leak probes stand at chance", "")


def test_graph_vectors_of_items_without_training_edges_are_told_first():
    catalogue = random_catalogue(400, 200)
    every = np.array([(b, i) for b, items in enumerate(catalogue.bundles.items) for i in items])
    train = splits.training_graph(catalogue, "bundle-item")
    beyond = len(set(every[:, 1].tolist()) - set(train[:, 1].tolist()))
    (said,) = probes.graph_leaks(Sources(catalogue, {"graph": graph(catalogue, every)}))
    assert f"know {beyond} items that no training bundle" in said
    assert probes.graph_leaks(Sources(catalogue, {"graph": graph(catalogue, train)})) == []


def test_probes_read_the_rows_that_they_ask_for_and_copy_no_matrix():
    count = 2_000_000
    vectors = np.broadcast_to(np.arange(64, dtype=np.float16), (count, 64))  # 512 MB, were it copied as float32
    text = Matrix("text", "t:t", "t", "f", 1, vectors, np.ones(count, bool))
    tracemalloc.start()
    try:
        units = probes._content(Sources(random_catalogue(30, 10), {"text": text}))
        shown = units(np.array([3, count - 1]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose((shown * shown).sum(1), 1, rtol=1e-3)
    assert peak < 50e6


# --- a split that leaks -------------------------------------------------------------------------------


def sessions(bundles=300, *, grouped: bool):
    """Three near-copies of a bundle from every session; without a group nobody can know that."""
    catalogue = random_catalogue(2000, bundles)
    rng = np.random.default_rng(3)
    items, group = {}, {}
    for b in range(0, bundles, 3):
        whole = rng.choice(2000, 6, replace=False)
        for k in range(3):
            items[b + k] = np.delete(whole, k).astype(np.int32)
            group[b + k] = f"s{b}" if grouped else f"g{b + k}"
    return with_cells(catalogue, items=items, group=group)


def test_a_split_by_session_is_clean_and_keeps_sessions_whole():
    catalogue = sessions(grouped=True)
    assert split_leaks.leaks(catalogue) == []
    assert split_leaks.crossing_groups(catalogue, splits.assign(catalogue)) == []


def test_a_split_column_that_cuts_through_sessions_is_warned_about_in_one_sentence():
    catalogue = sessions(grouped=True)
    catalogue = with_cells(catalogue, split={b: "test" if b % 5 == 0 else "train" for b in range(300)})
    (said,) = split_leaks.leaks(catalogue)
    assert "60 of 60 held-out bundles have near-copies on another side" in said
    assert said in verdict(catalogue, questions.freeze(catalogue, split="test"))


def test_sessions_that_nobody_wrote_down_are_seen_by_their_near_copies():
    (said,) = split_leaks.leaks(sessions(grouped=False))
    assert "share more than half of their items with a training bundle" in said
    assert "column group" in said
    assert split_leaks.leaks(random_catalogue(400, 600)) == []


def test_near_copies_are_what_comparing_every_pair_finds():
    catalogue = sessions(90, grouped=False)
    split = splits.assign(catalogue)
    items = [set(i.tolist()) for i in catalogue.bundles.items]
    train = [items[b] for b in np.flatnonzero(split == "train")]
    slow = [
        any(len(items[b] & t) >= 2 and 2 * len(items[b] & t) > len(items[b] | t) for t in train)
        for b in np.flatnonzero(split != "train")
    ]
    assert split_leaks.near_copies(catalogue, split).tolist() == slow
    assert any(slow)


def test_training_sees_no_held_out_bundle_and_no_user_who_made_one():
    catalogue = pairs_catalogue()
    clicks = catalogue.interactions
    group = [*catalogue.bundles.group[:40], *clicks.group[40:]]
    catalogue = dataclasses.replace(catalogue, interactions=dataclasses.replace(clicks, group=group))
    seen = splits.visible(catalogue, "train")
    for kind in splits.GRAPHS:
        was, now = splits.training_graph(catalogue, kind), splits.training_graph(seen, kind)
        assert sorted(was[:, 1].tolist()) == sorted(now[:, 1].tolist())
    held = set(catalogue.bundles.ids) - set(seen.bundles.ids)
    assert len(held) == int((splits.assign(catalogue) != "train").sum()) > 0
    assert len(seen.interactions) < len(catalogue.interactions)


def test_a_learned_ranker_learns_nothing_from_labels_that_were_shuffled():
    """The whole way with bundles that mean nothing: what is learned there must stay at chance on test."""
    catalogue = random_catalogue(400, 600)
    rng = np.random.default_rng(2)
    text = Matrix("text", "t:t", "t", "f", 1, rng.normal(size=(400, 8)).astype(np.float32), np.ones(400, bool))
    asked = questions.freeze(catalogue, split="test", n_options=4)
    rows = compare(all_baselines(catalogue, {"text": text}, learners=LEARNERS), asked).methods
    learned = [row for row in rows if row.name in ("learned ranker", "set encoder", "weighted cosines")]
    assert len(learned) >= 2
    assert len(rows) > len(REGISTRY) - 3
    for row in learned:
        assert row.hit1_interval[0] < 0.25 < row.hit1_interval[1] + 0.05, row.name


def test_the_position_probe_answers_no_question_by_its_own_truth():
    asked = questions.freeze(random_catalogue(400, 600), split="test")
    rng = np.random.default_rng(0)
    right = []
    for _ in range(100):  # positions without a pattern; whoever counts the question itself does better than chance
        rows = rng.choice(len(asked), 40, replace=False)
        some = dataclasses.replace(
            asked,
            bundle_ids=[asked.bundle_ids[r] for r in rows],
            partial=[asked.partial[r] for r in rows],
            options=asked.options[rows],
            truth=rng.integers(0, 10, 40),
        )
        right.append(hits(probes.PositionProbe().scores(some), some.truth).mean())
    assert np.mean(right) == pytest.approx(0.1, abs=0.02)
