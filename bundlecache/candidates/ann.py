"""Approximate FAISS structures, and the search effort that each needs.

=====  ==============================================================================================
ivf    about ``2 sqrt(c)`` cells by k-means, vectors in half precision; ``nprobe`` cells are searched
hnsw   a graph of neighbours over vectors in half precision; ``efSearch`` nodes are kept as candidates
pq     the cells of ivf, one byte for every 8 numbers of a vector; more is fetched than asked, then scored exactly
disk   the cells of ivf in a file that is read where a search looks: for more vectors than memory, see `disk_index`
lance  an index of LanceDB over the store's tables, bytes as in pq, see `lance_index`; ``--engine lance`` asks for it
=====  ==============================================================================================

All return candidates that `index.Index` scores again with the exact vectors, so half precision and bytes cost
recall at most, never a wrong score. `plan` says which are tried for a size and a memory cap, `tune` raises the
effort until the recall against an exact search is reached.

With a GPU and faiss-gpu, flat, ivf and pq are built and searched there (`placed`), flat at any size that fits: it is
exact and needs no building. What does not fit, a graph, and bytes of a number that FAISS has no GPU code for stay on
the CPU, and one sentence says why. Only FAISS's own CUDA code is asked for: cuVS, where a build has it, knows no ivf in
half precision.
"""

from __future__ import annotations

import math
import re
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

    from .item_vectors import ItemVectors

