"""Fusion: the arithmetic of the paper against plain numpy, and masks that really mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bundlecache.recipes.settings import Fusion as Settings
from bundlecache.train.model.fusion import Fusion, ItemTokens

WIDTHS, KINDS = (12, 6, 8), ("image", "audio", "graph")


def world(seed=0, items=40):
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=(items, d)).astype(np.float32) for d in WIDTHS]
    mask = rng.random((items, 3)) > 0.3
    mask[0], mask[1] = True, False
    assert len({tuple(row) for row in mask.tolist()}) == 8  # every pattern of missing modalities
    return vectors, mask


def fuse(module, vectors, mask):
    with torch.inference_mode():
        return module([torch.from_numpy(v) for v in vectors], torch.from_numpy(mask)).numpy()


def reference(fusion, vectors, mask):
    """Item by item in float64: input nets, unit length, attention without values, mean over what is there."""

    def unit(x):
        return x / max(np.linalg.norm(x), 1e-12)

    weight = {name: value.double().numpy() for name, value in fusion.state_dict().items()}
    out = []
    for i in range(len(mask)):
        if not mask[i].any():
            out.append(weight["absent"])
            continue
        rows = []
        for k in np.flatnonzero(mask[i]):
            x = vectors[k][i].astype(np.float64)
            x = x if KINDS[k] == "graph" else unit(x)
            layers = sorted({int(n.split(".")[2]) for n in weight if n.startswith(f"nets.{k}.")})
            for layer in layers:
                x = np.maximum(x, 0) if layer != layers[0] else x
                x = weight[f"nets.{k}.{layer}.weight"] @ x + weight[f"nets.{k}.{layer}.bias"]
            rows.append(unit(x))
        x = np.stack(rows)
        scores = (x @ weight["query.weight"].T) @ (x @ weight["key.weight"].T).T / np.sqrt(x.shape[1])
        attention = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        out.append((attention @ x).mean(0))
    return np.stack(out)


@pytest.mark.parametrize("hidden", [(), (20, 10)])
def test_the_default_is_the_arithmetic_of_the_paper(hidden):
    torch.manual_seed(0)
    fusion = Fusion(WIDTHS, KINDS, Settings(width=16, hidden=hidden))
    vectors, mask = world()
    np.testing.assert_allclose(fuse(fusion, vectors, mask), reference(fusion, vectors, mask), atol=1e-5)


def test_the_projector_is_two_layers_with_an_exact_gelu():
    from math import erf

    torch.manual_seed(0)
    tokens = ItemTokens(WIDTHS, KINDS, Settings(width=16, projector_width=24), 10, 0.1, None)
    vectors, mask = world()
    w = {name: value.double().numpy() for name, value in tokens.projector.state_dict().items()}
    middle = reference(tokens.fusion, vectors, mask) @ w["0.weight"].T + w["0.bias"]
    middle = np.vectorize(lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))))(middle)
    np.testing.assert_allclose(fuse(tokens, vectors, mask), middle @ w["2.weight"].T + w["2.bias"], atol=1e-5)


VARIANTS = [
    {},
    {"normalise": False, "residual": True, "type_embedding": True, "layer_norm": "fused", "value_projection": True},
    {"layer_norm": "attention", "content_input": "standardise", "graph_input": "l2"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=["paper", "demo", "norms"])
def test_what_is_masked_has_no_influence_even_when_it_is_not_a_number(variant):
    torch.manual_seed(0)
    fusion = Fusion(WIDTHS, KINDS, Settings(width=16, **variant))
    vectors, mask = world()
    before = fuse(fusion, vectors, mask)
    for k, rows in enumerate(vectors):
        rows[~mask[:, k]] = np.nan if k else 1e4
    after = fuse(fusion, vectors, mask)
    assert np.isfinite(after).all()
    assert (before == after).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=["paper", "demo", "norms"])
def test_a_missing_modality_is_as_if_it_did_not_exist(variant):
    torch.manual_seed(0)
    fusion = Fusion(WIDTHS, KINDS, Settings(width=16, **variant))
    vectors, mask = world()
    mask[:] = [True, False, True]
    small = Fusion((12, 8), ("image", "graph"), fusion.settings)
    state = {n: v for n, v in fusion.state_dict().items() if not n.startswith(("nets.1.", "mean1", "std1"))}
    state = {
        n.replace("nets.2.", "nets.1.").replace("mean2", "mean1").replace("std2", "std1"): v for n, v in state.items()
    }
    if "kind" in state:
        state["kind"] = state["kind"][[0, 2]]
    small.load_state_dict(state)
    np.testing.assert_allclose(
        fuse(fusion, vectors, mask), fuse(small, [vectors[0], vectors[2]], mask[:, [0, 2]]), atol=1e-6
    )


def test_the_order_of_modalities_does_not_matter_by_default():
    torch.manual_seed(0)
    fusion = Fusion((8, 8), ("image", "text"), Settings(width=16))
    vectors, mask = [v[:, :8] for v in world()[0][::2]], world()[1][:, :2]
    swapped = Fusion((8, 8), ("text", "image"), Settings(width=16))
    there = {"nets.0": "nets.1", "nets.1": "nets.0"}
    swapped.load_state_dict({there.get(n[:6], n[:6]) + n[6:]: v for n, v in fusion.state_dict().items()})
    np.testing.assert_allclose(
        fuse(fusion, vectors, mask), fuse(swapped, vectors[::-1], mask[:, ::-1].copy()), atol=1e-6
    )


def test_an_item_without_any_modality_has_the_learnt_vector_and_no_nan():
    fusion = Fusion(WIDTHS, KINDS, Settings(width=16))
    vectors, mask = world()
    out = fusion([torch.from_numpy(v) for v in vectors], torch.from_numpy(mask))
    assert torch.equal(out[1], fusion.absent)
    out.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)
    assert fusion.absent.grad is not None
    assert fusion.absent.grad.abs().sum() > 0


def test_tokens_have_the_length_of_word_embeddings_when_asked():
    torch.manual_seed(0)
    tokens = ItemTokens(WIDTHS, KINDS, Settings(width=16, output="embedding"), 32, 0.25, None)
    out = fuse(tokens, *world())
    np.testing.assert_allclose(np.sqrt((out**2).mean(1)), 0.25, rtol=1e-4)


def test_standardised_inputs_use_stored_statistics():
    fusion = Fusion((4,), ("image",), Settings(width=8, content_input="standardise"))
    rows = torch.randn(50, 4) * 7 + 3
    fusion.standardise(0, rows.mean(0), rows.std(0, correction=0))
    assert torch.allclose(fusion.state_dict()["mean0"], rows.mean(0))
    inner = fusion._input(0, rows)
    assert torch.allclose(inner.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(inner.std(0, correction=0), torch.ones(4), atol=1e-5)


def test_modality_dropout_hides_some_but_never_all():
    tokens = ItemTokens(WIDTHS, KINDS, Settings(width=8, modality_dropout=0.9), 16, 0.1, None)
    vectors, mask = world(items=200)
    inputs = [torch.from_numpy(v) for v in vectors], torch.from_numpy(mask)
    trained = tokens.train()(*inputs)
    assert not torch.equal(trained, tokens.eval()(*inputs))
    from bundlecache.train.model.fusion import _drop

    kept = _drop(inputs[1], 0.9)
    assert (kept.any(1) == inputs[1].any(1)).all()
    assert kept.sum() < inputs[1].sum()
    assert not (kept & ~inputs[1]).any()


@pytest.mark.parametrize("pooling", ["mean", "separator"])
def test_the_attention_that_is_shown_is_the_one_that_makes_the_token(pooling):
    torch.manual_seed(0)
    fusion = Fusion(WIDTHS, KINDS, Settings(width=16, pooling=pooling), hidden=10).eval()
    separator = torch.randn(10)
    vectors, mask = world()
    given = [torch.from_numpy(v) for v in vectors], torch.from_numpy(mask)
    with torch.inference_mode():
        rows, pool = fusion.attention(*given, separator)
        base, fused = fusion._attend(*given)[1], fusion(*given, separator)
        some = given[1].any(dim=1)
        np.testing.assert_allclose(torch.einsum("ui,uij,ujw->uw", pool, rows, base)[some], fused[some], atol=1e-5)
        shown = torch.einsum("ui,uij->uj", pool, rows)[some]
    np.testing.assert_allclose(shown.sum(1), 1, atol=1e-5)
    assert (shown[~given[1][some]] == 0).all()
