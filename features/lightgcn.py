"""LightGCN: vectors of a bipartite graph's nodes, and how well they rank held-out edges.

LightGCN (He et al., SIGIR 2020): every node has one embedding, L layers average neighbours over the
normalised adjacency, the result is the mean of all layers, the loss is BPR. Propagation P is linear and
symmetric, so the gradient of a loss through it is P applied to the loss's gradient: no autograd is needed,
one training step is two propagations and a handful of gathers. ``benchmarks/lightgcn.py`` measures it.

Nodes are numbered left first (users or bundles), then items: N = n_left + n_items.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS_AT_ONCE = 1024  # rows of scores that evaluation holds


@dataclass(frozen=True)
class Settings:
    """Everything that decides the vectors beside the edges."""

    dim: int = 64
    layers: int = 3
    epochs: int = 120
    batch: int = 4096  # edges per step
    rate: float = 0.005
    decay: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Ranking:
    """Means over the left nodes that have held-out items."""

    recall: float
    ndcg: float
    nodes: int


def train(
    left: np.ndarray, item: np.ndarray, n_items: int, settings: Settings, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """LightGCN's left [n_left, d] and item [n_items, d] vectors, float32, from E distinct edges.

    The same edges and settings give the same vectors on one machine's CPU.
    """
    trainer = Trainer(left, item, n_items, settings, device)
    for _ in range(settings.epochs):
        trainer.epoch()
    return trainer.vectors()


class Trainer:
    """LightGCN in training: :meth:`epoch` passes over all edges once, :meth:`vectors` is what it has learnt."""

    def __init__(
        self, left: np.ndarray, item: np.ndarray, n_items: int, settings: Settings, device: str = "cpu"
    ) -> None:
        import torch

        self.settings, self.device = settings, device
        self.left, self.item = left, item
        self.n_left = int(left.max()) + 1
        self.sampler = NegativeSampler(left, item, n_items, settings.seed)
        self.propagate = Propagation(adjacency(left, item, self.n_left, n_items, device), settings.layers, settings.dim)
        generator = torch.Generator().manual_seed(settings.seed)
        nodes = torch.randn(self.n_left + n_items, settings.dim, generator=generator) * 0.1
        self.nodes = nodes.to(device)  # [N, d]
        self.optimizer = torch.optim.Adam([self.nodes], lr=settings.rate, fused=True)
        self.nodes.grad = torch.zeros_like(self.nodes)

    def epoch(self) -> None:
        """One pass over the edges in a new order, each against one new negative, a step per batch."""
        for batch in self._batches():
            bpr_gradient(self.propagate, self.nodes, batch, self.settings.decay, out=self.nodes.grad)
            self.optimizer.step()

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Left [n_left, d] and item [n_items, d] vectors, float32."""
        out = self.propagate(self.nodes).cpu().numpy()
        return out[: self.n_left].copy(), out[self.n_left :].copy()

    def _batches(self) -> Iterator[Any]:
        """Node numbers int64 [3, n] of left nodes, their items and their negatives."""
        import torch

        order = self.sampler.rng.permutation(len(self.left))
        left = self.left[order]
        triples = np.stack([left, self.n_left + self.item[order], self.n_left + self.sampler.draw(left)])
        yield from torch.from_numpy(triples).to(self.device).split(self.settings.batch, dim=1)


def adjacency(left: np.ndarray, item: np.ndarray, n_left: int, n_items: int, device: str = "cpu") -> Any:
    """The normalised adjacency, sparse CSR [N, N]: an edge weighs 1 / sqrt(product of its nodes' degrees)."""
    import torch

    n = n_left + n_items
    rows, columns = np.concatenate([left, n_left + item]), np.concatenate([n_left + item, left])
    degree = np.bincount(rows, minlength=n)
    weight = 1 / np.sqrt(degree[rows] * degree[columns])
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], degree.cumsum()])
    parts = (torch.from_numpy(starts), torch.from_numpy(columns[order]), torch.from_numpy(weight[order]).float())
    with warnings.catch_warnings():  # sparse CSR has been "in beta" for years
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(*parts, size=(n, n), device=device, check_invariants=False)


