"""What it takes to stand in the table of methods, and the four shapes that most simple methods have.

A ranker has a name, a kind and one method, ``scores(questions) -> [q, n]``, higher is better. Fitting is
lazy: the first ``scores`` pays for it, and the time that the bench prints is the whole price.

An item that a ranker knows nothing about **ties**: it gets the same score as every other such item, never
that of a random vector. Scores are rounded to six digits, so that equal items stay equal whatever the
order of a sum was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from .questions import Questions

Kind = Literal["chance", "collaborative", "content", "model"]
CHUNK = 512  # questions scored at once


class Ranker(Protocol):
    """Anything that can order the options of a question."""

    @property
    def name(self) -> str:
        """How tables call it."""

    @property
    def kind(self) -> Kind:
        """What it lives on: nothing, who took what, or what things look like."""

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] one score per option, higher is better."""


@dataclass(frozen=True)
class ByItem:
    """Ranks options by a value of the item alone, whatever the partial bundle is."""

    name: str
    kind: Kind
    fit: Callable[[], np.ndarray]

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] the options' values."""
        return np.asarray(self.fit(), np.float64)[questions.options]


@dataclass(frozen=True)
class ByPair:
    """Ranks options by the sum of their slots' sparse similarity to the slots of the partial bundle.

    ``fit`` gives the similarity [S, S] and every item's slot [I]; mostly each item is a slot of its own.
    """

    name: str
    kind: Kind
    fit: Callable[[], tuple[csr_array, np.ndarray]]

    @cached_property
    def _fitted(self) -> tuple[csr_array, np.ndarray]:
        return self.fit()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] summed similarities; 0 for options that never met any of the partial bundle."""
        similarity, slot = self._fitted
        out = np.zeros(questions.options.shape)
        for rows in _chunks(len(questions)):
            options = slot[questions.options[rows]]
            partial = [slot[items] for items in questions.partial[rows]]
            near = _members(partial, similarity.shape[0]) @ similarity  # [c, S]
            line = np.repeat(np.arange(len(options)), options.shape[1])
            out[rows] = np.asarray(near[line, options.ravel()]).reshape(options.shape)
        return np.round(out, 6)


@dataclass(frozen=True)
class ByFeatures:
    """Ranks options by the dot products of sparse item features [I, F], summed over the partial bundle."""

    name: str
    kind: Kind
    fit: Callable[[], csr_array]

    @cached_property
    def _fitted(self) -> csr_array:
        return self.fit()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] summed dot products; 0 for options that share no feature with the partial bundle."""
        features = self._fitted
        out = np.zeros(questions.options.shape)
        for rows in _chunks(len(questions)):
            options = questions.options[rows]
            query = _members(questions.partial[rows], features.shape[0]) @ features  # [c, F]
            line = np.repeat(np.arange(len(options)), options.shape[1])
            shared = query[line].multiply(features[options.ravel()])  # [c * n, F]
            out[rows] = np.asarray(shared.sum(axis=1)).reshape(options.shape)
        return np.round(out, 6)


@dataclass(frozen=True)
class ByVector:
    """Ranks options by their mean cosine to the items of the partial bundle.

    Options without a vector get the mean of those that have one: neither favoured nor punished.
    """

    name: str
    kind: Kind
    fit: Callable[[], tuple[np.ndarray, np.ndarray]]  # vectors [I, d], mask [I]

    @cached_property
    def _fitted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.fit()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] cosines in -1..1; all 0 where the partial bundle, or no option, has a vector."""
        vectors, mask = self._fitted
        out = np.zeros(questions.options.shape)
        for rows in _chunks(len(questions)):
            options, partial = questions.options[rows], questions.partial[rows]
            given = np.unique(np.concatenate([np.zeros(0, np.int64), *partial])).astype(np.int64)
            place = [np.searchsorted(given, items) for items in partial]
            members = _members(place, len(given)) * mask[given].astype(np.float32)  # [c, given]
            query = np.asarray(members @ _unit(vectors[given]))  # [c, d]
            query /= np.maximum(np.asarray(members.sum(axis=1)).reshape(-1, 1), 1)
            cosine = np.einsum("qd,qnd->qn", query, _unit(vectors[options])).astype(np.float64)
            known = mask[options]
            mean = (cosine * known).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
            out[rows] = np.where(known, cosine, mean)
        return np.round(out, 6)


@dataclass(frozen=True)
class CosineSum:
    """The sum of several rankers' scores, each made a z-score within its question."""

    name: str
    kind: Kind
    parts: Sequence[Ranker]

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] sums of z-scores; a part that cannot tell the options apart adds nothing."""
        total = np.zeros(questions.options.shape)
        for part in self.parts:
            score = part.scores(questions)
            spread = score.std(axis=1, keepdims=True)
            total += np.where(spread > 1e-6, (score - score.mean(1, keepdims=True)) / np.maximum(spread, 1e-6), 0.0)
        return np.round(total, 6)


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def _members(lists: list[np.ndarray], width: int) -> csr_array:
    """float32 [len(lists), width]: 1 where a row's list names the column."""
    ends = np.cumsum([0, *(len(items) for items in lists)])
    columns = np.concatenate([np.zeros(0, np.int64), *lists]).astype(np.int64)
    return csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(lists), width))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., d] as float32 of length 1; zero vectors stay zero."""
    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
