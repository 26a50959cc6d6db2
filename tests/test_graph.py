"""LightGCN: its propagation, its gradient, what it learns, and what it must not see."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import features
from bundlecache.catalogue import Catalogue
from bundlecache.errors import EncoderError
from bundlecache.splits import assign, training_graph
from features.graph import NegativeSampler, Settings, _bpr_gradients, adjacency, propagate, train

if TYPE_CHECKING:
    from bundlecache.workspace import Workspace


def random_graph(n_left: int, n_items: int, n_edges: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    edges = np.unique(rng.integers(0, (n_left, n_items), (n_edges, 2)), axis=0)
    return edges[:, 0], edges[:, 1]


def dense_propagation(left: np.ndarray, item: np.ndarray, n_left: int, n_items: int, layers: int) -> torch.Tensor:
    """The textbook: mean of powers of D^-1/2 A D^-1/2 over all nodes, as one dense matrix, float64."""
    a = np.zeros((n_left + n_items, n_left + n_items))
    a[left, n_left + item] = a[n_left + item, left] = 1
    degree = np.maximum(a.sum(axis=1), 1)
    a = a / np.sqrt(degree[:, None] * degree[None])
    return torch.from_numpy(sum(np.linalg.matrix_power(a, k) for k in range(layers + 1)) / (layers + 1))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_equals_the_dense_reference(layers: int):
    left, item = random_graph(13, 17, 60)
    nodes = torch.randn(13, 5), torch.randn(17, 5)
    got = torch.cat(propagate(adjacency(left, item, 13, 17), nodes, layers))
    want = dense_propagation(left, item, 13, 17, layers) @ torch.cat(nodes).double()
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


def test_the_hand_written_gradient_equals_autograd_through_the_dense_reference():
    left, item = random_graph(13, 17, 60)
    settings = replace(Settings(), layers=2, decay=0.3)
    nodes = torch.randn(13, 5), torch.randn(17, 5)
    batch = [torch.from_numpy(x) for x in (left[:20], item[:20], np.random.default_rng(1).integers(0, 17, 20))]
    got = torch.cat(_bpr_gradients(adjacency(left, item, 13, 17), nodes, batch, settings))

    ego = torch.cat(nodes).double().requires_grad_()
    out = dense_propagation(left, item, 13, 17, 2) @ ego
    u, p, n = batch[0], 13 + batch[1], 13 + batch[2]
    loss = torch.nn.functional.softplus(-(out[u] * (out[p] - out[n])).sum(dim=1)).mean()
    loss = loss + 0.3 / 2 * sum(ego[rows].square().sum() for rows in (u, p, n)) / len(u)
    loss.backward()
    torch.testing.assert_close(got.double(), ego.grad, atol=1e-5, rtol=1e-4)


def test_negatives_are_never_edges_and_cover_everything_else():
    left, item = random_graph(6, 8, 30)
    sampler = NegativeSampler(left, item, 8, seed=0)
    drawn = sampler.draw(np.repeat(np.arange(6), 500))
    pairs = set(zip(np.repeat(np.arange(6), 500).tolist(), drawn.tolist(), strict=True))
    edges = set(zip(left.tolist(), item.tolist(), strict=True))
    assert not pairs & edges
    assert pairs | edges == {(u, i) for u in range(6) for i in range(8)}


def test_a_node_linked_to_every_item_does_not_hang_the_sampler():
    drawn = NegativeSampler(np.zeros(4, int), np.arange(4), 4, seed=0).draw(np.zeros(10, int))
    assert ((drawn >= 0) & (drawn < 4)).all()


def planted(seed: int, users: int = 300, items: int = 240, groups: int = 6) -> tuple[np.ndarray, ...]:
    """Edges within hidden groups 7 times in 10; a tenth of them held out."""
    rng = np.random.default_rng(seed)
    group_of_user, group_of_item = rng.integers(0, groups, users), np.arange(items) % groups
    user = rng.integers(0, users, 4000)
    inside = group_of_user[user] + groups * rng.integers(0, items // groups, 4000)
    item = np.where(rng.random(4000) < 0.7, inside, rng.integers(0, items, 4000))
    edges = rng.permutation(np.unique(np.stack([user, item], axis=1), axis=0))
    cut = len(edges) // 10
    return edges[cut:], edges[:cut], group_of_item


def test_a_planted_graph_is_found_again():
    edges, held_out, group_of_item = planted(0)
    left, item = train(edges[:, 0], edges[:, 1], 240, replace(Settings(), epochs=60))
    scores = left @ item.T  # [users, items]
    scores[edges[:, 0], edges[:, 1]] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :20]
    recall = np.mean([i in top[u] for u, i in held_out if u < len(left)])
    assert recall > 0.3, "20 of 240 items by chance find 0.09"
    unit = item / np.linalg.norm(item, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(240)
    assert (group_of_item[likeness.argmax(axis=1)] == group_of_item).mean() > 0.8


def test_training_is_a_function_of_edges_and_settings():
    edges, _, _ = planted(1)
    settings = replace(Settings(), epochs=3)
    first = train(edges[:, 0], edges[:, 1], 240, settings)
    np.testing.assert_array_equal(first[1], train(edges[:, 0], edges[:, 1], 240, settings)[1])
    assert np.abs(first[1] - train(edges[:, 0], edges[:, 1], 240, replace(settings, seed=1))[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["user-item", "bundle-item"])
def test_the_encoder_sees_training_edges_only_and_learns_at_the_first_encode(workspace: Workspace, kind: str):
    catalogue = Catalogue.read(workspace)
    encoder = features.load(f"lightgcn:{kind}", modality="graph", catalogue=catalogue)
    assert encoder._vectors is None, "loading must not train: a cached run would pay for it"
    edges = training_graph(catalogue, kind)
    linked = {catalogue.item_ids[i] for i in edges[:, 1]}
    assert {item_id for item_id in catalogue.item_ids if encoder.has(item_id)} == linked
    assert not encoder.has("no such item")

    # Held-out bundles say nothing: emptying them changes neither the fingerprint nor a vector.
    kept = assign(catalogue) == "train"
    bundles = catalogue.bundles
    emptied = [items if keep else items[:1] for items, keep in zip(bundles.items, kept, strict=True)]
    split = [str(part) for part in assign(catalogue)]
    blind = replace(catalogue, bundles=replace(bundles, items=emptied, split=split))
    other = features.load(f"lightgcn:{kind}", modality="graph", catalogue=blind)
    ids = sorted(linked)[:3]
    vectors = encoder.encode([encoder.prepare(encoder.read(i)) for i in ids])
    assert other.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(other.encode([other.prepare(other.read(i)) for i in ids]), vectors)


def test_other_edges_are_another_fingerprint(workspace: Workspace):
    catalogue = Catalogue.read(workspace)
    clicks = catalogue.interactions
    fewer = replace(catalogue, interactions=replace(clicks, user=clicks.user[:-9], item=clicks.item[:-9]))
    prints = {
        features.load("lightgcn:user-item", modality="graph", catalogue=c).fingerprint for c in (catalogue, fewer)
    }
    assert len(prints) == 2


def test_a_catalogue_without_interactions_says_what_to_add(workspace: Workspace):
    (workspace.root / "interactions.parquet").unlink()
    with pytest.raises(EncoderError, match=r"interactions\.parquet"):
        features.load("lightgcn:user-item", modality="graph", catalogue=Catalogue.read(workspace))
