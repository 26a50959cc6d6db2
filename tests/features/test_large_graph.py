"""LightGCN of large graphs: its start, its bounded cost, its end by held-out edges; small graphs are learnt as ever."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.console import output, reporter
from bundlecache.encode.progress import Learning, Progress
from bundlecache.features import lightgcn, lightgcn_large
from bundlecache.features import registry as features
from bundlecache.features.lightgcn import Propagation
from bundlecache.features.lightgcn_large import Settings, train
from bundlecache.features.spectral_start import spectral_vectors
from bundlecache.held_out_edges import evaluate, hold_out

if TYPE_CHECKING:
    from bundlecache.workspace import WorkspaceFolder

FEW = Settings(dim=16, smallest_batch=256, steps=8, epochs=4)


def power_law(users: int = 600, items: int = 400, draws: int = 12_000, groups: int = 8, seed: int = 0) -> np.ndarray:
    """Edges [E, 2] whose items follow a power law within hidden groups, 8 of 10 times that of the user."""
    rng = np.random.default_rng(seed)
    weight = (np.arange(items // groups) + 2.0) ** -0.9
    user = rng.integers(0, users, draws)
    group = np.where(rng.random(draws) < 0.8, user % groups, rng.integers(0, groups, draws))
    item = group + groups * rng.choice(len(weight), draws, p=weight / weight.sum())
    return rng.permutation(np.unique(np.stack([user, item], axis=1), axis=0))


@pytest.fixture(scope="module")
def edges() -> np.ndarray:
    return power_law()


def test_held_out_edges_are_never_trained_on_and_leave_no_node_without(edges: np.ndarray):
    left, item = edges.T
    found = hold_out(left, item, nodes=100)
    assert found is not None
    held = np.stack([found.nodes[found.edges[:, 0]], found.edges[:, 1]], axis=1)
    trained = {tuple(edge) for edge in edges[found.trained].tolist()}
    assert not trained & {tuple(edge) for edge in held.tolist()}
    assert trained | {tuple(edge) for edge in held.tolist()} == {tuple(edge) for edge in edges.tolist()}
    assert set(left[found.trained]) == set(left)
    assert set(item[found.trained]) == set(item)
    known = np.stack([found.nodes[found.known[:, 0]], found.known[:, 1]], axis=1)
    assert {tuple(e) for e in known.tolist()} == {e for e in trained if e[0] in set(found.nodes.tolist())}
    assert len(found.nodes) == 100


def test_recall_alone_is_that_of_the_ranking(edges: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bundlecache.held_out_edges.SCORES_AT_ONCE", 7 * 400)  # several chunks
    found, rng = hold_out(*edges.T, nodes=100, share=0.4), np.random.default_rng(0)
    assert found is not None
    for _ in range(3):
        left, item = rng.normal(size=(edges[:, 0].max() + 1, 8)), rng.normal(size=(400, 8))
        assert found.recall(left, item) == pytest.approx(found.ranking(left, item).recall)
    for number in (0.0, np.nan):  # factors that collapsed or diverged find nothing
        assert found.recall(np.full_like(left, number), item) == 0


def test_where_every_node_has_one_edge_nothing_is_held_out_and_training_works():
    left, item = np.arange(50), np.arange(50) % 7
    assert hold_out(left, item) is None
    learnt = train(left, item, 7, replace(FEW, epochs=2))
    assert learnt.item.shape == (7, 16)
    assert np.isfinite(learnt.item).all()


def test_the_best_epoch_on_held_out_edges_is_given_and_training_ends_after_it(edges: np.ndarray):
    settings = replace(FEW, epochs=12, patience=2)
    learnt = train(*edges.T, 400, settings)
    recalls = [ranking.recall for ranking in learnt.rankings]
    assert learnt.epoch == int(np.argmax(recalls))
    assert len(recalls) == min(settings.epochs, learnt.epoch + settings.patience) + 1
    held_out = hold_out(*edges.T, settings.held_out_nodes, settings.held_out_share, settings.seed)
    assert held_out is not None
    assert held_out.ranking(learnt.left, learnt.item) == learnt.rankings[learnt.epoch]


def test_propagations_of_an_epoch_are_bounded_whatever_the_edges(monkeypatch: pytest.MonkeyPatch):
    calls = 0
    call = Propagation.__call__

    def counted(self: Propagation, nodes: object) -> object:
        nonlocal calls
        calls += 1
        return call(self, nodes)

    monkeypatch.setattr(Propagation, "__call__", counted)
    for draws in (2_000, 40_000):
        calls = 0
        learnt = train(*power_law(draws=draws).T, 400, replace(FEW, largest_batch=1024, start_scales=(1.0,)))
        # Two a step, and one for the vectors of each epoch and of the start.
        assert calls <= (len(learnt.rankings) - 1) * (2 * FEW.steps + 1) + 1
    monkeypatch.setattr(lightgcn_large, "MANY_EDGES", 1000)
    monkeypatch.setattr(lightgcn_large, "EDGE_STEPS", 5 * len(power_law()))
    calls = 0
    learnt = train(*power_law().T, 400, FEW)  # five steps in all, and one start
    assert (calls, len(learnt.rankings)) == (2 * 5 + 2, 2)


def test_a_power_law_graph_is_ranked_far_better_than_by_popularity(edges: np.ndarray):
    known, held_out = edges[len(edges) // 10 :], edges[: len(edges) // 10]
    learnt = train(*known.T, 400, FEW)
    found = evaluate(learnt.left, learnt.item, known, held_out)
    often = np.bincount(known[:, 1], minlength=400)[:, None].astype(float)
    popular = evaluate(np.ones((len(learnt.left), 1)), often, known, held_out)
    assert found.recall > 1.5 * popular.recall


def test_the_same_edges_give_the_same_vectors(edges: np.ndarray):
    first, again = (train(*edges.T, 400, replace(FEW, epochs=1)) for _ in range(2))
    np.testing.assert_array_equal(first.item, again.item)


def test_spectral_vectors_approximate_the_weighted_matrix_as_well_as_an_exact_svd():
    left, item = power_law(60, 40, 600, groups=4).T
    u, v = spectral_vectors(left, item, (60, 40), (0.5, 0.25), 8)
    matrix = np.zeros((60, 40))
    matrix[left, item] = np.bincount(left)[left] ** -0.5 * np.bincount(item)[item] ** -0.25
    values = np.linalg.svd(matrix, compute_uv=False)
    assert np.linalg.norm(matrix - u @ v.T) == pytest.approx(np.linalg.norm(values[8:]), rel=1e-3)


def test_small_graphs_keep_their_fingerprint_and_large_ones_have_another(
    workspace: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch
):
    catalogue = Catalogue.read(workspace)
    small = features.load("lightgcn:user-item", modality="graph", catalogue=catalogue)
    assert small.fingerprint == "ad4377427f182daa3253433c73048b5e0ef1e6978e35c77213d194401b03d798"
    monkeypatch.setattr(lightgcn_large, "SMALL_GRAPH_EDGES", 0)
    large = features.load("lightgcn:user-item", modality="graph", catalogue=catalogue)
    assert large.fingerprint != small.fingerprint
    assert (large.dim, large.dtype) == (small.dim, small.dtype)
    told: list[Learning] = []
    large.watch(told.append)
    large.encode([0])
    assert (told[-1].total, told[-1].seconds_left is not None) == (12, True)
    assert told[-1].recall is not None


def test_small_graphs_are_learnt_to_the_digits_of_before():
    left, item = np.array(sorted(power_law(40, 30, 300, groups=3).tolist())).T
    vectors = lightgcn.train(left, item, 30, replace(lightgcn.Settings(), epochs=5, batch=64))[1]
    assert float(np.abs(vectors).sum()) == pytest.approx(134.216705, rel=1e-5)
    assert vectors[0, :3].tolist() == pytest.approx([-0.0909189, 0.0671897, -0.1215224], rel=1e-4)


def test_learning_shows_epoch_loss_recall_and_remaining_time(monkeypatch: pytest.MonkeyPatch):
    screen = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(output, "log", screen)
    monkeypatch.setattr(reporter, "LINE_SECONDS", 0.0)
    learning = Learning(12, 120, loss=0.25, recall=0.1234, seconds_left=40)
    with reporter.ProgressBar("graph") as bar:
        bar.encoding(Progress("graph", "lightgcn:user-item", "learn", 12, 120, learning=learning))
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert said == "learning graph: epoch 12 of at most 120, 40 s left, loss 0.250, Recall@20 0.123\n"
