"""``lightgcn:``, ``als:``, ``bpr:``: item vectors from who-bought-what or from bundles, of the training split.

The graph is `bundlecache.catalogue.splits.training_graph` and nothing else: no edge of a validation or test bundle,
and none of a user who made one, can reach a vector. LightGCN learns graphs of more than
`lightgcn_large.SMALL_GRAPH_EDGES` edges in another way, which is part of their fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache import json_text
from bundlecache.catalogue import cache
from bundlecache.catalogue.splits import training_graph
from bundlecache.encode.progress import Learning
from bundlecache.errors import EncoderError, MediaError
from bundlecache.factors import FACTORS, factor_rules, item_factors, settings_for

from . import lightgcn, lightgcn_large
from .devices import resolve_device
from .fingerprints import fingerprint, package_versions

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.catalogue.columns import Strings
    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

SEED = 0
MEASURED_PASSES = 2  # of a dry run; the first one holds what is done once


class _Measured(Exception):  # noqa: N818 - no error: it ends a learning of which enough is known
    pass


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
    method = _method(spec.kind, options.device, edges)
    encoder = GraphEncoder(spec.text, catalogue, edges, method, options.dtype)
    # Kept now, so that the first `status` after this need not read the edges.
    cache.write_array(_kept_fingerprint(catalogue, spec), np.array(encoder.fingerprint))
    return encoder


def fingerprint_now(catalogue: Catalogue, spec: EncoderSpec) -> str:
    """The fingerprint of an encoder over the edges that training may see today; "" where there is no such edge.

    Nothing is learned. The fingerprint is kept beside a cached catalogue, for its splits and the settings of today.
    """
    file = _kept_fingerprint(catalogue, spec)
    if (known := cache.read_array(file)) is not None:
        return str(known)
    edges = training_graph(catalogue, spec.name)
    found = ""
    if len(edges):
        found = GraphEncoder(spec.text, catalogue, edges, _method(spec.kind, "cpu", edges), "float16").fingerprint
    cache.write_array(file, np.array(found))
    return found


def _kept_fingerprint(catalogue: Catalogue, spec: EncoderSpec) -> Path | None:
    """The file for the fingerprint of these splits and the settings of today; None where the catalogue is not cached."""
    settings = (
        lightgcn.Settings(),
        lightgcn_large.Settings(),
        lightgcn_large.SMALL_GRAPH_EDGES,
        factor_rules(spec.kind),
    )
    cause = hashlib.sha256(repr((spec.text, catalogue.kept_splits.file_sha256, settings)).encode()).hexdigest()
    return catalogue.cached_in / f"graph-{cause[:16]}.npy" if catalogue.cached_in else None


@dataclass(frozen=True)
class Method:
    """How a graph is learnt: ``learn(left, item, n_items, report)`` gives float32 [n_items, dim]; ``causes`` decide what.

    ``passes`` over the edges are made at most, each of which costs ``cost(edges)`` in some unit. ``sample`` edges tell a dry
    run how long that takes. ``version`` is that of the fingerprint: 3 for LightGCN of large graphs, 2 for all else.
    """

    learn: Callable[[np.ndarray, np.ndarray, int, lightgcn.Report], np.ndarray]
    dim: int
    causes: dict[str, Any]
    about: str
    passes: int
    cost: Callable[[int], int] = lambda edges: edges
    sample: int = 200_000
    version: int = 2


def _method(kind: str, device: str, graph: np.ndarray) -> Method:
    edges = len(graph)
    if kind != "lightgcn":
        factors = settings_for(kind, edges, int(np.count_nonzero(np.bincount(graph[:, 0]))))
        return Method(
            partial(_factors, method=kind),
            FACTORS,
            {**factors, "seed": SEED},
            package_versions("implicit"),
            passes=factors["iterations"],
            sample=1_000_000,
        )
    if edges > lightgcn_large.SMALL_GRAPH_EDGES:
        large = lightgcn_large.Settings(seed=SEED)
        device, budget = resolve_device(device), large.budget(edges)
        return Method(
            partial(_large, settings=large, device=device),
            large.dim,
            large.causes(edges),
            f"spectral start, propagated on {device.partition(':')[0]}",
            passes=budget.epochs * len(budget.start_scales),
            cost=lambda edges: edges * large.budget(edges).steps,  # a step propagates the whole graph
            version=3,
        )
    small = lightgcn.Settings(seed=SEED)
    # The CPU's sums have one order, and it learns a small graph in seconds; another device is for who asks.
    device = resolve_device("cpu" if device == "auto" else device)
    learn, about = partial(_small, settings=small, device=device), f"propagated on {device.partition(':')[0]}"
    return Method(learn, small.dim, asdict(small), about, passes=small.epochs)


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
        ids = catalogue.item_ids if method.version == 2 else _digest_of_ids(catalogue.item_ids)
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

    def measure_learning(self) -> tuple[float, str]:
        """Seconds that the learning takes at most, as the first passes over the edges or over a sample of them tell; and how it was measured.

        The sample is the edges of some users or bundles. What comes before the passes is taken to grow with the edges.
        """
        left, item = _some(self.left, self.item, self.method.sample)
        passes, began = self.method.passes, time.perf_counter()
        at: list[float] = [began]  # when the passes so far began and ended

        def report(done: int, _total: int, _loss: float | None, _recall: float | None) -> None:
            if done == 0:
                at[:] = [time.perf_counter()]
            elif done == len(at):
                at.append(time.perf_counter())
            if done >= min(MEASURED_PASSES, passes):
                raise _Measured

        with contextlib.suppress(_Measured):
            self.method.learn(left, item, int(item.max()) + 1, report)
        done, edges = len(at) - 1, len(self.item)
        a_pass = at[-1] - at[-2]
        before = max(at[-1] - began - done * a_pass, 0.0)
        cost = self.method.cost(edges) / self.method.cost(len(item))
        seconds = before * edges / len(item) + passes * a_pass * cost
        of = f"{len(item):,} of {edges:,} edges" if len(item) < edges else f"all {edges:,} edges"
        return seconds, f"{done} of at most {passes} passes, over {of}"

    def _reports(self) -> lightgcn.Report:
        """Report epochs with the seconds that are left, at the rate of the epochs so far."""
        began: list[float] = [time.monotonic()]

        def report(done: int, total: int, loss: float | None, recall: float | None) -> None:
            if done == 0:  # an epoch begins now: what came before it is no part of the rate
                began[0] = time.monotonic()
            left = (time.monotonic() - began[0]) * (total - done) / done if done else None
            self._watcher(Learning(done, total, loss, recall, left))

        return report


def _some(left: np.ndarray, item: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges of some left nodes, ``most`` of them or a few more, with their nodes numbered anew; all where there are no more."""
    if len(left) <= most:
        return left, item
    degree = np.bincount(left)
    order = np.random.default_rng(SEED).permutation(len(degree))
    chosen = np.zeros(len(degree), bool)
    chosen[order[: int(np.searchsorted(degree[order].cumsum(), most)) + 1]] = True
    kept = chosen[left]
    sides = (np.unique(side[kept], return_inverse=True)[1].reshape(-1).astype(np.int64) for side in (left, item))
    return next(sides), next(sides)


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
    report(0, settings_for(method, len(left), int(np.count_nonzero(np.bincount(left))))["iterations"], None, None)
    return item_factors(method, baskets, SEED, lambda done, total, recall: report(done, total, None, recall))


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _digest_of_ids(item_ids: Strings[str]) -> str:
    digest = hashlib.sha256()
    for low, count in json_text.blocks(len(item_ids)):
        digest.update(json_text.content(json_text.joined(item_ids.arrow.slice(low, count), "\0")))
    return digest.hexdigest()
