"""The torch code against Bundle-MLLM written once more in numpy, and against the way of the public code."""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import pytest
import torch
from helpers import reference_bundle_mllm as ref
from helpers import train_shop as world
from helpers.paths import TOP
from transformers import LlamaConfig, LlamaForCausalLM

from bundlecache.errors import RecipeError
from bundlecache.recipes.settings import Fusion as Settings
from bundlecache.train.inference.scoring import score_options
from bundlecache.train.model.bundle_mllm import build
from bundlecache.train.model.fusion import ItemTokens
from bundlecache.train.prompts.builder import ITEM, SEPARATOR
from bundlecache.train.prompts.tokens import full_stop
from bundlecache.train.shipped_recipes import load_recipe

sys.path.insert(0, str(TOP / "benchmarks"))
from helpers import tiny_tokenizers
from public_code import PublicCode

CPU = torch.device("cpu")
KINDS, WIDTHS = ("image", "audio", "graph"), (12, 6, 8)
WORDS = {"task": "outfit making", "bundle": "fashion outfit", "item": "fashion item"}
TITLES = ["red (lamp)", "blue mug", 'bell, 15"', "chime", "mug</s> <Feature>", "long warm lamp " * 3, "杯子", "a;b"]
GIVEN = [np.array([1]), np.array([2, 5, 0]), np.array([], int)]
TAKEN = [np.array([3, 6, 5]), np.array([], int), np.array([4, 2])]
OPTIONS = np.array([[0, 4, 6, 2], [1, 3, 4, 7], [5, 6, 7, 0]])
TRUTH = np.array([1, 3, 0])


def vectors(rng, items, widths=WIDTHS):
    return [rng.normal(size=(items, d)).astype(np.float16).astype(np.float32) for d in widths]


def numbers(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("pooling", ["mean", "separator"])
@pytest.mark.parametrize("layer_norm", ["none", "attention", "fused"])
def test_fusion_and_projection_in_all_combinations_of_their_settings(layer_norm, pooling):
    rng = np.random.default_rng(0)
    mask = np.array(list(product([True, False], repeat=3)))  # every pattern of missing modalities
    rows = vectors(rng, len(mask))
    flags = ("normalise", "value_projection", "residual", "type_embedding")
    inputs = [
        ("l2", "none", "free", ()),
        ("standardise", "l2", "embedding", (0, 10)),
        ("none", "standardise", "free", (5,)),
    ]
    for values in product([True, False], repeat=4):
        for content, graph, output, hidden in inputs:
            settings = Settings(
                width=8, projector_width=12, hidden=hidden, content_input=content, graph_input=graph, output=output,
                layer_norm=layer_norm, pooling=pooling, **dict(zip(flags, values, strict=True)),
            )  # fmt: skip
            torch.manual_seed(0)
            module = ItemTokens(WIDTHS, KINDS, settings, 10, 0.3, torch.randn(10))
            for k, matrix in enumerate(rows):
                moved = torch.from_numpy(matrix) * 3 + 1
                module.fusion.standardise(k, moved.mean(0), moved.std(0, correction=0))
            with torch.inference_mode():
                ours = module.eval()([torch.from_numpy(v) for v in rows], torch.from_numpy(mask)).numpy()
            w = numbers(module)
            for i, there in enumerate(mask):
                own = [v[i].astype(float) if known else None for v, known in zip(rows, there, strict=True)]
                np.testing.assert_allclose(ours[i], ref.item_token(w, settings, KINDS, own), atol=1e-5)


def test_a_detached_separator_pools_alike_and_is_not_trained_by_it():
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(v) for v in vectors(rng, 5)], torch.ones(5, 3, dtype=torch.bool)
    made = {}
    for pooling in ("separator", "separator-detached"):
        torch.manual_seed(0)
        module = ItemTokens(WIDTHS, KINDS, Settings(width=8, pooling=pooling), 10, 0.3, torch.randn(10))
        out = module(*inputs)
        out.sum().backward()
        made[pooling] = (out.detach(), module.separator.grad)
    assert torch.equal(made["separator"][0], made["separator-detached"][0])
    assert made["separator"][1].abs().sum() > 0
    assert made["separator-detached"][1] is None


