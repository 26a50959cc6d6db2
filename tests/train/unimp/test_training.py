"""Training of UniMP: it learns what is planted, changes what it says and nothing else, goes on where it stopped, and grows."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import unimp_shop as world
from helpers.killed_runs import killed_runs
from safetensors.torch import load_file

from bundlecache.bench.task_bench import places_of
from bundlecache.catalogue.columns import Strings
from bundlecache.errors import CheckpointError, RecipeError
from bundlecache.train import checkpoint as bundle_checkpoint
from bundlecache.train.training.resume import FILE, Snapshot
from bundlecache.train.unimp import checkpoint, training
from bundlecache.train.unimp import figures as unimp_figures
from bundlecache.train.unimp.answers import UnimpAnswers
from bundlecache.train.unimp.figures import figures
from bundlecache.train.unimp.semantic_ids import CODEBOOK_FILE, CODES_FILE

STEPS = {"steps": 60, "evaluate_every": 20, "lr": 1e-2}
TASKS = ("recommend", "preference")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


def recipe(base, **sections):
    """Two tasks on which validation is asked as a whole."""
    own = {
        "data": {"tasks": list(TASKS), "shares": ["recommend:3"], "batch": 16},
        "multitask_stage": STEPS,
        "head_stage": {"steps": 10, "evaluate_every": 5},
        "run": {"select": "mean"},
    }
    return world.recipe(base, **{name: {**own.get(name, {}), **sections.get(name, {})} for name in {**own, **sections}})


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A finished run, how often the language model ran in each phase, and its own state after the first stage."""
    run, calls, states = tmp_path_factory.mktemp("runs") / "trained", {}, {}
    count = [0]
    data = world.data()
    stage_of = training.HeadStage.trained

    def watched(self):
        states["multitask"] = {name: value.detach().clone() for name, value in self.unimp.own_state().items()}
        self.unimp.decoder.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
        made = stage_of(self)
        calls["cached"] = count[0]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.HeadStage, "trained", watched)
        result = training.train(data, recipe(base), run)
    calls["all"] = count[0]
    return run, result, calls, states


def test_a_planted_rhythm_and_a_cause_of_stars_are_learnt(trained, base):
    run, result, _, _ = trained
    found = result.stages[-1]["best_valid"]
    assert found["recommend HR@10"] == 1
    assert found["recommend NDCG@10"] > 0.7  # chance is near a quarter
    stars = result.stages[0]["best_valid"]["preference MAE"]
    assert stars < 0.2  # they are 5 or 2, by the kind that picture and words tell
    assert list(dict.fromkeys(row["stage"] for row in result.rows)) == ["multitask", "head"]
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert any("valid_recommend NDCG@10" in line for line in lines)
    card = (run / "README.md").read_text("utf-8")
    assert "24 items by atomic ids" in card
    assert "recommend-leave_last_out" in card
    assert (run.parent / "latest").read_text().strip() == run.name


def test_the_head_stage_runs_no_language_model_and_changes_rows_of_items_alone(trained):
    run, result, calls, states = trained
    assert calls["cached"] > 0
    assert calls["all"] == calls["cached"], "steps and validations read cached states"
    after, before = load_file(run / checkpoint.WEIGHTS), states["multitask"]
    words = world_vocabulary(run)
    first = words.items.start - words.base_size
    rows = before.get("rows.output", before["rows.input"])
    assert after["rows.output"][:first].equal(rows[:first])
    assert result.stages[1]["best_step"] == 0 or not after["rows.output"][first:].equal(rows[first:])
    assert all(after[name].equal(value) for name, value in before.items() if name != "rows.output")


def world_vocabulary(run):
    return checkpoint.load(run, world.catalogue(), world.pictures(), device="cpu").model.vocabulary


def test_a_loaded_run_finds_the_same_and_holds_no_weight_of_the_base(trained, base):
    run, result, _, _ = trained
    parts = checkpoint.load(run, world.catalogue(), world.pictures(), device="cpu")
    data = world.data()
    found = figures(parts.model, parts.prompts, {"recommend": data.valid["recommend"]}, "mean")
    assert {name: found.figures[name] for name in found.figures} == {
        name: value for name, value in result.stages[-1]["best_valid"].items() if name.startswith("recommend")
    }
    parts_of_our_own = ("sight.", "blocks.", "ratings.", "rows.")
    assert all(name.startswith(parts_of_our_own) for name in load_file(run / checkpoint.WEIGHTS))
    fresh = checkpoint.assemble(data.catalogue, parts.model.recipe, data.pictures, None, torch.device("cpu"))
    assert parts.model.base.fingerprint == fresh.model.base.fingerprint
    manifest = checkpoint.read_manifest(run)
    assert manifest["encoder_calls"] == 0
    assert manifest["questions"]["recommend"]["sha256"] == data.valid["recommend"].sha256


