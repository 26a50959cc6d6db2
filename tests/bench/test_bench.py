"""The bench: sets of several seeds as one family, one table in three forms, and what the model's seconds buy."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.bench_setup import compare, summarise
from helpers.random_catalogue import random_catalogue
from rich.console import Console

from bundlecache.baselines.learned import Reranked
from bundlecache.baselines.rankers import ModelRanker
from bundlecache.baselines.registry import all_baselines
from bundlecache.bench import benchmark as bench
from bundlecache.bench import leaderboard
from bundlecache.bench.findings import beyond_evidence, worth
from bundlecache.bench.result_rows import AblationRow
from bundlecache.bench.results import AskedHow
from bundlecache.console import output, tables
from bundlecache.questions import freeze as questions
from bundlecache.report import bench_pages


def oracle(asked, share: float, name="known", seconds=0.1, seed=0, kind="content", training=None):
    """A method that is right in a share of the questions."""
    rng = np.random.default_rng(seed)
    scores = rng.random(asked.options.shape)
    knows = rng.random(len(asked)) < share
    scores[np.flatnonzero(knows), asked.truth[knows]] += 5
    return bench.MethodScores(name, kind, scores, seconds, training)


@pytest.fixture(scope="module")
def catalogue():
    return random_catalogue(400, 600)


@pytest.fixture(scope="module")
def sets(catalogue):
    return [
        questions.freeze(catalogue, split="test", seed=s, negatives=n) for n in ("hard", "random") for s in (0, 1, 2)
    ]


def test_sets_that_differ_by_their_seed_are_one_family_and_random_ones_stand_first(catalogue, sets):
    results = bench.run(bench.BenchSetup(all_baselines(catalogue, {})), sets)
    assert leaderboard.headings(results) == ["random10", "hard10"]
    assert results[0].questions.sets == ("test-random10", "test-random10-seed1", "test-random10-seed2")
    assert results[0].questions.n_questions == 3 * len(sets[0])
    random = next(row for row in results[0].methods if row.name == "random")
    assert random.hit1 == pytest.approx(0.1)


def test_asking_the_same_thrice_makes_no_interval_narrower(sets):
    asked = sets[0]
    once = summarise([asked], [[oracle(asked, 0.5)]]).methods[0]
    thrice = summarise([asked] * 3, [[oracle(asked, 0.5)]] * 3).methods[0]
    assert thrice.hit1 == pytest.approx(once.hit1)
    assert thrice.hit1_interval == pytest.approx(once.hit1_interval)
    assert thrice.seconds == pytest.approx(0.3)


def test_bundles_are_paired_by_their_id_whatever_the_order_of_a_set(sets):
    asked = sets[0]
    back = np.arange(len(asked))[::-1]
    turned = dataclasses.replace(
        asked,
        bundle_ids=[asked.bundle_ids[r] for r in back],
        partial=[asked.partial[r] for r in back],
        options=asked.options[back],
        truth=asked.truth[back],
    )
    method = oracle(asked, 0.5)
    other = dataclasses.replace(method, scores=method.scores[back])
    both = summarise([asked, turned], [[method], [other]]).methods[0]
    assert both.hit1_interval == pytest.approx(summarise([asked], [[method]]).methods[0].hit1_interval)


@pytest.fixture
def results(sets):
    asked = sets[3]
    methods = [
        oracle(asked, 0.6, "LLM <b>", 20.0, kind="model", training=180.0),
        oracle(asked, 0.2, "cosine text", 0.5, seed=1),
    ]
    return [summarise([asked], [methods], model="LLM <b>")]


def test_a_model_that_gains_is_priced_by_the_point_another_is_not_worth_it(sets, results):
    (said,) = results[0].worth
    assert said.startswith(
        "It took 200 s of training and answering, cosine text 0.5 s, fitting included: each point gained costs"
    )
    assert "Points above chance per second" in said
    asked = sets[3]
    twin = [oracle(asked, 0.4, "LLM", 9.0, kind="model"), oracle(asked, 0.42, "cosine text", 0.5, seed=1)]
    level = summarise([asked], [twin], model="LLM")
    assert level.worth == [
        "It is not worth its cost here: it took 9.0 s to answer, and cosine text answers as well in 0.5 s, fitting included."
    ]
    assert worth(dataclasses.replace(level, model=None)) == []


def test_the_table_stands_on_disk_as_json_csv_and_a_page_that_escapes_names(tmp_path, results):
    leaderboard.save(tmp_path / "bench", results)
    path = bench_pages.write_bench(tmp_path / "bench", results)
    assert json.loads((path.parent / "results.json").read_text()) == [result.to_dict() for result in results]
    with (path.parent / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    model = next(row for row in rows if row["method"] == "LLM <b>")
    assert float(model["hit@1"]) == pytest.approx(results[0].methods[0].hit1, abs=1e-4)
    assert float(model["low"]) < float(model["hit@1"]) < float(model["high"])
    assert {row["kind"] for row in rows} == {"model", "content", "probe"}
    page = path.read_text()
    assert "LLM &lt;b&gt;" in page
    assert "<b>" not in page
    assert not re.search(r"https?://", page)
    assert results[0].worth[0].replace("<b>", "&lt;b&gt;") in page


def test_rows_are_best_first_over_all_families_and_say_what_everything_took(sets):
    hard, easy = sets[0], sets[3]
    made = [summarise([asked], [[oracle(asked, 0.3, "a"), oracle(asked, 0.8, "b", seed=5)]]) for asked in (easy, hard)]
    table = leaderboard.rows(made)
    assert [row.method for row in table] == ["b", "a"]
    assert table[0].seconds == pytest.approx(0.2)
    assert 0 < table[0].half["random10"] < 0.2


def test_what_weights_were_chosen_on_is_no_test_and_the_verdict_says_so(catalogue, sets):
    asked = questions.freeze(catalogue, split="valid")
    methods = [oracle(asked, 0.6, "LLM", kind="model"), oracle(asked, 0.2, "cosine text", seed=1)]
    for model in ("LLM", None):
        verdict = summarise([asked], [methods], model=model).findings
        assert verdict[1].startswith("These are validation questions")
    test = summarise(sets[:1], [[oracle(sets[0], 0.6)]]).findings
    assert not any("validation" in sentence for sentence in test)


def test_in_how_many_orders_models_were_asked_stands_in_results_and_verdict(sets):
    scored = [[oracle(sets[0], 0.6, "LLM", kind="model")]]
    results = summarise(sets[:1], scored, model="LLM", how=AskedHow(3))
    assert results.how == AskedHow(3)
    assert any("in 3 orders of its options" in sentence for sentence in results.findings)
    assert not any("orders" in s for s in summarise(sets[:1], scored, model="LLM").findings)


def test_seven_question_sets_are_read_in_80_columns(sets, capsys, monkeypatch):
    kinds = ("random", "hard", "same-category", "popularity-matched", "nearest:image", "co-occurring", "alike")
    named = [dataclasses.replace(sets[0], name=f"test-{kind}-10", negatives=kind) for kind in kinds]
    methods = [oracle(sets[0], 0.6, "cosine open_clip:ViT-B-16-SigLIP/webli"), oracle(sets[0], 0.3, "popularity")]
    results = [bench.summarise(bench.BenchSetup(), [asked], [methods]) for asked in named]
    screen = Console(width=80)
    monkeypatch.setattr(output, "out", screen)
    monkeypatch.setattr(tables, "out", screen)
    tables.show_leaderboard(results)
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split() for line in lines if line.startswith(" method")]
    assert [word for head in heads for word in head[1:]] == [*leaderboard.headings(results), "seconds"]
    rows = [line.split()[1:] for line in lines if line.startswith(" popularity")]
    assert [len(row) + 1 for row in rows] == [len(head) for head in heads]
    assert all(re.fullmatch(r"\d\.\d+", figure) for row in rows for figure in row)


def test_every_piece_of_the_table_holds_the_figures_that_its_heading_names(sets, capsys, monkeypatch):
    kinds = ("random", "same-category", "popularity-matched", "nearest:image")
    named = [dataclasses.replace(sets[0], name=f"test-{kind}-10", negatives=kind) for kind in kinds]
    results = []
    for k, asked in enumerate(named, 1):
        methods = [oracle(asked, 0.2 * k, "fitted", training=90.0), oracle(asked, 0.1, "popularity")]
        results.append(bench.summarise(bench.BenchSetup(), [asked], [methods]))
    (row,) = (each for each in leaderboard.rows(results) if each.method == "fitted")
    expected = {name: f"{row.hit1[name]:.3f}" for name in leaderboard.headings(results)}
    expected |= {"seconds": f"{row.seconds:.1f}", "training": f"{row.training_seconds:.1f}"}
    only_times = set()
    for width in range(40, 111):
        screen = Console(width=width)
        monkeypatch.setattr(output, "out", screen)
        monkeypatch.setattr(tables, "out", screen)
        tables.show_leaderboard(results)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
        found = {}
        for at, line in enumerate(lines):
            if line.startswith(" method"):
                heading, columns = lines[at - 1], line.split()[1:]
                (figures,) = (each.split()[1:] for each in lines[at + 1 : at + 4] if each.startswith(" fitted"))
                found |= dict(zip(columns, figures, strict=True))
                times = {"seconds", "training"} & set(columns)
                if times == set(columns):
                    assert heading.startswith("Seconds")
                    assert ("to answer" in heading, "to train" in heading) == ("seconds" in times, "training" in times)
                    only_times.add(tuple(columns))
                else:
                    assert heading.startswith("HitRate@1")
        assert found == expected
    assert only_times == {("seconds", "training"), ("training",)}, "each way was seen"


def test_positions_and_calibration_of_the_model_stand_in_its_results(sets):
    asked = sets[0]
    given = SimpleNamespace(
        logits=np.eye(10)[np.zeros(len(asked), int)] * 3.0,
        valid=np.ones(len(asked), bool),
        probabilities=lambda: np.tile([0.91, *[0.01] * 9], (len(asked), 1)),
    )
    told = compare([], asked, {"LLM": given}).model_answers
    assert [row["hit@1"] for row in told["positions"]] == [1.0, *[0.0] * 9]
    assert told["calibration"]["ece"] == pytest.approx(0.91 - np.mean(asked.truth == 0), abs=1e-4)


def knowing(asked, rows):
    """Answers that are sure of the truth of some questions and know nothing of the others."""
    p = np.full(asked.options.shape, 1 / asked.n_options)
    p[rows] = np.where(np.arange(asked.n_options) == asked.truth[rows, None], 0.9, 0.1 / (asked.n_options - 1))
    return SimpleNamespace(logits=np.log(p), valid=np.ones(len(p), bool), probabilities=lambda: p)


def as_ranker(share, name="learned ranker"):
    return SimpleNamespace(name=name, kind="content", scores=lambda asked: oracle(asked, share).scores)


def test_a_model_that_knows_more_adds_to_a_ranker(catalogue, sets):
    asked, calls = questions.freeze(catalogue, split="valid"), []

    def answer(given):
        calls.append(given.sha256)
        return knowing(given, np.arange(0, len(given), 2))

    reranked = Reranked(ModelRanker("Bundle-MLLM", answer), as_ranker(0.5), lambda: [asked])
    results = summarise(sets[:1], [bench.score(bench.BenchSetup([as_ranker(0.5), reranked]), sets[0])])
    row = next(row for row in results.methods if row.name == "Bundle-MLLM + learned ranker")
    assert row.hit1 > 0.7
    assert row.on_top_of.name == "learned ranker"
    assert row.on_top_of.interval[0] > 0.1
    reranked.scores(sets[0])
    assert sorted(calls) == sorted([asked.sha256, sets[0].sha256, f"{sets[0].sha256}/first"])


def test_a_model_that_knows_nothing_leaves_the_ranker_as_it_is(catalogue, sets):
    rng = np.random.default_rng(1)

    def guess(asked):
        p = rng.dirichlet(np.ones(asked.n_options), len(asked))
        return SimpleNamespace(probabilities=lambda: p)

    asked = questions.freeze(catalogue, split="valid")
    alone = as_ranker(0.8)
    reranked = Reranked(ModelRanker("Bundle-MLLM", guess), alone, lambda: [asked])
    assert reranked.weights[0] < 0.1 * reranked.weights[1]
    right = [(ranker.scores(sets[0]).argmax(1) == sets[0].truth).mean() for ranker in (alone, reranked)]
    assert right[1] == pytest.approx(right[0], abs=0.05)


def test_the_verdict_says_what_the_model_adds_to_the_ranker_it_reranks(sets):
    asked = sets[0]
    model, alone = oracle(asked, 0.3, "Bundle-MLLM", kind="model", seed=1), oracle(asked, 0.3, "learned ranker")
    for share, said in ((0.9, "points"), (0.3, "adds nothing that can be told from chance")):
        both = dataclasses.replace(
            oracle(asked, share, "Bundle-MLLM + learned ranker", kind="model", seed=2), on_top_of="learned ranker"
        )
        results = summarise([asked], [[model, alone, both]], model="Bundle-MLLM")
        sentence = next(s for s in results.findings if s.startswith("Reranking"))
        assert said in sentence


def test_the_verdict_says_what_a_model_uses_beyond_its_evidence(sets):
    asked = sets[0]
    alone, left_out = oracle(asked, 0.3, "learned ranker"), AblationRow("evidence", 0.1, (0.1, 0.1), -0.2, (-0.3, -0.1))
    for share, seed, said in ((0.9, 1, "add "), (0.3, 0, "add nothing that can be told"), (0.05, 1, "cost ")):
        model = oracle(asked, share, "Bundle-MLLM", kind="model", seed=seed)
        results = summarise([asked], [[model, alone]], model="Bundle-MLLM")
        assert beyond_evidence(results) == []
        (sentence,) = beyond_evidence(dataclasses.replace(results, ablation=[left_out]))
        assert f"bundles, {said}" in sentence


def test_sets_of_5_to_50_options_stand_each_against_its_own_chance():
    shop = random_catalogue()
    sets = [questions.freeze(shop, split="test", n_options=n) for n in (50, 5, 20, 10)]
    results = bench.run(bench.BenchSetup(all_baselines(shop, {})), sets)
    assert [r.questions.name for r in results] == [
        "test-random5",
        "test-random10",
        "test-random20",
        "test-random50",
    ]
    for result, n in zip(results, (5, 10, 20, 50), strict=True):
        random = next(row for row in result.methods if row.name == "random")
        assert [random.hit1, random.hit3, random.hit5] == pytest.approx([1 / n, 3 / n, 5 / n])
        assert not any(row.succeeds for row in result.probes)