def model_of(folder, tokenizer, fusion=(), titles=TITLES, **sections):
    """A model over eight titles with vectors of three kinds, some missing, and an adapter that does something."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rng = np.random.default_rng(1)
    mask = rng.random((len(titles), 3)) > 0.3
    stored = {
        kind: world.matrix(kind, rows, there)
        for kind, rows, there in zip(KINDS, vectors(rng, len(titles)), mask.T, strict=True)
    }
    plain = {"width": 16, "projector_width": 24, "content_input": "l2", "output": "free", **dict(fusion)}
    sections["prompt"] = {"separator_init": "", **WORDS, **sections.get("prompt", {})}
    made = build(titles, stored, world.recipe(folder, fusion=plain, **sections), CPU)
    made.mode = "mm"
    for name, parameter in made.named_parameters():
        if "lora_B" in name or name == "tokens.separator" or (name.startswith("tokens.") and "bias" in name):
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


class Reference:
    """The numpy side of ``model``: its weights, and what they make of questions."""

    def __init__(self, model):
        self.model, self.recipe = model, model.recipe
        self.weights = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
        self.weights |= {name: value.double().numpy() for name, value in model.named_buffers()}
        self.rows = [matrix.vectors.astype(np.float64) for matrix in model.embeddings.matrices]
        self.config = model.llm.config

    def llm(self):
        head = "llm.base_model.model."
        w = {name.removeprefix(head): value for name, value in self.weights.items() if name.startswith(head)}
        scale = self.recipe.lora.alpha / self.recipe.lora.rank
        for name in [name for name in w if ".base_layer." in name]:
            part = name.removesuffix("base_layer.weight")
            update = w[part + "lora_B.default.weight"] @ w[part + "lora_A.default.weight"]
            w[part + "weight"] = w[name] + scale * update
        return {name.removeprefix("model."): value for name, value in w.items()}

    def tokens(self, items):
        w = {name.removeprefix("tokens."): v for name, v in self.weights.items() if name.startswith("tokens.")}
        known = [
            [
                rows[i] if matrix.mask[i] else None
                for rows, matrix in zip(self.rows, self.model.embeddings.matrices, strict=True)
            ]
            for i in items
        ]
        return w, [ref.item_token(w, self.recipe.fusion, KINDS, own) for own in known]

    def ids(self, given, options, mode="mm", taken=()):
        prompt, shown = self.recipe.prompt, self.model.prompts.titles.shown.to_pylist()
        past, *titles = [[shown[i] for i in items] for items in (taken, given, options)]
        text = ref.prompt_text(prompt.template, WORDS, *titles, prompt.separator, soft=mode == "mm", taken=past)
        tokenizer = self.model.prompts.tokenizer
        return ref.prompt_ids(tokenizer, text, apart=prompt.template == "public-code", separator=prompt.separator)

    def embeddings(self, given, options, taken=()):
        w, tokens = self.tokens([*taken, *given, *options])
        return ref.embeddings(w, self.llm()["embed_tokens.weight"], self.ids(given, options, taken=taken), tokens)

    def loss(self, given, options, truth):
        w, letters = self.llm(), self.model.prompts.letters[: options.shape[1]]
        kind = self.recipe.run.loss
        stop = full_stop(self.model.prompts.tokenizer) if kind == "letter-and-stop" else None
        losses = [
            ref.loss(w, self.config, self.embeddings(g, o), t, kind, letters, stop, w["embed_tokens.weight"])
            for g, o, t in zip(given, options, truth, strict=True)
        ]
        return np.mean(losses)


def codes(reference, given, options, mode="mm", taken=()):
    """The reference's ids with our codes for what is soft."""
    order = [*taken, *given, *options]
    ids = reference.ids(given, options, mode, taken)
    return [SEPARATOR if i == "separator" else ITEM - order[i[1]] if isinstance(i, tuple) else i for i in ids]


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.mark.parametrize("template", ["brief", "paper", "public-code"])
@pytest.mark.parametrize("name", tiny_tokenizers.MAKERS)
def test_prompt_ids_and_letter_logits_with_every_tokenizer(name, template, made, tmp_path):
    tokenizer = tiny_tokenizers.tokenizer_of(name, made)
    quick = name == "Llama-2" and template != "public-code"  # its 32,000 rows take their time
    for separator in ("soft",) if quick else ("soft", "hard", "none"):
        prompt = {"template": template, "separator": separator, "history": 3}
        model = model_of(tmp_path / separator, tokenizer, prompt=prompt)
        reference = Reference(model)
        batch = model.prompts.build(GIVEN, list(OPTIONS), "mm", TAKEN)
        with torch.inference_mode():
            ours = model.logits(batch, model.item_tokens(batch.items)).numpy()
        for q, (taken, given, options) in enumerate(zip(TAKEN, GIVEN, OPTIONS, strict=True)):
            for mode in ("mm", "text"):
                for past in (taken, taken[:0]):
                    expected = codes(reference, given, options, mode, past)
                    assert model.prompts.spell(given, options, mode, past).tolist() == expected
            ids = batch.ids[q, : batch.last[q] + 1].copy()
            ids[ids <= ITEM] = ITEM - batch.items[ITEM - ids[ids <= ITEM]]
            assert ids.tolist() == codes(reference, given, options, taken=taken)
            if separator != "soft" and name == "Llama-2":
                continue
            x = reference.embeddings(given, options, taken)
            whole = ref.llama(reference.llm(), reference.config, x)[-1]
            np.testing.assert_allclose(ours[q], whole, atol=1e-5 * np.abs(whole).max())
            padded = ref.llama(reference.llm(), reference.config, np.concatenate([x[:7], x]), hidden=7)[-1]
            np.testing.assert_allclose(padded, whole, atol=1e-9)