def test_new_items_get_rows_of_their_own_and_no_other_row_changes(trained):
    run, _, _, _ = trained
    known = checkpoint.load(run, world.catalogue(), world.pictures(), device="cpu")
    grown = world.catalogue(world.ITEMS + 4)
    order = np.r_[np.arange(world.ITEMS, world.ITEMS + 4), np.arange(world.ITEMS)]  # the new ones stand in front
    grown = dataclasses.replace(
        grown,
        item_ids=[grown.item_ids[i] for i in order],
        titles=[grown.titles[i] for i in order],
        columns={"category": Strings([grown.columns["category"][i] for i in order])},
    )
    seen = world.pictures(world.ITEMS + 4)
    later = checkpoint.load(
        run, grown, dataclasses.replace(seen, vectors=seen.vectors[order], mask=seen.mask[order]), device="cpu"
    )
    for name in ("input", "output"):
        old, new = getattr(known.model.rows, name), getattr(later.model.rows, name)
        first = known.model.vocabulary.items.start - known.model.vocabulary.base_size
        assert new[:first].equal(old[:first])
        assert new[first + 4 :].equal(old[first:])
        own = new[first : first + 4]
        assert (own != 0).any(1).all()
        assert not own[0].equal(own[1])
    titles = [later.prompts.texts.shown[i].as_py() for i in range(len(grown))]
    alike = [k for k in range(4, len(grown)) if titles[k] == titles[0]]
    near = later.model.rows.output[first + np.array(alike)].mean(0)
    assert torch.nn.functional.cosine_similarity(own[0], near, dim=0) > 0.5


def same(one: Path, other: Path) -> None:
    """Both runs hold the same files, byte for byte but for the seconds that stages took, and nothing else."""
    manifests = []
    for run in (one, other):
        manifests.append(checkpoint.read_manifest(run))
        for stage in manifests[-1]["stages"]:
            del stage["seconds"]
    assert manifests[0] == manifests[1]
    for name in ("history.jsonl", "recipe.toml", checkpoint.ITEMS_FILE, *manifests[0]["weights"]):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in (CODES_FILE, CODEBOOK_FILE):
        assert (one / name).exists() == (other / name).exists()
        assert not (one / name).exists() or (one / name).read_bytes() == (other / name).read_bytes(), name
    assert not (other / FILE).exists()
    assert not list(other.glob(".*"))


def test_a_stopped_training_goes_on_to_the_same_weights(base, tmp_path):
    wanted = recipe(
        base,
        multitask_stage={"steps": 5, "evaluate_every": 2, "average": 0.5},
        head_stage={"steps": 5, "evaluate_every": 2, "batch": 64},
        lora={"rank": 2, "dropout": 0.1},
        data={"accumulate": 2},
    )
    stops = [("multitask", "train", 3), ("head", "train", 2)]

    def stop(progress):
        if stops and (progress.stage, progress.phase, progress.step) == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    data = world.data()
    whole = training.train(data, wanted, tmp_path / "whole", seed=1)
    stopped = training.train(data, wanted, tmp_path / "run", seed=1, progress=stop)
    assert stopped.stopped == "SIGTERM"
    assert "--resume" in (stopped.run / "README.md").read_text("utf-8")
    snapshot = Snapshot.read(tmp_path / "run")
    assert snapshot.recipe == wanted
    told = dataclasses.replace(data.seen, rating=data.seen.rating + 1)
    with pytest.raises(CheckpointError, match="The histories are not what this training began with"):
        training.train(dataclasses.replace(data, seen=told), wanted, tmp_path / "run", seed=1, snapshot=snapshot)
    again = training.train(data, wanted, tmp_path / "run", seed=1, snapshot=snapshot, progress=stop)
    assert again.stopped == "SIGTERM"
    assert not stops
    training.train(data, wanted, tmp_path / "run", seed=1, snapshot=Snapshot.read(tmp_path / "run"))
    same(whole.run, tmp_path / "run")


