"""Counts who took two items together: the bundles and the users that have both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...catalogue.columns import Lists
from ...sorted_arrays import among

if TYPE_CHECKING:
    from ...catalogue.catalogue import Catalogue


@dataclass(frozen=True)
class Together:
    """Bundles and users of a catalogue, by item."""

    catalogue: Catalogue

    @cached_property
    def _bundles(self) -> Lists:
        """The bundles of every item, ascending."""
        items = self.catalogue.bundles.items
        return _by_item(items.values, items.rows, len(self.catalogue))

    @cached_property
    def _users(self) -> Lists:
        """The users of every item, ascending and distinct."""
        found = self.catalogue.interactions
        return _by_item(found.item, found.user, len(self.catalogue))

    def prepare(self) -> None:
        """Sort everything now, so that the first count is as quick as the others."""
        _ = self._bundles, self._users

    def counts(self, item: int, other: int) -> tuple[int, int]:
        """How many bundles contain both items, and how many users took both."""
        return _shared(self._bundles, item, other), _shared(self._users, item, other)


def _by_item(items: np.ndarray, owners: np.ndarray, count: int) -> Lists:
    """The distinct owners (int) of each of ``count`` items, ascending."""
    if not len(items):
        return Lists.of(np.zeros(count + 1, np.int64), np.zeros(0, np.int32))
    width = np.int64(owners.max()) + 1
    keys = np.unique(items.astype(np.int64) * width + owners)
    place = keys // width
    offsets = np.searchsorted(place, np.arange(count + 1))
    return Lists.of(offsets.astype(np.int64), (keys % width).astype(np.int32))


def _shared(owners: Lists, item: int, other: int) -> int:
    """How many owners two items share; the shorter list is looked up in the longer one."""
    few, many = sorted((owners[item], owners[other]), key=len)
    return int(among(few, many).sum())
