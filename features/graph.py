"""``lightgcn:``: item vectors from who-bought-what or from bundles, learnt by LightGCN on the training split.

LightGCN (He et al., SIGIR 2020): every node has one embedding, L layers average neighbours over the
normalised adjacency, the result is the mean of all layers, the loss is BPR. Propagation P is linear and
symmetric, so the gradient of a loss through it is P applied to the loss's gradient: no autograd is needed,
one training step is two propagations and a handful of gathers.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.errors import EncoderError, MediaError
from bundlecache.splits import training_graph

from .common import fingerprint, resolve_device

if TYPE_CHECKING:
    from pathlib import Path

    from .common import Options, Spec


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


def load(spec: Spec, options: Options) -> LightGCN:
    """The registry's entry for ``lightgcn:user-item`` and ``lightgcn:bundle-item``.

    Raises
    ------
    EncoderError
        When the training split has no edge of that kind.
    """
    catalogue = options.catalogue
    edges = training_graph(catalogue, spec.name)
    if not len(edges):
        table = "interactions" if spec.name == "user-item" else "bundles"
        raise EncoderError(
            f"There is no {spec.name} graph: no row of {table} is left for training.",
            hint=f"add {table}.parquet (or .csv, .jsonl) to the workspace, or choose another modality",
        )
    # Graphs of catalogues are small and the CPU's sums have one order; another device is for who asks.
    device = resolve_device("cpu" if options.device == "auto" else options.device)
    return LightGCN(spec.text, catalogue.item_ids, edges, Settings(), options.dtype, device)


class LightGCN:
    """item_id -> its vector; an item without a training edge has none (``has``), and gets no invented one.

    The graph is learnt at the first ``encode``, so that a run that finds everything in the store trains
    nothing: ``fingerprint`` is of the cause (edges, item ids, settings), not of the outcome.
    """

    modality = "graph"
    tokens = 0
    reading = "item id"

    def __init__(
        self, spec: str, item_ids: list[str], edges: np.ndarray, settings: Settings, dtype: str, device: str
    ) -> None:
        self.spec, self.dtype, self.settings, self.device = spec, dtype, settings, device
        self.dim, self.batch_size = settings.dim, 4096
        self.index = {item_id: i for i, item_id in enumerate(item_ids)}
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        self.left = np.unique(edges[:, 0], return_inverse=True)[1].reshape(-1).astype(np.int64)  # [E]
        self.item = edges[:, 1].astype(np.int64)  # [E]
        self.linked = np.zeros(len(item_ids), bool)
        self.linked[self.item] = True
        self.fingerprint = fingerprint(
            "lightgcn", 1, asdict(settings), item_ids, _digest(self.left), _digest(self.item)
        )
        self.preprocess = (
            f"{self.reading}, training split only, {len(self.item)} edges, propagated on {device.partition(':')[0]}"
        )
        self._vectors: np.ndarray | None = None

    def has(self, item_id: str) -> bool:
        """Whether the item has an edge that training may see."""
        return item_id in self.index and bool(self.linked[self.index[item_id]])

    def read(self, source: Path | str) -> str:
        """The item id as it is."""
        return str(source)

    def prepare(self, raw: str) -> int:
        """The item's index."""
        if not self.has(raw):
            raise MediaError("the item has no edge in the training graph")
        return self.index[raw]

    def encode(self, samples: list[Any]) -> np.ndarray:
        """Item indices -> float32 [n, d]."""
        if self._vectors is None:
            self._vectors = train(self.left, self.item, len(self.linked), self.settings, self.device)[1]
        return self._vectors[np.asarray(samples)]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def adjacency(left: np.ndarray, item: np.ndarray, n_left: int, n_items: int, device: str = "cpu") -> tuple[Any, Any]:
    """The normalised bipartite adjacency as two sparse CSR halves, R [n_left, n_items] and its transpose.

    An edge weighs 1 / sqrt(degree of its left node x degree of its item).
    """
    import torch

    degree_left = np.maximum(np.bincount(left, minlength=n_left), 1)
    degree_item = np.maximum(np.bincount(item, minlength=n_items), 1)
    weight = 1 / np.sqrt(degree_left[left] * degree_item[item])

    def csr(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Any:
        order = np.lexsort((columns, rows))
        starts = np.concatenate([[0], np.bincount(rows, minlength=shape[0]).cumsum()])
        parts = (torch.from_numpy(starts), torch.from_numpy(columns[order]), torch.from_numpy(weight[order]).float())
        with warnings.catch_warnings():  # sparse CSR has been "in beta" for years
            warnings.simplefilter("ignore")
            return torch.sparse_csr_tensor(*parts, size=shape, device=device, check_invariants=False)

    return csr(left, item, (n_left, n_items)), csr(item, left, (n_items, n_left))


def propagate(halves: tuple[Any, Any], nodes: tuple[Any, Any], layers: int) -> tuple[Any, Any]:
    """The mean over layers 0..L of left and item embeddings, [n_left, d] and [n_items, d]."""
    to_left, to_item = halves
    left, item = nodes
    sum_left, sum_item = left.clone(), item.clone()
    for _ in range(layers):
        left, item = to_left @ item, to_item @ left
        sum_left += left
        sum_item += item
    return sum_left / (layers + 1), sum_item / (layers + 1)


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


def train(
    left: np.ndarray, item: np.ndarray, n_items: int, settings: Settings, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """LightGCN's left [n_left, d] and item [n_items, d] vectors, float32, from E edges.

    The same edges and settings give the same vectors on one machine's CPU. The whole graph is propagated
    once per step; steps are large (``Settings.batch``), because below a hundred thousand edges
    propagation costs far more than the loss.
    """
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    n_left = int(left.max()) + 1
    halves = adjacency(left, item, n_left, n_items, device)
    nodes = [(torch.randn(n, settings.dim, generator=generator) * 0.1).to(device) for n in (n_left, n_items)]
    optimizer = torch.optim.Adam(nodes, lr=settings.rate)
    sampler = NegativeSampler(left, item, n_items, settings.seed)
    for _ in range(settings.epochs):
        order = sampler.rng.permutation(len(left))
        for start in range(0, len(order), settings.batch):
            edge = order[start : start + settings.batch]
            batch = [torch.from_numpy(part).to(device) for part in (left[edge], item[edge], sampler.draw(left[edge]))]
            gradients = _bpr_gradients(halves, (nodes[0], nodes[1]), batch, settings)
            for node, gradient in zip(nodes, gradients, strict=True):
                node.grad = gradient
            optimizer.step()
    out_left, out_item = propagate(halves, (nodes[0], nodes[1]), settings.layers)
    return out_left.cpu().numpy(), out_item.cpu().numpy()


def _bpr_gradients(halves: Any, nodes: tuple[Any, Any], batch: list[Any], settings: Settings) -> tuple[Any, Any]:
    """d/d nodes of mean softplus(-(u.p - u.q)) + decay/2 mean(|u0|^2 + |p0|^2 + |q0|^2) over the batch.

    u, p, q: propagated vectors of left node, item and negative; u0, p0, q0 the same before propagation.
    """
    import torch

    left, positive, negative = batch
    all_left, all_item = propagate(halves, nodes, settings.layers)
    u, apart = all_left[left], all_item[positive] - all_item[negative]  # [n, d]
    slope = -torch.sigmoid(-(u * apart).sum(dim=1, keepdim=True)) / len(left)  # [n, 1]
    grad_left = torch.zeros_like(all_left).index_add_(0, left, slope * apart)
    grad_item = torch.zeros_like(all_item).index_add_(0, positive, slope * u).index_add_(0, negative, -slope * u)
    grad_left, grad_item = propagate(halves, (grad_left, grad_item), settings.layers)
    shrink = settings.decay / len(left)
    ego_left, ego_item = nodes
    grad_left.index_add_(0, left, shrink * ego_left[left])
    for chosen in (positive, negative):
        grad_item.index_add_(0, chosen, shrink * ego_item[chosen])
    return grad_left, grad_item