def test_pieces_and_processes_share_one_denominator(base, tmp_path):
    losses = []
    for pieces in (1, 3):
        wanted = recipe(
            base, data={"accumulate": pieces}, multitask_stage={"steps": 4}, run={"strategy": ["multitask"]}
        )
        training.train(world.data(), wanted, tmp_path / str(pieces))
        lines = [json.loads(line) for line in (tmp_path / str(pieces) / "history.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_training_that_draws_learns_the_pictures_keeps_their_encoder_and_grows_with_the_catalogue(base, tmp_path):
    wanted = recipe(
        base,
        data={"tasks": ["search", "draw"], "shares": ["draw:3"]},
        run={"strategy": ["multitask"], "select": "draw"},
    )
    data = world.with_codes(world.data(tasks=("search",)))
    made = training.train(data, wanted, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    first, *_ = (line["valid_draw likelihood per token"] for line in lines if "valid_loss" in line)
    assert made.stages[0]["best_valid"]["draw likelihood per token"] > 1.5 * first
    about = checkpoint.read_manifest(tmp_path / "run")["codes"]
    assert (about["spec"], about["count"]) == ("vqgan:test", 8)
    grown, codes = world.catalogue(world.ITEMS + 4), world.codes(items=world.ITEMS + 4)
    later = checkpoint.load(tmp_path / "run", grown, world.pictures(world.ITEMS + 4), device="cpu", drawn=codes)
    known = checkpoint.load(tmp_path / "run", data.catalogue, data.pictures, device="cpu", drawn=data.drawn)
    assert later.model.rows.input[-8:].equal(known.model.rows.input[-8:])
    other = dataclasses.replace(codes, fingerprint="a" * 64)
    with pytest.raises(CheckpointError, match=r"draws with codes of vqgan:test \(ffffffff\), but these are of"):
        checkpoint.load(tmp_path / "run", grown, world.pictures(world.ITEMS + 4), device="cpu", drawn=other)


def test_what_does_not_fit_is_one_sentence(trained, base, tmp_path):
    run, _, _, _ = trained
    data = world.data()
    with pytest.raises(CheckpointError, match="answers the tasks of user histories, not one that completes bundles"):
        bundle_checkpoint.read_manifest(run)
    other = dataclasses.replace(world.pictures(), fingerprint="a" * 64)
    with pytest.raises(
        CheckpointError, match=r"features of test:tokens \(ffffffff\), but these are of test:tokens \(aaaa"
    ):
        checkpoint.load(run, data.catalogue, other, device="cpu")
    with pytest.raises(CheckpointError, match="but there are none"):
        checkpoint.load(run, data.catalogue, None, device="cpu")
    with pytest.raises(RecipeError, match="no stage 'text'; there are multitask, head and all"):
        training.train(data, recipe(base), tmp_path / "r", stage="text")
    with pytest.raises(RecipeError, match="cannot be trained for preference"):
        training.train(data, recipe(base, head_stage={"tasks": ["preference"]}), tmp_path / "r")
    with pytest.raises(CheckpointError, match="has atomic ids and no LoRA adapter"):
        training.train(data, recipe(base, lora={"rank": 2}), tmp_path / "r", init=run)
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in run.iterdir():
        (bad / path.name).write_bytes(path.read_bytes())
    content = bytearray((bad / checkpoint.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bad / checkpoint.WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="not the file that was written after training"):
        checkpoint.load(bad, data.catalogue, world.pictures(), device="cpu")


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_with_the_checkpoint_of_one_that_was_not(tmp_path):
    for run in killed_runs(tmp_path, "unimp", "multitask", "head"):
        same(tmp_path / "whole", run)


def test_semantic_ids_are_chosen_by_the_ranks_that_the_beams_of_an_evaluation_give(base, tmp_path, monkeypatch):
    """Of whole ids, not of their first codes, which three items in four share here."""
    data = world.data(semantic=True)
    wanted = recipe(
        base,
        items={"ids": "semantic", "levels": 1, "codes": 2},
        data={"tasks": ["recommend"], "shares": []},
        multitask_stage={"steps": 20, "evaluate_every": 5},
        run={"strategy": ["multitask", "head"], "select": "recommend"},
    )
    made = training.train(data, wanted, tmp_path / "run")
    parts = checkpoint.load(tmp_path / "run", data.catalogue, data.pictures, data.content, device="cpu")
    asked = data.valid["recommend"]
    places = places_of(asked, UnimpAnswers(parts.model, parts.prompts).scores(asked))
    found = made.stages[-1]["best_valid"]
    assert found["recommend NDCG@10"] == pytest.approx(places.ndcg(10).mean(), abs=1e-5)
    assert found["recommend HR@10"] == pytest.approx(places.within(10).mean())
    assert 0 < places.within(10).mean() < 1
    monkeypatch.setattr(unimp_figures, "BEAM_QUESTIONS", 7)
    few = unimp_figures.sampled(asked, 7)
    told = figures(parts.model, parts.prompts, {"recommend": asked}, "recommend").figures
    places = places_of(few, UnimpAnswers(parts.model, parts.prompts).scores(few))
    assert told["recommend MRR"] == pytest.approx(places.reciprocal().mean(), abs=1e-5)
