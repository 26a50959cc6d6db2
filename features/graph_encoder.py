"""``lightgcn:``, ``als:``, ``bpr:``: item vectors from who-bought-what or from bundles, of the training split.

The graph is `bundlecache.catalogue.splits.training_graph` and nothing else: no edge of a validation or test bundle,
and none of a user who made one, can reach a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.catalogue.splits import training_graph
from bundlecache.errors import EncoderError, MediaError
from bundlecache.factors import FACTORS, SETTINGS, item_factors

from . import lightgcn
from .devices import resolve_device
from .fingerprints import fingerprint, package_versions

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

SEED = 0


def load(spec: EncoderSpec, options: Options) -> GraphEncoder:
    """The registry's entry for ``lightgcn:``, ``als:`` and ``bpr:``, each with ``user-item`` or ``bundle-item``.

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
    return GraphEncoder(spec.text, catalogue.item_ids, edges, _method(spec.kind, options.device), options.dtype)


@dataclass(frozen=True)
class Method:
    """How a graph is learnt: ``learn(left, item, n_items)`` gives float32 [n_items, dim]; ``causes`` decide what."""

    learn: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    dim: int
    causes: dict[str, Any]
    about: str


def _method(kind: str, device: str) -> Method:
    if kind == "lightgcn":
        settings = lightgcn.Settings(seed=SEED)
        # Graphs of catalogues are small and the CPU's sums have one order; another device is for who asks.
        device = resolve_device("cpu" if device == "auto" else device)
        learn = partial(_lightgcn, settings=settings, device=device)
        return Method(learn, settings.dim, asdict(settings), f"propagated on {device.partition(':')[0]}")
    causes = {**SETTINGS[kind], "seed": SEED}
    return Method(partial(_factors, method=kind), FACTORS, causes, package_versions("implicit"))


class GraphEncoder:
    """item_id -> its vector; an item without a training edge has none (``has``), and gets no invented one.

    The graph is learnt at the first ``encode``, so that a run that finds everything in the store trains
    nothing: ``fingerprint`` is of the cause (edges, item ids, settings), not of the outcome.
    """

    modality = "graph"
    tokens = 0
    reading = "item id"
    batch_size = 4096

    def __init__(self, spec: str, item_ids: Sequence[str], edges: np.ndarray, method: Method, dtype: str) -> None:
        self.spec, self.dtype, self.dim, self.method = spec, dtype, method.dim, method
        self.index = {item_id: i for i, item_id in enumerate(item_ids)}
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        self.left = np.unique(edges[:, 0], return_inverse=True)[1].reshape(-1).astype(np.int64)  # [E]
        self.item = edges[:, 1].astype(np.int64)  # [E]
        self.linked = np.zeros(len(item_ids), bool)
        self.linked[self.item] = True
        kind = spec.partition(":")[0]
        self.fingerprint = fingerprint(kind, 2, method.causes, [*item_ids], _digest(self.left), _digest(self.item))
        self.preprocess = f"{self.reading}, training split only, {len(self.item)} edges, {method.about}"
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
            self._vectors = self.method.learn(self.left, self.item, len(self.linked))
        return self._vectors[np.asarray(samples)]


def _lightgcn(left: np.ndarray, item: np.ndarray, n_items: int, settings: lightgcn.Settings, device: str) -> np.ndarray:
    return lightgcn.train(left, item, n_items, settings, device)[1]


def _factors(left: np.ndarray, item: np.ndarray, n_items: int, method: str) -> np.ndarray:
    from scipy.sparse import csr_array

    ones = np.ones(len(left), np.float32)
    return item_factors(method, csr_array((ones, (left, item)), shape=(int(left.max()) + 1, n_items)), SEED)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
