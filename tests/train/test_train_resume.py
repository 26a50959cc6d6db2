"""Training that was killed or stopped goes on as if nothing had been: the same weights, to the bit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import train_shop as world
from helpers.killed_runs import killed_runs
from helpers.runner import invoke
from helpers.shop import make_shop
from safetensors import safe_open
from safetensors.torch import save_file

from bundlecache.catalogue.catalogue import Interactions
from bundlecache.catalogue.columns import Strings
from bundlecache.errors import CheckpointError
from bundlecache.train import checkpoint
from bundlecache.train.training import loop
from bundlecache.train.training.resume import COLUMNS, FILE, Snapshot, digest_catalogue

RESULTS = ("adapter/adapter_model.safetensors", "fusion.safetensors", "history.jsonl", "recipe.toml")
STAGE = {"steps": 12, "evaluate_every": 5, "lr": 1e-2, "contrastive_steps": 2}


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def valid(cat):
    return world.questions(cat)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


def recipe(base, **sections):
    stages = {"text_stage": STAGE, "fusion_stage": STAGE, "lora": {"dropout": 0.1}, "fusion": {"input_dropout": 0.1}}
    return world.recipe(base, **{**stages, **sections})


def same(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    manifests = [checkpoint.read_manifest(run) for run in (one, other)]
    for manifest in manifests:
        for stage in manifest["stages"]:
            del stage["seconds"]
    assert manifests[0] == manifests[1]
    assert not list(other.glob(".*"))
    assert not (other / FILE).exists()


@pytest.mark.slow
def test_training_killed_at_any_moment_ends_with_the_weights_of_one_that_was_not(tmp_path):
    for run in killed_runs(tmp_path, "bundle", "text", "fusion"):
        same(tmp_path / "whole", run)


@pytest.mark.parametrize("how", ["SIGTERM", "the time limit"])
def test_a_stopped_training_is_saved_and_goes_on(cat, valid, base, tmp_path, monkeypatch, how):
    # The stage ends by its patience, so whatever a CPU's digits are, the best weights are those of an earlier step than
    # the one at which it is stopped, and must come out of the snapshot.
    patient = {**STAGE, "lr": 1.0, "final_lr": 1.0, "steps": 200, "evaluate_every": 1, "patience": 3}
    wanted = recipe(base, fusion_stage=patient, run={"select": "loss"})
    whole = loop.train(cat, world.matrices(), valid, wanted, tmp_path / "whole", seed=3)
    best = whole.stages[1]["best_step"]
    assert whole.stages[1]["steps"] == best + 3 < 200

    def stop(progress):
        if (progress.stage, progress.phase, progress.step) == ("fusion", "train", best + 1):
            if how == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                monkeypatch.setattr("bundlecache.training_log.time.monotonic", lambda: 1e9)

    stopped = loop.train(
        cat, world.matrices(), valid, wanted, tmp_path / "run", seed=3, progress=stop, max_minutes=9999
    )
    monkeypatch.undo()
    assert stopped.stopped == how
    assert checkpoint.read_manifest(stopped.run)["stopped"] == how
    assert "--resume" in (stopped.run / "README.md").read_text()
    checkpoint.load(stopped.run, cat, world.matrices(), "cpu")  # what was learnt so far can be used
    assert loop.resume(cat, world.matrices(), valid, tmp_path / "run").stopped is None
    same(tmp_path / "whole", tmp_path / "run")
    with pytest.raises(CheckpointError, match="finished"):
        loop.resume(cat, world.matrices(), valid, tmp_path / "run")


def test_snapshots_come_every_so_many_steps_and_minutes(cat, valid, base, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(Snapshot, "save", lambda self, run: kept.append((self.place, self.stage.get("done", 0))))
    loop.train(cat, world.matrices(), valid, recipe(base, run={"save_every": 5}), tmp_path / "a")
    assert kept == [(0, 0), (0, 5), (0, 10), (1, 0), (1, 5), (1, 10)]
    kept.clear()
    loop.train(cat, world.matrices(), valid, recipe(base, run={"save_minutes": 1e-9}), tmp_path / "b", stage="text")
    assert kept == [(0, k) for k in range(12)]
    kept.clear()
    loop.train(cat, world.matrices(), valid, recipe(base, run={"save_minutes": 0}), tmp_path / "c", stage="text")
    assert kept == [(0, 0)]


@pytest.fixture(scope="module")
def paused(cat, valid, base, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "paused"

    def stop(progress):
        os.kill(os.getpid(), signal.SIGTERM)

    wanted = recipe(base, joint_stage=STAGE)
    loop.train(cat, world.matrices(), valid, wanted, run, stage="joint", progress=stop)
    return run


def test_going_on_with_anything_else_is_refused(cat, valid, base, paused, tmp_path):
    titles = dataclasses.replace(cat, titles=["other", *cat.titles[1:]])
    with pytest.raises(CheckpointError, match="catalogue"):
        loop.resume(titles, world.matrices(), valid, paused)
    others = world.matrices()
    others["image"].vectors[3, 3] += 1
    with pytest.raises(CheckpointError, match="vectors"):
        loop.resume(cat, others, valid, paused)
    with pytest.raises(CheckpointError, match="validation questions"):
        loop.resume(cat, world.matrices(), dataclasses.replace(valid, name="other"), paused)
    with pytest.raises(CheckpointError, match="no training called 'nothing'"):
        loop.resume(cat, world.matrices(), valid, tmp_path / "nothing")


def test_a_snapshot_from_before_there_was_a_setting_goes_on_with_its_default(cat, paused):
    snapshot = Snapshot.read(paused)
    job = json.loads(json.dumps(snapshot.job))
    del snapshot.job["recipe"]["prompt"]["history"]
    snapshot.check(job, cat)
    job["recipe"]["prompt"]["history"] = 3
    with pytest.raises(CheckpointError, match="The recipe is not what this training began with"):
        snapshot.check(job, cat)


def test_a_snapshot_with_the_earlier_digest_of_the_catalogue_goes_on(cat, valid, paused):
    snapshot = Snapshot.read(paused)
    assert snapshot.job["catalogue"].startswith(COLUMNS)
    job = json.loads(json.dumps(snapshot.job))
    snapshot.job["catalogue"] = "a262d66d9bc5f954ad0d014f0fb8c8b3"  # of this catalogue, by the version before
    snapshot.check(job, cat)
    other = dataclasses.replace(cat, titles=["other", *cat.titles[1:]])
    with pytest.raises(CheckpointError, match="catalogue"):
        snapshot.check(job, other)
    del snapshot.job["recipe"]["run"]["validation_questions"]
    assert snapshot.recipe.run.validation_questions == 0, "all validation questions were asked then"


def test_every_cell_of_a_catalogue_changes_its_digest(cat):
    columns = {"category": ["wood", None, ""] * 16}
    whole = dataclasses.replace(cat, columns=columns)
    bundles = cat.bundles
    others = [
        cat,
        dataclasses.replace(whole, columns={"colour": columns["category"]}),
        dataclasses.replace(whole, columns={"category": ["wood", "", None, *columns["category"][3:]]}),
        dataclasses.replace(whole, titles=[cat.titles[0][:-1], cat.titles[0][-1:] + cat.titles[1], *cat.titles[2:]]),
        dataclasses.replace(whole, item_ids=[*cat.item_ids[:-1], "other"]),
        dataclasses.replace(whole, bundles=dataclasses.replace(bundles, items=[*list(bundles.items)[:-1], [1, 2]])),
        dataclasses.replace(whole, bundles=dataclasses.replace(bundles, group=["other", *list(bundles.group)[1:]])),
        dataclasses.replace(
            whole, interactions=Interactions(["u"], np.zeros(1, np.int32), np.ones(1, np.int32), ["g"])
        ),
    ]
    digests = [digest_catalogue(each) for each in [whole, *others]]
    assert len(set(digests)) == len(digests)
    assert digest_catalogue(dataclasses.replace(whole, titles=Strings(whole.titles.arrow[:]))) == digests[0]


@pytest.mark.parametrize("damage", ["cut", "header", "version", "a bit"])
def test_a_damaged_snapshot_is_one_sentence(paused, tmp_path, damage):
    whole = (paused / FILE).read_bytes()
    changed = whole[:-1] + bytes([whole[-1] ^ 1])
    (tmp_path / FILE).write_bytes(changed if damage == "a bit" else whole[: len(whole) // 2])
    if damage in ("header", "version"):
        with safe_open(paused / FILE, "pt") as file:
            header = json.loads(file.metadata()["bundlecache"]) | {"format_version": 99}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = "{" if damage == "header" else json.dumps(header)
        save_file(tensors, tmp_path / FILE, metadata={"bundlecache": text})
    with pytest.raises(CheckpointError, match="99" if damage == "version" else "damaged"):
        Snapshot.read(tmp_path)


def test_resume_is_typed(tmp_path):
    root = make_shop(tmp_path)
    few = ("text_stage.steps=3", "fusion_stage.steps=3", "fusion_stage.contrastive_steps=1", "data.batch=4")
    quick = ["--recipe", "demo", *(word for setting in few for word in ("--set", setting))]

    def typed(*args):
        return invoke("train", "--data", root, *args)

    assert typed("--name", "whole", "--seed", "5", *quick).exception is None
    stopped = typed("--name", "run", "--seed", "5", "--max-minutes", "0.00001", *quick)
    assert "train --resume run" in stopped.output.replace("\n", " ")
    assert "own recipe" in typed("--resume", "run", "--set", "lora.rank=2").exception.message
    assert typed("--resume", "run").exception is None
    same(root / "runs" / "whole", root / "runs" / "run")
    assert "finished" in typed("--resume", "run").exception.message
    assert "no training called" in typed("--resume", "nothing").exception.message