class Propagation:
    """P = (1 + A + ... + A^L) / (L + 1) over node vectors [N, d], in Horner's order: L sparse products, no sums.

    The result stands in a buffer until the next call but one overwrites it.
    """

    def __init__(self, adjacency: Any, layers: int, dim: int) -> None:
        import torch

        self.adjacency, self.layers = adjacency, layers
        self.buffers = [torch.empty(len(adjacency), dim, device=adjacency.device) for _ in range(2)]

    def __call__(self, nodes: Any) -> Any:
        """P times ``nodes`` [N, d]."""
        import torch

        out = nodes
        for k in range(self.layers):
            out = torch.addmm(nodes, self.adjacency, out, out=self.buffers[k % 2])
        return torch.div(out, self.layers + 1, out=self.buffers[self.layers % 2])


def bpr_gradient(propagate: Propagation, nodes: Any, batch: Any, decay: float, out: Any) -> Any:
    """Into ``out``: d/d nodes of mean softplus(-(u.p - u.q)) + decay/2 mean(|u0|^2 + |p0|^2 + |q0|^2) over a batch.

    u, p, q: propagated vectors of left node, item and negative, whose numbers are ``batch`` [3, n]; u0, p0,
    q0: the same before propagation.
    """
    import torch

    left, positive, negative = batch
    vectors = propagate(nodes)
    u, apart = vectors[left], vectors[positive] - vectors[negative]  # [n, d]
    slope = torch.sigmoid(-(u * apart).sum(dim=1, keepdim=True)) / -len(left)  # [n, 1]
    u *= slope
    out.zero_().index_add_(0, left, apart.mul_(slope)).index_add_(0, positive, u).index_add_(0, negative, u, alpha=-1)
    out.copy_(propagate(out))
    rows = batch.reshape(-1)
    return out.index_add_(0, rows, nodes[rows], alpha=decay / len(left))


class NegativeSampler:
    """Items that a left node has no edge to, drawn uniformly, whole arrays at a time."""

    def __init__(self, left: np.ndarray, item: np.ndarray, n_items: int, seed: int) -> None:
        self.keys = np.unique(left * n_items + item)
        self.full = np.bincount(self.keys // n_items) >= n_items  # a node with every item has no negative
        self.n_items, self.rng = n_items, np.random.default_rng(seed)

    def draw(self, left: np.ndarray) -> np.ndarray:
        """One item [n] for each left node [n]; the few that hit an edge are drawn again until none does."""
        out = self.rng.integers(0, self.n_items, len(left))
        todo = np.flatnonzero(~self.full[left])
        while len(todo):
            keys = left[todo] * self.n_items + out[todo]
            place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            todo = todo[self.keys[place] == keys]
            out[todo] = self.rng.integers(0, self.n_items, len(todo))
        return out


def evaluate(left: np.ndarray, item: np.ndarray, known: np.ndarray, held_out: np.ndarray, k: int = 20) -> Ranking:
    """Recall@k and NDCG@k of all items for every left node with held-out edges, its ``known`` items left out.

    As in the LightGCN authors' protocol: recall is found over held out, the ideal DCG of a node counts
    min(held out, k) hits.

    Parameters
    ----------
    left, item
        Vectors [n_left, d] and [n_items, d]; the score is their dot product.
    known, held_out
        Edges int [E, 2] of (left node, item), distinct; those in training, and those to be found.
    """
    n_items, k = len(item), min(k, len(item))
    relevant = np.bincount(held_out[:, 0], minlength=len(left))  # [n_left]
    nodes = np.flatnonzero(relevant)
    wanted, known = np.sort(held_out[:, 0] * n_items + held_out[:, 1]), known[np.argsort(known[:, 0], kind="stable")]
    gain = 1 / np.log2(np.arange(2, k + 2))  # [k]
    ideal = np.cumsum(gain)
    recall = ndcg = 0.0
    for chunk in (nodes[s : s + USERS_AT_ONCE] for s in range(0, len(nodes), USERS_AT_ONCE)):
        scores = left[chunk] @ item.T  # [c, n_items]
        row_of = np.full(len(left), -1)
        row_of[chunk] = np.arange(len(chunk))
        seen = known[row_of[known[:, 0]] >= 0]
        scores[row_of[seen[:, 0]], seen[:, 1]] = -np.inf
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        keys = chunk[:, None] * n_items + np.take_along_axis(top, order, 1)
        hit = wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys  # [c, k]
        recall += float((hit.sum(axis=1) / relevant[chunk]).sum())
        ndcg += float((hit @ gain / ideal[np.minimum(relevant[chunk], k) - 1]).sum())
    return Ranking(recall / max(len(nodes), 1), ndcg / max(len(nodes), 1), len(nodes))
