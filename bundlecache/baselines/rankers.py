"""What it takes to stand in the table of methods, and the shapes that most simple methods have.

A ranker has a name, a kind and one method, ``scores(questions) -> [q, n]``, higher is better. Fitting is
lazy: the first ``scores`` pays for it; the benchmark fits before it answers, and prints both times. A ranker that stands on
others names them in ``parts`` (a sequence), ``ranker`` or ``model``, so that their fitting counts as its own too.

An item that a ranker knows nothing about **ties**: it gets the same score as every other such item, never
that of a random vector. Scores are rounded to six digits, so that equal items stay equal whatever the
order of a sum was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from ..vector_math import unit_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from ..catalogue.catalogue import Catalogue
    from ..questions.question_file import Questions

Kind = Literal["chance", "collaborative", "content", "model", "personal", "probe"]
Pool = Literal["mean", "max"]  # over the members of the partial bundle
CHUNK = 128  # questions scored at once
FEW_OPTIONS = 100  # of a question, up to which so many questions are scored at once
POOLS: dict[Pool, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max}
BLOCK = 4096  # items whose vectors are widened at once


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
class ItemScoreRanker:
    """Ranks options by a value of the item alone, whatever the partial bundle is."""

    name: str
    kind: Kind
    fit: Callable[[], np.ndarray]

    @cached_property
    def _fitted(self) -> np.ndarray:
        return np.asarray(self.fit(), np.float64)  # [I]

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] the options' values."""
        return self._fitted[questions.options]


@dataclass(frozen=True)
class SimilarityRanker:
    """Ranks options by the sum of their slots' sparse similarity to the slots of the partial bundle.

    ``fit`` gives the similarity [S, S] and every item's slot [I]; mostly each item is a slot of its own.
    """

    name: str
    kind: Kind
    fit: Callable[[], tuple[csr_array, np.ndarray]]

    @cached_property
    def _fitted(self) -> tuple[csr_array, np.ndarray]:
        return self.fit()

    def near(self, partial: Sequence[np.ndarray]) -> csr_array:
        """Sparse [c, S]: the summed similarities of every slot to each partial bundle."""
        similarity, slot = self._fitted
        return _members([slot[items] for items in partial], similarity.shape[0]) @ similarity

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] summed similarities; 0 for options that never met any of the partial bundle."""
        _, slot = self._fitted
        out = np.zeros(questions.options.shape)
        for rows in _chunks(questions, len(slot)):
            options = slot[questions.options[rows]]
            near = self.near(questions.partial[rows])  # [c, S]
            line = np.repeat(np.arange(len(options)), options.shape[1])
            out[rows] = np.asarray(near[line, options.ravel()]).reshape(options.shape)
        return np.round(out, 6)


@dataclass(frozen=True)
class AttributeRanker:
    """Ranks options by how well their parts go with those of the partial bundle: the mean over all pairs of parts.

    ``fit`` gives what each two parts are worth [P, P] and the parts of every item, sparse [I, P], each row's sum 1 or 0.
    """

    name: str
    kind: Kind
    fit: Callable[[], tuple[np.ndarray, csr_array]]

    @cached_property
    def _fitted(self) -> tuple[np.ndarray, csr_array]:
        return self.fit()

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] summed worths; 0 for options, and for partial bundles, without any part."""
        worth, parts = self._fitted
        out = np.zeros(questions.options.shape)
        for rows in _chunks(questions, parts.shape[0]):
            items, place = distinct(questions.options[rows], parts.shape[0])
            near = (_members(questions.partial[rows], parts.shape[0]) @ parts) @ worth  # [c, P]
            out[rows] = np.take_along_axis((parts[items] @ near.T).T, place, axis=1)
        return np.round(out, 6)


@dataclass(frozen=True)
class SparseFeatureRanker:
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
        for rows in _chunks(questions, features.shape[0]):
            options, partial = questions.options[rows], questions.partial[rows]
            items, place = distinct(options, features.shape[0])
            if self.pool == "max":
                out[rows] = np.take_along_axis(_greatest(features, items, partial), place, axis=1)
                continue
            query = _members(partial, features.shape[0]) @ features  # [c, F]
            out[rows] = np.take_along_axis((query @ features[items].T).toarray(), place, axis=1)
        return np.round(out, 6)


@dataclass(frozen=True)
class CosineRanker:
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
        return pooled_cosines(vectors, mask, questions, partial(POOLS[self.pool], axis=1))


@dataclass(frozen=True)
class ZScoreSum:
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
        total = np.zeros(questions.options.shape)
        for part, weight in zip(self.parts, self.fitted.tolist(), strict=True):
            total += weight * z_scores(part.scores(questions))
        return np.round(total, 6)


