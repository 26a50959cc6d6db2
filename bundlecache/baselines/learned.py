"""What is learned in seconds: weights of other rankers' scores. A model that is dearer should beat these.

The weights are those of a conditional logit: the option's weighted sum of scores, softmax over the options,
the likelihood of the truth, and a ridge. Nothing here sees a test bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .content import all_words, category_overlap, category_slots, cosines, stored_cosines, title_words
from .graphs import als, co_occurrence, item_knn, popularity
from .rankers import Kind, ModelRanker, Ranker, ZScoreSum, all_scores, z_scores
from .sources import DRAWS, FOLDS, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..questions.question_file import Questions
    from .sources import Sources

RIDGES = (0.01, 0.03, 0.1, 0.3)


def injected(sources: Sources) -> Iterator[Ranker]:
    """The rankers of a higher floor that the caller passed in; see ``Sources.learners``."""
    yield from sources.rankers(*sources.learners)


PARTS: tuple[Callable[[Sources], Iterable[Ranker]], ...] = (
    popularity,
    category_slots,
    category_overlap,
    title_words,
    all_words,
    co_occurrence,
    item_knn,
    als,
    cosines,
    injected,
)


def weighted_cosine(sources: Sources) -> Iterator[Ranker]:
    """The cosines of all stored vectors, graphs included, with one weight of 0 or more each, chosen on validation."""
    parts = stored_cosines(sources)
    if len(parts) > 1 and "bundles" in sources.graphs:

        def weights() -> np.ndarray:
            return weights_on(
                sources.validation, lambda each: z_scores(all_scores(parts, each)), len(parts), ridge=0.01
            )

        yield ZScoreSum("weighted cosines", "content", parts, weights)


@dataclass(frozen=True)
class LearnedRanker:
    """A small learned ranker over the scores of others.

    Of each part it weighs the z-score within a question and the score as it stands: the first says which
    option leads, the second by how much, and where all options are much alike only the second knows it.
    """

    name: str
    kind: Kind
    sources: Sources
    keeps_folds: bool = False  # what the parts of each third were fitted to, for a caller that asks them more

    @cached_property
    def parts(self) -> list[Ranker]:
        """The rankers it stands on, p of them."""
        return self.sources.rankers(*PARTS)

    @property
    def fit_steps(self) -> int:
        """How many steps a fit tells ``sources`` of, at most: a part that answers a set of questions is a step."""
        return len(FOLDS) * DRAWS * KINDS * len(self.parts)

    @cached_property
    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights [2p], and the scale of each feature [2p].

        They are learned on questions about training bundles that the parts have not seen: each part is
        fitted on two thirds of the training groups and is asked about the last third, three times over. The ridge
        is the one under which validation questions are most likely.
        """
        names = [part.name for part in self.parts]
        seen, right = [], []
        for fold, asked in self.sources.folds:
            fitted = {part.name: part for part in fold.rankers(*PARTS)}
            known = [name for name in names if name in fitted]  # a third may lack a graph that the whole has
            at = [names.index(name) for name in known]
            for each in asked:
                features = np.zeros((*each.options.shape, 2 * len(names)))
                features[..., [*at, *(len(names) + i for i in at)]] = features_of(
                    [fitted[name] for name in known], each, self.sources.tell
                )
                seen.append(features)
            right.append(truths(asked))
            if not self.keeps_folds:
                fold.forget()  # three folds' fitted rankers at once would take three times the memory
        if not seen:
            return np.repeat([1.0, 0.0], len(names)), np.ones(2 * len(names))
        x, truth = np.concatenate(seen), np.concatenate(right)
        scale = x.std(axis=(0, 1))
        scale[scale < 1e-6] = np.inf  # it told nothing apart here, so nothing is known about its weight
        tried = [fit(x / scale, truth, ridge=ridge) for ridge in RIDGES]
        if not (asked := self.sources.validation):
            return tried[2], scale
        x, truth = np.concatenate([features_of(self.parts, each) for each in asked]) / scale, truths(asked)
        return max(tried, key=lambda weights: _likelihood(x @ weights, truth)), scale

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] weighted sums of the parts' scores, raw and as z-scores."""
        weights, scale = self.fitted
        total = np.zeros(questions.options.shape)
        for part, of_z, of_raw in zip(self.parts, *np.split(weights / scale, 2), strict=True):
            raw = part.scores(questions)  # one by one: a whole catalogue may stand in the options
            total += of_z * z_scores(raw) + of_raw * (raw - raw.mean(axis=1, keepdims=True))
        return np.round(total, 6)


