"""UniMP against the same model written once more in numpy and float64: logits, loss and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import reference_unimp as ref
from helpers import tiny_unimp as tiny

from bundlecache.train.unimp.losses import reweighted


def numbers(tensors):
    return {name: value.detach().double().numpy() for name, value in tensors.items()}


class Reference:
    """The numpy side of ``model`` on the rows of a batch."""

    def __init__(self, model, batch):
        self.base, self.config = numbers(model.core.state_dict()), model.core.config
        self.vision, self.gamma = model.recipe.vision, model.recipe.loss.gamma
        self.vocabulary, matrix = model.vocabulary, model.pictures.matrix
        self.tokens = lambda i: matrix.vectors[i].astype(float) if matrix.mask[i] else None
        self.rows = []
        for r, length in enumerate(batch.there.sum(1).tolist()):
            ids, labels, images = (t[r].numpy() for t in (batch.ids, batch.labels, batch.images))
            self.rows.append((ids[:length], labels[:length], images, float(batch.weight[r])))

    def logits(self, w, r):
        ids, _, images, _ = self.rows[r]
        return ref.row_logits(w, self.base, self.config, self.vision, ids, images, self.vocabulary, self.tokens)

    def loss(self, w):
        return ref.loss(
            [(self.logits(w, r), ids, labels, weight) for r, (ids, labels, _, weight) in enumerate(self.rows)],
            self.gamma,
        )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tied LLaMA with grouped heads, and a GPT-NeoX with two tables."""
    return {name: tiny.save_base(tmp_path_factory.mktemp(name), name) for name in tiny.CONFIGS}


@pytest.mark.parametrize("name", tiny.CONFIGS)
@pytest.mark.parametrize(
    "given",
    [{"exclusive": True}, {"exclusive": False, "width": 8, "depth": 1}, {"similar_ratings": True}],
    ids=["exclusive", "all-before", "similar-ratings"],
)
def test_logits_loss_and_gradients_are_those_of_numpy(folders, name, given):
    model = tiny.model_of(folders[name], **given)
    batch = tiny.batch_of(model.vocabulary)
    reference, w = Reference(model, batch), numbers(model.own_state())
    assert ("rows.output" in w) == (name == "GPTNeoXForCausalLM")
    with torch.no_grad():
        ours = model.logits(model.hidden(batch, batch.there)).double().numpy()
    theirs = np.concatenate([reference.logits(w, r) for r in range(len(batch))])
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    parameters = model.train_only("multitask")
    loss = model.train()(batch)
    loss.backward()
    assert loss.item() == pytest.approx(reference.loss(w), rel=1e-5)
    own = {name: value for name, value in model.own_state().items() if value.requires_grad}
    assert len(parameters) == len(own)
    rng = np.random.default_rng(0)
    for key, value in own.items():  # how the loss changes in a random direction of each tensor
        way = rng.normal(size=value.shape)
        step = 1e-4 / np.linalg.norm(way)
        up, down = (reference.loss({**w, key: w[key] + sign * step * way}) for sign in (1, -1))
        slope, scale = (up - down) / (2 * step), float(value.grad.norm() * np.linalg.norm(way))
        assert float((value.grad.double().numpy() * way).sum()) == pytest.approx(slope, abs=1e-5 * max(scale, 1e-2)), (
            key
        )


def test_a_hand_computed_label_counts_by_its_weight_and_probability():
    probability = torch.tensor([0.9, 0.5, 0.1])
    entropy = -probability.log()
    np.testing.assert_allclose(reweighted(entropy, 2.0), [0.01 * 0.105361, 0.25 * 0.693147, 0.81 * 2.302585], rtol=1e-5)
    assert torch.equal(reweighted(entropy, 0.0), entropy)
    assert torch.isfinite(reweighted(torch.tensor([-1e-7, 0.0]), 0.5)).all()
