"""Training: each stage trains what it says and nothing else, learns what is planted, and can be stopped and reloaded."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_shop as world
from helpers.paths import TOP

from bundlecache import train
from bundlecache.errors import CheckpointError, QuestionsError, RecipeError, StoreError
from bundlecache.train import checkpoint
from bundlecache.train.inference import scoring
from bundlecache.train.model.bundle_mllm import BundleMLLM
from bundlecache.train.training import loop
from bundlecache.train.training.averaging import Averages
from bundlecache.train.training.validation import Best, Validation


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def valid(cat):
    return world.questions(cat)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


def weights(model: BundleMLLM) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in model.named_parameters()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    kinds = {"lora": "lora_", "tokens": "tokens.", "base": ""}
    names = [name for name in before if before[name] != after[name]]
    return {next(kind for kind, mark in kinds.items() if mark in name) for name in names}


@pytest.mark.parametrize(
    ("stage", "trains"), [("text", {"lora"}), ("fusion", {"tokens"}), ("joint", {"lora", "tokens"})]
)
def test_frozen_means_frozen_to_the_byte(cat, valid, base, tmp_path, monkeypatch, stage, trains):
    seen: list[dict[str, bytes]] = []
    run = loop.QuestionStage.run

    def watched(self):
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # so that the adapter has gradients everywhere
        seen.append(weights(self.model))
        result = run(self)
        monkeypatch.setattr(self.best, "weights", {})
        seen.append(weights(self.model))
        return result

    monkeypatch.setattr(loop.QuestionStage, "run", watched)
    monkeypatch.setattr(
        "bundlecache.train.training.stage.Best.restore", lambda *_: None
    )  # the last weights, best or not
    recipe = world.recipe(base, lora={"dropout": 0.1})
    loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", stage=stage)
    assert changed(*seen) == trains


def test_a_planted_rule_that_only_vectors_show_is_learnt_with_the_llm_frozen(cat, valid, tmp_path):
    recipe = world.recipe(Path("embedded"), fusion_stage={"steps": 80, "evaluate_every": 20, "lr": 2e-3})
    loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", stage="fusion")
    model = checkpoint.load(tmp_path / "run", cat, world.matrices(), "cpu")
    test = world.questions(cat, "test")
    parity = np.array([partial[0] % 2 for partial in test.partial])

    def of_the_right_kind(**kwargs):
        answers = scoring.score(model, test, **kwargs)
        chosen = test.options[np.arange(len(test)), answers.logits.argmax(1)]
        return float((chosen % 2 == parity).mean())

    assert of_the_right_kind() >= 0.85  # chance is near a half
    assert of_the_right_kind(mode="text") < 0.75
    assert of_the_right_kind(without=["image"]) < 0.75


def test_the_same_seed_gives_the_same_run_and_another_seed_another(cat, valid, base, tmp_path):
    def go(name, seed):
        loop.train(cat, world.matrices(), valid, world.recipe(base), tmp_path / name, seed=seed)
        return [
            (tmp_path / name / part).read_bytes()
            for part in ("fusion.safetensors", "adapter/adapter_model.safetensors", "history.jsonl")
        ]

    first = go("a", 0)
    assert first == go("b", 0)
    assert first != go("c", 1)


def test_a_checkpoint_gives_the_same_logits_to_the_bit_and_its_origin(cat, valid, base, tmp_path):
    kept = {}
    save = checkpoint.save

    def watched(model, *args, **kwargs):
        kept["logits"] = scoring.score(model, valid).logits
        return save(model, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", watched)
        result = loop.train(cat, world.matrices(), valid, world.recipe(base), tmp_path / "runs" / "one")
    model = checkpoint.load(result.run, cat, world.matrices(), "cpu")
    assert (scoring.score(model, valid).logits == kept["logits"]).all()
    manifest = checkpoint.read_manifest(result.run)
    assert manifest["encoder_calls"] == 0
    assert [e["name"] for e in manifest["encoders"]] == ["image", "graph"]
    assert manifest["questions"]["valid"] == {"name": valid.name, "sha256": valid.sha256}, "all of them were asked"
    assert [s["name"] for s in manifest["stages"]] == ["text", "fusion"]
    assert (tmp_path / "runs" / "latest").read_text().strip() == "one"
    lines = [json.loads(line) for line in (result.run / "history.jsonl").read_text().splitlines()]
    assert {"text", "fusion"} == {line["stage"] for line in lines}
    assert any("valid_hit@1" in line for line in lines)
    assert any("loss" in line and "lr" in line for line in lines)
    assert list(result.run.glob("events.out.tfevents.*"))
    assert not list(result.run.glob(".part-*"))


def test_validation_asks_a_fixed_sample_whose_size_the_manifest_holds(cat, valid, base, tmp_path):
    asked = []

    def train(name: str, size: int):
        recipe = world.recipe(base, run={"validation_questions": size})
        told = lambda at: asked.append(at.steps) if at.phase == "validate" else None  # noqa: E731
        return loop.train(cat, world.matrices(), valid, recipe, tmp_path / name, progress=told)

    run = train("some", 7).run
    assert set(asked) == {7}
    known = checkpoint.read_manifest(run)["questions"]["valid"]
    assert (known["name"], known["sha256"]) == (valid.name, valid.sha256)
    assert (known["sample"]["n_questions"], known["sample"]["of"]) == (7, len(valid))
    assert "(7 of 20, a fixed sample)" in (run / "README.md").read_text("utf-8")
    assert checkpoint.seen(run).selected.bundle.size == len(valid), "all of them count as selected with"
    names = ("fusion.safetensors", "adapter/adapter_model.safetensors", "history.jsonl")
    whole = [[(train(f"all-{size}", size).run / name).read_bytes() for name in names] for size in (0, 20)]
    assert whole[0] == whole[1], "a set of that size is asked as a whole"


def test_going_on_from_stage_1_is_the_same_as_both_stages_at_once(cat, valid, base, tmp_path):
    recipe = world.recipe(base)
    both = loop.train(cat, world.matrices(), valid, recipe, tmp_path / "both")
    loop.train(cat, {}, valid, recipe, tmp_path / "first", stage="text")
    assert not (tmp_path / "first" / "fusion.safetensors").exists()
    assert checkpoint.load(tmp_path / "first", cat, {}, "cpu").mode == "text"
    then = loop.train(cat, world.matrices(), valid, recipe, tmp_path / "then", stage="fusion", init=tmp_path / "first")
    assert [s["name"] for s in then.stages] == [s["name"] for s in both.stages]
    for part in ("adapter/adapter_model.safetensors", "fusion.safetensors"):
        assert (then.run / part).read_bytes() == (both.run / part).read_bytes()


@pytest.fixture(scope="module")
def trained(cat, valid, base, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "trained"
    loop.train(cat, world.matrices(), valid, world.recipe(base), run, stage="fusion")
    return run


def test_vectors_of_another_encoder_are_refused(cat, trained):
    others = world.matrices() | {"graph": dataclasses.replace(world.matrices()["graph"], fingerprint="b" * 64)}
    with pytest.raises(CheckpointError, match="test:graph"):
        checkpoint.load(trained, cat, others, "cpu")
    with pytest.raises(CheckpointError, match="bundlecache encode --modality graph"):
        checkpoint.load(trained, cat, {"image": world.matrices()["image"]}, "cpu")
    more = world.matrices() | {"text": world.matrix("text", np.ones((world.ITEMS, 3)))}
    assert checkpoint.load(trained, cat, more, "cpu").embeddings.names == ["image", "graph"]


def test_another_base_model_or_other_questions_are_refused(cat, valid, base, trained, tmp_path):
    world.save_base(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="another one"):
        loop.train(cat, world.matrices(), valid, world.recipe(tmp_path / "other"), tmp_path / "r", init=trained)
    with pytest.raises(CheckpointError, match="valid-random4"):
        loop.train(
            cat,
            world.matrices(),
            dataclasses.replace(valid, sha256="0" * 64),
            world.recipe(base),
            tmp_path / "r",
            init=trained,
        )


def flip_last_byte(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 0x40]))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda run: (run / "manifest.json").unlink(), "no finished run"),
        (lambda run: (run / "manifest.json").write_text("{"), "damaged"),
        (lambda run: (run / "manifest.json").write_text('{"format_version": 99}'), "99"),
        (lambda run: (run / "fusion.safetensors").write_bytes(b"\x00" * 40), "cannot be used"),
        (lambda run: (run / "adapter" / "adapter_model.safetensors").unlink(), "cannot be used"),
        (lambda run: flip_last_byte(run / "fusion.safetensors"), "not the file that was written"),
        (lambda run: flip_last_byte(run / "adapter" / "adapter_model.safetensors"), "not the file that was written"),
    ],
)
def test_a_damaged_run_is_one_sentence(cat, trained, tmp_path, damage, word):
    import shutil

    run = shutil.copytree(trained, tmp_path / "run")
    damage(run)
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load(run, cat, world.matrices(), "cpu")


def test_what_cannot_be_trained_is_one_sentence(cat, valid, base, tmp_path):
    recipe = world.recipe(base)
    with pytest.raises(RecipeError, match="smell"):
        loop.train(cat, world.matrices(), valid, recipe, tmp_path / "r", stage="smell")
    with pytest.raises(StoreError, match="no vectors"):
        loop.train(cat, {}, valid, recipe, tmp_path / "r")
    nothing = dataclasses.replace(valid, bundle_ids=[], partial=[], options=valid.options[:0], truth=valid.truth[:0])
    with pytest.raises(QuestionsError, match="empty"):
        loop.train(cat, world.matrices(), nothing, recipe, tmp_path / "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        loop.train(cat, world.matrices(), valid, recipe, tmp_path / "file" / "run")
    with pytest.raises(RecipeError, match="device"):
        loop.train(cat, world.matrices(), valid, recipe, tmp_path / "r", device="abacus")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "the time limit"])
def test_a_signal_or_the_time_limit_saves_what_was_learnt(cat, valid, base, tmp_path, how):
    recipe = world.recipe(base, text_stage={"steps": 100_000, "evaluate_every": 1000})
    minutes = 1 / 60 / 10 if how == "the time limit" else None
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it

    def interrupt(progress):
        if how != "the time limit" and progress.step == 10:
            os.kill(os.getpid(), getattr(signal, how))

    result = loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", progress=interrupt, max_minutes=minutes)
    assert result.stopped == how
    assert [s["name"] for s in result.stages] == ["text"]
    assert result.stages[0]["steps"] < 100_000
    assert checkpoint.load(tmp_path / "run", cat, {}, "cpu").mode == "text"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stage_stopped_before_its_first_step_is_validated_once(cat, valid, base, tmp_path):
    result = loop.train(cat, {}, valid, world.recipe(base), tmp_path / "run", stage="text", max_minutes=1e-9)
    assert result.stages[0]["steps"] == 0
    assert (result.run / "history.jsonl").read_text().count("valid_loss") == 1


def test_the_average_of_weights_is_validated_and_kept_and_training_goes_on_from_the_last(cat, valid, base, tmp_path):
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    averages = Averages([weight], 0.5)
    want = 0.0
    for step, decay in enumerate((2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 9 / 18, 0.5, 0.5), start=1):
        with torch.no_grad():
            weight.fill_(step)
        averages.update(step)
        want = decay * want + (1 - decay) * step
    with averages.in_place():
        assert weight.item() == pytest.approx(want)
    assert weight.item() == 10
    runs = []
    for average in (0.0, 0.9):
        stage = {"steps": 12, "evaluate_every": 12, "average": average}
        recipe = world.recipe(base, text_stage=stage, run={"strategy": ["text"], "select": "loss"})
        runs.append(loop.train(cat, {}, valid, recipe, tmp_path / f"average-{average}", seed=0).run)
    lines = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()] for run in runs]
    losses, judged = ([[row[key] for row in rows if key in row] for rows in lines] for key in ("loss", "valid_loss"))
    assert losses[0] == losses[1]
    assert judged[0][0] == judged[1][0]
    assert judged[0][1] != judged[1][1]


def test_the_best_weights_on_validation_are_the_ones_that_are_kept(cat, valid, base, tmp_path):
    recipe = world.recipe(base, run={"loss": "vocabulary"}, joint_stage={"steps": 30, "evaluate_every": 5, "lr": 3e-2})
    result = loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", stage="joint")
    model = checkpoint.load(tmp_path / "run", cat, world.matrices(), "cpu")
    answers = scoring.score(model, valid)
    strict = float(((answers.logits.argmax(1) == valid.truth) & answers.valid).mean())
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    looks = [line["valid_hit@1"] for line in lines if "valid_hit@1" in line]
    assert result.stages[0]["best_valid_hit@1"] == strict == max(looks)


def test_selection_follows_hits_then_loss_or_loss_alone():
    model = torch.nn.Linear(1, 1)
    looks = [(0.2, 1.5), (0.3, 1.6), (0.3, 1.4), (0.25, 1.2), (0.3, 1.4)]
    kept = {}
    for select in ("hit@1", "loss"):
        best = Best(select)
        for step, (hit1, loss) in enumerate(looks):
            torch.nn.init.constant_(model.weight, step)
            best.offer(model, step, Validation(hit1, loss, hit1, 1.0))
        best.restore(model)
        assert model.weight.item() == best.step
        kept[select] = best.step
    assert kept == {"hit@1": 2, "loss": 3}


def test_variants_of_the_recipe_all_run(cat, valid, base, tmp_path):
    variants = [
        {"base": {"gradient_checkpointing": True}, "data": {"accumulate": 3, "negatives": "random"}},
        {"prompt": {"template": "paper", "separator": "hard"}, "run": {"loss": "vocabulary"}},
        {"fusion_stage": {"contrastive_steps": 5, "patience": 1}, "fusion": {"modality_dropout": 0.3}},
        {"base": {"dtype": "bfloat16"}, "prompt": {"separator": "none"}},
        {"run": {"precision": "bf16"}, "fusion": {"input_dropout": 0.2}},
    ]
    for number, variant in enumerate(variants):
        result = loop.train(cat, world.matrices(), valid, world.recipe(base, **variant), tmp_path / f"{number}")
        assert [s["name"] for s in result.stages] == ["text", "fusion"]
        checkpoint.load(result.run, cat, world.matrices(), "cpu")


def test_pieces_of_a_batch_add_up_to_the_batch(cat, valid, base, tmp_path):
    losses = []
    for pieces in (1, 4):
        recipe = world.recipe(base, data={"accumulate": pieces}, joint_stage={"steps": 6})
        loop.train(cat, world.matrices(), valid, recipe, tmp_path / str(pieces), stage="joint")
        lines = [json.loads(line) for line in (tmp_path / str(pieces) / "history.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_training_cannot_call_an_encoder():
    package = Path(train.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not any(name.startswith("bundlecache.features") for name in names), path
    code = (
        "import sys; sys.modules['bundlecache.features'] = None\n"
        "import bundlecache.train.training.loop, bundlecache.train.inference.scoring, bundlecache.train.checkpoint\n"
        "assert not [m for m in sys.modules if m.startswith(('bundlecache.features.', 'open_clip'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TOP)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_while_training_is_one_sentence(tmp_path):
    from bundlecache.training_log import TrainingLog

    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="cannot be written"), TrainingLog(tmp_path) as history:
        history.add("text", 1, loss=1.0)


@pytest.mark.parametrize("select", ["loss", "hit@1"])
def test_weights_that_diverged_are_never_the_best(select):
    from bundlecache.train.training.validation import Best, Validation

    best, model = Best(select), torch.nn.Linear(2, 2)
    assert best.offer(model, 0, Validation(0.5, 1.0, 0.5, 1.0))
    assert not best.offer(model, 10, Validation(0.9, float("nan"), 0.5, 1.0))
    assert best.offer(model, 20, Validation(0.6, 0.9, 0.5, 1.0))


def test_a_stage_that_diverges_says_so_and_leaves_no_finished_run(cat, valid, base, tmp_path):
    recipe = world.recipe(base, fusion_stage={"contrastive_steps": 5, "lr": 1e30})
    with pytest.raises(RecipeError, match="diverged"):
        loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", stage="fusion")
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("strategy", "mode"),
    [
        (("text", "fusion"), "mm"),
        (("fusion", "text"), "mm"),
        (("joint",), "mm"),
        (("text",), "text"),
        (("fusion",), "mm"),
    ],
)
def test_every_strategy_trains_its_stages_in_order_and_can_be_loaded(cat, valid, base, tmp_path, strategy, mode):
    recipe = world.recipe(base, run={"strategy": list(strategy)})
    done = loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run")
    assert tuple(stage["name"] for stage in done.stages) == strategy
    model = checkpoint.load(done.run, cat, world.matrices(), "cpu")
    assert model.mode == mode
    answers = scoring.score(model, valid, mode="text" if strategy[-1] == "text" else "mm")
    strict = float(((answers.logits.argmax(1) == valid.truth) & answers.valid).mean())
    assert done.stages[-1]["best_valid_hit@1"] == strict


def test_a_second_stage_leaves_what_the_first_trained_as_it_was(cat, valid, base, tmp_path):
    for order, part in (
        (["text", "fusion"], "adapter/adapter_model.safetensors"),
        (["fusion", "text"], "fusion.safetensors"),
    ):
        run = tmp_path / order[0]
        first = loop.train(cat, world.matrices(), valid, world.recipe(base), run / "first", stage=order[0])
        both = loop.train(cat, world.matrices(), valid, world.recipe(base, run={"strategy": order}), run / "both")
        assert (first.run / part).read_bytes() == (both.run / part).read_bytes()


def test_lora_has_the_rank_scale_targets_and_dropout_of_the_recipe(cat, base):
    from bundlecache.train.model.bundle_mllm import build

    lora = {"rank": 3, "alpha": 12.0, "targets": ["k_proj", "up_proj"], "dropout": 0.25}
    model = build(cat.titles, {}, world.recipe(base, lora=lora), torch.device("cpu"))
    adapted = {n.rpartition(".")[2]: m for n, m in model.llm.named_modules() if hasattr(m, "lora_A")}
    assert set(adapted) == {"k_proj", "up_proj"}
    for module in adapted.values():
        assert module.lora_A["default"].out_features == 3
        assert module.scaling["default"] == 4.0
        assert module.lora_dropout["default"].p == 0.25


def test_half_precision_that_a_cpu_cannot_do_is_one_sentence(base):
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        loop.accelerator_for(world.recipe(base, run={"precision": "fp16"}), torch.device("cpu"))