def stack(sources: Sources) -> Iterator[Ranker]:
    """The learned ranker over all that is known: vectors, words, categories, who took what, the set encoder."""
    if "bundles" in sources.graphs and sources.of(graph=False):
        yield LearnedRanker("learned ranker", "content", sources)


@dataclass(frozen=True)
class Reranked:
    """A model reranks what a ranker has scored: both are added with one weight of 0 or more each.

    The weights make the questions ``asked`` most likely, so a model that knows nothing more gets none; 1 each where there
    are none.
    """

    model: Ranker
    ranker: Ranker
    asked: Callable[[], list[Questions]]
    kind: Kind = "model"
    known_weights: tuple[float, float] | None = None  # fitted before

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.model.name} + {self.ranker.name}"

    @property
    def on_top_of(self) -> str:
        """The method whose scores it reranks."""
        return self.ranker.name

    @cached_property
    def weights(self) -> np.ndarray:
        """[2] of the model's log probabilities and of the ranker's scores."""
        if self.known_weights is not None:
            return np.array(self.known_weights)
        return weights_on(self.asked(), lambda each: all_scores((self.model, self.ranker), each), 2)

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] weighted sums."""
        return np.round(all_scores((self.model, self.ranker), questions) @ self.weights, 6)


def reranked(model: Ranker, sources: Sources) -> Iterator[Reranked]:
    """The model on top of the learned ranker, where there is one."""
    for ranker in sources.rankers(stack):
        yield Reranked(model, ranker, lambda: unseen_validation(model, sources))


def unseen_validation(ranker: Ranker, sources: Sources) -> list[Questions]:
    """The validation questions of ``sources`` that a model is weighed and compared on: those that it was not trained on.

    A run may be older than the split of today. Rankers that are no models learn from the split of today.
    """
    model = ranker.model if isinstance(ranker, Reranked) else ranker
    if not isinstance(model, ModelRanker) or model.seen is None:
        return sources.validation
    kept = []
    for asked in sources.validation:
        seen = model.seen(asked, sources.catalogue)
        if not seen.all():
            kept.append(asked.take(np.flatnonzero(~seen)) if seen.any() else asked)
    return kept


def weights_on(
    asked: Sequence[Questions], features: Callable[[Questions], np.ndarray], count: int, *, ridge: float = 0.001
) -> np.ndarray:
    """Weights [count] of 0 or more of ``features(questions)`` [q, n, count] under which ``asked`` are most likely.

    1 each where nothing is asked.
    """
    if not asked:
        return np.ones(count)
    return fit(np.concatenate([features(each) for each in asked]), truths(asked), ridge=ridge, positive=True)


def fit(features: np.ndarray, truth: np.ndarray, *, ridge: float, positive: bool = False) -> np.ndarray:
    """Weights [p] that make the truth of questions with ``features`` [q, n, p] most likely; ``truth`` [q].

    Two questions whose first feature is right and whose second tells nothing:

    >>> weights = fit(np.array([[[1, 1], [-1, -1]], [[1, -1], [-1, 1]]], float), np.array([0, 0]), ridge=0.1)
    >>> bool(weights[0] > 1), bool(abs(weights[1]) < 1e-4)
    (True, True)
    """
    from scipy.optimize import minimize

    right = features[np.arange(len(truth)), truth]  # [q, p]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = features @ weights  # [q, n]
        score = score - score.max(axis=1, keepdims=True)
        p = np.exp(score)
        total = p.sum(axis=1, keepdims=True)
        value = (np.log(total[:, 0]) - score[np.arange(len(truth)), truth]).mean() + ridge / 2 * weights @ weights
        expected = np.einsum("qn,qnp->qp", p / total, features)
        return float(value), (expected - right).mean(axis=0) + ridge * weights

    start = np.full(features.shape[-1], 0.1)
    bounds = [(0.0, None)] * len(start) if positive else None
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x


def _likelihood(score: np.ndarray, truth: np.ndarray) -> float:
    score = score - score.max(axis=1, keepdims=True)
    return float((score[np.arange(len(truth)), truth] - np.log(np.exp(score).sum(axis=1))).mean())


def features_of(
    parts: list[Ranker], questions: Questions, tell: Callable[[str], None] = lambda _name: None
) -> np.ndarray:
    """[q, n, 2p] z-scores, then scores less their mean within the question."""
    raw = all_scores(parts, questions, tell)
    return np.concatenate([z_scores(raw), raw - raw.mean(axis=1, keepdims=True)], axis=-1)


def truths(asked: Sequence[Questions]) -> np.ndarray:
    """[all questions] the place of each truth."""
    return np.concatenate([each.truth for each in asked])
