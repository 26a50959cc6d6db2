"""What it takes to stand in the table of methods, and the shapes that most simple methods have.

A ranker has a name, a kind and one method, ``scores(questions) -> [q, n]``, higher is better. Fitting is
lazy: the first ``scores`` pays for it, and the time that the bench prints is the whole price.

An item that a ranker knows nothing about **ties**: it gets the same score as every other such item, never
that of a random vector. Scores are rounded to six digits, so that equal items stay equal whatever the
order of a sum was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from .questions import Questions

Kind = Literal["chance", "collaborative", "content", "model", "probe"]
Pool = Literal["mean", "max"]  # over the members of the partial bundle
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


class Answers(Protocol):
    """What a model gave: one forward pass per question."""

    @property
    def logits(self) -> np.ndarray:
        """[q, n] logits of the option letters."""

    @property
    def valid(self) -> np.ndarray:
        """[q] whether the unrestricted argmax was an option letter."""

    def probabilities(self) -> np.ndarray:
        """[q, n] softmax over the options."""


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
    """Ranks options by the dot products of sparse item features [I, F] with the items of the partial bundle.

    ``pool`` says whether their sum counts or the greatest of them.
    """

    name: str
    kind: Kind
    fit: Callable[[], csr_array]
    pool: Pool = "mean"

    @cached_property
    def _fitted(self) -> csr_array:
        return self.fit()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] dot products; 0 for options that share no feature with the partial bundle."""
        features = self._fitted
        out = np.zeros(questions.options.shape)
        for rows in _chunks(len(questions)):
            options, partial = questions.options[rows], questions.partial[rows]
            if self.pool == "max":
                out[rows] = [
                    (features[o] @ features[p].T).toarray().max(axis=1, initial=0)
                    for o, p in zip(options, partial, strict=True)
                ]
                continue
            query = _members(partial, features.shape[0]) @ features  # [c, F]
            line = np.repeat(np.arange(len(options)), options.shape[1])
            shared = query[line].multiply(features[options.ravel()])  # [c * n, F]
            out[rows] = np.asarray(shared.sum(axis=1)).reshape(options.shape)
        return np.round(out, 6)


@dataclass(frozen=True)
class ByVector:
    """Ranks options by their cosine to the items of the partial bundle: the mean of them, or the greatest.

    Options without a vector get the mean of those that have one: neither favoured nor punished.
    """

    name: str
    kind: Kind
    fit: Callable[[], tuple[np.ndarray, np.ndarray]]  # vectors [I, d], mask [I]
    pool: Pool = "mean"

    @cached_property
    def _fitted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.fit()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] cosines in -1..1; all 0 where the partial bundle, or no option, has a vector."""
        vectors, mask = self._fitted
        out = np.zeros(questions.options.shape)
        for q, (options, partial) in enumerate(zip(questions.options, questions.partial, strict=True)):
            given, known = partial[mask[partial]], mask[options]
            if not len(given) or not known.any():
                continue
            cosine = _unit(vectors[options]) @ _unit(vectors[given]).T  # [n, given]
            pooled = cosine.max(axis=1) if self.pool == "max" else cosine.mean(axis=1)
            out[q] = np.where(known, pooled, pooled[known].mean())
        return np.round(out, 6)


@dataclass(frozen=True)
class ZSum:
    """The weighted sum of several rankers' scores, each made a z-score within its question."""

    name: str
    kind: Kind
    parts: Sequence[Ranker]
    weights: Callable[[], np.ndarray] | None = None  # [p]; 1 each, if left out

    @cached_property
    def fitted(self) -> np.ndarray:
        """[p] one weight per part."""
        return np.ones(len(self.parts)) if self.weights is None else self.weights()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] sums of z-scores; a part that cannot tell the options apart adds nothing."""
        return np.round(z_scores(all_scores(self.parts, questions)) @ self.fitted, 6)


@dataclass(frozen=True)
class ByModel:
    """A trained model in the same seat: the log probabilities that it gives to the options.

    ``given`` holds its answers by the SHA-256 of the questions, so that none is answered twice.
    """

    name: str
    answer: Callable[[Questions], Answers]
    kind: Kind = "model"
    given: dict[str, Answers] = field(default_factory=dict)

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] log probabilities."""
        if questions.sha256 not in self.given:
            self.given[questions.sha256] = self.answer(questions)
        return np.log(np.maximum(self.given[questions.sha256].probabilities(), 1e-12)).astype(np.float64)


def all_scores(parts: Sequence[Ranker], questions: Questions) -> np.ndarray:
    """[q, n, p] the scores of p rankers."""
    return np.stack([part.scores(questions) for part in parts], axis=-1)


def z_scores(scores: np.ndarray) -> np.ndarray:
    """Scores [q, n, p] with mean 0 and deviation 1 within each question; 0 where all options tie."""
    spread = scores.std(axis=1, keepdims=True)
    return np.where(spread > 1e-6, (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-6), 0.0)


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, size, CHUNK))


def _members(lists: list[np.ndarray], width: int) -> csr_array:
    """float32 [len(lists), width]: 1 where a row's list names the column."""
    ends = np.cumsum([0, *(len(items) for items in lists)])
    columns = np.concatenate([np.zeros(0, np.int64), *lists]).astype(np.int64)
    return csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(lists), width))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., d] as float64 of length 1; zero vectors stay zero."""
    wide = np.asarray(vectors, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
