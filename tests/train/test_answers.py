"""The answer forms that score each option by itself: the same numbers in whatever way and company they are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_shop as world
from torch.nn import functional as F
from transformers import AutoTokenizer

from bundlecache.errors import BundlecacheError, RecipeError
from bundlecache.train import checkpoint, merge
from bundlecache.train.answers import block_states
from bundlecache.train.inference.scoring import complete, score, score_options, score_variants
from bundlecache.train.model.bundle_mllm import build
from bundlecache.train.training import loop
from bundlecache.train.training.stage import StageLoop

CPU = torch.device("cpu")
FORMS = ("pointer", "likelihood", "yes-no")
GIVEN = [np.array([3]), np.array([1, 2, 7]), np.array([], int), np.array([40, 8])]
OPTIONS = np.array([[4, 5, 9, 30, 2], [3, 0, 11, 12, 6], [20, 21, 1, 5, 4], [7, 19, 2, 3, 1]])
TRUTH = np.array([2, 0, 4, 1])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Llama that knows the words yes and no."""
    return world.save_base(tmp_path_factory.mktemp("base"), more=("yes", "no"))


@pytest.fixture(scope="module")
def models(base):
    """In double precision, by answer form, with all weights at random that start at zero."""
    cat, made = world.catalogue(), {}
    for form in FORMS:
        torch.manual_seed(0)
        recipe = world.recipe(base, answer={"form": form})
        model = build(cat.titles, world.matrices(), recipe, CPU).double()
        model.mode = "mm"
        for name, parameter in model.named_parameters():
            if "lora_B" in name or (name.startswith("answer.") and not parameter.any()):
                torch.nn.init.normal_(parameter, std=0.3)
        model.embeddings.rows = doubled(model.embeddings.rows)
        made[form] = model.eval()
    return made


def doubled(rows):
    def read(items, masked=()):
        vectors, mask = rows(items, masked)
        return [vector.double() for vector in vectors], mask

    return read


def scores(model, given=GIVEN, options=OPTIONS, mode="mm", way=None, grad=False):
    batch = model.ask(given, list(options), mode)
    with torch.set_grad_enabled(grad):
        tokens = model.item_tokens(batch.items) if mode == "mm" else None
        model.answer.way = way
        model.answer.start()
        found = model.answer.scores(model, batch, tokens)
    model.answer.way = None
    return found


def alone(model, given, item, mode):
    """One option written down by itself: its states [k, h], logits [k, V] and ids [k]."""
    prompts = model.prompts
    ids = np.concatenate([prompts.spell_prefix(given, mode), prompts.spell_block(item, mode)])
    words = model.llm.get_input_embeddings().weight
    rows = []
    for code in ids.tolist():
        soft = (
            model.tokens.separator if code == -1 else model.item_tokens(np.array([-2 - code]))[0] if code < 0 else None
        )
        rows.append(words[code] if soft is None else soft.to(words.dtype))
    out = model.llm(inputs_embeds=torch.stack(rows)[None], output_hidden_states=True)
    return out.hidden_states[-1][0], out.logits[0], ids


def pointed(model, given, item, mode):
    states, _, _ = alone(model, given, item, mode)
    head = model.answer
    end = head.norm(states[-1])
    score = 4 * (head.direction(end) + head.network(end))[0]
    if mode == "mm":
        start = len(model.prompts.spell_prefix(given, mode)) - 1
        token = model.item_tokens(np.array([item]))[0]
        score = score + 4 * head.fused.query(states[start]) @ head.fused.key(token) * head.fused.scale
    return score


def likelier(model, given, item, mode):
    total = 0
    for bundle, sign in ((given, 1), (GIVEN[2], -1)):
        _, logits, ids = alone(model, bundle, item, mode)
        start = len(model.prompts.spell_prefix(bundle, mode))
        said = torch.from_numpy(ids[start:])
        total = total + sign * logits[start - 1 : -1].log_softmax(-1)[torch.arange(len(said)), said].sum()
    return total * model.answer.log_factor.exp()


def odds(model, given, item, mode):
    yes, no = model.prompts.tokenizer.convert_tokens_to_ids(["yes", "no"])
    _, logits, _ = alone(model, given, item, mode)
    return logits[-1, yes] - logits[-1, no]


REFERENCE = {"pointer": pointed, "likelihood": likelier, "yes-no": odds}


