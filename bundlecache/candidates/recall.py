"""Measures the recall of an approximate index against an exact search, and chooses its search effort.

Queries are held out of the catalogue: one half is used to choose the effort, the other half to report the recall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from . import ann
from .item_vectors import ItemVectors

HELD_OUT_QUERIES = 256  # queries the effort is chosen on, and as many again on which recall is reported
TOLERANCE = 1e-6  # two scores in single precision that differ by less are taken as equal

Search: TypeAlias = Callable[[np.ndarray, Sequence[np.ndarray], int, int], np.ndarray]
"""(queries [q, D], their members, effort, refinement) -> float32 [q, 20] scores of what an index finds, -inf where nothing."""


@dataclass(frozen=True)
class Tuned:
    """The least effort and refinement that reach a recall, and what was measured with them."""

    effort: int
    refine: int
    report: dict[str, Any]


@dataclass(frozen=True)
class RecallTrial:
    """Queries with the score of their 20th nearest item in truth."""

    query: np.ndarray  # float32 [q, D]
    members: list[np.ndarray]  # what a query was made of: it may not find itself
    worst: np.ndarray  # float32 [q] the score of the 20th in truth
    exact_seconds: float  # of one query

    @classmethod
    def draw(cls, vectors: ItemVectors, held_out: Sequence[np.ndarray], seed: int) -> RecallTrial:
        """Queries from partial bundles (item indices), or from single items where there are too few."""
        rng = np.random.default_rng([seed, 20])
        if len(held_out) >= HELD_OUT_QUERIES // 2:
            picks = rng.permutation(len(held_out))[: 2 * HELD_OUT_QUERIES]
            drawn = cls._of(vectors, [np.asarray(held_out[p]) for p in picks])
            if len(drawn.query) >= HELD_OUT_QUERIES // 2:
                return drawn
        return cls._of(vectors, list(rng.permutation(vectors.rows)[: 2 * HELD_OUT_QUERIES, None]))

    @classmethod
    def _of(cls, vectors: ItemVectors, members: list[np.ndarray]) -> RecallTrial:
        """Queries of these partial bundles; those without a vector, or with less than 20 other items, are left out."""
        query = vectors.query(members)
        ask = ann.RECALL_DEPTH + max(map(len, members))
        scores, found, seconds = ann.exact(vectors.blocks(), query, ask)
        others = [row[~np.isin(near, own)] for row, near, own in zip(scores, found, members, strict=True)]
        fit = [q for q in np.flatnonzero(query.any(1)).tolist() if len(others[q]) >= ann.RECALL_DEPTH]
        worst = np.array([others[q][ann.RECALL_DEPTH - 1] for q in fit], np.float32)
        return cls(query[fit], [members[q] for q in fit], worst, seconds / len(query))

    def tuned(self, search: Search, kind: str, efforts: Sequence[int], target: float) -> Tuned:
        """The least of ``efforts`` with which an index of ``kind`` reaches the recall ``target``, or the largest."""
        half = len(self.query) // 2
        choosing, reporting = slice(0, half), slice(half, None)

        def cautious(effort: int, refine: int) -> float:
            """Recall, less its standard error: the other half of the queries shall reach the target too."""
            each, _ = self._recall(search, effort, refine, choosing)
            return float(each.mean() - each.std() / np.sqrt(len(each)))

        least, refine = ann.tune(cautious, kind, efforts, target)
        for effort in [step for step in efforts if step >= least]:
            each, seconds = self._recall(search, effort, refine, reporting)
            if each.mean() >= target:
                break
        report = {
            "recall@20": round(float(each.mean()), 4),
            "queries": len(each),
            "reached": bool(each.mean() >= target),
            "faster": round(self.exact_seconds * len(each) / seconds, 2),
        }
        return Tuned(effort, refine, report)

    def _recall(self, search: Search, effort: int, refine: int, part: slice) -> tuple[np.ndarray, float]:
        """float64 [q] share of the 20 found that are as near as the exact 20, and the seconds of all searches."""
        began = time.perf_counter()
        scores = search(self.query[part], self.members[part], effort, refine)
        seconds = time.perf_counter() - began
        return (scores >= self.worst[part, None] - TOLERANCE).mean(1), seconds
