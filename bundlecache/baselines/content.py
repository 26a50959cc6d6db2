"""Content baselines: categories, words of titles and stored vectors; only category slots use training bundles."""

from __future__ import annotations

import itertools
import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array, csr_array

from ..catalogue.category_paths import path_prefixes
from .graphs import column, lightgcn, stored
from .rankers import BLOCK, AttributeRanker, CosineRanker, Ranker, SimilarityRanker, SparseFeatureRanker, ZScoreSum
from .text_features import Documents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..catalogue.columns import Strings
    from .sources import Sources

WORD = re.compile(r"\w+")
STEPS = 2_000  # the most frequent category steps, whose pairs are counted
SLOTS = 4_000  # the most frequent categories, whose pairs are counted: a table of 128 MB


def category_slots(sources: Sources) -> Iterator[Ranker]:
    """Smoothed PMI of category pairs in training bundles.

    Where categories are paths, a second ranker uses the pairs of all their steps, because rare leaf categories have few pairs.
    """
    labels = sources.catalogue.column("category")
    if "bundles" in sources.graphs and sum(map(bool, labels.codes()[1])) > 1:
        yield SimilarityRanker("category slots", "content", partial(_category_pmi, labels, sources.graphs["bundles"]))
        steps = _steps(sources)
        if steps.lengths.max(initial=0) > 1:  # else they are the slots
            yield AttributeRanker(
                "category slots, all steps", "content", partial(_step_pmi, steps, sources.graphs["bundles"])
            )


def category_overlap(sources: Sources) -> Iterator[Ranker]:
    """TF-IDF cosine of the steps of category paths (``Shoes > Boots``): rare steps count more.

    A column ``categories`` (steps of all paths, separated by ``;``) is used in addition to ``category`` where it exists.
    """
    steps = _steps(sources)
    if steps.differ():
        yield SparseFeatureRanker("category overlap", "content", partial(_tf_idf, sources, "steps", steps))


def title_words(sources: Sources) -> Iterator[Ranker]:
    """TF-IDF cosine of the titles' words: the mean over the partial bundle, and the maximum over it."""
    if any(WORD.search(title) for title in sources.catalogue.titles):
        features = partial(title_features, sources)
        yield SparseFeatureRanker("TF-IDF title", "content", features)
        yield SparseFeatureRanker("TF-IDF title, nearest", "content", features, "max")


def all_words(sources: Sources) -> Iterator[Ranker]:
    """`title_words` for the words of titles and categories together."""
    titles, *more = (sources.catalogue.titles, *(sources.catalogue.column(name) for name in ("category", "categories")))
    if titles.any() and any(column.any() for column in more):

        def features() -> csr_array:
            cells = zip(titles, *more, strict=True)
            words = (WORD.findall(" ".join(filter(None, each)).lower()) for each in cells)
            return sources.of_items("all words", lambda: Documents.of(words).tf_idf())

        yield SparseFeatureRanker("TF-IDF title + category", "content", features)
        yield SparseFeatureRanker("TF-IDF title + category, nearest", "content", features, "max")


def cosines(sources: Sources) -> Iterator[CosineRanker]:
    """Cosine of the vectors of each content modality: the mean over the partial bundle, and the maximum over it."""
    matrices = sources.of(graph=False)
    for matrix in matrices:
        alone = sum(other.modality == matrix.modality for other in matrices) == 1
        name = f"cosine {matrix.modality}" + ("" if alone else f" ({matrix.spec})")
        yield CosineRanker(name, "content", partial(stored, matrix))
        yield CosineRanker(f"{name}, nearest", "content", partial(stored, matrix), "max")


def cosine_sum(sources: Sources) -> Iterator[Ranker]:
    """The cosines of all stored vectors, graphs included, with equal weights that are not learned."""
    parts = stored_cosines(sources)
    if len(parts) > 1:
        yield ZScoreSum("cosine sum", "content", parts)


def z_sum(sources: Sources) -> Iterator[Ranker]:
    """Vectors, words and categories, with equal weights that are not learned."""
    parts = sources.rankers(cosines, title_words, category_overlap)
    if len(parts) > 1:
        yield ZScoreSum("z-sum of content", "content", parts)


def stored_cosines(sources: Sources) -> list[Ranker]:
    """One cosine per stored matrix, graphs included."""
    return [part for part in sources.rankers(cosines, lightgcn) if getattr(part, "pool", "mean") == "mean"]


def title_features(sources: Sources) -> csr_array:
    """TF-IDF rows [I, words] of the titles' words."""
    words = (WORD.findall(title.lower()) for title in sources.catalogue.titles)
    return sources.of_items("title words", lambda: Documents.of(words).tf_idf())


