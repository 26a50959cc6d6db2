"""How well pictures and titles of held-out pairs find each other, and whether the vectors have collapsed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bundlecache.vector_math import unit_rows

ROWS_AT_ONCE = 1024
COLLAPSED_COSINE = 0.98  # mean cosine of different items from which on vectors say nothing
LOST = 0.5  # of the zero-shot MRR; below it, and below the chance of twice as many, a training has broken the towers
Z95 = 1.96


@dataclass(frozen=True)
class Retrieval:
    """Figures over q held-out pairs: of each title among all pictures, and of each picture among all titles.

    A pair's rank counts ties against it, so that equal vectors find nothing.
    """

    pairs: int
    text_to_image_r1: float
    text_to_image_r10: float
    text_to_image_mrr: float
    image_to_text_r1: float
    image_to_text_r10: float
    image_to_text_mrr: float
    mrr: float  # mean of both directions
    image_cosine: float  # mean over different items
    text_cosine: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def collapsed(self) -> bool:
        """Whether all items have almost the same vector."""
        cosines = (self.image_cosine, self.text_cosine)
        return not all(map(math.isfinite, cosines)) or max(cosines) > COLLAPSED_COSINE


def measure(image: np.ndarray, text: np.ndarray) -> tuple[Retrieval, np.ndarray]:
    """Figures of pairs [q, d], and float64 [q] the mean reciprocal rank of each over both directions.

    >>> found, _ = measure(np.eye(4), np.eye(4))
    >>> found.text_to_image_r1, found.mrr
    (1.0, 1.0)
    >>> round(measure(np.ones((4, 2)), np.ones((4, 2)))[0].mrr, 2)
    0.25
    """
    image, text = (unit_rows(np.asarray(side, np.float64), np.float64) for side in (image, text))
    ranks = {"text_to_image": ranks_of_own(text, image), "image_to_text": ranks_of_own(image, text)}
    figures: dict[str, float] = {}
    for name, rank in ranks.items():
        figures |= {f"{name}_r1": float((rank == 1).mean()), f"{name}_r10": float((rank <= 10).mean())}
        figures[f"{name}_mrr"] = float((1 / rank).mean())
    each = (1 / ranks["text_to_image"] + 1 / ranks["image_to_text"]) / 2
    cosines = {"image_cosine": mean_cosine(image), "text_cosine": mean_cosine(text)}
    return Retrieval(pairs=len(image), mrr=float(each.mean()), **figures, **cosines), each


def ranks_of_own(query: np.ndarray, found: np.ndarray) -> np.ndarray:
    """int64 [q], the rank of row k of ``found`` for row k of ``query``, 1 the best; ties count against it."""
    ranks = np.empty(len(query), np.int64)
    for first in range(0, len(query), ROWS_AT_ONCE):
        scores = query[first : first + ROWS_AT_ONCE] @ found.T
        own = scores[np.arange(len(scores)), first + np.arange(len(scores))]
        ranks[first : first + ROWS_AT_ONCE] = (~(scores < own[:, None] - 1e-9)).sum(axis=1)
    return ranks


def mean_cosine(unit: np.ndarray) -> float:
    """The mean cosine of different rows [q, d] of length 1."""
    n = len(unit)
    if n < 2:
        return 0.0
    total = float((unit.sum(axis=0) ** 2).sum())
    return (total - float((unit**2).sum())) / (n * (n - 1))


def lost(now: Retrieval, zero_shot: Retrieval) -> bool:
    """Whether a training has broken the towers: less than half of what they found before, where they found something."""
    chance = sum(1 / rank for rank in range(1, zero_shot.pairs + 1)) / zero_shot.pairs
    return zero_shot.mrr > 2 * chance and now.mrr < LOST * zero_shot.mrr


def gain(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """The mean gain of paired figures [q], and its 95 % interval."""
    difference = after - before
    half = Z95 * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    mean = float(difference.mean())
    return mean, mean - half, mean + half
