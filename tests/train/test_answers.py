"""The answer forms that score each option by itself: the same numbers in whatever way and company they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import train_shop as world
from torch.nn import functional as F

from bundlecache.train.answers import block_states
from bundlecache.train.inference.scoring import score_options
from bundlecache.train.model.bundle_mllm import build

CPU = torch.device("cpu")
FORMS = ("pointer",)
GIVEN = [np.array([3]), np.array([1, 2, 7]), np.array([], int), np.array([40, 8])]
OPTIONS = np.array([[4, 5, 9, 30, 2], [3, 0, 11, 12, 6], [20, 21, 1, 5, 4], [7, 19, 2, 3, 1]])
TRUTH = np.array([2, 0, 4, 1])


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tiny Llama, and the same as a chat model with titles that are cut."""
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def models(bases):
    """In double precision, by answer form, with all weights at random that start at zero."""
    cat, made = world.catalogue(), {}
    for form in FORMS:
        torch.manual_seed(0)
        recipe = world.recipe(bases, answer={"form": form})
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
    score = head.state(states[-1])[0]
    if mode == "mm":
        start = len(model.prompts.spell_prefix(given, mode)) - 1
        token = model.item_tokens(np.array([item]))[0]
        score = score + head.fused.query(states[start]) @ head.fused.key(token) * head.fused.scale
    return score


REFERENCE = {"pointer": pointed}


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
    with torch.no_grad():
        expected = reference(model, mode).numpy()
    assert np.abs(expected).max() > 0.1
    assert expected.std(axis=1).min() > 0.01
    for way in ("packed", "cached", "apart", None):
        for at_once in (1, 256):
            monkeypatch.setattr(block_states, "TOKENS_AT_ONCE", at_once)
            np.testing.assert_allclose(scores(model, mode=mode, way=way), expected, atol=1e-5, err_msg=str(way))
    order = np.random.default_rng(0).permutation(OPTIONS.shape[1])
    np.testing.assert_allclose(scores(model, options=OPTIONS[:, order], mode=mode), expected[:, order], atol=1e-5)
    for q in range(len(GIVEN)):
        one = score_options(model, GIVEN[q : q + 1], OPTIONS[q : q + 1, :2], mode=mode)
        np.testing.assert_allclose(one.logits[0], expected[q, :2], atol=1e-5)


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
        F.cross_entropy(reference(model), torch.from_numpy(TRUTH)),
    ):
        found.append((loss.item(), torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, ours, theirs in zip(parameters, found[0][1], found[1][1], strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3, msg=name)
