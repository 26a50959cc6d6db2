"""The simple methods that stand beside every model, on the same questions.

Each baseline is a function in ``REGISTRY`` that looks at what is there and gives the rankers it can make,
so a new one is a function and a line, and the contract test picks it up. All of them see training
bundles and the interactions of training users only.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array, csr_array, csr_matrix

from .rankers import ByFeatures, ByItem, ByPair, ByVector, CosineSum, Ranker
from .splits import training_graph

if TYPE_CHECKING:
    from .catalogue import Catalogue
    from .store import Matrix

FACTORS = 32
WORD = re.compile(r"\w+")
# Fixed once on a synthetic catalogue, never tuned on the questions that they answer.
ALS = {"factors": FACTORS, "regularization": 1.0, "alpha": 10.0, "iterations": 15}
BPR = {"factors": FACTORS, "learning_rate": 0.05, "regularization": 0.01, "iterations": 100}


@dataclass(frozen=True)
class Sources:
    """What a baseline may look at: the catalogue, the stored vectors by any key, and a seed."""

    catalogue: Catalogue
    matrices: Mapping[str, Matrix]
    seed: int = 0

    def baskets(self, graph: str) -> csr_array:
        """float32 [baskets, I]: one row per training bundle (bundle-item) or training user (user-item)."""
        edges = training_graph(self.catalogue, graph)  # [E, 2]
        _, row = np.unique(edges[:, 0], return_inverse=True)
        shape = (int(row.max()) + 1 if len(edges) else 0, len(self.catalogue))
        return csr_array((np.ones(len(edges), np.float32), (row, edges[:, 1])), shape=shape)

    @cached_property
    def graphs(self) -> dict[str, csr_array]:
        """The training graphs that have an edge, by the word tables use for them."""
        both = {"bundles": self.baskets("bundle-item"), "users": self.baskets("user-item")}
        return {word: graph for word, graph in both.items() if graph.nnz}


def all_baselines(catalogue: Catalogue, matrices: Mapping[str, Matrix], *, seed: int = 0) -> list[Ranker]:
    """Every baseline whose inputs exist, in the order of ``REGISTRY``.

    ``matrices`` may be keyed by anything: a vector's name comes from its own modality and spec, and
    several graph or image matrices give several rankers.
    """
    sources = Sources(catalogue, matrices, seed)
    return [ranker for make in REGISTRY for ranker in make(sources)]


def chance(sources: Sources) -> Iterator[Ranker]:
    """All options tie: with ties broken by lot, that is guessing, without the noise of one guess."""
    yield ByItem("random", "chance", lambda: np.zeros(len(sources.catalogue)))


def popularity(sources: Sources) -> Iterator[Ranker]:
    """How often an item stands in training bundles and training interactions."""
    if sources.graphs:
        yield ByItem("popularity", "collaborative", partial(_popularity, sources))


def category_slots(sources: Sources) -> Iterator[Ranker]:
    """Which categories fill a bundle together: smoothed PMI of category pairs in training bundles."""
    labels = sources.catalogue.column("category")
    if "bundles" in sources.graphs and len({label for label in labels if label}) > 1:
        yield ByPair("category slots", "content", partial(_category_pmi, labels, sources.graphs["bundles"]))


def category_overlap(sources: Sources) -> Iterator[Ranker]:
    """How much of their category paths (``Shoes > Boots``) items share, rare parts counting more."""
    labels = sources.catalogue.column("category")
    if len({label for label in labels if label}) > 1:
        yield ByFeatures("category overlap", "content", partial(_tf_idf, [_path(label or "") for label in labels]))


def title_words(sources: Sources) -> Iterator[Ranker]:
    """TF-IDF cosine of the titles' words."""
    words = [WORD.findall(title.lower()) for title in sources.catalogue.titles]
    if any(words):
        yield ByFeatures("TF-IDF title", "content", partial(_tf_idf, words))


def co_occurrence(sources: Sources) -> Iterator[Ranker]:
    """How often two items stood in one training bundle, over the root of how often each stood in any."""
    if "bundles" in sources.graphs:
        yield ByFeatures("co-occurrence", "collaborative", partial(_baskets_of_items, sources.graphs["bundles"]))


def item_knn(sources: Sources) -> Iterator[Ranker]:
    """The nearest items by BM25-weighted baskets, by `implicit`, on either training graph."""
    for word, graph in sources.graphs.items():
        yield ByPair(f"item-kNN ({word})", "collaborative", partial(_nearest, graph))


def als(sources: Sources) -> Iterator[Ranker]:
    """Cosine of item factors of alternating least squares, by `implicit`, on either training graph."""
    for word, graph in sources.graphs.items():
        yield ByVector(f"ALS ({word})", "collaborative", partial(_factors, "als", graph, sources.seed))


def bpr(sources: Sources) -> Iterator[Ranker]:
    """Cosine of item factors of Bayesian personalised ranking, by `implicit`, on either training graph."""
    for word, graph in sources.graphs.items():
        yield ByVector(f"BPR ({word})", "collaborative", partial(_factors, "bpr", graph, sources.seed))


