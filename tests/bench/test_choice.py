"""What completes bundles is chosen on validation questions, and a learned ranker is fitted once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.parity_catalogue import parity_catalogue, parity_matrices

from bundlecache.baselines import completion
from bundlecache.baselines.learned import LearnedRanker, reranked, unseen_validation
from bundlecache.baselines.rankers import ModelRanker
from bundlecache.baselines.sources import Sources
from bundlecache.bench import method_selection
from bundlecache.bench.exclude_seen import validation_left_out
from bundlecache.catalogue.columns import Strings
from bundlecache.catalogue.seen_bundles import SeenBundles
from bundlecache.errors import BundlecacheError, CheckpointError
from bundlecache.project.run import Run
from bundlecache.train.set_encoder_baseline import LEARNERS


def model(right: bool) -> ModelRanker:
    def answer(asked):
        p = np.full(asked.options.shape, 0.01)
        p[np.arange(len(asked)), asked.truth if right else (asked.truth + 1) % asked.n_options] = 0.9
        return SimpleNamespace(logits=np.log(p), valid=np.ones(len(p), bool), probabilities=lambda: p)

    return ModelRanker("Bundle-MLLM", answer)


@pytest.fixture(scope="module")
def shop():
    shop = parity_catalogue()
    split = ["valid" if part == "train" and b % 4 == 0 else part for b, part in enumerate(shop.bundles.split)]
    return replace(shop, bundles=replace(shop.bundles, split=split))


@pytest.fixture(scope="module")
def sources(shop):
    return Sources(shop, parity_matrices(), learners=LEARNERS)


def test_the_winner_on_validation_questions_completes_and_is_kept(shop, sources, tmp_path, monkeypatch):
    made = method_selection.best_on_validation(sources, model(right=False))
    assert made.best == "learned-ranker"
    assert [row.method for row in made.scores][-1] == "model"
    method_selection.save(tmp_path, made, sources)
    assert method_selection.load(tmp_path) == made
    fresh = Sources(shop, parity_matrices(), learners=LEARNERS)
    monkeypatch.setattr("bundlecache.baselines.learned.fit", lambda *_, **__: pytest.fail("fitted again"))
    name, ranker = method_selection.completion_ranker(tmp_path, fresh, model(right=False))
    assert (name, type(ranker)) == ("learned-ranker", LearnedRanker)
    partial, candidates = np.array([0, 2]), np.arange(4, 14)
    ranked = completion.rank(ranker, partial, candidates)
    before = next(each for each in sources.rankers(method_selection.saved_ranker.stack))
    assert ranked == completion.rank(before, partial, candidates)
    assert {item % 2 for item, _ in ranked[:5]} == {0}  # even items stand with even ones
    assert sum(p for _, p in ranked) == pytest.approx(1)
    assert method_selection.completion_ranker(tmp_path, fresh, model(right=False), "both")[1].weights.tolist() == list(
        made.weights
    )


def test_before_anything_was_evaluated_the_model_completes(sources, tmp_path):
    assert method_selection.completion_ranker(tmp_path, sources, model(right=True))[0] == "model"


def test_a_method_is_called_the_best_only_after_methods_were_compared(sources, tmp_path):
    notes: list[str] = []
    session = SimpleNamespace(
        folder=SimpleNamespace(run=lambda *_: tmp_path),
        say=SimpleNamespace(note=lambda text, command=None: notes.append(f"{text} ({command})")),
    )
    run = Run(session, "first")
    run._note_ranker("model", asked_for=False)
    method_selection.save(tmp_path, method_selection.Choice("model", []), sources)
    run._note_ranker("model", asked_for=False)
    method_selection.save(tmp_path, method_selection.best_on_validation(sources, model(right=True)), sources)
    run._note_ranker("model", asked_for=False)
    run._note_ranker("model", asked_for=True)
    assert notes == [
        f"ranked by model; which method is best is not known yet (bundlecache evaluate --run {tmp_path.name})",
        "ranked by model (None)",
        "ranked by model, the best on validation questions (None)",
        "ranked by model (None)",
    ]


def test_a_ranker_saved_for_other_vectors_is_not_used(shop, sources, tmp_path):
    method_selection.save(tmp_path, method_selection.best_on_validation(sources, model(right=True)), sources)
    fewer = {name: matrix for name, matrix in parity_matrices().items() if matrix.modality != "graph"}
    other = Sources(shop, dict(list(fewer.items())[:1]), learners=LEARNERS)
    restored = method_selection.saved_ranker.restore(other, tmp_path / method_selection.RANKER_FILE)
    assert "fitted" not in vars(restored)


def test_a_ranker_saved_for_other_titles_or_clicks_is_not_used(shop, sources, tmp_path):
    method_selection.save(tmp_path, method_selection.best_on_validation(sources, model(right=True)), sources)
    saved = tmp_path / method_selection.RANKER_FILE
    titles = Strings(["another title", *list(shop.titles)[1:]])
    clicks = replace(shop.interactions, item=shop.interactions.item[::-1].copy())
    for edited in (replace(shop, titles=titles), replace(shop, interactions=clicks)):
        restored = method_selection.saved_ranker.restore(Sources(edited, parity_matrices(), learners=LEARNERS), saved)
        assert "fitted" not in vars(restored)
    same = method_selection.saved_ranker.restore(Sources(replace(shop), parity_matrices(), learners=LEARNERS), saved)
    assert "fitted" in vars(same)


def test_an_unknown_method_and_a_damaged_choice_are_one_sentence(sources, tmp_path):
    with pytest.raises(BundlecacheError, match="model, learned-ranker, both"):
        method_selection.completion_ranker(tmp_path, sources, model(right=True), "magic")
    (tmp_path / method_selection.FILE).write_text('{"best": 3')
    with pytest.raises(CheckpointError, match="damaged"):
        method_selection.load(tmp_path)


def test_a_model_is_weighed_and_compared_on_validation_questions_that_it_was_not_trained_on(shop, sources):
    trained = set(sources.validation[0].bundle_ids[::2])  # they were training bundles before the split changed

    def answer(asked):  # right about what it was trained on, wrong about all else
        knows = np.array([name in trained for name in asked.bundle_ids])
        p = np.full(asked.options.shape, 0.01)
        p[np.arange(len(asked)), np.where(knows, asked.truth, (asked.truth + 1) % asked.n_options)] = 0.9
        return SimpleNamespace(logits=np.log(p), valid=np.ones(len(p), bool), probabilities=lambda: p)

    split = ["train" if name in trained else "test" for name in shop.bundles.ids]
    before = replace(shop, bundles=replace(shop.bundles, split=split, group=shop.bundles.ids))
    seen = SeenBundles.of(before)
    assert {"trained": len(trained), "valid": 0} == {
        "trained": len(seen.trained.bundle),
        "valid": len(seen.selected.bundle),
    }
    blind = ModelRanker("Bundle-MLLM", answer)
    model = replace(blind, seen=seen.of_questions)
    asked = unseen_validation(model, sources)
    assert asked
    assert not trained & {name for each in asked for name in each.bundle_ids}
    every, kept = (sum(map(len, each)) for each in (sources.validation, asked))
    made = method_selection.best_on_validation(sources, model)
    assert {row.n for row in made.scores} == {kept}
    assert {row.method: row.hit1 for row in made.scores}["model"] == 0
    assert made.weights[0] < 0.01, "a model that is wrong about all others gets no weight"
    assert method_selection.best_on_validation(sources, blind).weights[0] > 0.1
    assert validation_left_out(model, sources).startswith(
        f"{every - kept} of {every} validation questions are left out"
    )
    assert validation_left_out(blind, sources) is None


def test_where_a_model_was_trained_on_all_validation_questions_no_method_is_chosen_on_them(shop, sources, tmp_path):
    seen = SeenBundles.of(replace(shop, bundles=shop.bundles.with_split(np.full(len(shop.bundles), "train"))))
    knows_all = replace(model(right=True), seen=seen.of_questions)
    assert "with a weight of 1 each" in validation_left_out(knows_all, sources)
    made = method_selection.best_on_validation(sources, knows_all)
    assert made == method_selection.Choice("model", [])
    (both,) = reranked(knows_all, sources)
    assert both.weights.tolist() == [1, 1]


def test_bundles_that_a_model_was_selected_with_stay_validation(shop, sources):
    same = replace(model(right=True), seen=SeenBundles.of(shop).of_questions)
    assert unseen_validation(same, sources) == sources.validation
    assert validation_left_out(same, sources) is None
