"""Vectors of a few items that are in no table, behind the stored ones: items that a request brings along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .store import Matrix


class ExtendedRows:
    """The rows of ``stored`` [I, d], and behind them those of ``new`` [n, d]; read by row numbers, nothing is copied.

    >>> ExtendedRows(np.zeros((2, 1)), np.ones((1, 1)))[np.array([2, 0])].tolist()
    [[1.0], [0.0]]
    """

    def __init__(self, stored: np.ndarray, new: np.ndarray) -> None:
        self.stored, self.new = stored, np.asarray(new, stored.dtype)
        self.dtype, self.ndim = stored.dtype, stored.ndim
        self.shape = (len(stored) + len(new), *stored.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        known = rows < len(self.stored)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        out[known] = self.stored[rows[known]]
        out[~known] = self.new[rows[~known] - len(self.stored)]
        return out


def extended(matrix: Matrix, vectors: np.ndarray, mask: np.ndarray) -> Matrix:
    """``matrix`` with the vectors [n, d] of n more items behind its own, where ``mask`` [n] says that there is one."""
    rows: Any = ExtendedRows(matrix.vectors, np.where(mask[:, None], vectors, 0))
    return replace(matrix, vectors=rows, mask=np.concatenate([matrix.mask, mask]))
