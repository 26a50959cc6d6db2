"""Checkpoints of Bundle-MLLM's public code, in its files and names, become runs that give its answers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import sentencepiece
import torch
from helpers import public_checkpoint as public
from helpers import reference_bundle_mllm as ref
from helpers import train_shop as world
from helpers.runner import invoke, succeed
from helpers.shop import make_shop
from safetensors.torch import load_file
from torch.nn import functional as F

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import BundlecacheError
from bundlecache.store.store import Store
from bundlecache.train import bundle_mllm_import, checkpoint
from bundlecache.train.inference import scoring
from bundlecache.train.shipped_recipes import load_recipe
from bundlecache.workspace import WorkspaceFolder

HIDDEN, CONTENT, GRAPH = 32, 12, 8


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


def saved(folder, suffix="bin"):
    return public.save_checkpoint(folder, CONTENT, GRAPH, HIDDEN, suffix)


def recipe_of(folder, base, *settings):
    given = [*bundle_mllm_import.overrides(folder), f"base.model={base}", "base.dtype=float32", "prompt.template=brief"]
    return load_recipe("public-code", [*given, "data.options=4", "run.loss=letters", *settings])


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("valued", [False, True])
def test_an_imported_checkpoint_computes_the_same_item_tokens(cat, valid, base, tmp_path, suffix, valued):
    fusion, projector, adapter, _ = saved(tmp_path / "theirs", suffix)
    recipe = recipe_of(tmp_path / "theirs", base, f"fusion.value_projection={str(valued).lower()}")
    assert (recipe.lora.rank, recipe.lora.alpha) == (public.RANK, public.ALPHA)
    assert (recipe.fusion.width, recipe.fusion.hidden) == (public.WIDTH, (CONTENT, 10))
    run = tmp_path / "runs" / "imported"
    unused = bundle_mllm_import.make_run(tmp_path / "theirs", cat, three(), valid, recipe, run, "cpu")
    assert unused == ([] if valued else ["attention.w_v.weight"])
    model = checkpoint.load(run, cat, three(), "cpu")
    x, bi, cf = (torch.from_numpy(np.asarray(m.vectors, np.float32)) for m in three().values())
    c = F.normalize(x, dim=-1)
    for name in ("w1", "w2", "w3"):
        c = c.relu() if name != "w1" else c
        c = F.linear(c, fusion[f"c_encoder.{name}.weight"], fusion[f"c_encoder.{name}.bias"])
    graphs = (bi, "bi_transformation"), (cf, "cf_transformation")
    rows = [c, *(F.linear(v, fusion[f"{name}.weight"], fusion[f"{name}.bias"]) for v, name in graphs)]
    x = F.normalize(torch.stack(rows, 1), dim=-1)
    q, k, v = (x @ fusion[f"attention.{name}.weight"].T for name in ("w_q", "w_k", "w_v"))
    fused = ((q @ k.transpose(1, 2) / public.WIDTH**0.5).softmax(-1) @ (v if valued else x)).mean(1)
    inner = F.gelu(F.linear(fused, projector["dense1.weight"], projector["dense1.bias"]))
    tokens = F.linear(inner, projector["output.weight"], projector["output.bias"])
    with torch.inference_mode():
        np.testing.assert_allclose(model.item_tokens(np.arange(world.ITEMS)).numpy(), tokens.numpy(), atol=1e-5)
    state = dict(model.llm.named_parameters())
    for name, value in adapter.items():
        assert torch.equal(state[name.replace(".weight", ".default.weight")].detach(), value)
    stage = checkpoint.read_manifest(run)["stages"][0]
    answers = scoring.score(model, valid)
    assert stage["best_valid_hit@1"] == float(((answers.logits.argmax(1) == valid.truth) & answers.valid).mean())


class Pieces:
    """A SentencePiece model asked directly, in the place of a tokenizer."""

    def __init__(self, path):
        self.model = sentencepiece.SentencePieceProcessor(str(path))
        self.bos_token_id = self.model.bos_id()

    def __call__(self, text, **_):
        return {"input_ids": self.model.encode(text)}


def reference_weights(base, fusion, projector, adapter, token):
    """The public files by the names of the float64 reference: fusion and projector, and the language model."""
    tokens = {f"fusion.nets.0.{2 * k}": f"c_encoder.w{k + 1}" for k in range(3)}
    tokens |= {"fusion.nets.1.0": "bi_transformation", "fusion.nets.2.0": "cf_transformation"}
    tokens |= {"fusion.query": "attention.w_q", "fusion.key": "attention.w_k"}
    w = {
        f"{ours}.{part}": fusion[f"{name}.{part}"]
        for ours, name in tokens.items()
        for part in ("weight", "bias")
        if f"{name}.{part}" in fusion
    }
    for ours, name in (("projector.0", "dense1"), ("projector.2", "output")):
        w |= {f"{ours}.{part}": projector[f"{name}.{part}"] for part in ("weight", "bias")}
    llm = {name.removeprefix("model."): value for name, value in load_file(base / "model.safetensors").items()}
    for name in {name.removesuffix("_A.weight") for name in adapter if name.endswith("_A.weight")}:
        place = name.removeprefix("base_model.model.model.").removesuffix(".lora")
        update = adapter[f"{name}_B.weight"].double() @ adapter[f"{name}_A.weight"].double()
        llm[f"{place}.weight"] = llm[f"{place}.weight"].double() + public.ALPHA / public.RANK * update
    numbers = [{name: value.double().numpy() for name, value in each.items()} for each in (w, llm)]
    numbers[0]["separator"] = token[0].double().numpy()
    return numbers


def test_a_published_checkpoint_imports_in_one_command_and_answers_as_the_reference(tmp_path):
    """Every file by its public name, on a base folder that holds a tokenizer.model alone."""
    root = make_shop(tmp_path)
    graphs = "lightgcn:bundle-item", "lightgcn:user-item"
    succeed("encode", "--modality", "image", "--data", root)
    succeed("encode", "--modality", "graph", "--encoder", graphs[0], "--encoder", graphs[1], "--data", root)
    workspace = WorkspaceFolder(root)
    catalogue, store = Catalogue.read(workspace), Store(workspace.store)
    encoders = {"image": "descriptor:picture", "graph": graphs[0], graphs[1]: graphs[1]}
    stored = [
        store.matrix(catalogue.item_ids, "image" if key == "image" else "graph", spec) for key, spec in encoders.items()
    ]
    widths = [matrix.vectors.shape[1] for matrix in stored]
    base = public.base_folder(tmp_path / "Llama-2-7b-hf")
    assert sorted(path.name for path in base.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]
    files = public.save_checkpoint(tmp_path / "theirs", widths[0], widths[1], HIDDEN, "safetensors")
    named = [x for spec in encoders.values() for x in ("--encoder", spec)]
    exact = ["--set", "base.dtype=float32"]
    succeed("import-checkpoint", tmp_path / "theirs", "--base", base, *named, *exact, "--data", root)

    questions = world.questions(catalogue)
    run = workspace.runs / "imported"
    names = [encoder["name"] for encoder in checkpoint.read_manifest(run)["encoders"]]
    model = checkpoint.load(run, catalogue, dict(zip(names, stored, strict=True)), "cpu")
    ours = scoring.score(model, questions).logits[:3]

    recipe, words = model.recipe, model.recipe.prompt
    w, llm = reference_weights(base, *files)
    pieces, config = Pieces(base / "tokenizer.model"), model.llm.config
    letters = [pieces.model.piece_to_id(f"▁{letter}") for letter in "ABCD"]
    text = {"task": words.task, "bundle": words.bundle, "item": words.item}
    for row in range(3):
        given, options = questions.partial[row][: words.max_given], questions.options[row]
        shown, offered = ([catalogue.titles[i] for i in items] for items in (given, options))
        prompt = ref.prompt_text("public-code", text, shown, offered, "soft")
        ids = ref.prompt_ids(pieces, prompt, apart=True, separator="soft")
        rows = [
            [matrix.vectors[i].astype(float) if matrix.mask[i] else None for matrix in stored]
            for i in [*given, *options]
        ]
        tokens = [ref.item_token(w, recipe.fusion, ("image", "graph", "graph"), own) for own in rows]
        x = ref.embeddings(w, llm["embed_tokens.weight"], ids, tokens)
        np.testing.assert_allclose(ours[row], ref.llama(llm, config, x)[-1][letters], atol=1e-4)


def replace(path, **tensors):
    torch.save(torch.load(path, weights_only=True) | tensors, path)


def projector(folder, **shapes):
    torch.save({f"{n}.weight": torch.randn(s) for n, s in shapes.items()} | {
        f"{n}.bias": torch.randn(s[0]) for n, s in shapes.items()}, folder / "projector_model_fuse.bin")  # fmt: skip


def settings(text):
    return lambda d: (d / "adapter_config.json").write_text(text)


LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGED = {
    "no fusion.bin": (lambda d: (d / "fusion.bin").unlink(), "holds no fusion.bin"),
    "no adapter": (lambda d: (d / "adapter_model.bin").unlink(), "neither"),
    "no prompt token": (lambda d: (d / "prompt_token.bin").unlink(), "prompt_token.bin, which"),
    "no folder": (shutil.rmtree, "no folder"),
    "projector of one byte": (lambda d: (d / "projector_model_fuse.bin").write_bytes(b"\x80"), "plain tensors"),
    "a class in a pickle": (lambda d: torch.save({"weight": object}, d / "prompt_token.bin"), "plain tensors"),
    "another model's fusion": (lambda d: torch.save({"w_q.weight": torch.ones(2, 2)}, d / "fusion.bin"), "w3.weight"),
    "a projector of one layer": (lambda d: projector(d, dense1=(9, 6)), "two linear layers"),
    "a projector in the wrong order": (lambda d: projector(d, output=(9, 6), dense1=(32, 9)), "do not follow"),
    "a separator of another width": (lambda d: replace(d / "prompt_token.bin", weight=torch.ones(1, 5)), "do not fit"),
    "two separators": (lambda d: replace(d / "prompt_token.bin", weight=torch.ones(2, 32)), "one row"),
    "a scalar in fusion": (
        lambda d: replace(d / "fusion.bin", **{"c_encoder.w1.weight": torch.tensor(1.0)}),
        "a matrix is needed",
    ),
    "a scalar bias": (
        lambda d: replace(d / "fusion.bin", **{"c_encoder.w3.bias": torch.tensor(1.0)}),
        "a vector is needed",
    ),
    "not a number in fusion": (
        lambda d: replace(d / "fusion.bin", **{"c_encoder.w3.bias": torch.full((6,), torch.nan)}),
        "not finite",
    ),
    "a scalar in LoRA": (lambda d: replace(d / "adapter_model.bin", **{LORA: torch.tensor(1.0)}), "a matrix is needed"),
    "LoRA of two ranks": (lambda d: replace(d / "adapter_model.bin", **{LORA: torch.ones(5, 32)}), "ranks 3, 5"),
    "LoRA of another width": (
        lambda d: replace(d / "adapter_model.bin", **{LORA: torch.ones(3, 7)}),
        "does not fit the base",
    ),
    "adapter settings are a list": (settings("[]"), "not a JSON object"),
    "adapter settings are half a file": (settings("{"), "not valid JSON"),
    "adapter settings are bytes": (lambda d: (d / "adapter_config.json").write_bytes(b"\xff"), "not valid JSON"),
    "alpha in words": (settings('{"lora_alpha": "x"}'), "lora_alpha = 'x'"),
    "alpha is null": (settings('{"lora_alpha": null}'), "lora_alpha = None"),
    "alpha is not a number": (settings('{"lora_alpha": NaN}'), "lora_alpha = nan"),
    "scaled in another way": (settings('{"use_rslora": true}'), "use_rslora"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_public_checkpoint_is_one_sentence(cat, valid, base, tmp_path, case):
    damage, words = DAMAGED[case]
    folder = tmp_path / "theirs"
    saved(folder)
    damage(folder)
    with pytest.raises(BundlecacheError) as caught:
        bundle_mllm_import.make_run(folder, cat, three(), valid, recipe_of(folder, base), tmp_path / "run", "cpu")
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("names", [("0", "2"), ("fuse.0", "fuse.2"), ("b", "a"), ("output", "dense1")])
def test_projector_layers_are_ordered_by_name_or_shape(tmp_path, names):
    first, second = names
    saved(tmp_path)
    if first == "output":  # the names say the order, and the shapes contradict
        projector(tmp_path, output=(9, 6), dense1=(32, 9))
        with pytest.raises(BundlecacheError, match="do not follow"):
            bundle_mllm_import.read(tmp_path)
        return
    projector(tmp_path, **{second: (32, 9), first: (9, 6)})
    layers = bundle_mllm_import.read(tmp_path).projector
    assert [tuple(layer.weight.shape) for layer in layers] == [(9, 6), (32, 9)]


def test_import_checkpoint_asks_for_three_stored_vectors(tmp_path):
    root = make_shop(tmp_path)

    def typed(*args):
        done = invoke(*args, "--data", root)
        return done.exception.message if done.exception else done.output

    succeed("encode", "--modality", "image", "--data", root)
    succeed("encode", "--modality", "audio", "--data", root)
    encoders = ["--encoder", "descriptor:picture", "--encoder", "descriptor:sound"]
    imported = ["import-checkpoint", tmp_path / "theirs", "--base", "embedded"]
    assert "three vectors" in typed(*imported, *encoders)
    assert "no vectors of nothing" in typed(*imported, "--encoder", "nothing")
