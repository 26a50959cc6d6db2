"""Vectors of a bipartite graph's nodes by a truncated singular value decomposition: where LightGCN begins on large graphs.

The matrix holds ``degree(left)^-a * degree(item)^-b`` for each edge. With a = b = 1/2 it is LightGCN's normalised adjacency,
whose largest singular vectors are what endless propagation leaves over; smaller exponents give popular nodes more weight,
and which are best differs between graphs. One decomposition costs a few products with the matrix: linear in the edges.
"""

from __future__ import annotations

import warnings

import numpy as np

SPARE_DIMENSIONS = 16  # computed beside those that are kept, so that these are accurate
POWER_ITERATIONS = 3
SCALES = 2.0 ** np.arange(-6, 6.5, 0.25)  # tried as factors of all vectors
SCALE_EDGES = 20_000  # edges that the scale is chosen on


def spectral_vectors(
    left: np.ndarray, item: np.ndarray, shape: tuple[int, int], exponents: tuple[float, float], dim: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Left [n_left, d] and item [n_items, d] vectors, float32, whose dot products approximate the weighted matrix.

    Each side gets the square root of the singular values. Nodes without an edge have vectors of zeros. Computed on the
    CPU by `torch.svd_lowrank` (Halko et al. 2011); the same edges and seed give the same vectors on one machine.
    """
    import torch
    from scipy.sparse import csr_array

    degrees = [np.maximum(np.bincount(side, minlength=n), 1) for side, n in zip((left, item), shape, strict=True)]
    powers = [(degree**-power).astype(np.float32) for degree, power in zip(degrees, exponents, strict=True)]
    weight = powers[0][left] * powers[1][item]
    rows = csr_array((weight, (left.astype(np.int32), item.astype(np.int32))), shape=shape)
    rows.sort_indices()
    parts = (torch.from_numpy(part) for part in (rows.indptr, rows.indices, rows.data))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # sparse CSR has been "in beta" for years
        torch.manual_seed(seed)
        matrix = torch.sparse_csr_tensor(*parts, size=shape, check_invariants=False)
        u, s, v = torch.svd_lowrank(matrix, q=min(dim + SPARE_DIMENSIONS, *shape), niter=POWER_ITERATIONS)
    root = s[:dim].sqrt()
    return _padded(u[:, :dim] * root, dim), _padded(v[:, :dim] * root, dim)


def scaled(
    left: np.ndarray, item: np.ndarray, vectors: tuple[np.ndarray, np.ndarray], negatives: np.ndarray, part: float
) -> tuple[np.ndarray, float]:
    """The vectors of all nodes [N, d] times one factor, and their mean BPR loss.

    The factor is ``part`` of the one of least loss over some edges and their negatives, each [n]. The start fits the
    edges that it was computed from too well: at the factor of least loss there would be little left to learn from them.
    """
    u, v = vectors
    margin = ((u[left] * (v[item] - v[negatives])).sum(axis=1)).astype(np.float64)  # [n]

    def loss(factor: float) -> float:  # of vectors
        return float(np.logaddexp(0, -(factor**2) * margin).mean())

    factor = part * min(SCALES.tolist(), key=loss)
    return np.concatenate(vectors) * np.float32(factor), loss(factor)


def _padded(vectors: object, dim: int) -> np.ndarray:
    """Float32 [n, dim]; columns of zeros stand for singular vectors that a small graph does not have."""
    found = np.asarray(vectors, np.float32)
    return np.pad(found, ((0, 0), (0, dim - found.shape[1])))