def _tf_idf(sources: Sources, name: str, documents: Documents) -> csr_array:
    return sources.of_items(f"tf-idf of {name}", documents.tf_idf)


def _steps(sources: Sources) -> Documents:
    """The prefixes of each item's category path, and the steps of its ``categories``."""
    paths, more = (sources.catalogue.column(name) for name in ("category", "categories"))
    codes = [column.codes() for column in (paths, more)]
    texts = [[*distinct, None] for _, distinct in codes]  # the code -1 is that of an empty cell
    known: dict[tuple[int, int], list[str]] = {}

    def steps(path: int, others: int) -> list[str]:
        if (path, others) not in known:
            listed = (step.strip() for step in (texts[1][others] or "").split(";"))
            known[path, others] = [*path_prefixes(texts[0][path] or ""), *filter(None, listed)]
        return known[path, others]

    pairs = (pair for block in _blocks(codes[0][0], codes[1][0]) for pair in block)
    return sources.of_items("steps", lambda: Documents.of(itertools.starmap(steps, pairs)))


def _blocks(*columns: np.ndarray) -> Iterator[list[tuple[int, ...]]]:
    """The rows of columns [I], as tuples, so many at once."""
    for low in range(0, len(columns[0]), BLOCK):
        yield list(zip(*(column[low : low + BLOCK].tolist() for column in columns), strict=True))


def _step_pmi(steps: Documents, graph: csr_array) -> tuple[np.ndarray, csr_array]:
    """PMI [P, P] of steps of two items of one basket, and the steps of items [I, P], where each row sums to 1 or 0.

    >>> paths = [["Home", "Mugs"], ["Home", "Pots"], ["Garden", "Seeds"], ["Garden", "Tools"], ["Home", "Jars"]]
    >>> baskets = csr_array(np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], np.float32))
    >>> pmi, parts = _step_pmi(Documents.of(paths), baskets)
    >>> worth = parts @ pmi @ parts.T  # jars are in no basket, but other items of Home are
    >>> bool(worth[4, 0] > 0 > worth[4, 2])
    True
    """
    item, step, _ = steps.cells()
    number, size = _most_frequent(steps.vocabulary, np.bincount(step, minlength=len(steps.vocabulary)), STEPS)
    item, column_of = item[number[step] < size], number[step][number[step] < size]
    parts = csr_array((np.ones(len(item), np.float32), (item, column_of)), shape=(len(steps), size))
    counts = graph @ parts  # [baskets, P]
    alone = parts.multiply(column(graph)[:, None])  # pairs of an item with itself do not count
    together = (counts.T @ counts - parts.T @ alone).toarray().astype(np.float64)
    expected = np.outer(together.sum(1), together.sum(1)) / max(together.sum(), 1)
    share = 1 / np.maximum(np.asarray(parts.sum(axis=1)), 1)
    return np.log((together + 1) / (expected + 1)), csr_array(parts.multiply(share[:, None]))


def _category_pmi(labels: Strings[str | None], graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """PMI of the categories' slots; items without a category share the last slot, which has PMI 0.

    Beyond `SLOTS` categories the rarer ones share that slot too.
    """
    code, distinct = labels.codes()
    names = list(distinct)
    named = np.array([bool(name) for name in names])
    often = np.bincount(code[code >= 0], minlength=len(names)) * named
    place, size = _most_frequent(names, often, min(SLOTS, int(named.sum())))
    kept = sorted(np.flatnonzero(place < size).tolist(), key=names.__getitem__)
    slot_of = np.full(len(names) + 1, size)  # the last one is that of items without a category, whose code is -1
    slot_of[kept] = np.arange(size)
    slot = slot_of[code]
    cells = (np.ones(len(slot), np.float32), (np.arange(len(slot)), slot))
    counts = graph @ csr_array(coo_array(cells, shape=(len(slot), size + 1)))  # [baskets, S]
    total = column(counts)
    together = (counts.T @ counts).toarray() - np.diag(total)  # pairs of an item with itself do not count
    expected = np.outer(together.sum(1), together.sum(1)) / max(together.sum(), 1)
    pmi = np.log((together + 1) / (expected + 1))
    pmi[-1, :] = pmi[:, -1] = 0
    return csr_array(pmi), slot


def _most_frequent(words: Sequence[str], count: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """[words] each word's place by how often it stands, then by itself; and how many of them are kept, at most ``most``.

    >>> place, kept = _most_frequent(["a", "b", "c"], np.array([1, 5, 5]), 2)
    >>> place.tolist(), kept
    ([2, 0, 1], 2)
    """
    place = np.empty(len(words), np.int64)
    place[sorted(range(len(words)), key=lambda code: (-count[code], words[code]))] = np.arange(len(words))
    return place, min(most, len(words))
