"""What a ranking of options is worth: HitRate@k, MRR, ValidRatio, their intervals, and paired tests.

Every figure is **strict**: an answer that is no option letter counts as a miss in the same denominator;
the valid-only figure stands beside it. Options with equal scores tie, and ``ties`` says what that is
worth, because a method that gives ten options one score has answered nothing:

- ``"average"`` the expectation when ties are broken by lot (the figures of the tables);
- ``"min"`` the tie is broken in favour of the truth: the most that could be claimed;
- ``"unique"`` the tie is broken against the truth: only an undisputed place counts.

Intervals are 95 % percentile bootstraps over questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .bootstrap import bootstrap

Ties = Literal["average", "min", "unique"]


@dataclass(frozen=True)
class Metrics:
    """The figures of one method on one set of questions; rates lie in 0..1."""

    n: int
    hit1: float
    hit3: float
    hit5: float
    mrr: float
    hit1_interval: tuple[float, float]
    valid_ratio: float
    hit1_valid_only: float

    def to_dict(self) -> dict[str, Any]:
        """The figures under the names that result files and tables use."""
        return {
            "n": self.n,
            "hit@1": self.hit1,
            "hit@3": self.hit3,
            "hit@5": self.hit5,
            "mrr": self.mrr,
            "hit@1_interval": list(self.hit1_interval),
            "valid_ratio": self.valid_ratio,
            "hit@1_valid_only": self.hit1_valid_only,
        }


def measure(
    scores: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None, *, ties: Ties = "average", seed: int = 0
) -> Metrics:
    """All figures of ``scores`` [q, n] (higher is better) against the options' index ``truth`` [q].

    ``valid`` [q] says which answers were an option letter at all; a row of scores that holds NaN is an
    invalid answer too. Four questions of two options: two right, one wrong, and one that would be right
    but is no letter. Strictly that is 2 of 4, of the valid answers it is 2 of 3:

    >>> scores = np.array([[1, 0], [3, 9], [1, 0], [5, 2]])
    >>> m = measure(scores, truth=np.array([0, 1, 1, 0]), valid=np.array([True, True, True, False]))
    >>> m.hit1, round(m.hit1_valid_only, 3), m.valid_ratio, m.mrr
    (0.5, 0.667, 0.75, 0.625)

    Raises
    ------
    ValueError
        When there is no question, or the shapes do not belong together.
    """
    scores, truth = _checked(scores, truth)
    valid = np.ones(len(truth), bool) if valid is None else np.asarray(valid, bool)
    if valid.shape != truth.shape:
        raise ValueError(f"valid has the shape {valid.shape}, truth {truth.shape}")
    valid = valid & ~np.isnan(scores).any(axis=1)  # [q]
    hit1, hit3, hit5 = (hits(scores, truth, k, ties) * valid for k in (1, 3, 5))
    return Metrics(
        n=len(truth),
        hit1=float(hit1.mean()),
        hit3=float(hit3.mean()),
        hit5=float(hit5.mean()),
        mrr=float((reciprocal_ranks(scores, truth, ties) * valid).mean()),
        hit1_interval=bootstrap(hit1, seed=seed),
        valid_ratio=float(valid.mean()),
        hit1_valid_only=float(hit1[valid].mean()) if valid.any() else 0.0,
    )


@dataclass(frozen=True)
class Places:
    """Where the truth of q questions stands: ``better`` [q] options above it, ``level`` [q] with it, itself included.

    All figures of a ranking follow from these two numbers, however many options there were.
    """

    better: np.ndarray
    level: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray) -> Places:
        """The places by ``scores`` [q, n], higher is better; ``truth`` [q] indexes the options.

        >>> Places.of(np.array([[7, 7, 9, 1]]), np.array([0]))  # one above, two level
        Places(better=array([1]), level=array([2]))
        """
        own = np.take_along_axis(scores, truth[:, None], axis=1)  # [q, 1]
        better = (scores > own).sum(axis=1)
        return cls(better, np.maximum((scores == own).sum(axis=1), 1))

    def within(self, k: int, ties: Ties = "average") -> np.ndarray:
        """[q] hits among the first k places; with one right item, this is Recall@k too.

        Third place; then a tie for places three to six, of which k = 4 holds two:

        >>> Places(np.array([2, 2]), np.array([1, 4])).within(4).tolist()
        [1.0, 0.5]
        """
        if ties == "average":
            return np.clip((k - self.better) / self.level, 0.0, 1.0)
        worst = self.better if ties == "min" else self.better + self.level - 1
        return (worst < k).astype(np.float64)

    def ndcg(self, k: int) -> np.ndarray:
        """[q] normalised discounted cumulative gain of the first k places, averaged over the places of a tie.

        With one right item the best possible gain is 1, so NDCG@k is 1 / log2(1 + place) up to place k and 0
        beyond. First, second and fourth place at k = 3; then a tie for the first two places, (1 + .631) / 2:

        >>> Places(np.array([0, 1, 3, 0]), np.array([1, 1, 1, 2])).ndcg(3).round(3).tolist()
        [1.0, 0.631, 0.0, 0.815]
        """
        gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(1 + np.arange(1, k + 1)))])  # [k + 1]
        first, last = np.minimum(self.better, k), np.minimum(self.better + self.level, k)
        return (gains[last] - gains[first]) / self.level

    def reciprocal(self, ties: Ties = "average") -> np.ndarray:
        """[q] one over the place, averaged over the places of a tie.

        >>> Places(np.array([3, 0]), np.array([1, 2])).reciprocal().round(2).tolist()  # fourth; first or second
        [0.25, 0.75]
        """
        if ties != "average":
            return 1.0 / (self.better + (1 if ties == "min" else self.level))
        last = self.better + self.level
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, last.max(initial=0) + 1))])
        return (harmonic[last] - harmonic[self.better]) / self.level


def hits(scores: np.ndarray, truth: np.ndarray, k: int = 1, ties: Ties = "average") -> np.ndarray:
    """[q] how much of a hit every question is: 1, 0, or a share of the place where options tie.

    The truth ties with one other option for the first place:

    >>> one = np.array([[7, 7, 1]]), np.array([0])
    >>> [float(hits(*one, k=1, ties=t)[0]) for t in ("average", "min", "unique")]
    [0.5, 1.0, 0.0]

    All ten options tie, so that three places hold the truth three times in ten:

    >>> float(hits(np.zeros((1, 10)), np.array([4]), k=3)[0])
    0.3

    A row with NaN is no answer, and a miss.
    """
    scores, truth = _checked(scores, truth)
    return np.where(np.isnan(scores).any(axis=1), 0.0, Places.of(scores, truth).within(k, ties))


def strict_hits(scores: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None, k: int = 1) -> np.ndarray:
    """[q] `hits` where an answer that is no option letter (not ``valid`` [q]) is a miss; ties count by their average.

    >>> strict_hits(np.array([[5, 2], [5, 2]]), np.array([0, 0]), np.array([True, False])).tolist()
    [1.0, 0.0]
    """
    right = hits(scores, truth, k)
    return right if valid is None else right * np.asarray(valid, bool)


def reciprocal_ranks(scores: np.ndarray, truth: np.ndarray, ties: Ties = "average") -> np.ndarray:
    """[q] one over the truth's place, averaged over the places it ties for.

    >>> scores = np.array([[5, 9, 1], [5, 5, 1]])
    >>> reciprocal_ranks(scores, np.array([0, 0])).tolist()  # second place; first or second
    [0.5, 0.75]
    """
    scores, truth = _checked(scores, truth)
    return np.where(np.isnan(scores).any(axis=1), 0.0, Places.of(scores, truth).reciprocal(ties))


def paired_difference(a_hits: np.ndarray, b_hits: np.ndarray, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of ``a_hits - b_hits`` [q] on the same questions, with its 95 % interval: (delta, low, high).

    Questions that both answer alike say nothing about the difference, and drop out of it by themselves:

    >>> a, b = np.repeat([1.0, 1.0, 0.0], [50, 30, 20]), np.repeat([1.0, 0.0, 0.0], [50, 30, 20])
    >>> delta, low, high = paired_difference(a, b)
    >>> round(delta, 2), round(low, 2), round(high, 2)
    (0.3, 0.21, 0.39)
    """
    a, b = np.asarray(a_hits, np.float64), np.asarray(b_hits, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired methods answer the same questions, not {a.shape} and {b.shape}")
    difference = a - b
    return (float(difference.mean()), *bootstrap(difference, seed=seed))


def mcnemar(a_hits: np.ndarray, b_hits: np.ndarray) -> float:
    """The exact two-sided p-value that two methods are right equally often on the same questions.

    Only questions that one has right (more than half a hit) and the other wrong count: were the methods
    equal, they would fall to either side like a coin. Five to nothing is 2 * (1/2)^5:

    >>> mcnemar(np.array([1, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 0, 0]))
    0.0625
    >>> mcnemar(np.array([1, 0]), np.array([0, 1]))
    1.0
    """
    from scipy.stats import binomtest  # slow to import

    a, b = np.asarray(a_hits) > 0.5, np.asarray(b_hits) > 0.5
    if a.shape != b.shape:
        raise ValueError(f"paired methods answer the same questions, not {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    flips = only_a + only_b
    return float(binomtest(only_a, flips).pvalue) if flips else 1.0


def by_position(right: np.ndarray, truth: np.ndarray, n_options: int) -> tuple[np.ndarray, np.ndarray]:
    """How often a method is right where the truth stands at each position: (rate [n], questions [n]).

    A model that loves the first letter shows here. Three truths at A, two of them found; one at B, missed;
    none at C, where the rate is not known:

    >>> rate, count = by_position(np.array([1, 1, 0, 0]), np.array([0, 0, 0, 1]), 3)
    >>> np.round(rate, 2).tolist(), count.tolist()
    ([0.67, 0.0, nan], [3, 1, 0])
    """
    count = np.bincount(truth, minlength=n_options)
    found = np.bincount(truth, weights=np.asarray(right, np.float64), minlength=n_options)
    return np.where(count > 0, found / np.maximum(count, 1), np.nan), count


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, and per bin of confidence: its mean, how often it was right, questions."""

    ece: float
    confidence: list[float]
    accuracy: list[float]
    count: list[int]


def calibration(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> Calibration:
    """Whether a method that is sure at p is right in a share p of the questions; ``probabilities`` [q, n].

    Confidence is the highest probability. Bins are of equal width, empty ones are left out. Two answers given
    at 0.9, one of them right, and two at 0.6, both right: off by 0.4 in either half of the questions:

    >>> p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    >>> made = calibration(p, np.array([0, 1, 0, 0]))
    >>> round(made.ece, 2), made.accuracy, made.count
    (0.4, [1.0, 0.5], [2, 2])
    """
    probabilities, truth = _checked(probabilities, truth)
    sure = probabilities.max(axis=1)  # [q]
    right = hits(probabilities, truth)
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    rows = [np.flatnonzero(place == b) for b in np.unique(place)]
    confidence = [round(float(sure[r].mean()), 4) for r in rows]  # a batch of one may differ in the sixth digit
    accuracy = [float(right[r].mean()) for r in rows]
    count = [len(r) for r in rows]
    gaps = np.abs(np.array(confidence) - accuracy)
    return Calibration(round(float((gaps * count).sum() / len(truth)), 4), confidence, accuracy, count)


def _checked(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"scores are [q, n] and truth is [q], not {scores.shape} and {truth.shape}")
    if not len(truth):
        raise ValueError("there is no question to score")
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"truth must index the {scores.shape[1]} options, not {truth.min()}..{truth.max()}")
    return scores, truth
