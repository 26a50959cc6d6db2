"""Baselines of the tasks on user histories against what they are by definition, and figures counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.histories import training_of
from helpers.matrices import matrix
from helpers.runner import invoke, printed_json, succeed

from bundlecache.baselines import next_item, rating_means, rating_neighbours, saved_fit, search_words
from bundlecache.baselines.next_item import HistoryRanker
from bundlecache.bench import task_bench
from bundlecache.catalogue.columns import Strings
from bundlecache.files import read_json
from bundlecache.questions.sample import sample_users
from bundlecache.report.task_page import ASKS, write_tasks

SEQUENCES = [[0, 1, 2, 3], [0, 2, 1, 4], [1, 0, 2, 5], [3, 4, 0, 1], [4, 3, 5, 0]]


def ranker(name: str, scores: list[float]) -> HistoryRanker:
    return HistoryRanker(name, dict, lambda _: lambda asked: np.tile(np.array(scores, float), (len(asked), 1)))


def test_ranks_are_exact_and_leave_out_the_history():
    """Targets 3, 4, 5, 1, 0 among six items; without the three of the history, each has two rivals."""
    _, test = training_of(SEQUENCES)
    assert test.target.tolist() == [3, 4, 5, 1, 0]
    falling = ranker("falling", [6, 5, 4, 3, 2, 1])
    (out,) = task_bench.rank(test, [falling], 6).methods
    assert out.figures["MRR"] == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1, 1]))  # 3 of 3,4,5; 4 of 3,4,5; ...
    (kept,) = task_bench.rank(test, [falling], 6, keep_history=True).methods
    assert kept.figures["MRR"] == pytest.approx(np.mean([1 / 4, 1 / 5, 1 / 6, 1 / 2, 1]))
    (tied,) = task_bench.rank(test, [ranker("random", [0] * 6)], 6).methods
    assert tied.figures["NDCG@10"] == pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 3)
    low, high = out.intervals["MRR"]
    assert low <= out.figures["MRR"] <= high


def test_methods_learn_from_what_training_sees_alone():
    """Of five users of four items, training sees the first two: item 0 of four users, ..."""
    training, test = training_of(SEQUENCES)
    assert training.seen.sequences().lengths.tolist() == [2] * 5
    by_name = {method.name: method for method in next_item.rankers(training)}
    assert by_name["popularity"].scores(test)[0].tolist() == [3, 2, 1, 2, 2, 0]
    for method in by_name.values():
        scores = method.scores(test)
        assert scores.shape == (5, 6)
        if method.name in ("ALS", "BPR"):
            assert (scores[:, 5] < scores[:, :5].min(axis=1)).all()  # in no training interaction
    last = by_name["last-item kNN"].scores(test)
    assert last[3].argmax() in (0, 3, 4)  # goes with 0, the last item of [3, 4, 0]
    assert np.isfinite(last).all()


def test_a_bias_counts_in_full_for_a_user_whom_training_never_saw():
    training, test = training_of(SEQUENCES)
    strangers = replace(test, users=Strings([f"stranger {k}" for k in range(len(test))]))
    bias = np.array([0.5, -0.3, 0.2, -0.1, -0.4, 0.0])
    scores = next_item.by_factors(training, {"users": np.ones((5, 1)), "items": bias[:, None]}, biased=True)(strangers)
    np.testing.assert_allclose(scores[:, :5], np.tile(bias[:5], (len(test), 1)))


def test_als_solves_a_user_as_implicit_does():
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    from bundlecache.factors import SETTINGS, item_factors

    training, test = training_of(SEQUENCES)
    scores = next_item._als(training, next_item._als_factors(training))(test)
    model = AlternatingLeastSquares(**SETTINGS["als"], num_threads=1)
    model.item_factors = np.where(training.known[:, None], item_factors("als", training.baskets), 0)
    history = csr_matrix(next_item.members(test.history, 6))
    expected = model.recalculate_user(np.arange(5), history) @ model.item_factors.T
    np.testing.assert_allclose(scores[:, training.known], expected[:, training.known], atol=1e-4)


def test_bm25_equals_its_formula_and_history_orders_equal_matches():
    texts = ["red mug", "blue mug mug", "red lamp with a shade", ""]
    index = search_words.Bm25.of(texts)
    words = [text.split() for text in texts]
    mean = np.mean([len(each) for each in words])
    for query in ("red mug", "mug", "nothing"):
        expected = []
        for document in words:
            total = 0.0
            for word in query.split():
                holding, count = sum(word in each for each in words), document.count(word)
                idf = np.log(1 + (4 - holding + 0.5) / (holding + 0.5))
                total += idf * count * 2.5 / (count + 1.5 * (0.25 + 0.75 * len(document) / mean))
            expected.append(total)
        np.testing.assert_allclose(index.scores([query])[0], expected, atol=1e-6)
    both = search_words._then(index, ranker("last first", [0, 1, 2, 3]), {})
    asked = type("Asked", (), {"query": ["lamp"], "__len__": lambda _: 1})()
    assert np.argsort(-both(asked)[0]).tolist() == [2, 3, 1, 0]


def test_a_model_stands_beside_the_best_baseline_question_by_question():
    """All targets are among the first ten of six items, so the order is that of the names' lists; MRR tells methods apart."""
    _, test = training_of(SEQUENCES)
    own = np.zeros((5, 6))
    own[np.arange(5), test.target] = 1
    right = HistoryRanker("right", dict, lambda _: lambda asked: own)
    result = task_bench.rank(test, [ranker("tied", [0] * 6), right], 6, models=[ranker("model", [6, 5, 4, 3, 2, 1])])
    best = result.best_baseline
    assert best is not None
    assert best.name == "tied"
    (model,) = [method for method in result.methods if method.kind == "model"]
    mean, low, high = model.difference["MRR"]
    assert mean == pytest.approx(model.figures["MRR"] - best.figures["MRR"])
    assert low <= mean <= high
    assert model.difference["HR@10"] == (0, 0, 0)
    assert "values" not in model.to_dict()
    assert set(best.to_dict()) == {"name", "figures", "intervals", "seconds"}  # as before there were models


