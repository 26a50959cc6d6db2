from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.bench_setup import compare
from helpers.parity_catalogue import FITTED, ITEMS, OPTIONS, UNSEEN, parity_catalogue, parity_matrices, parity_questions

from bundlecache.baselines.registry import REGISTRY, all_baselines
from bundlecache.bench import result_files
from bundlecache.bench.findings import sentences
from bundlecache.bench.metrics import hits
from bundlecache.bench.result_rows import Difference, MethodResult
from bundlecache.bench.results import QuestionSetInfo, QuestionSetResult
from bundlecache.catalogue.catalogue import Bundles, Interactions
from bundlecache.errors import CheckpointError
from bundlecache.questions.question_file import Questions
from bundlecache.train.set_encoder_baseline import LEARNERS


def taken(asked: Questions, rows: np.ndarray, order: np.ndarray | None = None) -> Questions:
    order = np.arange(asked.options.shape[1]) if order is None else order
    return dataclasses.replace(
        asked,
        bundle_ids=[asked.bundle_ids[r] for r in rows],
        partial=[asked.partial[r] for r in rows],
        options=asked.options[rows][:, order],
        truth=np.argsort(order)[asked.truth[rows]],
    )


NAMES = list(FITTED)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def ranker(name, shop=None):
    return (
        next(r for r in all_baselines(shop, parity_matrices(), learners=LEARNERS) if r.name == name)
        if shop
        else FITTED[name]
    )


def test_every_registered_baseline_is_under_test_and_named_once():
    assert len(NAMES) == len(set(NAMES)) >= len(REGISTRY)
    assert "set encoder" in NAMES, "injected from a higher floor, and under the same contract"


def test_scores_are_one_finite_number_per_option(name):
    scores = ranker(name).scores(parity_questions())
    assert scores.shape == (60, OPTIONS)
    assert np.isfinite(scores).all()


def test_the_right_answer_is_not_looked_at(name):
    asked = parity_questions()
    other = dataclasses.replace(asked, truth=(asked.truth + 1) % OPTIONS)
    assert np.array_equal(ranker(name).scores(asked), ranker(name).scores(other))


def test_two_fits_give_the_same_digits_and_batches_do_not_matter(name):
    asked, fitted = parity_questions(), ranker(name, parity_catalogue())
    scores = ranker(name).scores(asked)
    assert np.array_equal(scores, fitted.scores(asked))
    alone = np.concatenate([fitted.scores(taken(asked, np.array([q]))) for q in range(len(asked))])
    assert np.array_equal(scores, alone)


def test_the_order_of_options_does_not_matter(name):
    order = np.array([3, 1, 4, 0, 2])
    asked, fitted = parity_questions(), ranker(name)
    assert np.array_equal(fitted.scores(asked)[:, order], fitted.scores(taken(asked, np.arange(60), order)))


def test_items_nothing_is_known_about_tie(name):
    asked = parity_questions()
    scores = ranker(name).scores(asked)
    for row, options in zip(scores, asked.options, strict=True):
        unknown = row[options >= ITEMS - UNSEEN]
        assert len(set(unknown.tolist())) <= 1


@pytest.mark.parametrize("name", [n for n in NAMES if n.split()[0] in ("cosine", "LightGCN", "ALS", "BPR", "set")])
def test_an_option_without_a_vector_is_neither_favoured_nor_punished(name):
    asked = parity_questions()
    for row, options in zip(ranker(name).scores(asked), asked.options, strict=True):
        unknown = options >= ITEMS - UNSEEN
        assert row[unknown] == pytest.approx(row[~unknown].mean(), abs=1e-5)  # of z-scores: 0


def test_held_out_bundles_change_nothing(name):
    """The same catalogue with other test bundles: what differs would be a leak."""
    asked = parity_questions()
    assert np.array_equal(ranker(name).scores(asked), ranker(name, parity_catalogue(test_bundles_of=5)).scores(asked))