KINDS = ("flat", "ivf", "hnsw", "pq", "disk")
LANCE = "lance"
REFINED = ("pq", LANCE)  # kinds that hold bytes, so that more is fetched than asked
MIN_INDEXED_ITEMS = 50_000  # items: a flat search of 10,000 bundles takes about as long as building an ivf
MAX_GRAPH_ITEMS = 200_000  # items up to which a graph is tried unasked: it builds twenty times slower than an ivf
TARGET_RECALL, RECALL_DEPTH = 0.99, 20  # recall@20
HNSW_LINKS, HNSW_CONSTRUCTION = 32, 100  # of a graph: neighbours of a node, nodes in view while it is built
KMEANS_SAMPLES_PER_LIST, KMEANS_ITERATIONS = 48, 8  # of k-means: vectors that a list is learned from, iterations
MIN_PQ_SAMPLES = 10_000  # vectors that the bytes of pq are learned from, at least
PQ_NUMBERS_PER_BYTE = 8  # numbers that one byte of pq stands for
REFINEMENTS = (32, 16, 8, 4, 2)  # times as many as asked, scored exactly afterwards
BYTE_UNITS = {"": 1e9, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
MIN_APPROXIMATE_ITEMS = 256  # items below which only an exact search makes sense
GPU_MAX_RESULTS = 2048  # results that FAISS returns on a GPU, and cells that it looks into
GPU_RESERVE_BYTES = 2 * 2**30  # bytes of a GPU: 1.5 GiB for FAISS's intermediate results, the rest for CUDA and cuBLAS
GPU_BUILD_FACTOR = 2  # times its size that a structure takes there while it moves to larger lists
GPU_PQ_BYTES = frozenset((1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96))  # of a vector in pq on a GPU
GPU_HALF_PRECISION_BYTES = 48  # of these, from where on their tables fit a GPU's shared memory in half precision alone


def faiss_module() -> ModuleType:
    """FAISS, or one sentence about how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise BundlecacheError(
            "FAISS is not installed; it comes in one of two extras that exclude each other, cpu and gpu.",
            hint='pip install "bundlecache[cpu]"',
        ) from error
    return faiss


def parse_bytes(text: str) -> int:
    """A size that a person typed; a bare number is GB.

    >>> parse_bytes("2GB"), parse_bytes("1.5 GiB"), parse_bytes("0.5")
    (2000000000, 1610612736, 500000000)

    Raises
    ------
    BundlecacheError
        When it is no size.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([a-z]*)", text.strip().lower(), re.ASCII)
    if found is None or found[2] not in BYTE_UNITS or not float(found[1]):
        raise BundlecacheError(f"{text[:100]!r} is no size of memory.", hint="--max-memory 8GB")
    return int(float(found[1]) * BYTE_UNITS[found[2]])


def bytes_needed(kind: str, count: int, width: int) -> int:
    """Memory of a structure over ``count`` vectors of ``width``, without what building it takes for a while."""
    learnt = 4 * width * _n_lists(count) if kind in ("ivf", "pq", "disk") else 0
    learnt += 4 * width * 256 if kind == "pq" else 0
    each = {
        "flat": 4 * width,
        "ivf": 2 * width + 8,
        "hnsw": 2 * width + 4 * 2 * HNSW_LINKS + 16,
        "pq": -(-width // PQ_NUMBERS_PER_BYTE) + 8,
    }.get(kind, 0)  # disk and lance: in files
    return count * each + learnt


def plan(
    kind: str, count: int, width: int, *, memory: float, room: float = 0, break_even: int = MIN_INDEXED_ITEMS
) -> list[str]:
    """The structures to try, in order; the last resort, ``flat``, is always the last one of ``auto``.

    ``memory`` are the bytes that may be taken of this machine's, ``room`` those of its GPU (`gpu_room`).

    Raises
    ------
    BundlecacheError
        For another ``kind``, or one that was named and fits into neither; ``flat`` always fits, because it can be
        scanned from disk.
    """
    if kind not in ("auto", *KINDS):
        raise BundlecacheError(f"There is no index {kind!r}; there are auto, {', '.join(KINDS)}.", hint="--index auto")

    def fits(name: str) -> bool:
        return bytes_needed(name, count, width) <= memory or not why_no_gpu(name, count, width, room)

    small = count < break_even or not why_no_gpu("flat", count, width, room)
    if kind == "flat" or count < MIN_APPROXIMATE_ITEMS or (kind == "auto" and small):
        return ["flat"]
    if kind != "auto":
        if not fits(kind):
            needed = bytes_needed(kind, count, width)
            raise BundlecacheError(
                f"The index {kind} of {count:,} items takes {needed / 1e6:,.1f} MB, and {memory / 1e6:,.1f} MB are allowed.",
                hint="--index auto takes what fits, or a larger --max-memory",
            )
        return [kind]
    tried = ["ivf", "hnsw"] if count <= MAX_GRAPH_ITEMS else ["ivf"]
    fitting = [name for name in tried if fits(name)]
    if not fitting:
        fitting = [name for name in ("pq", "disk") if fits(name)][:1]
    return [*fitting, "flat"]


def build(
    kind: str,
    vectors: ItemVectors,
    *,
    seed: int = 0,
    gpu: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """The FAISS structure of ``kind`` over ``vectors.rows``, in their order; a position is a row's number.

    On the GPU of the number ``gpu`` where one is given; FAISS raises RuntimeError when it finds no memory there.
    """
    structure = trained(kind, vectors, seed=seed, gpu=gpu)
    count, width = len(vectors.rows), structure.d
    if gpu is not None:
        structure = to_gpu(structure, gpu)
    done = 0
    for items, block in vectors.blocks():
        structure.add(widened(block, width))
        done += len(items)
        if progress is not None:
            progress(done, count)
    if gpu is not None and kind != "flat":
        structure.reclaimMemory()
    return structure


def trained(kind: str, vectors: ItemVectors, *, seed: int = 0, gpu: int | None = None) -> Any:
    """The empty structure of ``kind``, its cells and bytes learnt from a sample of ``vectors``."""
    faiss = faiss_module()
    count, width = len(vectors.rows), structure_width(kind, vectors.width)
    structure = _empty(faiss, kind, width, count, seed)
    if not structure.is_trained:
        most = min(count, max(KMEANS_SAMPLES_PER_LIST * _n_lists(count), MIN_PQ_SAMPLES))
        sample = np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
        # Learnt before it moves: a structure on a GPU knows nothing of the seed and rounds that were set here.
        helper = to_gpu(faiss.IndexFlatIP(width), gpu) if gpu is not None else None
        structure.clustering_index = helper
        structure.train(widened(np.concatenate([block for _, block in vectors.blocks(vectors.rows[sample])]), width))
        structure.clustering_index = None
    return structure


def structure_width(kind: str, width: int) -> int:
    """The width of the vectors in a structure: bytes of pq stand for `PQ_NUMBERS_PER_BYTE` numbers each."""
    return -(-width // PQ_NUMBERS_PER_BYTE) * PQ_NUMBERS_PER_BYTE if kind == "pq" else width


def search(structure: Any, kind: str, query: np.ndarray, ask: int, effort: int) -> np.ndarray:
    """int64 [q, ask] positions of near vectors, best first, -1 where fewer were met."""
    if kind == "hnsw":
        structure.hnsw.efSearch = max(effort, ask)
    else:
        structure.nprobe = effort
    return structure.search(widened(query, structure.d), ask)[1]


def efforts(kind: str, count: int, *, gpu: bool = False) -> list[int]:
    """How far a search may look, from little to everything, in steps of a fifth or so.

    >>> efforts("ivf", 100)
    [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20]
    """
    most = min(count, 4096) if kind == "hnsw" else _n_lists(count)
    if gpu:
        most = min(most, GPU_MAX_RESULTS)
    steps = sorted({2**power * quarter // 4 for power in range(13) for quarter in (4, 5, 6, 7)} | {most})
    steps = [step for step in steps if step <= most]
    return [step for step in steps if step > RECALL_DEPTH] or [most] if kind == "hnsw" else steps


def refinements(kind: str) -> tuple[int, ...]:
    """How many times as many candidates as asked may be fetched, from most to least."""
    return (*REFINEMENTS, 1) if kind in REFINED else (1,)


def tune(recall: Callable[[int, int], float], kind: str, steps: Sequence[int], target: float) -> tuple[int, int]:
    """The least effort of ``steps`` and refinement with which ``recall(effort, refine)`` reaches ``target``, or all."""
    times = refinements(kind)
    effort = next((step for step in steps if recall(step, times[0]) >= target), steps[-1])
    enough = times[0]
    for refine in times[1:]:
        if recall(effort, refine) < target:
            break
        enough = refine
    return effort, enough


def widened(vectors: np.ndarray, width: int) -> np.ndarray:
    """float32 [n, width]: zeros at the end change no inner product; pq needs a multiple of eight."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors if vectors.shape[1] == width else np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))


def exact(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], query: np.ndarray, ask: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The best ``ask`` items of every query among (items, vectors): float32 scores, int64 items, both [q, <= ask].

    The third is the seconds that this took without making the vectors.
    """
    faiss = faiss_module()
    scores, found, seconds = np.zeros((len(query), 0), np.float32), np.zeros((len(query), 0), np.int64), 0.0
    for items, vectors in blocks:
        began = time.perf_counter()
        rough, position = faiss.knn(query, vectors, min(ask, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, rough], axis=1)
        found = np.concatenate([found, items[position].astype(np.int64)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :ask]
        scores, found = np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)
        seconds += time.perf_counter() - began
    return scores, found, seconds


def gpu_of(device: str = "auto") -> int | None:
    """The number of the GPU that FAISS computes on for ``auto``, ``cuda`` or ``cuda:1``; None where it is the CPU."""
    name, _, number = device.partition(":")
    faiss = faiss_module()
    there = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    asked = int(number) if number.isdecimal() else 0
    return asked if name in ("auto", "cuda") and asked < there else None


def gpu_room(gpu: int | None, memory: float | None = None) -> float:
    """Bytes that an index may take on a GPU: what is free less `GPU_RESERVE_BYTES`, ``memory`` at most; 0 without a GPU.

    Unknown where torch cannot see that GPU, then as much as ``memory`` allows: FAISS itself says when it is too much.
    """
    if gpu is None:
        return 0.0
    try:
        import torch

        free = float(torch.cuda.mem_get_info(gpu)[0])
    except (ImportError, AssertionError, RuntimeError):
        free = math.inf
    return max(0.0, min(math.inf if memory is None else memory, free - GPU_RESERVE_BYTES))


def why_no_gpu(kind: str, count: int, width: int, room: float) -> str:
    """Why a structure cannot stand on a GPU with ``room`` bytes for it, as a clause; nothing where it can."""
    if kind == "hnsw":
        return "FAISS has no graph on a GPU"
    if kind in ("disk", LANCE):
        return "it stands in a file"
    if kind == "pq" and (_bits(count) < 8 or -(-width // PQ_NUMBERS_PER_BYTE) not in GPU_PQ_BYTES):
        return f"FAISS has no pq of {-(-width // PQ_NUMBERS_PER_BYTE)} codes of {_bits(count)} bits on a GPU"
    if (needed := GPU_BUILD_FACTOR * bytes_needed(kind, count, width)) > room:
        return f"building it takes {needed / 1e6:,.1f} MB on the GPU, where {room / 1e6:,.1f} MB are free and allowed"
    return ""


def lives_on_gpu(structure: Any) -> bool:
    """Whether a structure is in a GPU's memory."""
    faiss = faiss_module()
    return hasattr(faiss, "GpuIndex") and isinstance(structure, faiss.GpuIndex)


def to_gpu(structure: Any, gpu: int) -> Any:
    """A copy of a structure on a GPU. FAISS raises RuntimeError when it has no memory or no code for it there."""
    faiss = faiss_module()
    options = faiss.GpuClonerOptions()
    options.use_cuvs = False
    if isinstance(structure, faiss.IndexIVFPQ):
        options.useFloat16 = structure.pq.M > GPU_HALF_PRECISION_BYTES
    if isinstance(structure, faiss.IndexIVF):
        structure.nprobe = 1  # a file may hold more than a GPU takes; every search sets it
    return faiss.index_cpu_to_gpu(_gpu_resources(), gpu, structure, options)


def off_gpu(structure: Any) -> Any:
    """The structure as it can be written to a file."""
    return faiss_module().index_gpu_to_cpu(structure) if lives_on_gpu(structure) else structure


@cache
def _gpu_resources() -> Any:
    return faiss_module().StandardGpuResources()  # one for the process: structures on the GPU live on it


def _empty(faiss: ModuleType, kind: str, width: int, count: int, seed: int) -> Any:
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(width, faiss.ScalarQuantizer.QT_fp16, HNSW_LINKS, product)
        graph.hnsw.efConstruction = HNSW_CONSTRUCTION
        return graph
    cells = faiss.IndexFlatIP(width)
    if kind in ("ivf", "disk"):
        half = faiss.ScalarQuantizer.QT_fp16
        made = faiss.IndexIVFScalarQuantizer(cells, width, _n_lists(count), half, product, False)
    else:
        made = faiss.IndexIVFPQ(cells, width, _n_lists(count), width // PQ_NUMBERS_PER_BYTE, _bits(count), product)
        made.pq.cp.min_points_per_centroid = 1
    made.cp.niter, made.cp.seed, made.cp.spherical = KMEANS_ITERATIONS, seed + 1, True
    made.cp.max_points_per_centroid, made.cp.min_points_per_centroid = KMEANS_SAMPLES_PER_LIST, 1
    return made


def _n_lists(count: int) -> int:
    return max(1, int(2 * np.sqrt(count)))


def _bits(count: int) -> int:
    """Of one code of pq: a byte's 256 values must be learnt from somewhere."""
    return 8 if count >= 256 * 4 else 4
