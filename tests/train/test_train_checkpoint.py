"""Checkpoints of others come in, and ours go out as a plain language model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import train_shop as world
from helpers.runner import invoke
from helpers.shop import make_shop
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from bundlecache.errors import CheckpointError
from bundlecache.train import bundle_mllm_import as public_code
from bundlecache.train import checkpoint, merge
from bundlecache.train.inference import scoring
from bundlecache.train.prompts.builder import ITEM, SEPARATOR
from bundlecache.train.shipped import load_recipe
from bundlecache.train.training import loop

HIDDEN, RANK, CONTENT, GRAPH = 32, 3, 12, 8


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def valid(cat):
    return world.questions(cat)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"), hidden=HIDDEN)


def three():
    made = world.matrices()
    rng = np.random.default_rng(5)
    return {
        "image": made["image"],
        "graph": world.matrix("graph", rng.normal(size=(world.ITEMS, GRAPH))),
        "lightgcn:user-item": world.matrix("graph", rng.normal(size=(world.ITEMS, GRAPH)), fingerprint="c" * 64),
    }


def theirs(folder, suffix="bin", seed=0):
    """What the public code leaves behind, in its names; all of it random."""
    torch.manual_seed(seed)
    layers = {"w1": (CONTENT, CONTENT), "w2": (10, CONTENT), "w3": (6, 10)}
    layers |= {"bi_transformation": (6, GRAPH), "cf_transformation": (6, GRAPH)}
    fusion = {}
    for name, shape in layers.items():
        prefix = "c_encoder." if name.startswith("w") else ""
        fusion |= {f"{prefix}{name}.weight": torch.randn(shape) / 3, f"{prefix}{name}.bias": torch.randn(shape[0]) / 3}
    for name in ("w_q", "w_k", "w_v"):
        fusion[f"attention.{name}.weight"] = torch.randn(6, 6)
    projector = {"0.weight": torch.randn(9, 6), "0.bias": torch.randn(9)}
    projector |= {"2.weight": torch.randn(HIDDEN, 9) / 9, "2.bias": torch.randn(HIDDEN) / 9}
    adapter = {}
    for layer in range(2):
        for target in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}.lora"
            adapter[f"{name}_A.weight"] = torch.randn(RANK, HIDDEN) / 9
            adapter[f"{name}_B.weight"] = torch.randn(HIDDEN, RANK) / 9
    folder.mkdir(exist_ok=True)
    torch.save(fusion, folder / "fusion.bin")
    torch.save({f"fuse.{name}": value for name, value in projector.items()}, folder / "projector_model_fuse.bin")
    torch.save({"weight": torch.randn(1, HIDDEN)}, folder / "prompt_token.bin")
    if suffix == "bin":
        torch.save(adapter, folder / "adapter_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(adapter, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 12}))
    return fusion, projector, adapter


def recipe_of(folder, base, *settings):
    given = [*public_code.overrides(folder), f"base.model={base}", "base.dtype=float32", "prompt.template=brief"]
    return load_recipe("public-code", [*given, "data.options=4", "run.loss=letters", *settings])


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("valued", [False, True])
def test_a_checkpoint_of_the_public_code_becomes_a_run_that_computes_the_same(
    cat, valid, base, tmp_path, suffix, valued
):
    fusion, projector, adapter = theirs(tmp_path / "theirs", suffix)
    recipe = recipe_of(tmp_path / "theirs", base, f"fusion.value_projection={str(valued).lower()}")
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.fusion.width, recipe.fusion.hidden) == (RANK, 12.0, 6, (12, 10))
    run = tmp_path / "runs" / "imported"
    ignored = public_code.make_run(tmp_path / "theirs", cat, three(), valid, recipe, run, "cpu")
    assert ignored == ([] if valued else ["attention.w_v.weight"])
    model = checkpoint.load(run, cat, three(), "cpu")
    x, bi, cf = (torch.from_numpy(np.asarray(m.vectors, np.float32)) for m in three().values())
    c = F.normalize(x, dim=-1)
    for name in ("w1", "w2", "w3"):
        c = F.linear(
            c.relu() if name != "w1" else c, fusion[f"c_encoder.{name}.weight"], fusion[f"c_encoder.{name}.bias"]
        )
    rows = [
        c,
        *(
            F.linear(v, fusion[f"{n}.weight"], fusion[f"{n}.bias"])
            for v, n in ((bi, "bi_transformation"), (cf, "cf_transformation"))
        ),
    ]
    x = F.normalize(torch.stack(rows, 1), dim=-1)
    q, k, v = (x @ fusion[f"attention.{name}.weight"].T for name in ("w_q", "w_k", "w_v"))
    fused = ((q @ k.transpose(1, 2) / 6**0.5).softmax(-1) @ (v if valued else x)).mean(1)
    inner = F.gelu(F.linear(fused, projector["0.weight"], projector["0.bias"]))
    tokens = F.linear(inner, projector["2.weight"], projector["2.bias"])
    with torch.inference_mode():
        np.testing.assert_allclose(model.item_tokens(np.arange(world.ITEMS)).numpy(), tokens.numpy(), atol=1e-5)
    state = dict(model.llm.named_parameters())
    for name, value in adapter.items():
        assert torch.equal(state[name.replace(".weight", ".default.weight")].detach(), value)
    stage = checkpoint.read_manifest(run)["stages"][0]
    answers = scoring.score(model, valid)
    assert stage["best_valid_hit@1"] == float(((answers.logits.argmax(1) == valid.truth) & answers.valid).mean())


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda d: (d / "fusion.bin").unlink(), "fusion.bin"),
        (lambda d: (d / "adapter_model.bin").unlink(), "neither"),
        (lambda d: (d / "projector_model_fuse.bin").write_bytes(b"\x80"), "plain tensors"),
        (lambda d: torch.save({"weight": object}, d / "prompt_token.bin"), "plain tensors"),
        (lambda d: torch.save({"w_q.weight": torch.ones(2)}, d / "fusion.bin"), "w1"),
        (lambda d: torch.save({"0.weight": torch.ones(2, 2)}, d / "projector_model_fuse.bin"), "two linear layers"),
        (lambda d: torch.save({"weight": torch.ones(1, 5)}, d / "prompt_token.bin"), "do not fit"),
    ],
)
def test_a_damaged_checkpoint_of_the_public_code_is_one_sentence(cat, valid, base, tmp_path, damage, word):
    folder = tmp_path / "theirs"
    theirs(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=word):
        public_code.make_run(folder, cat, three(), valid, recipe_of(folder, base), tmp_path / "run", "cpu")


@pytest.mark.parametrize("separator", ["soft", "none"])
def test_a_merged_run_is_a_plain_model_with_the_same_letter_logits(cat, valid, base, tmp_path, separator):
    recipe = world.recipe(base, prompt={"separator": separator}, joint_stage={"lr": 3e-2, "steps": 8})
    loop.train(cat, world.matrices(), valid, recipe, tmp_path / "run", stage="joint")
    model = checkpoint.load(tmp_path / "run", cat, world.matrices(), "cpu")
    before = scoring.score(model, valid).logits
    prompts = [model.prompts.spell(g, o, "mm") for g, o in zip(valid.partial, valid.options, strict=True)]
    letters = model.prompts.letters[: valid.n_options]
    merge.merge(model, cat.item_ids, tmp_path / "plain")

    from safetensors.torch import load_file

    plain, items = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "plain"),
        load_file(tmp_path / "plain/items.safetensors"),
    )
    assert (tmp_path / "plain" / "item_ids.txt").read_text().split() == cat.item_ids
    assert ("separator" in items) == (separator == "soft")
    assert not any("lora" in name for name in plain.state_dict())
    table = plain.get_input_embeddings().weight.detach()
    for ids, wanted in zip(prompts, before, strict=True):
        rows = [
            items["separator"] if i == SEPARATOR else items["tokens"][ITEM - i] if i <= ITEM else table[i] for i in ids
        ]
        with torch.inference_mode():
            logits = plain(inputs_embeds=torch.stack(rows)[None]).logits[0, -1, letters]
        np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").get_vocab() == model.prompts.tokenizer.get_vocab()
    with pytest.raises(CheckpointError, match="holds something"):
        merge.merge(model, cat.item_ids, tmp_path / "plain")


def test_import_and_merge_are_typed(tmp_path):
    root = make_shop(tmp_path)

    def typed(*args):
        done = invoke(*args, "--data", root)
        return done.exception.message if done.exception else done.output

    quick = [x for s in ("text", "fusion") for x in ("--set", f"{s}_stage.steps=1")]
    typed("train", "--name", "mine", *quick, "--set", "fusion_stage.contrastive_steps=0")
    assert "items.safetensors" in typed("merge", "mine", "--out", tmp_path / "plain")
    assert "holds something" in typed("merge", "--out", tmp_path / "plain")
    encoders = ["--encoder", "descriptor:picture", "--encoder", "descriptor:sound"]
    imported = ["import-checkpoint", tmp_path / "theirs", "--base", "embedded"]
    assert "three vectors" in typed(*imported, *encoders)
    assert "no folder" in typed(*imported, *encoders, "--encoder", "lightgcn:user-item")
    assert "no vectors of nothing" in typed(*imported, "--encoder", "nothing")
