"""Collaborative baselines: popularity, co-occurrence, neighbours and factors of the training graphs.

All of them represent an item by the training bundles and training users that contain it; items that none of them
contains have equal scores.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from ..factors import item_factors
from .rankers import CosineRanker, ItemScoreRanker, Ranker, SimilarityRanker, SparseFeatureRanker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..store.store import Matrix
    from .sources import Sources

MAX_BASKET_ITEMS = 2_000  # of a basket, whose pairs are counted; the cost of pairs grows with the square of it
KEPT = {"als": "ALS, stored", "bpr": "BPR, stored"}


def chance(sources: Sources) -> Iterator[Ranker]:
    """Equal scores for all options: ties count by their share, so this is the expected value of guessing."""
    yield ItemScoreRanker("random", "chance", lambda: np.zeros(len(sources.catalogue)))


def popularity(sources: Sources) -> Iterator[Ranker]:
    """How often an item occurs in training bundles and training interactions (its logarithm, which gives the same order)."""
    if sources.graphs:
        yield ItemScoreRanker("popularity", "collaborative", partial(popular, sources))


def co_occurrence(sources: Sources) -> Iterator[Ranker]:
    """Co-occurrences of two items in training bundles, divided by the square root of the product of their counts."""
    if "bundles" in sources.graphs:
        yield SparseFeatureRanker(
            "co-occurrence", "collaborative", partial(_baskets_of_items, sources.graphs["bundles"])
        )


def ppmi(sources: Sources) -> Iterator[Ranker]:
    """Positive pointwise mutual information of two items in training bundles."""
    if "bundles" in sources.graphs:
        yield SimilarityRanker("PPMI", "collaborative", partial(_ppmi, sources.graphs["bundles"]))


def item_knn(sources: Sources) -> Iterator[Ranker]:
    """Nearest items by BM25-weighted baskets (`implicit`), for each training graph."""
    for word, graph in sources.graphs.items():
        yield SimilarityRanker(f"item-kNN ({word})", "collaborative", partial(nearest, graph))


def als(sources: Sources) -> Iterator[Ranker]:
    """Cosine of item factors of alternating least squares (`implicit`), for each training graph."""
    for word, graph in sources.graphs.items():
        yield CosineRanker(f"ALS ({word})", "collaborative", partial(_factors, "als", graph, sources.seed))


def bpr(sources: Sources) -> Iterator[Ranker]:
    """Cosine of item factors of Bayesian personalised ranking (`implicit`), for each training graph."""
    for word, graph in sources.graphs.items():
        yield CosineRanker(f"BPR ({word})", "collaborative", partial(_factors, "bpr", graph, sources.seed))


def lightgcn(sources: Sources) -> Iterator[Ranker]:
    """Cosine of the graph vectors in the store: of LightGCN, imported ones, or stored factors."""
    for matrix in sources.of(graph=True):
        kind, _, graph = matrix.spec.partition(":")
        name = f"{KEPT.get(kind, 'LightGCN')} ({graph or matrix.spec})"
        yield CosineRanker(name, "collaborative", partial(stored, matrix))


def popular(sources: Sources) -> np.ndarray:
    """[I] log(1 + training bundles and training users that contain an item)."""
    return np.log1p(np.sum([column(graph) for graph in sources.graphs.values()], axis=0))


def column(graph: csr_array) -> np.ndarray:
    """[I] the number of baskets that contain each item."""
    return np.asarray(graph.sum(axis=0)).ravel()  # [I]


def without_huge_baskets(graph: csr_array, most: int = MAX_BASKET_ITEMS) -> csr_array:
    """The same baskets [baskets, I], but for those of more than ``most`` items, of which so many are kept by lot.

    A single user of 100,000 items would have five billion pairs, which say little of what goes with what.

    >>> baskets = csr_array(np.array([[1, 1, 1, 1], [0, 0, 1, 1]], np.float32))
    >>> without_huge_baskets(baskets, 3).sum(axis=1).tolist()
    [3.0, 2.0]
    """
    sizes = np.diff(graph.indptr)
    if sizes.max(initial=0) <= most:
        return graph
    row = np.repeat(np.arange(len(sizes)), sizes)
    lot = np.random.default_rng(0).permutation(len(row))
    order = np.lexsort((lot, row))
    place = np.arange(len(row)) - np.repeat(graph.indptr[:-1], sizes)
    kept = np.sort(order[place < most])
    return csr_array((graph.data[kept], (row[kept], graph.indices[kept])), shape=graph.shape)


def _baskets_of_items(graph: csr_array) -> csr_array:
    """[I, baskets] whose dot products are co-occurrence counts over the root of both items' counts."""
    scale = 1 / np.sqrt(np.maximum(column(graph), 1))
    return csr_array(graph.multiply(scale[None, :]).T)


def _ppmi(graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """Positive pointwise mutual information [I, I] of items in baskets, and the items as slots.

    >>> baskets = csr_array(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], np.float32))
    >>> similarity, _ = _ppmi(baskets)
    >>> round(float(similarity[0, 1]), 3), float(similarity[0, 2])  # together in 2 of 4, expected in 1: log 2
    (0.693, 0.0)
    """
    graph = without_huge_baskets(graph)
    together = (graph.T @ graph).tocoo()
    often = column(graph)
    pmi = np.log(together.data.astype(np.float64) * graph.shape[0] / (often[together.row] * often[together.col]))
    kept = (together.row != together.col) & (pmi > 0)
    cells = (pmi[kept], (together.row[kept], together.col[kept]))
    return csr_array(cells, shape=together.shape), np.arange(graph.shape[1])


def nearest(graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """The similarity [I, I] of each item to its nearest ones by BM25-weighted baskets [baskets, I], and the items as slots."""
    from implicit.nearest_neighbours import BM25Recommender

    model = BM25Recommender(K=100, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # implicit warns about a matrix format that it chose itself
        model.fit(csr_matrix(without_huge_baskets(graph)), show_progress=False)
    return csr_array(model.similarity), np.arange(graph.shape[1])


def _factors(method: str, graph: csr_array, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Item factors [I, d], and a mask [I] of the items that occur in a basket."""
    return item_factors(method, graph, seed), column(graph) > 0


def stored(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [I, d] and mask [I] as `CosineRanker` takes them."""
    return matrix.vectors, matrix.mask