def test_means_of_ratings_and_errors_are_those_of_a_calculation_by_hand():
    """Training holds two of four ratings each: 5 5, 1 1; the histories of the questions three."""
    ratings = [[5, 5, 5, 4], [1, 1, 1, 2]]
    training, test = training_of([[0, 1, 2, 3], [1, 4, 0, 2]], "preference", ratings)
    made = rating_means.predictions(training.seen, test)
    assert made["global mean"].tolist() == [3, 3]
    assert made["user mean"].tolist() == [5, 1]
    assert made["item mean"].tolist() == [3, 3]  # items 3 and 2 are in no training interaction
    result = task_bench.rate(test, {"user mean": made["user mean"], "off by 0, 2": np.array([4.0, 4.0])}, 5)
    first, second = result.methods
    assert (first.name, first.figures) == ("user mean", {"MAE": 1.0, "RMSE": 1.0})
    assert second.figures == {"MAE": 1.0, "RMSE": pytest.approx(2**0.5)}


def test_several_training_seeds_give_their_mean_and_a_wider_interval():
    """One seed puts all targets first, the other none of five within three; a method without a seed stays as it is."""
    _, test = training_of(SEQUENCES)
    best, worst = np.zeros((5, 6)), np.zeros((5, 6))
    best[np.arange(5), test.target] = 1
    worst[np.arange(5), test.target] = -1
    falling = ranker("falling", [6, 5, 4, 3, 2, 1])
    seeds = [
        task_bench.rank(test, [HistoryRanker("learnt", dict, lambda _, made=made: lambda asked: made), falling], 6)
        for made in (best, worst)
    ]
    merged = {method.name: method for method in task_bench.over_seeds(seeds).methods}
    assert merged["learnt"].by_seed["MRR"] == [1, pytest.approx(1 / 3)]
    assert merged["learnt"].figures["MRR"] == pytest.approx(2 / 3)
    assert merged["learnt"].intervals["MRR"] == pytest.approx((1 / 3, 1))
    assert merged["falling"].by_seed["MRR"] == [merged["falling"].figures["MRR"]] * 2
    assert "by_seed" not in seeds[0].methods[0].to_dict()


def test_stars_of_similar_items_follow_what_the_user_said_of_them():
    """Items 0-3 are of one kind, 4-7 of another; one user likes the first kind, one the second, with one item off."""
    ratings = [[5, 1, 5, 1, 5, 1], [1, 5, 1, 5, 1, 5], [5, 1, 5, 1, 5, 1]]
    sequences = [[0, 4, 1, 5, 2, 6], [4, 0, 5, 1, 6, 2], [1, 5, 2, 6, 3, 7]]
    _, test = training_of(sequences, "preference", ratings)
    kinds = np.repeat(np.eye(2), 4, axis=0)
    made = rating_neighbours.predictions({"image": matrix(kinds)}, test, test)
    np.testing.assert_allclose(made["ratings of similar items (image)"], test.rating, atol=1e-6)
    blind = rating_neighbours.predictions({"image": matrix(kinds, np.arange(8) < 2)}, test, test)
    assert (blind["ratings of similar items (image)"] > 1).all()  # nothing is known of the items: near the mean


