"""LightGCN of large graphs: a spectral start, a bounded number of propagations, and an end by held-out edges.

`lightgcn.train` propagates the whole graph for every 4,096 edges, so its time grows with the square of the edges. Here an
epoch has at most ``steps`` steps whatever the edges, and training begins where a truncated SVD ends (`spectral_start`):

    vectors = start + P(embeddings)        embeddings begin at zero

P is LightGCN's propagation, the embeddings are learnt by BPR as in `lightgcn`. Recall@20 on held-out edges of the graph
itself (`held_out_edges`) chooses the start and the epoch whose vectors are given: epoch 0 is the start alone.

Graphs of more than `MANY_EDGES` edges have a budget of steps times edges, so that the training costs the same whatever
their size, and what grows is the start alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.held_out_edges import HeldOut, Ranking, hold_out

from . import lightgcn
from .lightgcn import Trainer
from .spectral_start import SCALE_EDGES, scaled, spectral_vectors

if TYPE_CHECKING:
    from .lightgcn import Report

SMALL_GRAPH_EDGES = 50_000
"""Graphs with this many edges or fewer are learnt by `lightgcn.train`, as ever: about half a minute of one core at most."""
MANY_EDGES = 500_000
EDGE_STEPS = 32_000_000
"""Steps times edges of a training, in graphs of more than `MANY_EDGES`: 32 steps at a million edges, 3 at ten million."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the vectors beside the edges; ``above_edges`` is the rule for which graphs."""

    above_edges: int = SMALL_GRAPH_EDGES
    dim: int = 64
    layers: int = 3
    exponents: tuple[tuple[float, float], ...] = ((0.4, 0.3), (0.25, 0.25), (0.5, 0.5), (0.1, 0.1))  # of the start
    epochs: int = 12  # at most
    patience: int = 2  # epochs without a better Recall@20 that end the training
    steps: int = 16  # of an epoch, at most; each costs two propagations
    smallest_batch: int = 4096  # edges per step
    largest_batch: int = 262_144  # above, an epoch passes over a new sample of the edges
    start_scales: tuple[float, ...] = (0.3, 1.0)  # of the start, see `train`; as parts of the factor of least loss
    rate: float = 0.01  # at the first epoch; falls to nothing in equal steps
    decay: float = 1e-4
    held_out_nodes: int = 1000
    held_out_share: float = 0.1  # of the edges of those nodes
    seed: int = 0

    def causes(self, edges: int) -> dict[str, Any]:
        """What decides the vectors of a graph of that many edges, by name, for a fingerprint."""
        return asdict(self) | ({"edge_steps": EDGE_STEPS} if edges > MANY_EDGES else {})

    def budget(self, edges: int) -> Budget:
        """How long a graph of that many edges is trained."""
        if edges <= MANY_EDGES:
            return Budget(self.epochs, self.steps, self.start_scales)
        steps = max(1, EDGE_STEPS // edges)
        epochs = min(self.epochs, -(-steps // self.steps))
        return Budget(epochs, min(self.steps, steps), self.start_scales[:1])

    def trainer(self, edges: int) -> lightgcn.Settings:
        """Those of `lightgcn.Trainer` for this many edges."""
        batch = min(self.largest_batch, max(self.smallest_batch, -(-edges // self.steps)))
        return lightgcn.Settings(self.dim, self.layers, self.epochs, batch, self.rate, self.decay, self.seed)


@dataclass(frozen=True)
class Budget:
    """At most ``epochs`` epochs of ``steps`` steps, for each scale of the start until one of them helps."""

    epochs: int
    steps: int
    start_scales: tuple[float, ...]


@dataclass(frozen=True)
class Learnt:
    """Vectors [n_left, d] and [n_items, d] of epoch ``epoch``, and the rankings of the epochs 0, 1, ... that were run.

    ``exponents`` are those of the start. Without held-out edges there are no rankings.
    """

    left: np.ndarray
    item: np.ndarray
    epoch: int
    rankings: list[Ranking]
    exponents: tuple[float, float]


def train(
    left: np.ndarray,
    item: np.ndarray,
    n_items: int,
    settings: Settings | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> Learnt:
    """LightGCN's vectors from E distinct edges, in time and memory linear in them.

    A start of small scale lets embeddings change more, which helps on some graphs and harms on others: where no epoch is
    better than the start alone, training begins once more with the next of ``start_scales``. The same edges and settings
    give the same vectors on one machine's CPU.
    """
    settings = settings or Settings()
    shape, budget = (int(left.max()) + 1, n_items), settings.budget(len(left))
    held_out = hold_out(left, item, settings.held_out_nodes, settings.held_out_share, settings.seed)
    if held_out is not None:
        left, item = left[held_out.trained], item[held_out.trained]
    vectors, exponents = _start(left, item, shape, settings, held_out, report)
    sampler = lightgcn.NegativeSampler(left, item, n_items, settings.seed)
    some = np.random.default_rng(settings.seed).integers(0, len(left), min(SCALE_EDGES, len(left)))
    negatives = sampler.draw(left[some])

    def trained(part: float) -> Learnt:  # what it allocates is freed before the next
        start, loss = scaled(left[some], item[some], vectors, negatives, part)
        trainer = Trainer(
            left, item, n_items, settings.trainer(len(left)), device, start=start, steps=budget.steps, sampler=sampler
        )
        del start
        return _epochs(trainer, settings, budget.epochs, held_out, exponents, loss, report)

    for part in budget.start_scales:
        learnt = trained(part)
        if learnt.epoch:
            break
    return learnt


def _start(
    left: np.ndarray,
    item: np.ndarray,
    shape: tuple[int, int],
    settings: Settings,
    held_out: HeldOut | None,
    report: Report | None,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[float, float]]:
    """The spectral vectors that rank the held-out edges best, and their exponents; the first without any."""
    first = settings.exponents[0]
    best = spectral_vectors(left, item, shape, first, settings.dim, settings.seed), first
    if held_out is None:
        return best
    highest = held_out.ranking(*best[0]).recall
    for exponents in settings.exponents[1:]:
        if report is not None:
            report(0, settings.epochs, None, highest)
        found = spectral_vectors(left, item, shape, exponents, settings.dim, settings.seed)
        recall = held_out.ranking(*found).recall
        if recall > highest:
            best, highest = (found, exponents), recall
    return best


def _epochs(
    trainer: Trainer,
    settings: Settings,
    epochs: int,
    held_out: HeldOut | None,
    exponents: tuple[float, float],
    loss: float,
    report: Report | None,
) -> Learnt:
    """Train until held-out edges are found no better, and give the best epoch; the last one without held-out edges."""
    best, best_epoch = trainer.vectors(), 0
    rankings = [held_out.ranking(*best)] if held_out else []
    for epoch in range(1, epochs + 1):
        if report is not None:
            report(epoch - 1, epochs, loss, rankings[-1].recall if rankings else None)
        trainer.set_rate(settings.rate * (1 - (epoch - 1) / epochs))
        loss = trainer.epoch()
        found = trainer.vectors()
        if held_out:
            rankings.append(held_out.ranking(*found))
        if not held_out or rankings[-1].recall > rankings[best_epoch].recall:
            best, best_epoch = found, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    if report is not None:
        report(epoch, epochs, loss, rankings[best_epoch].recall if rankings else None)
    return Learnt(*best, best_epoch, rankings, exponents)
