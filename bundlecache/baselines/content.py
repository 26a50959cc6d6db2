"""Content baselines: categories, words of titles and stored vectors; only category slots use training bundles."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array, csr_array

from ..catalogue.category_paths import path_prefixes
from .graphs import column, lightgcn, stored
from .rankers import AttributeRanker, CosineRanker, Ranker, SimilarityRanker, SparseFeatureRanker, ZScoreSum

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .sources import Sources

WORD = re.compile(r"\w+")
STEPS = 2000  # the most frequent category steps, whose pairs are counted


def category_slots(sources: Sources) -> Iterator[Ranker]:
    """Smoothed PMI of category pairs in training bundles.

    Where categories are paths, a second ranker uses the pairs of all their steps, because rare leaf categories have few pairs.
    """
    labels = sources.catalogue.column("category")
    if "bundles" in sources.graphs and len({label for label in labels if label}) > 1:
        yield SimilarityRanker(
            "category slots", "content", partial(_category_pmi, list(labels), sources.graphs["bundles"])
        )
        steps = _steps(sources)
        if any(len(mine) > 1 for mine in steps):  # else they are the slots
            yield AttributeRanker(
                "category slots, all steps", "content", partial(_step_pmi, steps, sources.graphs["bundles"])
            )


def category_overlap(sources: Sources) -> Iterator[Ranker]:
    """TF-IDF cosine of the steps of category paths (``Shoes > Boots``): rare steps count more.

    A column ``categories`` (steps of all paths, separated by ``;``) is used in addition to ``category`` where it exists.
    """
    steps = _steps(sources)
    if len({tuple(mine) for mine in steps if mine}) > 1:
        yield SparseFeatureRanker("category overlap", "content", partial(tf_idf, steps))


def title_words(sources: Sources) -> Iterator[Ranker]:
    """TF-IDF cosine of the titles' words: the mean over the partial bundle, and the maximum over it."""
    words = [WORD.findall(title.lower()) for title in sources.catalogue.titles]
    if any(words):
        yield SparseFeatureRanker("TF-IDF title", "content", partial(tf_idf, words))
        yield SparseFeatureRanker("TF-IDF title, nearest", "content", partial(tf_idf, words), "max")


def all_words(sources: Sources) -> Iterator[Ranker]:
    """`title_words` for the words of titles and categories together."""
    titles, *more = (sources.catalogue.titles, *(sources.catalogue.column(name) for name in ("category", "categories")))
    if any(titles) and any(cell for column in more for cell in column):
        words = [WORD.findall(" ".join(filter(None, cells)).lower()) for cells in zip(titles, *more, strict=True)]
        yield SparseFeatureRanker("TF-IDF title + category", "content", partial(tf_idf, words))
        yield SparseFeatureRanker("TF-IDF title + category, nearest", "content", partial(tf_idf, words), "max")


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


def _steps(sources: Sources) -> list[list[str]]:
    """[I] the prefixes of each item's category path, and the steps of its ``categories``."""
    paths, more = (sources.catalogue.column(name) for name in ("category", "categories"))
    return [
        [*path_prefixes(path or ""), *(step.strip() for step in (steps or "").split(";") if step.strip())]
        for path, steps in zip(paths, more, strict=True)
    ]


def tf_idf(documents: Sequence[Sequence[str]]) -> csr_array:
    """[I, words] rows of length 1: (1 + log count) * log(I / number of items with the word); empty rows stay empty."""
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


def _step_pmi(steps: list[list[str]], graph: csr_array) -> tuple[np.ndarray, csr_array]:
    """PMI [P, P] of steps of two items of one basket, and the steps of items [I, P], where each row sums to 1 or 0.

    >>> steps = [["Home", "Mugs"], ["Home", "Pots"], ["Garden", "Seeds"], ["Garden", "Tools"], ["Home", "Jars"]]
    >>> baskets = csr_array(np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], np.float32))
    >>> pmi, parts = _step_pmi(steps, baskets)
    >>> worth = parts @ pmi @ parts.T  # jars are in no basket, but other items of Home are
    >>> bool(worth[4, 0] > 0 > worth[4, 2])
    True
    """
    often = Counter(step for mine in steps for step in set(mine))
    known = {step: p for p, (step, _) in enumerate(sorted(often.items(), key=lambda pair: (-pair[1], pair[0]))[:STEPS])}
    cells = [(i, known[step]) for i, mine in enumerate(steps) for step in sorted(set(mine)) if step in known]
    rows, columns = np.array(cells, np.int64).reshape(-1, 2).T
    parts = csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(steps), len(known)))
    counts = graph @ parts  # [baskets, P]
    alone = parts.multiply(column(graph)[:, None])  # pairs of an item with itself do not count
    together = (counts.T @ counts - parts.T @ alone).toarray().astype(np.float64)
    expected = np.outer(together.sum(1), together.sum(1)) / max(together.sum(), 1)
    share = 1 / np.maximum(np.asarray(parts.sum(axis=1)), 1)
    return np.log((together + 1) / (expected + 1)), csr_array(parts.multiply(share[:, None]))


def _category_pmi(labels: list[str | None], graph: csr_array) -> tuple[csr_array, np.ndarray]:
    """PMI of the categories' slots; items without a category share the last slot, which has PMI 0."""
    slots = {label: s for s, label in enumerate(sorted({label for label in labels if label}))}
    slot = np.array([slots[label] if label else len(slots) for label in labels])
    cells = (np.ones(len(slot), np.float32), (np.arange(len(slot)), slot))
    counts = graph @ csr_array(coo_array(cells, shape=(len(slot), len(slots) + 1)))  # [baskets, S]
    total = column(counts)
    together = (counts.T @ counts).toarray() - np.diag(total)  # pairs of an item with itself do not count
    expected = np.outer(together.sum(1), together.sum(1)) / max(together.sum(), 1)
    pmi = np.log((together + 1) / (expected + 1))
    pmi[-1, :] = pmi[:, -1] = 0
    return csr_array(pmi), slot
