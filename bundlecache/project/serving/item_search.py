"""Finds items of a catalogue by words of their titles, by meaning, by category and by price; the popular ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...catalogue.category_paths import PATH_SEPARATOR

if TYPE_CHECKING:
    from ...catalogue.catalogue import Catalogue

Searched = Literal["words", "meaning", "all"]
NEAREST = 200  # items that a search by meaning finds


@dataclass(frozen=True)
class FoundItems:
    """A page of what was found: item indices, how many there are on all pages, and how they were searched."""

    items: np.ndarray
    total: int
    searched: Searched


@dataclass(frozen=True)
class ItemSearch:
    """Searches the items of ``catalogue``.

    ``nearest(text, allowed)`` gives the items nearest in meaning, best first; none where no text encoder is stored.
    """

    catalogue: Catalogue
    prices: np.ndarray
    nearest: Callable[[str, np.ndarray], np.ndarray]

    @cached_property
    def popularity(self) -> np.ndarray:
        """int64 [I], in how many bundles and interactions each item stands."""
        catalogue = self.catalogue
        counts = np.bincount(catalogue.bundles.items.values, minlength=len(catalogue))
        return counts + np.bincount(catalogue.interactions.item, minlength=len(catalogue))

    @cached_property
    def _order(self) -> np.ndarray:
        """int64 [I], all items, the popular ones first."""
        return np.argsort(-self.popularity, kind="stable")

    @cached_property
    def _titles(self) -> pa.Array:
        return pc.utf8_lower(self.catalogue.titles.arrow)

    @cached_property
    def categories(self) -> list[tuple[str, int]]:
        """Every category with its number of items, the largest first."""
        codes, names = self.catalogue.column("category").codes()
        counts = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
        found = [(name, count) for name, count in zip(names, counts, strict=True) if name]
        return sorted(found, key=lambda each: (-each[1], each[0]))

    def find(
        self,
        text: str = "",
        *,
        category: str | None = None,
        min_price: float | None = None,
        max_price: float | None = None,
        page: int = 1,
        size: int = 24,
    ) -> FoundItems:
        """One page of the items that contain all words of ``text``; where none does, of those nearest in meaning."""
        allowed = self._allowed(category, min_price, max_price)
        words, searched = text.lower().split(), "all"
        hits = allowed
        if words:
            searched = "words"
            for word in words:
                hits = hits & np.asarray(pc.fill_null(pc.match_substring(self._titles, word), False))
        order = self._order[hits[self._order]]
        if words and not len(order) and allowed.any():
            order = self.nearest(text, allowed)
            searched = "meaning" if len(order) else "words"
        return FoundItems(order[(page - 1) * size : page * size], len(order), searched)  # type: ignore[arg-type]

    def _allowed(self, category: str | None, min_price: float | None, max_price: float | None) -> np.ndarray:
        """Bool [I], the items of a category (or below it) whose price is in the range."""
        allowed = np.ones(len(self.catalogue), bool)
        if category:
            codes, names = self.catalogue.column("category").codes()
            inside = [name == category or name.startswith(category + PATH_SEPARATOR) for name in names]
            allowed &= np.array([*inside, False], bool)[codes]
        if min_price is not None:
            allowed &= self.prices >= min_price  # NaN is in no range
        if max_price is not None:
            allowed &= self.prices <= max_price
        return allowed
