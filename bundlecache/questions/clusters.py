"""Groups items by their vectors, for hard wrong options where the items have no category.

Up to `MAX_DIRECT_ITEMS` items go through one k-means of all clusters. Its cost grows with the square of the items, so
more of them are first cut into parts, each of `PARTS` clusters of the one before, and k-means runs in each part.
"""

from __future__ import annotations

import numpy as np

from ..vector_math import unit_rows

MAX_DIRECT_ITEMS = 65_536
PART_ITEMS = 2_048  # a part of no more items is cut into clusters at once
PARTS = 64  # clusters that a larger part is cut into
SAMPLES_PER_PART = 256  # vectors that such a cluster is learned from
ITERATIONS = 15
SCORES_PER_BLOCK = 2**28  # similarities held at once: a gigabyte


def cluster(items: np.ndarray, vectors: np.ndarray, minimum: int) -> np.ndarray:
    """int64 [n], the cluster of each item by spherical k-means over its row of ``vectors`` [I, d].

    Items without a vector, and clusters of fewer than ``minimum`` items, are merged into the nearest large cluster.
    """
    if len(items) <= MAX_DIRECT_ITEMS:
        return _at_once(items, vectors, minimum)
    number = np.zeros(len(items), np.int64)
    count = 0
    for places in _parts(np.arange(len(items)), items, vectors):
        number[places] = count + _at_once(items[places], vectors, minimum)
        count = int(number[places].max()) + 1
    return number


def _parts(places: np.ndarray, items: np.ndarray, vectors: np.ndarray) -> list[np.ndarray]:
    """The places cut into parts of near items, each of about `PART_ITEMS` or fewer."""
    if len(places) <= PART_ITEMS:
        return [places]
    count = min(PARTS, -(-len(places) // PART_ITEMS))
    sample = places[:: max(1, len(places) // (SAMPLES_PER_PART * count))]
    means = _means(unit_rows(vectors[items[sample]]), count)
    step = max(1, SCORES_PER_BLOCK // (8 * max(vectors.shape[1], count)))
    home = np.concatenate(
        [
            _nearest(unit_rows(vectors[items[places[start : start + step]]]), means)
            for start in range(0, len(places), step)
        ]
    )
    found = [places[home == part] for part in range(count)]
    found = [part for part in found if len(part)]
    if len(found) == 1:  # all vectors are equal
        return found
    return [small for part in found for small in _parts(part, items, vectors)]


def _at_once(items: np.ndarray, vectors: np.ndarray, minimum: int) -> np.ndarray:
    if len(items) < 2 * minimum:
        return np.zeros(len(items), np.int64)
    unit = unit_rows(vectors[items])
    count = len(items) // (2 * minimum)
    means = _means(unit, count)
    sizes = np.bincount(_nearest(unit, means), minlength=count)
    large = np.flatnonzero(sizes >= minimum)
    if not len(large):
        return np.zeros(len(items), np.int64)
    home: np.ndarray = large[_nearest(unit, means[large])]
    return home


def _means(unit: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, d], the centres of spherical k-means."""
    from ..candidates.ann import faiss_module

    means = faiss_module().Kmeans(
        unit.shape[1],
        count,
        niter=ITERATIONS,
        seed=1,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=10**9,
    )
    means.train(np.ascontiguousarray(unit))
    centres: np.ndarray = means.centroids
    return centres


def _nearest(unit: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """int64 [items] the nearest centroid of each item, computed in blocks of at most a gigabyte."""
    step = max(1, SCORES_PER_BLOCK // len(centroids))
    parts = [(unit[start : start + step] @ centroids.T).argmax(1) for start in range(0, len(unit), step)]
    return np.concatenate(parts)