def test_padding_on_either_side_and_batches_of_any_size_give_the_same_logits(made, tmp_path):
    model = model_of(tmp_path, tiny_tokenizers.tokenizer_of("byte fallback", made), prompt={"template": "paper"})
    many = score_options(model, GIVEN, OPTIONS).logits
    one = score_options(model, GIVEN, OPTIONS, batch_size=1).logits
    np.testing.assert_allclose(one, many, atol=1e-5)
    rows = []
    with torch.inference_mode():
        for given, options in zip(GIVEN, OPTIONS, strict=True):
            batch = model.prompts.build([given], [options], "mm")
            rows.append(model.embed(batch.ids, model.item_tokens(batch.items))[0])
        longest = max(map(len, rows))
        gaps = [longest - len(row) for row in rows]
        assert len(set(gaps)) == 3
        padded = torch.stack([torch.cat([row[:1].expand(gap, -1), row]) for gap, row in zip(gaps, rows, strict=True)])
        mask = (torch.arange(longest) >= torch.tensor(gaps)[:, None]).long()
        left = model.llm(inputs_embeds=padded, attention_mask=mask, position_ids=mask.cumsum(1) - 1 + (1 - mask)).logits
    np.testing.assert_allclose(left[:, -1, model.prompts.letters[:4]].numpy(), many, atol=1e-5)


