"""A baseline of preference that knows what items are like: the stars that a user gave to similar items."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ..vector_math import unit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..questions.task_file import TaskQuestions
    from ..store.store import Matrix

WIDTHS = (0.05, 0.1, 0.2, 0.4)  # of the kernel exp(cosine / width)
DAMPINGS = (0.0, 1.0, 5.0)  # ratings at the mean beside a user's own, each of the weight of an item of cosine 0
PAIRS_AT_ONCE = 65_536  # a rated item and the target, of all questions


def predictions(matrices: Mapping[str, Matrix], valid: TaskQuestions, asked: TaskQuestions) -> dict[str, np.ndarray]:
    """Method -> the predicted stars float64 [q], one for each kind of stored vectors.

    A user's ratings are weighted by exp(cosine / width) of the centred vectors of the rated and the asked item; width and
    damping are those with the least absolute error on the validation questions ``valid``.
    """
    mean = float(np.nanmean(valid.history_rating))
    made = {}
    for name, matrix in matrices.items():
        vectors = unit_rows(matrix.vectors) * matrix.mask[:, None]
        vectors = unit_rows((vectors - vectors[matrix.mask].mean(axis=0)) * matrix.mask[:, None])
        known, near = _cosines(vectors, valid), _cosines(vectors, asked)
        best = min(
            product(WIDTHS, DAMPINGS),
            key=lambda chosen: float(np.abs(_stars(valid, known, mean, *chosen) - valid.rating).mean()),
        )
        made[f"ratings of similar items ({name})"] = _stars(asked, near, mean, *best)
    return made


def _cosines(vectors: np.ndarray, asked: TaskQuestions) -> np.ndarray:
    """float32 [pairs] between each item of a history and the target of its question."""
    items, rows = asked.history.values, asked.history.rows
    parts = [
        (vectors[items[low : low + PAIRS_AT_ONCE]] * vectors[asked.target[rows[low : low + PAIRS_AT_ONCE]]]).sum(axis=1)
        for low in range(0, len(items), PAIRS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _stars(asked: TaskQuestions, cosines: np.ndarray, mean: float, width: float, damping: float) -> np.ndarray:
    """float64 [q] the weighted mean of the ratings of each history; ``mean`` where there is none."""
    rated = ~np.isnan(asked.history_rating)
    weight = np.where(rated, np.exp(cosines.astype(np.float64) / width), 0.0)
    row, count = asked.history.rows, len(asked)
    total = np.bincount(row, weights=weight * np.where(rated, asked.history_rating, 0.0), minlength=count)
    stars: np.ndarray = (total + damping * mean) / np.maximum(
        np.bincount(row, weights=weight, minlength=count) + damping, 1e-300
    )
    return np.where(stars > 0, stars, mean)
