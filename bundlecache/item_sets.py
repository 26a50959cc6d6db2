"""Hashes of sets of items: two lists of the same items in any order have the same hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .catalogue.columns import Lists


def set_hashes(lists: Lists) -> np.ndarray:
    """uint64 [B], a hash of each list as a set: the sum of its items' `item_hashes`.

    Among a hundred million sets two have the same hash with a probability of about 1 in 4,000.
    """
    total = np.concatenate([np.zeros(1, np.uint64), item_hashes(lists.values).cumsum(dtype=np.uint64)])
    hashes: np.ndarray = total[lists.offsets[1:]] - total[lists.offsets[:-1]]
    return hashes


def item_hashes(items: np.ndarray) -> np.ndarray:
    """uint64 [n], numbers without a pattern (the finaliser of splitmix64: Steele et al., OOPSLA 2014)."""
    mixed = items.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return hashes