def test_who_looks_at_the_bundle_finds_the_known_answer(name):
    asked = parity_questions()
    right = hits(ranker(name).scores(asked), asked.truth).mean()
    if name == "random":
        assert right == pytest.approx(1 / OPTIONS)
    elif name == "popularity":
        assert right < 0.6
    else:
        assert right > 0.95


def test_an_empty_partial_bundle_ties_instead_of_failing(name):
    empty = dataclasses.replace(parity_questions(2), partial=[np.zeros(0, np.int32)] * 2)
    scores = ranker(name).scores(empty)
    assert name in ("popularity", "learned ranker") or (scores == scores[:, :1]).all()


def test_only_baselines_whose_inputs_exist():
    bare = dataclasses.replace(
        parity_catalogue(), bundles=Bundles(), interactions=Interactions(), columns={}, titles=[""] * ITEMS
    )
    assert [r.name for r in all_baselines(bare, {})] == ["random"]
    one = all_baselines(bare, {"text": parity_matrices()["text"]})
    assert [r.name for r in one] == ["random", "cosine text", "cosine text, nearest", "z-sum of content"]


def test_two_encoders_of_a_modality_are_told_apart_by_name():
    text = parity_matrices()["text"]
    both = {"a": text, "b": dataclasses.replace(text, spec="hf:mini")}
    names = [r.name for r in all_baselines(parity_catalogue(), both)]
    assert {"cosine text (descriptor:text)", "cosine text (hf:mini)"} <= set(names)


# --- the bench -------------------------------------------------------------------------------------