def lightgcn(sources: Sources) -> Iterator[Ranker]:
    """Cosine of the graph vectors in the store."""
    for matrix in _matrices(sources, graph=True):
        name = f"LightGCN ({matrix.spec.partition(':')[2] or matrix.spec})"
        yield ByVector(name, "collaborative", partial(_stored, matrix))


def cosines(sources: Sources) -> Iterator[Ranker]:
    """Cosine of the vectors of each content modality."""
    yield from _content(sources)


def cosine_sum(sources: Sources) -> Iterator[Ranker]:
    """The cosines of all stored vectors, graphs included, with equal weight and nothing learned."""
    parts = [*_content(sources), *lightgcn(sources)]
    if len(parts) > 1:
        yield CosineSum("cosine sum", "content", parts)


REGISTRY: list[Callable[[Sources], Iterable[Ranker]]] = [
    chance,
    popularity,
    category_slots,
    category_overlap,
    title_words,
    co_occurrence,
    item_knn,
    als,
    bpr,
    lightgcn,
    cosines,
    cosine_sum,
]


def _matrices(sources: Sources, *, graph: bool) -> list[Matrix]:
    return [m for m in sources.matrices.values() if (m.modality == "graph") is graph and m.mask.any()]


def _content(sources: Sources) -> Iterator[ByVector]:
    matrices = _matrices(sources, graph=False)
    for matrix in matrices:
        alone = sum(other.modality == matrix.modality for other in matrices) == 1
        name = f"cosine {matrix.modality}" + ("" if alone else f" ({matrix.spec})")
        yield ByVector(name, "content", partial(_stored, matrix))


def _stored(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    return matrix.vectors, matrix.mask


def _popularity(sources: Sources) -> np.ndarray:
    return np.sum([_column(graph) for graph in sources.graphs.values()], axis=0)


def _column(graph: csr_array) -> np.ndarray:
    return np.asarray(graph.sum(axis=0)).ravel()  # [I]


def _baskets_of_items(graph: csr_array) -> csr_array:
    """[I, baskets] whose dot products are co-occurrence counts over the root of both items' counts."""
    scale = 1 / np.sqrt(np.maximum(_column(graph), 1))
    return csr_array(graph.multiply(scale[None, :]).T)


def _path(category: str) -> list[str]:
    """``a > b > c`` as its prefixes: two items share as many as their paths run together.

    >>> _path("Shoes > Boots")
    ['Shoes', 'Shoes > Boots']
    """
    parts = [part.strip() for part in category.split(">") if part.strip()]
    return [" > ".join(parts[: depth + 1]) for depth in range(len(parts))]


def _tf_idf(documents: Sequence[Sequence[str]]) -> csr_array:
    """[I, words] of length 1 a row: 1 + log count, times log of items per item with the word; empty rows stay empty."""
    vocabulary: dict[str, int] = {}
    cells = [
        (row, vocabulary.setdefault(word, len(vocabulary)), 1 + np.log(count))
        for row, words in enumerate(documents)
        for word, count in Counter(words).items()
    ]
    rows, columns, values = (np.array(part) for part in zip(*cells, strict=True))
    weights = np.log(len(documents) / np.bincount(columns))
    values = values * weights[columns]
    length = np.sqrt(np.bincount(rows, values**2, minlength=len(documents)))
    values = values / np.maximum(length, 1e-12)[rows]
    return csr_array((values, (rows, columns)), shape=(len(documents), len(vocabulary)))


def _category_pmi(labels: list[str | None], graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """PMI of the categories' slots; items without a category share a last slot that says nothing."""
    slots = {label: s for s, label in enumerate(sorted({label for label in labels if label}))}
    slot = np.array([slots[label] if label else len(slots) for label in labels])
    cells = (np.ones(len(slot), np.float32), (np.arange(len(slot)), slot))
    counts = graph @ csr_array(coo_array(cells, shape=(len(slot), len(slots) + 1)))  # [baskets, S]
    total = _column(counts)
    together = (counts.T @ counts).toarray() - np.diag(total)  # an item is no company to itself
    expected = np.outer(together.sum(1), together.sum(1)) / max(together.sum(), 1)
    pmi = np.log((together + 1) / (expected + 1))
    pmi[-1, :] = pmi[:, -1] = 0
    return csr_array(pmi), slot


def _nearest(graph: csr_array) -> tuple[csr_array, np.ndarray]:
    from implicit.nearest_neighbours import BM25Recommender

    model = BM25Recommender(K=100, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about a matrix format that it chose itself
        model.fit(csr_matrix(graph), show_progress=False)
    return csr_array(model.similarity), np.arange(graph.shape[1])


def _factors(method: str, graph: csr_array, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Item factors [I, d], and a mask [I] without the items that no basket holds."""
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    from threadpoolctl import threadpool_limits

    shared: dict[str, Any] = {"num_threads": 1, "random_state": seed}
    with threadpool_limits(1, "blas"):  # around the construction too, which warns about more threads
        model = (
            AlternatingLeastSquares(**ALS, **shared)
            if method == "als"
            else BayesianPersonalizedRanking(**BPR, **shared)
        )
        model.fit(csr_matrix(graph), show_progress=False)
    factors = model.item_factors[:, :FACTORS]  # BPR appends each item's bias: that is its popularity
    return factors, _column(graph) > 0
