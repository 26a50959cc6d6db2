"""Looks numbers up in sorted arrays, and groups the places of an array by their value."""

from __future__ import annotations

import numpy as np


def among(keys: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Bool [keys], whether each key is one of ``ascending``; each costs a binary search."""
    if not len(ascending):
        return np.zeros(len(keys), bool)
    places = np.searchsorted(ascending, keys)
    places[places == len(ascending)] = 0
    found: np.ndarray = ascending[places] == keys
    return found


def outside(ascending: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Bool, which members of ``ascending`` are not in ``left_out``; both are sorted, members of ``ascending`` are distinct."""
    if len(left_out) > len(ascending):
        return ~among(ascending, left_out)
    places = np.searchsorted(ascending, left_out)
    inside = places < len(ascending)
    places, left_out = places[inside], left_out[inside]
    kept = np.ones(len(ascending), bool)
    kept[places[ascending[places] == left_out]] = False
    return kept


def places_by_value(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of each number 0, 1, ... in ascending order: number k's are ``places[ends[k]:ends[k + 1]]``.

    Both int64, [n] and [largest number + 2].
    """
    ends = np.concatenate([np.zeros(1, np.int64), np.bincount(numbers).cumsum()])
    return np.argsort(numbers, kind="stable"), ends


def sorted_distinct(numbers: np.ndarray) -> np.ndarray:
    """The distinct integers of an array [n], ascending: `np.unique` by sorting.

    numpy 2 puts integers into a hash table, which for millions of them is many times slower than sorting.

    >>> sorted_distinct(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    ordered = np.sort(numbers)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]
