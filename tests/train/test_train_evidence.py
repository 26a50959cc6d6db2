"""Evidence: an untrained model answers as the learned ranker, and no training question is answered from its own bundle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import train_shop as world

from bundlecache.baselines import saved_ranker
from bundlecache.baselines.learned import LearnedRanker, stack
from bundlecache.baselines.sources import Sources
from bundlecache.bench.fitting_costs import FittingCosts
from bundlecache.catalogue import splits
from bundlecache.catalogue.columns import Lists
from bundlecache.train import checkpoint
from bundlecache.train.inference.scoring import score
from bundlecache.train.model.bundle_mllm import build
from bundlecache.train.model.evidence import attach
from bundlecache.train.run import LoadedRun, sources_of
from bundlecache.train.set_encoder_baseline import LEARNERS
from bundlecache.train.training.loop import train

CPU = torch.device("cpu")
RECIPE = {"answer": {"form": "pointer"}, "fusion": {"evidence": "residual"}, "run": {"strategy": ["joint"]}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def fitted(base):
    """A catalogue where one training bundle alone holds the items 0 and 1 together, and a model over it."""
    cat = world.catalogue()
    members = [np.setdiff1d(items, [0, 1]) if len(set(items) & {0, 1}) else items for items in cat.bundles.items]
    members[5] = np.array([0, 1])
    cat = dataclasses.replace(cat, bundles=dataclasses.replace(cat.bundles, items=Lists(members)))
    torch.manual_seed(0)
    model = build(cat.titles, world.matrices(), world.recipe(base, **RECIPE), CPU)
    attach(model, cat).fit()
    model.mode = "mm"
    return cat, model.eval()


def test_an_untrained_pointer_with_evidence_is_the_learned_ranker(fitted):
    cat, model = fitted
    asked = world.questions(cat, "test", 10)
    ranker = LearnedRanker("learned ranker", "content", Sources(cat, world.matrices(), learners=LEARNERS))
    want = ranker.scores(asked)
    np.testing.assert_allclose(score(model, asked).logits, want, atol=1e-4)
    assert np.ptp(score(model, asked, without=["evidence"]).logits, axis=1).max() == 0
    beyond = LoadedRun(None, model, world.matrices()).beyond_evidence("model").scores(asked)
    np.testing.assert_allclose(beyond, np.full(beyond.shape, -np.log(asked.n_options)), atol=1e-5)


@pytest.mark.parametrize("form", ["likelihood", "yes-no"])
def test_what_a_base_model_says_begins_at_nothing_beside_evidence(fitted, form, tmp_path):
    cat, ranked = fitted
    recipe = world.recipe(world.save_base(tmp_path, more=("yes", "no")), **{**RECIPE, "answer": {"form": form}})
    model = build(cat.titles, world.matrices(), recipe, CPU).eval()
    model.evidence, model.mode = ranked.evidence, "mm"
    asked = world.questions(cat, "test", 10)
    np.testing.assert_array_equal(score(model, asked).logits, score(ranked, asked).logits)
    bare = score(model, asked, without=["evidence"]).logits
    assert np.ptp(bare, axis=1).min() > 0, "without evidence it answers as it stands"
    weight = model.answer.factor_change
    assert any(weight is trained for trained in model.train_only("joint"))
    model(model.ask(asked.partial, list(asked.options), "mm"), asked.truth, 10, "mm").backward()
    assert weight.grad != 0, "training lets it in"
    with torch.no_grad():
        weight.fill_(0.5)
    np.testing.assert_allclose(score(model, asked).logits, score(ranked, asked).logits + 2 * bare, atol=1e-4)


def test_a_training_question_is_not_answered_from_its_own_bundle(fitted):
    cat, model = fitted
    at = [part.name for part in model.evidence._ranker.parts].index("co-occurrence")
    asked = [np.array([0])], [np.array([1, 20, 30, 41])]
    assert splits.assign(cat)[5] == "train"

    def raw(bundles):
        return model.evidence.features(*asked, bundles)[0, :, len(model.evidence._ranker.parts) + at]

    assert raw(None)[0] > raw(None)[1:].max(), "after training, the pair counts"
    same = raw(np.array([5]))
    assert np.ptp(same) == 0, "0 and 1 are nowhere else together"
    other = next(b for b, t in model.evidence._third_of.items() if t != model.evidence._third_of[5])
    assert raw(np.array([other]))[0] > 0


def test_evidence_is_trained_saved_and_loaded_with_the_model(base, tmp_path):
    cat, matrices = world.catalogue(), world.matrices()
    valid, recipe = world.questions(cat), world.recipe(base, **RECIPE)
    run = train(cat, matrices, valid, recipe, tmp_path / "runs" / "one", seed=0, device="cpu").run
    loaded = checkpoint.load(run, cat, matrices, "cpu")
    again = checkpoint.load(run, cat, matrices, "cpu")
    assert any(parameter is loaded.evidence.change for parameter in loaded.train_only("fusion"))
    answers = score(loaded, valid).logits
    np.testing.assert_array_equal(answers, score(again, valid).logits)
    (run / "evidence.npz").unlink()  # a derived file: what it holds is fitted again
    np.testing.assert_allclose(score(checkpoint.load(run, cat, matrices, "cpu"), valid).logits, answers, atol=1e-4)


def test_what_was_fitted_for_training_is_not_fitted_again_to_evaluate(base, tmp_path):
    cat, matrices = world.catalogue(), world.matrices()
    valid, recipe = world.questions(cat), world.recipe(base, **RECIPE)
    run = train(cat, matrices, valid, recipe, tmp_path / "runs" / "one", seed=0, device="cpu").run
    loaded = LoadedRun(run, checkpoint.load(run, cat, matrices, "cpu"), matrices)
    shared = sources_of(loaded, Sources(cat, matrices, learners=LEARNERS))
    assert shared is loaded.model.evidence.sources
    (ranker,) = shared.rankers(stack)
    encoder = next(part for part in ranker.parts if part.name == "set encoder")
    assert all("fitted" in vars(each) for each in (ranker, encoder)), "as they were saved with the run"
    costs, asked = FittingCosts(), world.questions(cat, "test", 10)
    costs.fit(ranker, asked)
    assert costs.own(ranker) >= saved_ranker.seconds_of(ranker) > 0, "the seconds of training count all the same"
    assert loaded.training_seconds >= saved_ranker.seconds_of(ranker) + saved_ranker.seconds_of(encoder)
    fresh = LearnedRanker("learned ranker", "content", Sources(cat, matrices, learners=LEARNERS))
    np.testing.assert_allclose(ranker.scores(asked), fresh.scores(asked), atol=1e-5)
    other = Sources(cat, {}, learners=LEARNERS)
    assert sources_of(loaded, other) is other
