"""What a run records about itself: the bundles it saw, its tokenizer and graphs, its figures and its progress."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import train_shop as world

from bundlecache.baselines.learned import unseen_validation
from bundlecache.baselines.sources import Sources
from bundlecache.bench.exclude_seen import unseen
from bundlecache.catalogue import splits
from bundlecache.catalogue.seen_bundles import FILE_NAME
from bundlecache.errors import CheckpointError, QuestionsError, RecipeError
from bundlecache.train import checkpoint
from bundlecache.train.run import LoadedRun
from bundlecache.train.training import loop

STEPS = {"fusion_stage": {"steps": 5, "evaluate_every": 2, "contrastive_steps": 3, "lr": 1e-2}}


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def valid(cat):
    return world.questions(cat)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(cat, valid, base, tmp_path_factory):
    """A run of both stages, its result, and all progress that it reported."""
    run, told = tmp_path_factory.mktemp("runs") / "run", []
    recipe = world.recipe(base, **STEPS)
    result = loop.train(cat, world.matrices(), valid, recipe, run, device="cpu", progress=told.append)
    return run, result, told


def copied(run, folder, change):
    """A copy of ``run`` with a changed manifest."""
    import shutil

    shutil.copytree(run, folder / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    (folder / "run" / "manifest.json").write_text(json.dumps(manifest))
    return folder / "run"


# --- the bundles of training and validation --------------------------------------------------------


def test_a_run_knows_the_bundles_it_was_trained_and_selected_on(cat, valid, trained):
    run, _, _ = trained
    seen = checkpoint.seen(run)
    assert seen.of_questions(valid, cat).sum() == 0, "validation bundles train nothing"
    other = dataclasses.replace(valid, split="test")
    assert seen.of_questions(other, cat).all(), "as test questions they were used for selection"
    split = splits.assign(cat)
    train = [b for b in np.flatnonzero(split == "train") if len(cat.bundles.items[b]) > 1][: len(valid)]
    asked = dataclasses.replace(
        valid, split="test", bundle_ids=[cat.bundles.ids[b] for b in train] + valid.bundle_ids[len(train) :]
    )
    assert seen.of_questions(asked, cat).all()


def test_test_questions_of_the_same_split_are_unseen(cat, trained):
    run, _, _ = trained
    assert not checkpoint.seen(run).of_questions(world.questions(cat, "test"), cat, graph=True).any()


def test_a_run_started_from_another_has_seen_both_ones_bundles(cat, valid, base, trained, tmp_path):
    run, _, _ = trained
    moved = dataclasses.replace(cat, bundles=dataclasses.replace(cat.bundles, split=turned(cat, valid)))
    loop.train(moved, world.matrices(), valid, world.recipe(base), tmp_path / "next", stage="fusion", init=run)
    before, after = (set(checkpoint.seen(folder).trained.bundle.tolist()) for folder in (run, tmp_path / "next"))
    assert before < after


def turned(cat, valid):
    """Another split: test bundles train, the validation bundles stay."""
    return ["train" if part == "test" else str(part) for part in splits.assign(cat)]


def test_a_changed_record_of_bundles_is_refused_and_a_missing_one_is_an_old_run(trained, tmp_path):
    run, _, _ = trained
    changed = copied(run, tmp_path, lambda manifest: None)
    (changed / FILE_NAME).write_bytes((changed / FILE_NAME).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="is not the file that was written"):
        checkpoint.seen(changed)
    old = copied(run, tmp_path / "old", lambda manifest: manifest.pop("seen"))
    assert checkpoint.seen(old) is None


# --- tokenizer and graphs --------------------------------------------------------------------------


def test_another_tokenizer_is_refused_and_an_old_run_has_none(cat, trained, tmp_path):
    run, _, _ = trained
    other = copied(run, tmp_path, lambda manifest: manifest["base"].update(tokenizer="0" * 64))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        checkpoint.load(other, cat, world.matrices(), "cpu")
    old = copied(run, tmp_path / "old", lambda manifest: manifest["base"].pop("tokenizer"))
    checkpoint.load(old, cat, world.matrices(), "cpu")


def test_two_graphs_of_one_width_cannot_be_swapped(cat, valid, base, tmp_path):
    graph = world.matrices()["graph"]
    two = {
        spec: dataclasses.replace(graph, spec=spec, table=spec)
        for spec in ("lightgcn:user-item", "lightgcn:bundle-item")
    }
    loop.train(cat, two, valid, world.recipe(base), tmp_path / "run", stage="fusion")
    checkpoint.load(tmp_path / "run", cat, two, "cpu")
    swapped = dict(zip(two, reversed(two.values()), strict=True))
    with pytest.raises(CheckpointError, match=r"trained on lightgcn:user-item vectors .* of lightgcn:bundle-item"):
        checkpoint.load(tmp_path / "run", cat, swapped, "cpu")


def test_a_catalogue_without_titles_trains_only_when_told_to(cat, valid, base, tmp_path):
    silent = dataclasses.replace(cat, titles=[""] * len(cat))
    with pytest.raises(RecipeError, match=r"None of the .* items has a title") as error:
        loop.train(silent, world.matrices(), valid, world.recipe(base), tmp_path / "run", stage="fusion")
    assert "prompt.without_titles=true" in str(error.value.hint)
    recipe = world.recipe(base, prompt={"without_titles": True}, fusion_stage={"steps": 1})
    loop.train(silent, world.matrices(), valid, recipe, tmp_path / "run", stage="fusion")


@pytest.mark.parametrize("name", ["paper", "public-code"])
def test_on_a_cpu_every_recipe_computes_in_float32(name):
    from bundlecache.train.model import llm
    from bundlecache.train.shipped_recipes import load_recipe

    loaded = llm.load(load_recipe(name, ["base.model=embedded"]).base, torch.device("cpu"))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


# --- figures and progress --------------------------------------------------------------------------


def test_training_says_why_hitrate_is_zero_and_shows_it_among_letters(trained):
    run, result, _ = trained
    logged = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    looks = [line for line in logged if "valid_hit@1" in line]
    assert all({"valid_hit@1_letters", "valid_ratio"} <= line.keys() for line in looks)
    assert all(line["valid_hit@1"] <= line["valid_hit@1_letters"] for line in looks)
    manifest = checkpoint.read_manifest(run)
    for stage in manifest["stages"]:
        assert stage["best_valid_hit@1"] <= stage["best_valid_hit@1_letters"]
    row = {"name": "joint", "best_valid_hit@1": 0.0, "best_valid_hit@1_letters": 0.3, "best_valid_ratio": 0.0}
    note = loop.invalid_note(row)
    assert "no answer was an option letter (ValidRatio 0)" in note
    assert ".300" in note
    assert loop.invalid_note({**row, "best_valid_ratio": 1.0}) is None
    assert bool(result.notes) == any(stage["best_valid_ratio"] < 1 for stage in manifest["stages"])


def test_every_step_of_every_phase_is_reported_with_the_time_left(trained):
    _, _, told = trained
    steps = {(p.stage, p.phase, p.step) for p in told}
    assert {("text", "train", k) for k in range(1, 5)} <= steps
    assert {("fusion", "contrastive", k) for k in range(1, 4)} <= steps
    assert {("fusion", "train", k) for k in range(1, 6)} <= steps
    assert all(0 < p.step <= p.steps for p in told)
    assert any(p.phase == "validate" for p in told)
    known = [p.seconds_left for p in told if p.seconds_left is not None]
    assert min(known) >= 0
    assert known[-1] == pytest.approx(0, abs=1e-9), "nothing is left at the end of the last stage"
    last = told[-1]
    assert last.best == max(p.best for p in told if p.best is not None and p.stage == last.stage)


def test_the_recipes_seed_trains_unless_another_is_given(cat, valid, base, tmp_path):
    recipe = world.recipe(base, run={"seed": 5}, fusion_stage={"steps": 1})
    loop.train(cat, world.matrices(), valid, recipe, tmp_path / "own", stage="fusion")
    loop.train(cat, world.matrices(), valid, recipe, tmp_path / "given", stage="fusion", seed=0)
    assert [checkpoint.read_manifest(tmp_path / name)["seed"] for name in ("own", "given")] == [5, 0]


def test_questions_about_bundles_that_a_run_has_seen_are_left_out_and_counted(cat, valid, trained):
    run, _, _ = trained
    seen = {"run": checkpoint.seen(run)}
    test = world.questions(cat, "test")
    assert unseen(test, seen, cat, {"run": True}) == (test, 0)
    both = dataclasses.replace(
        test,
        bundle_ids=valid.bundle_ids[:3] + test.bundle_ids[3:],  # a changed split: validation bundles are tested
        partial=valid.partial[:3] + test.partial[3:],
        options=np.concatenate([valid.options[:3], test.options[3:]]),
        truth=np.concatenate([valid.truth[:3], test.truth[3:]]),
    )
    kept, left_out = unseen(both, seen, cat)
    assert (left_out, kept.bundle_ids) == (3, test.bundle_ids[3:])
    assert (kept.truth == test.truth[3:]).all()
    assert kept.sha256 != both.sha256, "its answers are not those of the whole file"
    with pytest.raises(QuestionsError, match=r"All .* questions"):
        unseen(dataclasses.replace(valid, split="test"), seen, cat)


def test_an_old_run_is_weighed_on_validation_questions_of_today_that_it_was_not_trained_on(cat, trained):
    run, _, _ = trained
    model = LoadedRun(run, None, world.matrices()).ranker("model")
    assert len(unseen_validation(model, Sources(cat, {}))[0]) == 20
    split = [*["valid"] * 10, *["train"] * 70, *["valid"] * 5, *["test"] * 35]  # half of them were training bundles
    today = dataclasses.replace(cat, bundles=cat.bundles.with_split(np.array(split)))
    (asked,) = unseen_validation(model, Sources(today, {}))
    assert asked.bundle_ids == [f"bundle-{b}" for b in range(80, 85)]
    split = [*["valid"] * 10, *["train"] * 70, *["test"] * 40]
    today = dataclasses.replace(cat, bundles=cat.bundles.with_split(np.array(split)))
    assert unseen_validation(model, Sources(today, {})) == []