def reference(model, mode="mm"):
    rows = [
        torch.stack([REFERENCE[model.answer.name](model, g, int(i), mode) for i in o])
        for g, o in zip(GIVEN, OPTIONS, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("mode", ["mm", "text"])
@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_each_option_asked_about_alone(models, form, mode, monkeypatch):
    model = models[form]
    assert model.prompts._exact[OPTIONS].all(), "prompts are copied, not tokenised"
    with torch.no_grad():
        expected = reference(model, mode).numpy()
    assert np.abs(expected).max() > 0.1
    assert np.median(expected.std(axis=1)) > 0.01
    for way in ("packed", "cached", "apart", None):
        for at_once in (1, 256):
            monkeypatch.setattr(block_states, "TOKENS_AT_ONCE", at_once)
            np.testing.assert_allclose(scores(model, mode=mode, way=way), expected, atol=1e-5, err_msg=str(way))
    order = np.random.default_rng(0).permutation(OPTIONS.shape[1])
    np.testing.assert_allclose(scores(model, options=OPTIONS[:, order], mode=mode), expected[:, order], atol=1e-5)
    for q in range(len(GIVEN)):
        one = score_options(model, GIVEN[q : q + 1], OPTIONS[q : q + 1, :2], mode=mode)
        np.testing.assert_allclose(one.logits[0], expected[q, :2], atol=1e-5)


def test_titles_behind_no_bundle_are_read_behind_one_prefix(models):
    model, read = models["likelihood"], []
    hook = model.llm.get_base_model().model.register_forward_pre_hook(
        lambda _module, _args, given: read.append(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    scores(model, mode="text")
    hook.remove()
    empty = model.prompts.blocks([GIVEN[2]], np.unique(OPTIONS)[None], "text")
    assert [shape for shape in read if shape[0] == 1] == [(1, empty.prefix.shape[1]), (1, empty.block.shape[1])]


def judged_alone(found, truth):
    losses = []
    for row, right in zip(found, truth.tolist(), strict=True):
        each = [
            F.binary_cross_entropy_with_logits(odds, torch.tensor(float(k == right)).double())
            for k, odds in enumerate(row)
        ]
        losses.append(each[right] / 2 + (sum(each) - each[right]) / (len(row) - 1) / 2)
    return torch.stack(losses).mean()


LOSS = {"pointer": F.cross_entropy, "likelihood": F.cross_entropy, "yes-no": judged_alone}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_options_asked_about_alone(models, form):
    model = models[form]
    parameters = {n: p for n, p in model.named_parameters() if "lora_" in n or n.startswith(("tokens.", "answer."))}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    found = []
    for loss in (
        model.answer.loss(
            model, batch := model.ask(GIVEN, list(OPTIONS), "mm"), model.item_tokens(batch.items), TRUTH, 5
        ),
        LOSS[form](reference(model), torch.from_numpy(TRUTH)),
    ):
        found.append((loss.item(), torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, ours, theirs in zip(parameters, found[0][1], found[1][1], strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3, msg=name)


def hits(model, asked):
    """How often the chosen option is of the kind, even or odd, of the partial bundle."""
    chosen = asked.options[np.arange(len(asked)), score(model, asked).logits.argmax(1)]
    return float((chosen % 2 == [partial[0] % 2 for partial in asked.partial]).mean())


def test_a_rule_that_only_vectors_show_is_learnt_kept_and_asked_of_any_number_of_options(tmp_path):
    cat = world.catalogue()
    stage = {"steps": 40, "evaluate_every": 40, "lr": 2e-3, "contrastive_steps": 60}
    recipe = world.recipe(Path("embedded"), fusion_stage=stage, answer={"form": "pointer"})
    result = loop.train(cat, world.matrices(), world.questions(cat), recipe, tmp_path / "run", stage="fusion")
    model = checkpoint.load(tmp_path / "run", cat, world.matrices(), "cpu")
    assert checkpoint.read_manifest(result.run)["answer"] == "pointer"
    test = world.questions(cat, "test")
    assert hits(model, test) >= 0.85  # chance is near a half
    ranked = complete(model, np.array([0, 2]), list(range(4, 44)))
    assert np.mean([item % 2 == 0 for item, _ in ranked[:10]]) >= 0.8
    variants = score_variants(model, test, ablation=False).answers
    assert len(variants) == 2, "an untrained head cannot answer"
    for how in ({"permutations": 2}, {"at_once": 3}):
        with pytest.raises(RecipeError, match="answer form"):
            score(model, test, **how)


@pytest.mark.parametrize("form", FORMS)
def test_chat_histories_and_recomputed_activations_go_together_and_resume(form, tmp_path, monkeypatch):
    """Trained in two pieces, with snapshots in between, as in one; histories told, in the chat form."""
    cat = world.catalogue()
    base = world.save_base(tmp_path / "base", more=("yes", "no"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = world.CHAT
    tokenizer.save_pretrained(base)
    recipe = world.recipe(
        base,
        base={"gradient_checkpointing": True},
        prompt={"template": "chat", "history": 2},
        data={"accumulate": 2, "batch": 6},
        text_stage={"steps": 2, "evaluate_every": 2},
        fusion_stage={"steps": 3, "evaluate_every": 3, "average": 0.5},
        run={"save_every": 2},
        answer={"form": form},
    )
    whole = loop.train(cat, world.matrices(), world.questions(cat), recipe, tmp_path / "whole")
    step = StageLoop.step
    steps = []

    def interrupted(self, *arguments):
        steps.append(None)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(StageLoop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train(cat, world.matrices(), world.questions(cat), recipe, tmp_path / "halves")
    monkeypatch.undo()
    halves = loop.resume(cat, world.matrices(), world.questions(cat), tmp_path / "halves")
    names = ["adapter/adapter_model.safetensors", "fusion.safetensors"]
    names += ["answer.safetensors"] if form in ("pointer", "likelihood") else []
    for name in names:
        assert (whole.run / name).read_bytes() == (halves.run / name).read_bytes(), name


def test_titles_of_options_can_be_left_out_where_fused_tokens_stand_for_them(base):
    recipe = world.recipe(base, answer={"form": "pointer", "option_titles": False})
    model = build(world.catalogue().titles, world.matrices(), recipe, CPU).eval()
    short, titled = (model.prompts.blocks(GIVEN, OPTIONS, mode) for mode in ("mm", "text"))
    assert short.block.shape[1] == 4 * OPTIONS.shape[1], "a label, separator, token and a semicolon"
    assert titled.block.min() > 0, "without fused tokens there are words"
    assert (short.items[-2 - short.block[:, 2::4]] == OPTIONS).all()
    assert "lamp" not in model.prompts.text_of(GIVEN[2], OPTIONS[0], "mm")


def test_tokens_that_prompts_do_not_show_are_still_compared_and_trained(base):
    recipe = world.recipe(base, answer={"form": "pointer"}, prompt={"fused_tokens": False}, lora={"last_layers": 1})
    model = build(world.catalogue().titles, world.matrices(), recipe, CPU).double().eval()
    model.embeddings.rows = doubled(model.embeddings.rows)
    model.mode = "mm"
    for name, parameter in model.named_parameters():
        if name.startswith("answer.") and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    assert all(".layers.1." in name for name, _ in model.named_parameters() if "lora_" in name)
    batch = model.ask(GIVEN, list(OPTIONS), "mm")
    text = model.ask(GIVEN, list(OPTIONS), "text")
    assert (batch.block == text.block).all()
    found, alone = scores(model, grad=True), scores(model, mode="text")
    states = next(block_states.read(model, batch, None)).prefix
    compared = model.answer.fused(states, model.item_tokens(batch.items), np.searchsorted(batch.items, OPTIONS))
    torch.testing.assert_close(found, alone + 4 * compared)
    seen = []
    layer = model.llm.get_base_model().model.layers[1]
    hook = layer.register_forward_pre_hook(lambda _module, given: seen.append(given[0].requires_grad))
    model.train_only("joint")
    model(batch, TRUTH, 5, "mm").backward()
    hook.remove()
    assert seen == [False], "nothing is computed backwards below the adapted layer"
    assert all(p.grad is not None for n, p in model.named_parameters() if n.startswith("tokens.fusion."))
    np.testing.assert_allclose(score_options(model, GIVEN, OPTIONS).logits, found.detach(), atol=1e-5)


def test_what_a_form_cannot_do_is_one_sentence(models, base, tmp_path):
    plain = world.save_base(tmp_path / "plain")  # a tokenizer without the words yes and no
    with pytest.raises(RecipeError, match="yes and no"):
        build(world.catalogue().titles, {}, world.recipe(plain, answer={"form": "yes-no"}), CPU)
    with pytest.raises(RecipeError, match="2 layers"):
        build(world.catalogue().titles, {}, world.recipe(base, lora={"last_layers": 3}), CPU)
    nothing = world.recipe(base, prompt={"fused_tokens": False})
    cat = world.catalogue()
    with pytest.raises(RecipeError, match="train nothing"):
        loop.train(cat, world.matrices(), world.questions(cat), nothing, tmp_path / "run")
    with pytest.raises(BundlecacheError, match="pointer"):
        merge.merge(models["pointer"], [], tmp_path / "merged")


class Popularity(torch.nn.Module):
    """What a model may read of options beside the prompt: here one number of each item."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))

    def features(self, partial, options, bundles):
        assert len(partial) == len(options)
        return np.asarray(options, np.float32)[..., None] / 48

    def forward(self, features):
        return features @ self.weight


@pytest.mark.parametrize("form", ["letters", "pointer"])
def test_evidence_of_an_option_is_added_to_its_score(form, base):
    cat = world.catalogue()
    model = build(cat.titles, world.matrices(), world.recipe(base, answer={"form": form}), CPU).eval()
    without = score_options(model, GIVEN, OPTIONS[:, :4]).logits
    model.evidence = Popularity()
    found = score_options(model, GIVEN, OPTIONS[:, :4])
    np.testing.assert_allclose(found.logits, without + OPTIONS[:, :4] / 24, atol=1e-5)
    model.train_only("text")
    model(model.ask(GIVEN, list(OPTIONS[:, :4]), "text"), TRUTH % 4, 4, "text").backward()
    assert model.evidence.weight.grad.abs() > 0
    assert "evidence.weight" in model.own_state()