@dataclass(frozen=True)
class ModelRanker:
    """A trained model as a ranker: the log probabilities that it gives to the options.

    Questions that it was asked already are not asked again; answers that were given elsewhere are told by `remember`.
    With ``remembers`` off it keeps nothing: a server is asked about bundles without end. ``seen`` says of questions [q]
    about a catalogue which ones the model has seen in its training; None where that is not known.
    """

    name: str
    answer: Callable[[Questions], Answers]
    kind: Kind = "model"
    remembers: bool = True
    seen: Callable[[Questions, Catalogue], np.ndarray] | None = field(default=None, repr=False, compare=False)
    _answered: dict[tuple[str, int], Answers] = field(default_factory=dict, init=False, repr=False, compare=False)

    def remember(self, questions: Questions, answers: Answers) -> None:
        """Take over the answers to these questions."""
        self._answered[questions.sha256, len(questions)] = answers

    def answers(self, questions: Questions) -> Answers:
        """The model's answers; it is asked once."""
        if not self.remembers:
            return self.answer(questions)
        if (questions.sha256, len(questions)) not in self._answered:
            self.remember(questions, self.answer(questions))
        return self._answered[questions.sha256, len(questions)]

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] log probabilities."""
        return np.log(np.maximum(self.answers(questions).probabilities(), 1e-12)).astype(np.float64)


def all_scores(
    parts: Sequence[Ranker], questions: Questions, tell: Callable[[str], None] = lambda _name: None
) -> np.ndarray:
    """[q, n, p] the scores of p rankers; ``tell`` is told the name of each that has answered."""
    out = np.zeros((*questions.options.shape, len(parts)))
    for p, part in enumerate(parts):
        out[..., p] = part.scores(questions)
        tell(part.name)
    return out


def z_scores(scores: np.ndarray) -> np.ndarray:
    """Scores [q, n, ...] with mean 0 and deviation 1 within each question; 0 where all options tie."""
    spread = scores.std(axis=1, keepdims=True)
    return np.where(spread > 1e-6, (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-6), 0.0)


def pooled_cosines(
    vectors: np.ndarray, mask: np.ndarray, questions: Questions, pool: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """[q, n] what ``pool`` makes of each option's cosines [u, g] to the g items of the partial bundle, one number a row.

    ``vectors`` [I, d] of which ``mask`` [I] says which are known. An item that several questions show is looked at once.
    """
    out = np.zeros(questions.options.shape)
    for rows in _chunks(questions, len(vectors)):
        options, partial = questions.options[rows], questions.partial[rows]
        given = [items[mask[items]] for items in partial]
        ends = np.cumsum([0, *map(len, given)])
        every = unit_rows(vectors[np.concatenate(given)], np.float64)  # [sum g, d]
        items, place = distinct(options, len(vectors))
        near = np.zeros((len(options), len(items)))
        for low in range(0, len(items), BLOCK):
            block = slice(low, low + BLOCK)
            cosine = unit_rows(vectors[items[block]], np.float64) @ every.T  # [u, sum g]
            for q in np.flatnonzero(np.diff(ends)).tolist():
                near[q, block] = pool(cosine[:, ends[q] : ends[q + 1]])
        shown, known = np.take_along_axis(near, place, axis=1), mask[options]
        mean = np.where(known, shown, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        out[rows] = np.where(known, shown, mean[:, None])
    return np.round(out, 6)


def distinct(options: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The items [u] that ``options`` [c, n] hold, in order, and the place of each option among them [c, n].

    >>> distinct(np.array([[5, 2], [2, 9]]), 10)
    (array([2, 5, 9]), array([[1, 0],
           [0, 2]]))
    """
    if options.size < n_items // 8:  # sorting a few is faster than a look at every item of the catalogue
        items, place = np.unique(options, return_inverse=True)
        return items, place.reshape(options.shape)
    shown = np.zeros(n_items, bool)
    shown[options] = True
    return np.flatnonzero(shown), (np.cumsum(shown) - 1)[options]


def _greatest(features: csr_array, items: np.ndarray, partial: list[np.ndarray]) -> np.ndarray:
    """[c, u] the greatest dot product of each item [u] with the members of each partial bundle [c], 0 at least."""
    out = np.zeros((len(partial), len(items)))
    filled = np.flatnonzero([len(given) for given in partial])
    if not len(filled):
        return out
    starts = np.cumsum([0, *(len(partial[q]) for q in filled[:-1])])
    members = features[np.concatenate([partial[q] for q in filled])].T  # [F, members]
    for low in range(0, len(items), BLOCK):
        block = slice(low, low + BLOCK)
        near = (features[items[block]] @ members).toarray()  # [<= BLOCK, members]
        out[filled, block] = np.maximum.reduceat(near, starts, axis=1).T
    return np.maximum(out, 0)


def _chunks(questions: Questions, n_items: int) -> Iterator[slice]:
    """Questions scored at once: `CHUNK`, or fewer of many options each, of which hardly any are shared.

    All questions of a chunk look at every item that one of them shows, which is a waste where these are many and differ.
    """
    size, options = CHUNK, questions.options.shape[1]
    if FEW_OPTIONS < options < n_items // 8:
        size = max(1, CHUNK * FEW_OPTIONS // options)
    return (slice(start, start + size) for start in range(0, len(questions), size))


def _members(lists: list[np.ndarray], width: int) -> csr_array:
    """float32 [len(lists), width]: 1 where a row's list names the column."""
    from scipy.sparse import csr_array

    ends = np.cumsum([0, *(len(items) for items in lists)])
    columns = np.concatenate([np.zeros(0, np.int64), *lists]).astype(np.int64)
    return csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(lists), width))
