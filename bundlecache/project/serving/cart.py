"""Carts that are asked about, and what a server answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...candidates.item_vectors import ItemVectors
    from ...store.store import Matrix
    from ...train.model.bundle_mllm import BundleMLLM
    from .confidence import Confidence
    from .new_items import NewItem


@dataclass(frozen=True)
class Cart:
    """A partial bundle as it is asked about, and what may complete it.

    ``partial`` are item indices; ``-1 - j`` stands for the j-th of the ``new`` items. ``allowed`` bool [I] are the items
    that may be offered, None for all of them.
    """

    partial: np.ndarray
    k: int = 5
    options: int | None = None
    user: str | None = None
    allowed: np.ndarray | None = None
    new: tuple[NewItem, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """The items of the catalogue alone."""
        return self.partial[self.partial >= 0]


@dataclass(frozen=True)
class Answer:
    """What completes a cart: item indices and probabilities, best first, and how they were found."""

    items: list[int]
    probabilities: list[float | None]
    margin: float | None
    confidence: Confidence | None
    method: str
    notes: list[str]


@dataclass(frozen=True)
class Seconds:
    """How long the steps of a call took."""

    encode: float = 0.0
    retrieve: float = 0.0
    rank: float = 0.0


@dataclass(frozen=True)
class View:
    """The vectors and the model that a call of `Resident.complete` sees: with its new items behind those of the catalogue."""

    matrices: Mapping[str, Matrix]
    vectors: ItemVectors
    model: BundleMLLM | None
    places: dict[int, int] = field(default_factory=dict)  # id of a new item -> its index

    def partial(self, cart: Cart) -> np.ndarray:
        """The items of a cart as indices of this view."""
        if not cart.new:
            return cart.partial
        places = [item if item >= 0 else self.places[id(cart.new[-1 - item])] for item in cart.partial.tolist()]
        return np.array(places, np.int64)
