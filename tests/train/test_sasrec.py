"""The baseline SASRec: its forward against numpy in float64, what it may look at, and that it learns an order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.histories import training_of

from bundlecache.bench.task_bench import places_of
from bundlecache.catalogue.columns import Lists
from bundlecache.train import sasrec

ITEMS = 9


@pytest.fixture(scope="module")
def model() -> sasrec.SasRec:
    torch.manual_seed(0)
    made = sasrec.SasRec(ITEMS, dim=8, blocks=2, heads=2).double().eval()
    with torch.no_grad():  # biases and norms that do something
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        made.items.weight[ITEMS] = 0
    return made


def layer_norm(x: np.ndarray, norm: torch.nn.LayerNorm) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(x: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def reference(model: sasrec.SasRec, history: list[int]) -> np.ndarray:
    """[d] what follows a history, by loops over heads and positions, without padding."""
    n = len(history)
    position = model.positions.weight.detach().numpy()[np.arange(n - 1, -1, -1)]
    x = model.items.weight.detach().numpy()[history] + position  # [n, d]
    for block in model.blocks:
        h = layer_norm(x, block.norm)
        q, k, v = (linear(h, part) for part in (block.query, block.key, block.value))
        mixed = np.zeros_like(x)
        width = x.shape[1] // block.heads
        for head in range(block.heads):
            own = slice(head * width, (head + 1) * width)
            for t in range(n):
                weight = np.exp(q[t, own] @ k[: t + 1, own].T / np.sqrt(width))
                mixed[t, own] = weight / weight.sum() @ v[: t + 1, own]
        x = x + linear(mixed, block.out)
        x = x + linear(np.maximum(linear(layer_norm(x, block.norm_forward), block.inner), 0), block.outer)
    return layer_norm(x, model.norm)[-1]


def test_the_forward_equals_numpy_in_float64_in_a_padded_batch_too(model: sasrec.SasRec):
    histories = [[3, 1, 4, 1, 5], [2], [8, 7]]
    rows = torch.from_numpy(sasrec.padded(Lists(histories), ITEMS, sasrec.MAX_HISTORY))
    with torch.no_grad():
        batch = model(rows)[:, -1].numpy()
        alone = [model(torch.tensor([history]))[0, -1].numpy() for history in histories]
    for history, one, together in zip(histories, alone, batch, strict=True):
        np.testing.assert_allclose(one, reference(model, history), atol=1e-12)
        np.testing.assert_allclose(together, one, atol=1e-12)


def test_no_position_sees_a_later_item_and_no_target_is_padding(model: sasrec.SasRec):
    with torch.no_grad():
        a, b = (model(torch.tensor([[1, 2, 3, last]]))[0, :3] for last in (4, 5))
        assert torch.equal(a, b)
        rows = torch.tensor([[ITEMS, ITEMS, 1, 2, 3]])
        wanted = torch.tensor([2, 3])
        logits = (model(rows[:, :-1])[0, 2:] @ model.items.weight[:-1].T).log_softmax(-1)
        loss = -logits[torch.arange(2), wanted].mean()
        assert torch.isclose(sasrec.next_item_loss(model, rows), loss, atol=1e-12)
        assert torch.isclose(sasrec.next_item_loss(model, rows, torch.arange(ITEMS)), loss, atol=1e-12)


def test_lists_are_cut_to_the_latest_items_and_padded_in_front():
    made = sasrec.padded(Lists([[1, 2, 3, 4], [5]]), ITEMS, 3)
    assert made.tolist() == [[2, 3, 4], [ITEMS, ITEMS, 5]]


def test_it_learns_an_order_that_popularity_cannot_see(monkeypatch: pytest.MonkeyPatch):
    """Everybody takes the items of a ring one after the other, from a place of their own."""
    monkeypatch.setattr(sasrec, "MAX_EPOCHS", 25)
    training, test = training_of([[(start + k) % 20 for k in range(9)] for start in range(20)] * 4)
    scores = sasrec.sasrec(training).scores(test)
    assert places_of(test, scores).within(1).mean() > 0.9