def test_a_selection_counts_the_first_choice_and_those_above_the_mean():
    _, test = training_of([[i, *range(6, 9), *range(10 + 4 * i, 14 + 4 * i)] for i in range(6)] * 3, "select")
    own = np.zeros((len(test), 34))
    own[np.arange(len(test))[:, None], test.candidates] = test.right
    perfect = HistoryRanker("perfect", dict, lambda _: lambda asked: own)
    result = task_bench.rank(test, [perfect, HistoryRanker("random", dict, lambda _: lambda asked: own * 0)], 34)
    assert result.methods[0].figures == {"first": 1, "precision": 1, "recall": 1, "F1": 1}
    share = float(test.right.mean())
    assert result.methods[1].figures == {"first": pytest.approx(share), "precision": 0, "recall": 0, "F1": 0}


def test_the_command_prints_one_table_a_task_and_keeps_the_results(workspace, monkeypatch):
    from bundlecache.train import sasrec

    monkeypatch.setattr(sasrec, "MAX_EPOCHS", 2)
    rows = [(f"u{u}", f"item-{(u + 2 * k) % 24:02}", u + 30 * k, 1 + (u + k) % 5) for u in range(16) for k in range(6)]
    columns = dict(zip(("user_id", "item_id", "timestamp", "rating"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), workspace.root / "interactions.parquet")
    ask, folder = ("bench", "--data", workspace.root, "--k-core", "2", "--task"), workspace.root / "questions" / "tasks"
    shown = succeed(*ask, "search").stdout
    assert "BM25 + SASRec" in shown
    assert "among 24 items" in shown
    made = printed_json(*ask, "recommend", "--seed", "0", "--seed", "1")["result"]
    assert {len(method["by_seed"]["MRR"]) for method in made["methods"]} == {2}
    assert {"LightGCN", "SASRec", "recent popularity"} <= {method["name"] for method in made["methods"]}
    assert made["questions"]["sha256"] == read_json(folder / "recommend-leave_last_out-core2.json")["sha256"]
    assert "user mean" in succeed(*ask, "preference").stdout
    folder = workspace.root / "bench" / "tasks"
    assert (folder / "preference-leave_last_out-core2.json").is_file()
    (folder / "search-broken.json").write_text("{")
    page = write_tasks(folder).read_text()
    assert [page.count(f"<h2>{title}") for title in ASKS.values()] == [1, 1, 0, 1, 0]
    assert "Means of 2 training seeds" in page
    assert "have no rating and explanation" in str(invoke(*ask, "explain").exception)


def test_what_a_method_learnt_is_kept_and_read_again_while_all_that_it_was_learnt_from_is_the_same(tmp_path):
    training, test = training_of(SEQUENCES)
    others, _ = training_of([*SEQUENCES[:4], [4, 0, 5, 3]])
    learnt: list[str] = []
    for method in training.rankers:
        saved_fit.fitted(method, training, tmp_path, learnt.append)
    assert learnt == [method.name for method in training.rankers]
    again = replace(training)  # without what methods keep
    for method, first in zip(again.rankers, training.rankers, strict=True):
        scores = saved_fit.fitted(method, again, tmp_path, learnt.append).scores(test)
        np.testing.assert_array_equal(scores, first.scores(test))
    (both,) = [m for m in search_words.searchers(again, again.rankers) if m.name == "BM25 + item-kNN"]
    saved_fit.fitted(both, again, tmp_path, learnt.append)
    assert len(learnt) == len(training.rankers)
    for changed in (others, replace(training, seed=1)):
        saved_fit.fitted(changed.rankers[1], changed, tmp_path, learnt.append)
    kept = tmp_path / "popularity.npz"
    for damaged in (b"damaged", kept.read_bytes()[:-30], b""):
        kept.write_bytes(damaged)
        saved_fit.fitted(replace(training).rankers[1], again, tmp_path, learnt.append)
    assert learnt[len(training.rankers) :] == ["popularity"] * 5


def test_a_sample_of_users_is_always_the_same_and_says_what_it_is_of():
    _, test = training_of(SEQUENCES * 4)
    test = replace(test, header=test.header | {"sha256": "a" * 64})
    few, more = sample_users(test, 6), sample_users(test, 12)
    assert few.header["sample"]["of"] == len(test) == 20
    assert len(few) == few.header["sample"]["n_questions"] == 6
    assert set(few.users) < set(more.users) < set(test.users)
    assert [test.target[list(test.users).index(user)] for user in few.users] == few.target.tolist()
    assert len({test.sha256, few.sha256, more.sha256}) == 3
    assert few.sha256 == sample_users(test, 6).sha256
    assert sample_users(test, 0) is sample_users(test, 20) is test