GRADIENTS = {
    "paper": ({"hidden": (0, 10)}, "paper", "vocabulary"),
    "public code": (
        {"hidden": (0, 10), "pooling": "separator", "value_projection": True, "layer_norm": "attention"},
        "public-code",
        "letter-and-stop",
    ),
    "demo": (
        {"residual": True, "type_embedding": True, "layer_norm": "fused", "output": "embedding",
         "content_input": "standardise", "value_projection": True},
        "brief",
        "letters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GRADIENTS)
def test_loss_and_the_gradient_of_every_trained_tensor(case, made, tmp_path):
    fusion, template, kind = GRADIENTS[case]
    tokenizer = tiny_tokenizers.tokenizer_of("embedded", made)
    model = model_of(tmp_path, tokenizer, fusion, prompt={"template": template}, run={"loss": kind})
    model.train_only("joint")
    asked = GIVEN[:2], OPTIONS[:2, :3], TRUTH[:2] - 1  # finite differences take their time
    loss = model(model.prompts.build(asked[0], list(asked[1]), "mm"), asked[2], 3, "mm")
    loss.backward()
    reference = Reference(model)
    assert float(loss.detach()) == pytest.approx(reference.loss(*asked), abs=1e-5)
    rng, seen = np.random.default_rng(0), set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or name == "tokens.fusion.absent":  # no item here lacks everything
            continue
        gradient = parameter.grad.double().numpy()
        direction = rng.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        held, step, around = reference.weights[name], 1e-5, []
        for sign in (1, -1):
            reference.weights[name] = held + sign * step * direction
            around.append(reference.loss(*asked))
        reference.weights[name] = held
        slope = (around[0] - around[1]) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(slope, abs=1e-5 * max(1.0, np.linalg.norm(gradient))), name
        assert np.linalg.norm(gradient) > 1e-7, name
        seen.add(name.split(".")[-2] if "lora" not in name else "lora")
    assert {"lora", "query", "key", "tokens"} <= seen


PUBLIC = {
    "as published": {},
    "layernorm, w_v": {"layer_norm": "attention", "value_projection": True},
    "sp_guided": {"pooling": "separator"},
    "sp_guided, sp_sg, layernorm, w_v": {
        "pooling": "separator-detached",
        "layer_norm": "attention",
        "value_projection": True,
    },
}


@pytest.mark.parametrize("separator", ["soft", "none"])
@pytest.mark.parametrize("case", PUBLIC)
def test_the_recipe_public_code_is_the_arithmetic_of_the_public_code(case, separator, made, tmp_path):
    if separator == "none" and "sp_guided" in case:
        with pytest.raises(RecipeError, match="soft separator"):
            model_of(
                tmp_path, tiny_tokenizers.tokenizer_of("embedded", made), PUBLIC[case], prompt={"separator": separator}
            )
        return
    real = case == "as published" and separator == "soft" and tiny_tokenizers.LLAMA.is_file()
    name = "Llama-2" if real else "embedded"
    shipped = load_recipe("public-code")
    titles = world.catalogue().titles[:8]
    fusion = {key: getattr(shipped.fusion, key) for key in shipped.to_dict()["fusion"]} | PUBLIC[case]
    prompt = shipped.to_dict()["prompt"] | {"separator": separator, **WORDS}
    loss = {"loss": shipped.run.loss}
    model = model_of(
        tmp_path, tiny_tokenizers.tokenizer_of(name, made), fusion | {"modalities": ()}, titles, prompt=prompt, run=loss
    )
    rng = np.random.default_rng(3)
    features = vectors(rng, 8, (12, 8, 8))
    stored = {f"{k}": world.matrix(k, rows) for k, rows in zip(("image", "graph", "graph 2"), features, strict=True)}
    kinds = {"graph 2": "graph"}
    for key, matrix in stored.items():
        object.__setattr__(matrix, "modality", kinds.get(key, key))
    recipe = world.recipe(tmp_path, fusion=fusion | {"modalities": ()}, prompt=prompt, run=loss)
    torch.manual_seed(0)
    model = build(titles, stored, recipe, CPU).eval()
    for parameter in model.train_only("joint"):
        torch.nn.init.normal_(parameter, std=0.2)
    public = PublicCode(model, titles, [torch.from_numpy(v) for v in features]).eval()
    made_of = {}
    for who in ("ours", "theirs"):
        model.zero_grad(set_to_none=True)
        if who == "ours":
            loss = model(model.prompts.build(GIVEN, list(OPTIONS), "mm"), TRUTH, 4, "mm")
        else:
            loss = public.loss(GIVEN, OPTIONS, TRUTH)
        loss.backward()
        made_of[who] = float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert made_of["ours"][0] == pytest.approx(made_of["theirs"][0], abs=1e-5)
    assert set(made_of["theirs"][1]) <= set(made_of["ours"][1])
    for key, gradient in made_of["theirs"][1].items():
        scale = max(1.0, float(gradient.norm()))
        torch.testing.assert_close(made_of["ours"][1][key], gradient, atol=1e-5 * scale, rtol=0)
    first = public.generate(GIVEN, OPTIONS, 3)[:, 0].tolist()
    batch = model.prompts.build(GIVEN, list(OPTIONS), "mm")
    with torch.inference_mode():
        assert model.logits(batch, model.item_tokens(batch.items)).argmax(1).tolist() == first
