"""nDCG@5, P@1, P@3 and MRR of similar items, question by question: among options as popular, and among the whole catalogue.

The gain of a relevant item is the number of users who clicked it after the item asked about, its discount at rank r is
log2(r + 1), and the best order of the relevant items has an nDCG of 1. P@k is the share of relevant items among the first k,
MRR one over the rank of the first relevant one. Equal scores are ordered by item index, which is that of a hash. The score
``-inf`` means that a method cannot rank an item: it is never shown, and where a method can rank nothing, all figures are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .bootstrap import intervals

if TYPE_CHECKING:
    from ..questions.similar_questions import SimilarQuestions

Scorer: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""int [b] items -> float32 [b, I], the higher the more similar; rows may be changed by the caller."""

FIGURES = ("ndcg@5", "p@1", "p@3", "mrr")
VARIANTS = ("matched", "full")
"""Among the options of a question, which are equally popular; among all items of the catalogue."""
DEPTH = 5
DISCOUNTS = 1 / np.log2(np.arange(2, DEPTH + 2))
BLOCK_SCORES = 32_000_000  # scores that are held at once


@dataclass(frozen=True)
class SimilarFigures:
    """The figures of one method: ``values`` by variant, float64 [q, 4] in the order of `FIGURES`; ``able`` bool [q].

    ``able`` says which questions the method has an answer to. ``shares`` [users, q] is what each user has of each question,
    where it is known: one user asks several questions, which makes intervals wider.
    """

    values: dict[str, np.ndarray]
    able: np.ndarray
    shares: Any = None

    def mean(self, figure: str, variant: str = VARIANTS[0]) -> float:
        """The mean of a figure over all questions."""
        return float(self.values[variant][:, FIGURES.index(figure)].mean())

    def intervals(self, variant: str = VARIANTS[0]) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of all figures."""
        found = _intervals(self.values[variant], self.shares)
        return {name: (float(low), float(high)) for name, (low, high) in zip(FIGURES, found, strict=True)}


def paired(
    one: SimilarFigures, other: SimilarFigures, figure: str = "ndcg@5", variant: str = VARIANTS[0]
) -> tuple[float, float, float]:
    """By how much ``one`` is above ``other`` on the same questions: the mean difference and its 95 % interval."""
    column = FIGURES.index(figure)
    difference = one.values[variant][:, [column]] - other.values[variant][:, [column]]  # [q, 1]
    ((low, high),) = _intervals(difference, one.shares).tolist()
    return float(difference.mean()), low, high


def _intervals(values: np.ndarray, shares: Any) -> np.ndarray:
    """The 95 % intervals [f, 2] of the means of ``values`` [q, f]: questions are drawn again, and users make them wider.

    Questions of one user are not independent. With ``shares`` [users, q] their covariance is added to the variance over questions, as
    in clustering by two ways (Cameron, Gelbach and Miller 2011): that over users less that over pairs of a user and a question.
    """
    found = intervals(values)
    if shares is None:
        return found
    mean = values.mean(axis=0)
    centred = values - mean
    alone = (centred**2).sum(axis=0)
    covariance = ((shares @ centred) ** 2).sum(axis=0) - shares.power(2).sum(axis=0) @ centred**2
    wider = np.sqrt(1 + np.divide(np.maximum(covariance, 0), alone, out=np.zeros_like(alone), where=alone > 0))
    ends = mean[:, None] + (found - mean[:, None]) * wider[:, None]
    return np.clip(ends, values.min(axis=0)[:, None], values.max(axis=0)[:, None])


def figures(
    questions: SimilarQuestions, scores: Scorer, n_items: int, progress: Callable[[int, int], None] | None = None
) -> SimilarFigures:
    """Answer all questions by ``scores``; ``progress(done, total)`` is called after each block of them."""
    count = len(questions)
    values = {variant: np.zeros((count, len(FIGURES))) for variant in VARIANTS}
    able = np.zeros(count, bool)
    rows = max(1, BLOCK_SCORES // max(n_items, 1))
    for start in range(0, count, rows):
        block = np.arange(start, min(start + rows, count))
        given = scores(questions.query[block])  # [b, I]
        given[np.arange(len(block)), questions.query[block]] = -np.inf
        for q, mine in zip(block.tolist(), given, strict=True):
            relevant = questions.relevant[q]
            low = questions.relevant.offsets[q]
            users = questions.users[low : low + len(relevant)].astype(np.float64)
            able[q] = bool(np.isfinite(mine).any())
            if able[q]:
                options = questions.options[q]
                values["matched"][q] = _of_question(mine[options], *_among(options, relevant, users))
                values["full"][q] = _of_question(mine, relevant, users)
        if progress is not None:
            progress(int(block[-1]) + 1, count)
    return SimilarFigures(values, able, questions.shares)


def _among(options: np.ndarray, relevant: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of the relevant items that are options, in ``options`` (ascending), and their users."""
    place = np.searchsorted(options, relevant)
    there = options[np.minimum(place, len(options) - 1)] == relevant
    return place[there], users[there]


def _of_question(scores: np.ndarray, relevant: np.ndarray, users: np.ndarray) -> np.ndarray:
    """float64 [4], the figures of one question: ``scores`` [n], the places of relevant items among them, and their gains."""
    first = nearest(scores, DEPTH)  # [<= 5]
    gain = np.zeros(len(first))
    for place, mine in zip(relevant.tolist(), users.tolist(), strict=True):
        gain[first == place] = mine
    ideal = np.sort(users)[::-1][:DEPTH]
    ndcg = float(gain @ DISCOUNTS[: len(gain)] / (ideal @ DISCOUNTS[: len(ideal)]))
    hits = gain > 0
    own = scores[relevant]
    top = own.max(initial=-np.inf)
    reciprocal = 0.0
    if np.isfinite(top):
        place = int(relevant[own == top].min())
        reciprocal = 1 / (1 + int((scores > top).sum()) + int((scores[:place] == top).sum()))
    return np.array([ndcg, float(hits[:1].sum()), float(hits[:3].sum() / 3), reciprocal])


def nearest(scores: np.ndarray, count: int) -> np.ndarray:
    """int64 [<= count] the places of the highest scores, best first, equal ones by place."""
    count = min(count, len(scores))
    bound = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero((scores >= bound) & (scores > -np.inf))
    return places[np.argsort(-scores[places], kind="stable")][:count]
