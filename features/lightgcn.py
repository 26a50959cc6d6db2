"""LightGCN: vectors of the nodes of a bipartite graph.

LightGCN (He et al., SIGIR 2020): every node has one embedding, L layers average neighbours over the
normalised adjacency, the result is the mean of all layers, the loss is BPR. Propagation P is linear and
symmetric, so the gradient of a loss through it is P applied to the loss's gradient: no autograd is needed,
one training step is two propagations and a handful of gathers. ``benchmarks/lightgcn.py`` measures it. The number of
steps grows with the edges here, and so does a step, so large graphs are learnt by `lightgcn_large`.

Nodes are numbered left first (users or bundles), then items: N = n_left + n_items.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Report = Callable[[int, int, float | None, float | None], None]
    """Called with epochs done, epochs at most, loss and Recall@20 (None: not known)."""


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


def train(
    left: np.ndarray,
    item: np.ndarray,
    n_items: int,
    settings: Settings,
    device: str = "cpu",
    report: Report | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """LightGCN's left [n_left, d] and item [n_items, d] vectors, float32, from E distinct edges.

    The same edges and settings give the same vectors on one machine's CPU.
    """
    trainer = Trainer(left, item, n_items, settings, device)
    for epoch in range(1, settings.epochs + 1):
        loss = trainer.epoch()
        if report is not None:
            report(epoch, settings.epochs, loss, None)
    return trainer.vectors()


class Trainer:
    """LightGCN in training: :meth:`epoch` passes over the edges once, :meth:`vectors` is what it has learnt.

    Parameters
    ----------
    start
        float32 [N, d] that are added to the propagated embeddings, which then begin at zero; None: there is nothing to
        add, and the embeddings begin at random.
    steps
        Steps of an epoch at most: an epoch of more edges than ``steps`` batches draws as many of them as fit.
    sampler
        Draws the negatives; None: a new one of these edges and the settings' seed.
    """

    def __init__(
        self,
        left: np.ndarray,
        item: np.ndarray,
        n_items: int,
        settings: Settings,
        device: str = "cpu",
        start: np.ndarray | None = None,
        steps: int | None = None,
        sampler: NegativeSampler | None = None,
    ) -> None:
        import torch

        self.settings, self.device, self.steps = settings, device, steps
        self.left, self.item = left, item
        self.n_left = int(left.max()) + 1
        self.sampler = sampler or NegativeSampler(left, item, n_items, settings.seed)
        self.propagate = Propagation(adjacency(left, item, self.n_left, n_items, device), settings.layers, settings.dim)
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (self.n_left + n_items, settings.dim)
        self.start = None if start is None else torch.from_numpy(start).to(device)  # [N, d]
        nodes = torch.randn(shape, generator=generator) * 0.1 if start is None else torch.zeros(shape)
        self.nodes = nodes.to(device)  # [N, d]
        self.optimizer = torch.optim.Adam([self.nodes], lr=settings.rate, fused=True)
        self.nodes.grad = torch.zeros_like(self.nodes)

    def epoch(self) -> float:
        """One pass over the edges in a new order, each against one new negative, a step per batch; the last step's loss."""
        loss: Any = 0.0
        for batch in self._batches():
            decay = self.settings.decay
            loss = bpr_gradient(self.propagate, self.nodes, batch, decay, out=self.nodes.grad, start=self.start)
            self.optimizer.step()
        return float(loss)

    def set_rate(self, rate: float) -> None:
        """The learning rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Left [n_left, d] and item [n_items, d] vectors, float32."""
        vectors = self.propagate(self.nodes)
        out = (vectors if self.start is None else vectors.add_(self.start)).cpu().numpy()
        return out[: self.n_left].copy(), out[self.n_left :].copy()

    def _batches(self) -> Iterator[Any]:
        """Node numbers int64 [3, n] of left nodes, their items and their negatives."""
        import torch

        order = self.sampler.rng.permutation(len(self.left))
        if self.steps is not None:
            order = order[: self.steps * self.settings.batch]
        left = self.left[order]
        triples = np.stack([left, self.n_left + self.item[order], self.n_left + self.sampler.draw(left)])
        yield from torch.from_numpy(triples).to(self.device).split(self.settings.batch, dim=1)


def adjacency(left: np.ndarray, item: np.ndarray, n_left: int, n_items: int, device: str = "cpu") -> Any:
    """The normalised adjacency, sparse CSR [N, N] of int32: an edge weighs 1 / sqrt(product of its nodes' degrees)."""
    import torch
    from scipy.sparse import csr_array

    degrees = np.bincount(left, minlength=n_left), np.bincount(item, minlength=n_items)
    weight = (1 / np.sqrt(degrees[0][left] * degrees[1][item])).astype(np.float32)
    half = csr_array((weight, (left.astype(np.int32), item.astype(np.int32))), shape=(n_left, n_items))
    half.sort_indices()
    other = half.T.tocsr()
    starts = np.concatenate([half.indptr, half.indptr[-1] + other.indptr[1:]])
    columns = np.concatenate([half.indices + np.int32(n_left), other.indices])
    parts = [torch.from_numpy(part) for part in (starts, columns, np.concatenate([half.data, other.data]))]
    n = n_left + n_items
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


def bpr_gradient(
    propagate: Propagation, nodes: Any, batch: Any, decay: float, out: Any, start: Any | None = None
) -> Any:
    """Into ``out``: d/d nodes of mean softplus(-(u.p - u.q)) + decay/2 mean(|u0|^2 + |p0|^2 + |q0|^2) over a batch.

    u, p, q: propagated vectors of left node, item and negative, whose numbers are ``batch`` [3, n], plus their rows
    of ``start``; u0, p0, q0: ``nodes`` before propagation. Gives the first of the two means, a tensor [].
    """
    import torch

    left, positive, negative = batch
    vectors = propagate(nodes)
    if start is not None:
        vectors += start
    u, apart = vectors[left], vectors[positive] - vectors[negative]  # [n, d]
    margin = (u * apart).sum(dim=1, keepdim=True)  # [n, 1]
    slope = torch.sigmoid(-margin) / -len(left)  # [n, 1]
    u *= slope
    out.zero_().index_add_(0, left, apart.mul_(slope)).index_add_(0, positive, u).index_add_(0, negative, u, alpha=-1)
    out.copy_(propagate(out))
    rows = batch.reshape(-1)
    out.index_add_(0, rows, nodes[rows], alpha=decay / len(left))
    return torch.nn.functional.softplus(-margin).mean()


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
