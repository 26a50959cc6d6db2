"""Baselines of search: BM25 over the words of items, alone and with the user's history for items that match (almost) equally well.

BM25 is a sparse matrix of weights [I, words] times the words of the query (as bm25s computes it), so scipy does it exactly,
without another dependency.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from .next_item import HistoryRanker
from .text_features import Documents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..questions.task_file import TaskQuestions
    from .next_item import Learnt, Score, Training

WORD = re.compile(r"\w+")
SATURATION, LENGTH_SHARE = 1.5, 0.75  # k1 and b of BM25
COLUMNS = ("title", "category", "brand")  # that are searched
PARTNERS = ("popularity", "recent popularity", "item-kNN", "SASRec")  # of BM25, by their names
TIE_BREAK = 1e-3  # of what history adds at most: of two items whose BM25 differs by less, it may decide too


@dataclass(frozen=True)
class Bm25:
    """Weights of the words of I documents: sparse [I, words]."""

    weights: csr_array
    number: dict[str, int]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Bm25:
        """The index of documents (Robertson and Zaragoza, 2009; idf as in Lucene, never negative).

        Of three documents of one word each, two hold "mug": idf = log(1 + 1.5 / 2.5), and the weight of a single
        occurrence in a document of mean length is idf * 2.5 / 2.5:

        >>> index = Bm25.of(["mug", "mug", "lamp"])
        >>> index.scores(["Mug?"]).round(3).tolist()
        [[0.47, 0.47, 0.0]]
        """
        documents = Documents.of(WORD.findall(text.lower()) for text in texts)
        row, word, count = documents.cells()
        length = documents.lengths / max(documents.lengths.mean(), 1e-12)  # [I], 1 on average
        holding = np.bincount(word, minlength=len(documents.vocabulary))
        idf = np.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        norm = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * length)
        weight = idf[word] * count * (SATURATION + 1) / (count + norm[row])
        shape = (len(documents), len(documents.vocabulary))
        return cls(csr_array((weight, (row, word)), shape=shape), {w: k for k, w in enumerate(documents.vocabulary)})

    def scores(self, queries: Sequence[str], rows: np.ndarray | None = None) -> np.ndarray:
        """[q, I], or [q, n] of these ``rows``; words that no document holds count nothing."""
        weights = self.weights if rows is None else self.weights[rows]
        found = [[self.number[w] for w in WORD.findall(text.lower()) if w in self.number] for text in queries]
        ends = np.cumsum([0, *map(len, found)])
        words = np.array([w for each in found for w in each], np.int64)
        asked = csr_array((np.ones(len(words)), words, ends), shape=(len(queries), self.weights.shape[1]))
        return np.round((asked @ weights.T).toarray(), 6)


def searchers(training: Training, rankers: Sequence[HistoryRanker]) -> Iterator[HistoryRanker]:
    """The ``rankers``, which ignore the query; BM25; and BM25 with each of them to order items that match equally well."""
    yield from rankers
    catalogue = training.catalogue
    fields = [name for name in COLUMNS if name == "title" or name in catalogue.columns]
    index = Bm25.of(list(catalogue.texts(fields)))
    yield HistoryRanker("BM25", dict, lambda _: lambda asked: index.scores(list(asked.query)))
    for ranker in rankers:
        yield HistoryRanker(f"BM25 + {ranker.name}", dict, partial(_then, index, ranker), partner=ranker)


def _then(index: Bm25, ranker: HistoryRanker, _nothing: Learnt) -> Score:
    def score(asked: TaskQuestions) -> np.ndarray:
        second = ranker.scores(asked)
        low, high = second.min(axis=1, keepdims=True), second.max(axis=1, keepdims=True)
        return index.scores(list(asked.query)) + TIE_BREAK * (second - low) / np.maximum(high - low, 1e-12)

    return score
