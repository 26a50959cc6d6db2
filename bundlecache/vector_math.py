"""Arithmetic on vectors that several packages need in exactly the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

SMALLEST_LENGTH = 1e-12  # rows shorter than this are not lengthened to 1


def unit_rows(vectors: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Rows [..., d] of length 1, computed and returned in ``dtype``; rows of zeros stay zero.

    >>> unit_rows(np.array([[3, 4], [0, 0]], np.float16)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    wide = np.asarray(vectors, dtype)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), SMALLEST_LENGTH)
