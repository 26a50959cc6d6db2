"""Searches the whole catalogue for the items that are most similar to one item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import BundlecacheError, Command
from ..text import quoted
from .index import check_k

if TYPE_CHECKING:
    from ..catalogue.catalogue import Catalogue
    from .index import Index


def most_similar(
    catalogue: Catalogue, index: Index, item: int, k: int, *, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k items nearest to an item, itself left out: int32 [<= k] item indices, best first, and float32 their scores.

    Parameters
    ----------
    allowed
        bool [I], the items that may be returned; all if left out.

    Raises
    ------
    BundlecacheError
        When the item has no vector, ``k`` is out of range, or no other item may be returned.
    """
    check_k(k)
    own = np.array([item])
    query = index.query([own])  # [1, D]
    if not query.any():
        raise BundlecacheError(
            f"The item {quoted(catalogue.item_ids[item])} has no vector of {' or '.join(index.modalities)}.",
            hint=["name another --modality;", Command("status", "--errors"), "lists items that failed"],
        )
    items, scores = index.search(query, min(k, len(catalogue)), [own], allowed)
    found = items[0] >= 0
    if not found.any():
        fits = "" if allowed is None else " that fulfils --where"
        raise BundlecacheError(
            f"No other item{fits} has a vector of {' or '.join(index.modalities)}.",
            hint=Command("status") if allowed is None else "give a wider --where",
        )
    return items[0][found], scores[0][found]
