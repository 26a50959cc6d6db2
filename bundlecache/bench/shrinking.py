"""What smaller vectors cost: bytes an item, recall of the nearest items of the full vectors, and nDCG@5 of similar items."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..baselines.similar import by_cosine
from .similar_metrics import BLOCK_SCORES, SimilarFigures, figures, nearest, paired

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..questions.similar_questions import SimilarQuestions
    from ..store.store import Matrix

SAMPLED_ITEMS = 1_000  # whose nearest items are compared
SEED = 0


@dataclass(frozen=True)
class ShrunkRow:
    """One choice of smaller vectors. ``ndcg5`` and what it lost against the full vectors are None without questions."""

    encoder: str  # to be typed after --encoder
    dim: int
    dtype: str
    bytes_per_item: int
    recall: float  # of the k nearest items of the full vectors
    ndcg5: float | None = None
    lost: float | None = None
    lost_low: float | None = None
    lost_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Shrinking:
    """Compares smaller vectors with the full ones of a matrix."""

    def __init__(self, full: Matrix, k: int, questions: SimilarQuestions | None) -> None:
        self.full, self.k, self.questions = full, k, questions
        there = np.flatnonzero(full.mask)
        self.asked = np.sort(np.random.default_rng(SEED).permutation(there)[:SAMPLED_ITEMS])
        self.nearest = self._nearest(full)
        self.figures = self._figures(full)

    def row(self, encoder: str, shrink: Callable[[np.ndarray], np.ndarray], dtype: str) -> ShrunkRow:
        """The figures of what ``shrink`` makes of vectors [I, d], stored as ``dtype``."""
        made = shrink(np.asarray(self.full.vectors, np.float32)).astype(dtype)
        small = replace(self.full, vectors=made)
        same = [
            len(np.intersect1d(a, b)) / max(len(a), 1) for a, b in zip(self.nearest, self._nearest(small), strict=True)
        ]
        row = ShrunkRow(encoder, made.shape[1], dtype, made.shape[1] * made.dtype.itemsize, float(np.mean(same)))
        found = self._figures(small)
        if found is None or self.figures is None:
            return row
        lost, low, high = paired(self.figures, found)
        return replace(row, ndcg5=found.mean("ndcg@5"), lost=lost, lost_low=low, lost_high=high)

    def _nearest(self, matrix: Matrix) -> list[np.ndarray]:
        """The k nearest items of each sampled item."""
        scores, found = by_cosine(matrix), []
        rows = max(1, BLOCK_SCORES // len(matrix.mask))
        for start in range(0, len(self.asked), rows):
            block = self.asked[start : start + rows]
            given = scores(block)
            given[np.arange(len(block)), block] = -np.inf
            found += [nearest(each, self.k) for each in given]
        return found

    def _figures(self, matrix: Matrix) -> SimilarFigures | None:
        return None if self.questions is None else figures(self.questions, by_cosine(matrix), len(matrix.mask))
