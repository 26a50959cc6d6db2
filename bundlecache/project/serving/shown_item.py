"""Items of a catalogue as plain data for other programs: what a server's answers show of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

if TYPE_CHECKING:
    from ...catalogue.catalogue import Catalogue

MEDIA = ("image", "audio")
KEPT_ITEMS = 4096
OWN_FIELDS = ("category", "price", *MEDIA)  # shown beside the attributes, not among them


@dataclass(frozen=True)
class ShownItems:
    """The items of ``catalogue`` as dictionaries that become JSON."""

    catalogue: Catalogue

    @cached_property
    def prices(self) -> np.ndarray:
        """float64 [I], NaN where an item has none."""
        return self.catalogue.numbers("price")

    def of(self, item: int) -> dict[str, Any]:
        """One item: id, title, category, price, attributes, and the addresses of its picture and sound."""
        return self._kept(item)

    @cached_property
    def _kept(self) -> Callable[[int], dict[str, Any]]:
        """`_made`, with a memory: popular items are in many answers."""
        return lru_cache(maxsize=KEPT_ITEMS)(self._made)

    def _made(self, item: int) -> dict[str, Any]:
        catalogue, price = self.catalogue, float(self.prices[item])
        cells = {name: column[item] for name, column in catalogue.columns.items()}
        item_id = catalogue.item_ids[item]
        address = f"/items/{quote(item_id, safe='')}"
        return {
            "id": item_id,
            "title": catalogue.titles[item],
            "category": cells.get("category") or None,
            "price": price if np.isfinite(price) else None,
            "attributes": {name: cell for name, cell in cells.items() if cell and name not in OWN_FIELDS},
            "image": f"{address}/image" if cells.get("image") else None,
            "sound": f"{address}/sound" if cells.get("audio") else None,
        }
