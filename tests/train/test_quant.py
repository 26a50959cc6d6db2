"""Bases of fewer bits: 8 and 4 by bitsandbytes, where it is installed, and bfloat16, all the way on a CPU."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from helpers import train_shop as world
from safetensors.torch import load_file

from bundlecache.errors import RecipeError
from bundlecache.train import checkpoint
from bundlecache.train.inference.scoring import score
from bundlecache.train.merge import merge
from bundlecache.train.model import quant
from bundlecache.train.model.bundle_mllm import build
from bundlecache.train.training.loop import resume, train

CPU = torch.device("cpu")
STAGES = {"joint_stage": {"steps": 8, "evaluate_every": 4, "lr": 1e-2}}
RUN = {"strategy": ["joint"], "loss": "vocabulary", "select": "loss"}


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"), hidden=64)


def gradients(model, cat):
    """Of one joint step's loss, by name."""
    drawn = world.questions(cat)
    model.train_only("joint")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    batch = model.prompts.build(drawn.partial[:8], list(drawn.options[:8]), "mm")
    model(batch, drawn.truth[:8], 4, "mm").backward()
    return {name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}


def learned(run):
    """The least loss on the validation questions, which must be well below the first one."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = [line["valid_loss"] for line in lines if "valid_loss" in line]
    assert min(losses) < losses[0] - 0.2
    return min(losses)


def loss_of(answers, valid):
    logits, truth = torch.from_numpy(answers.logits), torch.from_numpy(valid.truth)
    return float(torch.nn.functional.cross_entropy(logits, truth))


@pytest.mark.parametrize(("how", "near"), [("8bit", 0.99), ("4bit", 0.9)])
def test_a_quantised_base_trains_its_adapter_is_kept_and_merges_into_whole_weights(cat, base, tmp_path, how, near):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    matrices, valid = world.matrices(), world.questions(cat)
    small = world.recipe(base, base={"quantise": how}, run=RUN, **STAGES)
    found = []
    for recipe in (dataclasses.replace(small, base=dataclasses.replace(small.base, quantise="none")), small):
        torch.manual_seed(0)
        model = build(cat.titles, matrices, recipe, CPU)
        found.append(gradients(model, cat))
    weights = [p for n, p in model.llm.named_parameters() if "layers" in n and p.dim() == 2 and "lora_" not in n]
    assert all(weight.element_size() == 1 for weight in weights)
    assert found[0].keys() == found[1].keys()
    assert all("lora_" in name or name.startswith("tokens.") for name in found[1])
    whole, rounded = (torch.cat(list(some.values())) for some in found)
    assert near < float(torch.cosine_similarity(whole, rounded, dim=0)) < 1 - 1e-6

    run = tmp_path / "runs" / "small"
    train(cat, matrices, valid, small, run, device="cpu")
    model = checkpoint.load(run, cat, matrices, "cpu")
    assert loss_of(score(model, valid), valid) == pytest.approx(learned(run), abs=1e-6)

    merge(model, cat.item_ids, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert getattr(plain.config, "quantization_config", None) is None
    theirs = load_file(base / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    lora = model.llm.get_base_model().model.layers[0].self_attn.q_proj
    update = lora.scaling["default"] * lora.lora_B["default"].weight @ lora.lora_A["default"].weight
    torch.testing.assert_close(plain.model.layers[0].self_attn.q_proj.weight, theirs + update)


def test_what_looking_does_to_a_base_of_4_bits_is_nothing(cat, base):
    pytest.importorskip("bitsandbytes")
    model = build(cat.titles, world.matrices(), world.recipe(base, base={"quantise": "4bit"}), CPU)
    before = {name: p.clone() for name, p in model.llm.named_parameters()}
    score(model, world.questions(cat), mode="text")
    assert all(torch.equal(p, before[name]) for name, p in model.llm.named_parameters())


def test_what_cannot_be_quantised_is_one_sentence(monkeypatch):
    with pytest.raises(RecipeError, match="runs on a GPU or a CPU, but the device is mps"):
        quant.options("8bit", torch.float32, torch.device("mps"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RecipeError, match="needs bitsandbytes"):
        quant.options("4bit", torch.float32, CPU)


@pytest.mark.parametrize("setting", [{"base": {"dtype": "bfloat16"}}, {"run": {"precision": "bf16"}}])
def test_in_bfloat16_a_model_learns_resumes_and_answers_the_same_again(cat, base, tmp_path, setting):
    matrices, valid = world.matrices(), world.questions(cat)
    sections = {"run": {**RUN, "save_every": 4}, **STAGES}
    sections = {**sections, **{name: {**sections.get(name, {}), **table} for name, table in setting.items()}}
    recipe = world.recipe(base, **sections)
    whole, parted = tmp_path / "runs" / "whole", tmp_path / "runs" / "parted"
    train(cat, matrices, valid, recipe, whole, device="cpu")
    best = learned(whole)
    weights = load_file(whole / "fusion.safetensors")
    assert all(value.dtype == torch.float32 for value in weights.values())  # what is trained keeps its digits

    assert train(cat, matrices, valid, recipe, parted, device="cpu", max_minutes=1e-9).stopped
    resume(cat, matrices, valid, parted, device="cpu", max_minutes=0)
    for name, value in load_file(parted / "fusion.safetensors").items():
        torch.testing.assert_close(value, weights[name])

    assert loss_of(score(checkpoint.load(parted, cat, matrices, "cpu"), valid), valid) == pytest.approx(best, abs=1e-6)