def answers(asked: Questions, right: float, seed: int = 0, invalid: int = 0) -> SimpleNamespace:
    """A model that knows the answer in a share of the questions."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, asked.options.shape)
    knows = rng.random(len(asked)) < right
    logits[np.flatnonzero(knows), asked.truth[knows]] += 10
    exp = np.exp(logits - logits.max(1, keepdims=True))
    valid = np.arange(len(asked)) >= invalid
    return SimpleNamespace(logits=logits, valid=valid, probabilities=lambda: exp / exp.sum(1, keepdims=True))


def words(results):
    return " ".join(results.findings)


def test_a_good_model_is_said_to_beat_and_a_bad_one_to_lose():
    asked, rankers = parity_questions(), all_baselines(parity_catalogue(), parity_matrices(), learners=LEARNERS)
    weak = [r for r in rankers if r.name in ("random", "popularity")]
    good = compare(weak, asked, {"LLM": answers(asked, 1.0)})
    assert good.methods[0].name == "LLM"
    assert "It beats every baseline of who took what" in words(good)
    bad = compare(rankers, asked, {"LLM": answers(asked, 0.1)})
    assert "It loses to the best cosine of a single modality" in words(bad)
    assert "It loses to the best baseline of who took what" in words(bad)
    assert "beats" not in words(bad)


def test_no_difference_is_claimed_inside_its_interval():
    asked = parity_questions()
    twin = next(
        r for r in all_baselines(parity_catalogue(), parity_matrices(), learners=LEARNERS) if r.name == "cosine text"
    )
    results = compare([twin], asked, {"LLM": answers(asked, 0.97, seed=3)})
    row = next(r for r in results.methods if r.name == "cosine text")
    assert row.versus_model.standing == "level"
    assert "cannot be told apart" in words(results)


def test_standing_needs_an_interval_without_zero():
    assert [Difference(0.0, ends).standing for ends in ((0.01, 0.2), (-0.2, -0.01), (-0.1, 0.2), (0.0, 0.1))] == [
        "better",
        "worse",
        "level",
        "level",
    ]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([-0.05, 0.02], "anything from 5.0 points more to 2.0 less"),
        ([-0.05, 0.0], "anything up to 5.0 points more"),
        ([0.0, 0.02], "anything up to 2.0 points less"),
        ([0.0, 0.0], "the same"),
        ([0.01, 0.03], "2.0 points less (1.0 to 3.0)"),
        ([-0.03, -0.01], "2.0 points more (1.0 to 3.0)"),
    ],
)
def test_a_difference_is_said_from_the_side_of_the_other_method(interval, said):
    figures = {"n": 9, "hit1": 0.3, "hit3": 0.3, "hit5": 0.3, "mrr": 0.3, "hit1_interval": (0.2, 0.4)}
    model = MethodResult("LLM", "model", **figures)
    row = MethodResult("cosine text", "content", **figures, versus_model=Difference(sum(interval) / 2, tuple(interval)))
    asked = QuestionSetInfo("q", "0" * 64, 9, 5, "test", "random")
    verdict = sentences(QuestionSetResult(asked, [model, row], model="LLM"))
    assert verdict[1].endswith(f"cosine text with 30.0%, {said}.")


def test_invalid_answers_count_as_misses_and_are_mentioned():
    asked = parity_questions()
    chance = all_baselines(parity_catalogue(), {})[:1]
    results = compare(chance, asked, {"LLM": answers(asked, 1.0, invalid=15)})
    assert results.methods[0].hit1 == pytest.approx(0.75)
    assert results.methods[1].versus_model.delta == pytest.approx(0.75 - 1 / OPTIONS)
    assert "25.0% of the questions the model's answer was no option letter" in words(results)


def test_ablation_says_which_modality_is_worth_something():
    asked = parity_questions()
    full, without = answers(asked, 1.0), answers(asked, 0.3, seed=1)
    results = compare([], asked, {"LLM": full}, ablation={"image": without, "text": full})
    image, text = results.ablation
    assert image.delta < -0.3
    assert image.delta_interval[1] < 0
    assert text.delta == 0
    assert "Without the picture vectors it finds" in words(results)
    assert "Without the text vectors nothing measurable changes" in words(results)


def test_popularity_that_answers_alone_is_called_a_shortcut():
    asked = parity_questions()
    shop = parity_catalogue()
    popular = SimpleNamespace(
        name="popularity",
        kind="collaborative",
        scores=lambda q: np.eye(OPTIONS)[q.truth] * (np.arange(60) % 2)[:, None],
    )
    assert "shortcut" in words(compare([popular], asked))
    assert "shortcut" not in words(compare(all_baselines(shop, {})[:2], parity_questions()))


def test_results_round_trip_and_name_items_by_id(tmp_path):
    asked, shop = parity_questions(), parity_catalogue()
    given = answers(asked, 0.6)
    results = compare(all_baselines(shop, {})[:2], asked, {"LLM": given}, seconds={"LLM": 1.5})
    path = result_files.save(tmp_path, results, asked, given, shop.item_ids)
    assert json.loads(path.read_text()) == results.to_dict() == result_files.load(tmp_path)[asked.name].to_dict()
    table = result_files.load_answers(tmp_path, asked.name)
    assert table.column("options")[3].as_py() == [f"i{i}" for i in asked.options[3]]
    assert table.column("predicted").to_pylist() == given.logits.argmax(1).tolist()
    assert np.allclose(np.sum(table.column("probabilities").to_pylist(), axis=1), 1, atol=1e-5)
    assert result_files.load_answers(tmp_path, "valid-random5") is None


def test_the_same_run_twice_gives_the_same_digits():
    def figures():
        asked = parity_questions()
        results = compare(
            all_baselines(parity_catalogue(), parity_matrices(), learners=LEARNERS), asked, {"LLM": answers(asked, 0.6)}
        )
        return results.to_dict(timed=False)

    assert figures() == figures()


def test_damaged_results_and_answers_of_other_questions_are_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "test-random5.json").write_text('{"format_version": 1')
    with pytest.raises(CheckpointError, match="damaged"):
        result_files.load(tmp_path)
    (tmp_path / "results" / "test-random5.json").write_text('{"format_version": 99}')
    with pytest.raises(CheckpointError, match="format 99"):
        result_files.load(tmp_path)
    with pytest.raises(ValueError, match="answered"):
        compare([], parity_questions(), {"LLM": answers(parity_questions(10), 1.0)})
