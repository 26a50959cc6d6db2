"""Groups of users, sessions and bundles that are connected by links."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


class ConnectedGroups:
    """Connected groups of anything hashable, on scipy's disjoint sets.

    A group is named by one of its members: when ``join(a, b)`` unites two groups, the name of the group of ``b`` stays.
    Splits hash the name, so this rule must not change.
    """

    def __init__(self) -> None:
        from scipy.cluster.hierarchy import DisjointSet

        self._sets = DisjointSet()
        self._names: dict[Hashable, Hashable] = {}  # name of a group, by scipy's own root of it

    def join(self, a: Hashable, b: Hashable) -> None:
        """Put two things, and all that is connected with them, into one group."""
        self._sets.add(a)
        name = self.name(b)
        if self._sets.merge(a, b):
            self._names[self._sets[a]] = name

    def name(self, member: Hashable) -> Hashable:
        """The member that names the group of ``member``."""
        self._sets.add(member)
        root = self._sets[member]
        return self._names.get(root, root)
