"""Graph vectors: LightGCN's propagation, gradient and evaluation, what is learnt, and what must not be seen."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers.runner import succeed
from scipy.sparse import csr_array

import bundlecache
from bundlecache import large_bpr
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.columns import Strings
from bundlecache.catalogue.splits import assign, training_graph
from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import EncoderError
from bundlecache.factors import FACTORS, SETTINGS, all_factors, item_factors, settings_for
from bundlecache.features import lightgcn_large
from bundlecache.features import registry as features
from bundlecache.features.fingerprints import fingerprint
from bundlecache.features.graph_encoder import fingerprint_now
from bundlecache.features.lightgcn import (
    NegativeSampler,
    Propagation,
    Settings,
    adjacency,
    bpr_gradient,
    train,
)
from bundlecache.held_out_edges import evaluate
from bundlecache.store import failures

if TYPE_CHECKING:
    from bundlecache.project.workspace import Workspace
    from bundlecache.workspace import WorkspaceFolder


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


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagation_equals_the_dense_reference(layers: int):
    left, item = random_graph(13, 17, 60)
    nodes = torch.randn(30, 5)
    propagate = Propagation(adjacency(left, item, 13, 17), layers, 5)
    kept = nodes.clone()
    for _ in range(3):  # the buffers are used again
        got = propagate(nodes).double()
        torch.testing.assert_close(got, dense_propagation(left, item, 13, 17, layers) @ nodes.double())
    assert torch.equal(nodes, kept)


@pytest.mark.parametrize("layers", [0, 2, 3])
@pytest.mark.parametrize("start", [None, torch.randn(30, 5, generator=torch.Generator().manual_seed(3))])
def test_the_hand_written_gradient_equals_autograd_through_the_dense_reference(layers: int, start: torch.Tensor | None):
    left, item = random_graph(13, 17, 60)
    nodes = torch.randn(30, 5)
    drawn = np.random.default_rng(1).integers(0, 17, 20)
    u, p, n = batch = torch.from_numpy(np.stack([left[:20], 13 + item[:20], 13 + drawn]))
    propagate = Propagation(adjacency(left, item, 13, 17), layers, 5)
    got = torch.randn(30, 5)
    mean = bpr_gradient(propagate, nodes, batch, 0.3, out=got, start=start)

    ego = nodes.double().requires_grad_()
    out = dense_propagation(left, item, 13, 17, layers) @ ego
    out = out if start is None else out + start
    loss = torch.nn.functional.softplus(-(out[u] * (out[p] - out[n])).sum(dim=1)).mean()
    torch.testing.assert_close(mean.double(), loss.detach(), atol=1e-5, rtol=1e-4)
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
    found = evaluate(left, item, edges, held_out)
    assert found.recall > 0.3, "20 of 240 items by chance find 0.09"
    unit = item / np.linalg.norm(item, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(240)
    assert (group_of_item[likeness.argmax(axis=1)] == group_of_item).mean() > 0.8


def naive_ranking(left, item, known, held_out, k) -> tuple[float, float]:
    """Recall@k and NDCG@k, one user and one item at a time."""
    recalls, ndcgs = [], []
    for user in sorted({int(u) for u, _ in held_out}):
        wanted = {int(i) for u, i in held_out if u == user}
        seen = {int(i) for u, i in known if u == user}
        rest = [i for i in range(len(item)) if i not in seen]
        top = sorted(rest, key=lambda i: -float(left[user] @ item[i]))[:k]
        recalls.append(len(wanted & set(top)) / len(wanted))
        gains = [1 / np.log2(rank + 2) for rank in range(k)]
        hits = sum(gain for gain, i in zip(gains, top, strict=False) if i in wanted)
        ndcgs.append(hits / sum(gains[: min(k, len(wanted))]))
    return float(np.mean(recalls)), float(np.mean(ndcgs))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_and_ndcg_equal_a_count_by_hand_and_leave_out_what_is_known(k: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bundlecache.held_out_edges.USERS_AT_ONCE", 7)  # several chunks
    rng = np.random.default_rng(0)
    edges = rng.permutation(np.unique(rng.integers(0, (40, 30), (500, 2)), axis=0))
    known, held_out = edges[100:], edges[:100]
    held_out = held_out[held_out[:, 0] % 3 > 0]  # users without a held-out item count nowhere
    left, item = rng.normal(size=(40, 6)), rng.normal(size=(30, 6))
    found = evaluate(left, item, known, held_out, k)
    assert (found.recall, found.ndcg) == pytest.approx(naive_ranking(left, item, known, held_out, k))
    assert found.nodes == len(np.unique(held_out[:, 0]))


def test_training_is_a_function_of_edges_and_settings():
    edges, _, _ = planted(1)
    settings = replace(Settings(), epochs=3)
    first = train(edges[:, 0], edges[:, 1], 240, settings)
    np.testing.assert_array_equal(first[1], train(edges[:, 0], edges[:, 1], 240, settings)[1])
    assert np.abs(first[1] - train(edges[:, 0], edges[:, 1], 240, replace(settings, seed=1))[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("spec", "small"),
    [*((kind.form, 50_000) for kind in features.kinds("graph") if "SPEC" not in kind.form), ("lightgcn:user-item", 0)],
)
def test_an_encoder_sees_training_edges_only_and_learns_at_the_first_encode(
    workspace: WorkspaceFolder, spec: str, small: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lightgcn_large, "SMALL_GRAPH_EDGES", small)
    catalogue = Catalogue.read(workspace)
    encoder = features.load(spec, modality="graph", catalogue=catalogue)
    assert encoder._vectors is None, "loading must not train: a cached run would pay for it"
    edges = training_graph(catalogue, spec.partition(":")[2])
    linked = {catalogue.item_ids[i] for i in edges[:, 1]}
    assert {item_id for item_id in catalogue.item_ids if encoder.has(item_id)} == linked
    assert not encoder.has("no such item")

    # What is held out says nothing: other bundles there, and other clicks of those who made them, change
    # neither the fingerprint nor a vector.
    split = assign(catalogue)
    bundles, clicks = catalogue.bundles, catalogue.interactions
    kept = split == "train"
    others = [items if keep else np.flip(items)[:1] for items, keep in zip(bundles.items, kept, strict=True)]
    held_out = {group for group, keep in zip(bundles.group, kept, strict=True) if not keep}
    hidden = np.array([clicks.group[user] in held_out for user in clicks.user])
    assert hidden.any()
    blind = replace(
        catalogue,
        bundles=replace(bundles, items=others, split=[str(part) for part in split]),
        interactions=replace(clicks, item=np.where(hidden, 0, clicks.item)),
    )
    other = features.load(spec, modality="graph", catalogue=blind)
    ids = sorted(linked)[:3]
    vectors = encoder.encode([encoder.prepare(i) for i in ids])
    assert other.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(other.encode([other.prepare(i) for i in ids]), vectors)


@pytest.mark.parametrize("method", ["als", "bpr"])
def test_factors_of_implicit_put_items_of_one_group_together_without_a_warning(method: str):
    edges, _, group_of_item = planted(2)
    baskets = csr_array((np.ones(len(edges), np.float32), edges.T), shape=(300, 240))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = item_factors(method, baskets)
    assert (vectors.dtype, vectors.shape) == (np.float32, (240, FACTORS))
    np.testing.assert_array_equal(vectors, item_factors(method, baskets))
    assert np.abs(vectors - item_factors(method, baskets, seed=1)).max() > 1e-3
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(240)
    assert (group_of_item[likeness.argmax(axis=1)] == group_of_item).mean() > 0.6


def test_factors_report_every_iteration():
    baskets = csr_array(np.eye(5, dtype=np.float32))
    told: list[tuple[int, int, float | None]] = []
    item_factors("als", baskets, report=lambda *each: told.append(each))
    assert told == [(i, 15, None) for i in range(1, 16)]


def test_large_graphs_get_fewer_passes_and_small_ones_the_settings_that_their_stored_vectors_are_known_by():
    for method in SETTINGS:
        assert settings_for(method, 500_000, 25_000) == SETTINGS[method]
    passes = {
        (method, edges): settings_for(method, edges, edges // 20)["iterations"]
        for method in SETTINGS
        for edges in (10**6, 10**7, 10**9)
    }
    assert passes == {
        ("als", 10**6): 15,
        ("als", 10**7): 10,
        ("als", 10**9): 10,
        ("bpr", 10**6): 100,
        ("bpr", 10**7): 15,
        ("bpr", 10**9): 15,
    }
    assert settings_for("bpr", 10**7, 10**6)["iterations"] == 30, "users of few edges need more passes"
    assert "large" in settings_for("bpr", 500_001, 25_000), "another way is another fingerprint"


def test_bpr_of_a_large_graph_ends_by_held_out_edges_and_gives_users_and_items_in_their_own_order(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(large_bpr, "SETTINGS", replace(large_bpr.SETTINGS, above_edges=0, block_edges=500))
    edges, held_out, _ = planted(0)
    edges = edges[edges[:, 0] != 7]  # a user without an edge
    baskets = csr_array((np.ones(len(edges), np.float32), edges.T), shape=(300, 240))
    told: list[tuple[int, int, float | None]] = []
    users, items = all_factors("bpr", baskets, report=lambda *each: told.append(each))
    assert (users.shape, items.shape) == ((300, FACTORS + 1), (240, FACTORS + 1))
    assert told[-1][0] < 100, "no better Recall@20 ends the training"
    assert told[-1][2] == max(recall for _, _, recall in told if recall is not None)
    held_out = held_out[held_out[:, 0] != 7]
    found = evaluate(users, items, edges, held_out).recall
    assert found > 0.25, "20 of 240 items by chance find 0.09"
    assert evaluate(np.roll(users, 1, axis=0), items, edges, held_out).recall < found / 1.5, "users are in their order"
    np.testing.assert_array_equal(items, all_factors("bpr", baskets)[1])
    assert np.abs(items - all_factors("bpr", baskets, seed=1)[1]).max() > 1e-3


def test_a_column_of_ids_is_fingerprinted_as_the_list_that_stored_vectors_are_known_by(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bundlecache.json_text.BLOCK_ROWS", 2)
    for ids in ([], ["a"], ["a", "b"], ["", 'a"b\\', "Käse", "b", "\x7f\n"]):
        whole = hashlib.sha256(json.dumps(("als", 2, {"b": 1, "a": 2.5}, ids, "x"), sort_keys=True).encode())
        assert fingerprint("als", 2, {"b": 1, "a": 2.5}, Strings(ids), "x") == whole.hexdigest()


def test_loading_an_encoder_keeps_its_fingerprint_so_that_the_next_status_reads_no_edges(
    workspace: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch
):
    catalogue = bundlecache.open(workspace.root, quiet=True).catalogue
    encoder = features.load("als:user-item", modality="graph", catalogue=catalogue)
    monkeypatch.delattr("bundlecache.features.graph_encoder.training_graph")
    assert fingerprint_now(catalogue, EncoderSpec.parse("als:user-item")) == encoder.fingerprint


@pytest.mark.parametrize("spec", ["als:user-item", "bpr:user-item", "lightgcn:user-item"])
@pytest.mark.parametrize("small", [50_000, 0])
def test_a_dry_run_measures_some_passes_over_some_edges_and_learns_nothing(
    workspace: WorkspaceFolder, spec: str, small: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lightgcn_large, "SMALL_GRAPH_EDGES", small)
    catalogue = Catalogue.read(workspace)
    encoder = features.load(spec, modality="graph", catalogue=catalogue)
    seconds, measured = encoder.measure_learning()
    edges = len(encoder.item)
    assert measured == f"2 of at most {encoder.method.passes} passes, over all {edges} edges"
    encoder.method = replace(encoder.method, sample=edges // 3)
    of_part, measured = encoder.measure_learning()
    assert 0 < int(re.search(r"over (\d+) of", measured)[1]) < edges
    assert seconds > 0
    assert of_part > 0
    assert encoder._vectors is None


def test_an_item_whose_learnt_vector_float16_cannot_hold_is_absent_and_learnt_once_even_if_it_was_listed_as_failed(
    workspace: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch
):
    learnt: list[int] = []

    def factors(method: str, baskets: csr_array, *args: object) -> np.ndarray:
        vectors = item_factors(method, baskets, *args)
        vectors[unlearnt] *= 1e-8 / np.linalg.norm(vectors[unlearnt])
        learnt.append(1)
        return vectors

    monkeypatch.setattr("bundlecache.features.graph_encoder.item_factors", factors)
    catalogue = Catalogue.read(workspace)
    linked = np.unique(training_graph(catalogue, "user-item")[:, 1])
    unlearnt = int(linked[0])
    command = ("encode", "--modality", "graph", "--encoder", "als:user-item", "--data", workspace.root)
    without = len(catalogue) - len(linked) + 1
    for encoded in (len(linked) - 1, 0):
        (receipt,) = json.loads(succeed(*command, "--json").stdout)
        assert (receipt["encoded"], receipt["failed"], receipt["absent"]) == (encoded, 0, without)
        assert receipt["encoded"] + receipt["cached"] + receipt["absent"] == len(catalogue)
    assert learnt == [1], "the second run learns nothing"
    (estimate,) = json.loads(succeed(*command, "--dry-run", "--json").stdout)
    assert (estimate["to_encode"], estimate["failed"], estimate["absent"]) == (0, 0, without)
    (derived,) = json.loads(succeed(*command[:4], "first8:als:user-item", *command[5:], "--json").stdout)[1:]
    assert (derived["encoded"], derived["failed"], derived["absent"]) == (len(linked) - 1, 0, without)
    shop = bundlecache.open(workspace.root, quiet=True)
    rows = [row for row in shop.status().store if row["spec"] == "als:user-item"]
    assert [(row["rows"], row["missing"], row["failed"], row["absent"]) for row in rows] == [
        (len(linked) - 1, 0, 0, without)
    ]
    assert [*shop.errors()] == []
    _list_as_failed(shop)
    assert len(shop.errors()) == 2
    (estimate,) = json.loads(succeed(*command, "--dry-run", "--json").stdout)
    assert (estimate["to_encode"], estimate["failed"], estimate["absent"]) == (0, 0, without)
    for receipt in json.loads(succeed(*command[:4], "first8:als:user-item", *command[5:], "--json").stdout):
        assert (receipt["encoded"], receipt["failed"], receipt["absent"]) == (0, 0, without)
    assert [*shop.errors()] == [], "plain encode lists them as absent"
    assert learnt == [1], "nothing is learned for it"


def _list_as_failed(shop: Workspace) -> None:
    """Write the errors files as versions did for which an all-zero vector was a failure."""
    for info in shop.store.tables():
        found = failures.by_item(shop.folder.store, info.table)
        failures.save(
            shop.folder.store, info.table, {item: each._replace(stage="check") for item, each in found.items()}
        )


def test_other_edges_are_another_fingerprint(workspace: WorkspaceFolder):
    catalogue = Catalogue.read(workspace)
    clicks = catalogue.interactions
    fewer = replace(catalogue, interactions=replace(clicks, user=clicks.user[:-9], item=clicks.item[:-9]))
    prints = {
        features.load("lightgcn:user-item", modality="graph", catalogue=c).fingerprint for c in (catalogue, fewer)
    }
    assert len(prints) == 2


def test_a_catalogue_without_interactions_says_what_to_add(workspace: WorkspaceFolder):
    (workspace.root / "interactions.parquet").unlink()
    with pytest.raises(EncoderError, match=r"interactions\.parquet"):
        features.load("lightgcn:user-item", modality="graph", catalogue=Catalogue.read(workspace))
