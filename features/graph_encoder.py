"""``lightgcn:``, ``als:``, ``bpr:``: item vectors from who-bought-what or from bundles, of the training split.

The graph is `bundlecache.catalogue.splits.training_graph` and nothing else: no edge of a validation or test bundle,
and none of a user who made one, can reach a vector. LightGCN learns graphs of more than
`lightgcn_large.SMALL_GRAPH_EDGES` edges in another way, which is part of their fingerprint.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.catalogue import cache
from bundlecache.catalogue.splits import training_graph
from bundlecache.encode.progress import Learning
from bundlecache.errors import EncoderError, MediaError
from bundlecache.factors import FACTORS, SETTINGS, item_factors

from . import lightgcn, lightgcn_large
from .devices import resolve_device
from .fingerprints import fingerprint, package_versions

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

SEED = 0
IDS_AT_ONCE = 65_536  # item ids that are hashed at once


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
    method = _method(spec.kind, options.device, len(edges))
    return GraphEncoder(spec.text, catalogue, edges, method, options.dtype)


def fingerprint_now(catalogue: Catalogue, spec: EncoderSpec) -> str:
    """The fingerprint of an encoder over the edges that training may see today; "" where there is no such edge.

    Nothing is learned. The fingerprint is kept beside a cached catalogue, for its splits and the settings of today.
    """
    settings = (
        lightgcn.Settings(),
        lightgcn_large.Settings(),
        lightgcn_large.SMALL_GRAPH_EDGES,
        SETTINGS.get(spec.kind),
    )
    cause = hashlib.sha256(repr((spec.text, catalogue.kept_splits.file_sha256, settings)).encode()).hexdigest()
    file = catalogue.cached_in / f"graph-{cause[:16]}.npy" if catalogue.cached_in else None
    if (known := cache.read_array(file)) is not None:
        return str(known)
    edges = training_graph(catalogue, spec.name)
    found = ""
    if len(edges):
        found = GraphEncoder(spec.text, catalogue, edges, _method(spec.kind, "cpu", len(edges)), "float16").fingerprint
    cache.write_array(file, np.array(found))
    return found


@dataclass(frozen=True)
class Method:
    """How a graph is learnt: ``learn(left, item, n_items, report)`` gives float32 [n_items, dim]; ``causes`` decide what.

    ``version`` is that of the fingerprint: 3 for LightGCN of large graphs, 2 for all else.
    """

    learn: Callable[[np.ndarray, np.ndarray, int, lightgcn.Report], np.ndarray]
    dim: int
    causes: dict[str, Any]
    about: str
    version: int = 2


def _method(kind: str, device: str, edges: int) -> Method:
    if kind != "lightgcn":
        causes = {**SETTINGS[kind], "seed": SEED}
        return Method(partial(_factors, method=kind), FACTORS, causes, package_versions("implicit"))
    if edges > lightgcn_large.SMALL_GRAPH_EDGES:
        large = lightgcn_large.Settings(seed=SEED)
        device = resolve_device(device)
        about = f"spectral start, propagated on {device.partition(':')[0]}"
        return Method(partial(_large, settings=large, device=device), large.dim, large.causes(edges), about, version=3)
    settings = lightgcn.Settings(seed=SEED)
    # The CPU's sums have one order, and it learns a small graph in seconds; another device is for who asks.
    device = resolve_device("cpu" if device == "auto" else device)
    learn = partial(_small, settings=settings, device=device)
    return Method(learn, settings.dim, asdict(settings), f"propagated on {device.partition(':')[0]}")


class GraphEncoder:
    """item_id -> its vector; an item without a training edge has none (``has``), and gets no invented one.
    One whose learnt vector is all zero as stored, as ALS can make of few edges, is absent too; see `bundlecache.encode.encoder.Encoder`.

    The graph is learnt at the first ``encode``, so that a run that finds everything in the store trains
    nothing: ``fingerprint`` is of the cause (edges, item ids, settings), not of the outcome.
    """

    modality = "graph"
    tokens = 0
    reading = "item id"
    batch_size = 4096

    def __init__(self, spec: str, catalogue: Catalogue, edges: np.ndarray, method: Method, dtype: str) -> None:
        self.spec, self.dtype, self.dim, self.method = spec, dtype, method.dim, method
        self.index = catalogue.index
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        self.left = np.unique(edges[:, 0], return_inverse=True)[1].reshape(-1).astype(np.int64)  # [E]
        self.item = edges[:, 1].astype(np.int64)  # [E]
        self.linked = np.zeros(len(catalogue), bool)
        self.linked[self.item] = True
        kind = spec.partition(":")[0]
        ids = [*catalogue.item_ids] if method.version == 2 else _digest_of_ids(catalogue.item_ids)
        graph = _digest(self.left), _digest(self.item)
        self.fingerprint = fingerprint(kind, method.version, method.causes, ids, *graph)
        self.preprocess = f"{self.reading}, training split only, {len(self.item)} edges, {method.about}"
        self._vectors: np.ndarray | None = None
        self._watcher: Callable[[Learning], None] = lambda _: None

    def watch(self, watcher: Callable[[Learning], None]) -> None:
        """Call ``watcher`` with how far the learning is, after each epoch."""
        self._watcher = watcher

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
            self._vectors = self.method.learn(self.left, self.item, len(self.linked), self._reports())
        return self._vectors[np.asarray(samples)]

    def _reports(self) -> lightgcn.Report:
        """Report epochs with the seconds that are left, at the rate of the epochs so far."""
        began: list[float] = [time.monotonic()]

        def report(done: int, total: int, loss: float | None, recall: float | None) -> None:
            if done == 0:  # an epoch begins now: what came before it is no part of the rate
                began[0] = time.monotonic()
            left = (time.monotonic() - began[0]) * (total - done) / done if done else None
            self._watcher(Learning(done, total, loss, recall, left))

        return report


def _small(
    left: np.ndarray,
    item: np.ndarray,
    n_items: int,
    report: lightgcn.Report,
    *,
    settings: lightgcn.Settings,
    device: str,
) -> np.ndarray:
    return lightgcn.train(left, item, n_items, settings, device, report)[1]


def _large(
    left: np.ndarray,
    item: np.ndarray,
    n_items: int,
    report: lightgcn.Report,
    *,
    settings: lightgcn_large.Settings,
    device: str,
) -> np.ndarray:
    return lightgcn_large.train(left, item, n_items, settings, device, report).item


def _factors(left: np.ndarray, item: np.ndarray, n_items: int, report: lightgcn.Report, *, method: str) -> np.ndarray:
    from scipy.sparse import csr_array

    ones = np.ones(len(left), np.float32)
    baskets = csr_array((ones, (left, item)), shape=(int(left.max()) + 1, n_items))
    return item_factors(method, baskets, SEED, lambda done, total: report(done, total, None, None))


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _digest_of_ids(item_ids: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for low in range(0, len(item_ids), IDS_AT_ONCE):
        digest.update(b"".join(f"{item_id}\0".encode() for item_id in item_ids[low : low + IDS_AT_ONCE]))
    return digest.hexdigest()
