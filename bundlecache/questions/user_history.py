"""Users' histories for personalised rankers and prompts: items that a bundle's users interacted with elsewhere.

A bundle belongs to the users of its group. Its history holds the items of these users' interactions except those of
the group's validation and test bundles: a held-out item, or an item beside it, is never in a history. The history of
a training bundle leaves out all bundles of the group, else training would find its answers there. Where interactions
were made from the bundles themselves, histories are empty.

The options of a question are left out of its history as well: the truth never stands there, so an option that did
would be known to be wrong.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..catalogue import splits
from ..catalogue.columns import Lists, Strings
from ..errors import CatalogueError
from ..sorted_arrays import places_by_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalogue.catalogue import Catalogue
    from .question_file import Questions


@dataclass(frozen=True)
class UserHistories:
    """The ``latest`` items of each bundle's users, in the order of the interactions table (its last row is the latest)."""

    catalogue: Catalogue
    latest: int

    @cached_property
    def _histories(self) -> Lists:
        """The items of each group's interactions, each once, latest last; groups by `_numbers`."""
        interactions, size = self.catalogue.interactions, np.int64(max(len(self.catalogue), 1))
        key = self._numbers[1][interactions.user] * size + interactions.item
        latest_first = np.unique(key[::-1], return_index=True)[1]  # of each pair, its last row counted from the end
        rows = len(key) - 1 - latest_first
        group = key[rows] // size
        order = np.lexsort((rows, group))
        ends = np.concatenate([np.zeros(1, np.int64), np.bincount(group, minlength=self._numbers[2]).cumsum()])
        return Lists.of(ends, interactions.item[rows[order]].astype(np.int32))

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The number of each bundle's group and of each user's, int64; and how many groups there are."""
        bundles, users = self.catalogue.bundles.group.arrow, self.catalogue.interactions.group.arrow
        numbers, names = Strings(pa.chunked_array([bundles, users])).codes()
        return numbers[: len(bundles)], numbers[len(bundles) :], len(names)

    @cached_property
    def _bundles_of(self) -> Lists:
        """The bundles of each group."""
        order, ends = places_by_value(self._numbers[0])
        return Lists.of(ends, order)

    @cached_property
    def _trained(self) -> np.ndarray:
        """Bool [B], whether a bundle is one of training."""
        trained: np.ndarray = splits.assign(self.catalogue) == "train"
        return trained

    def of(self, questions: Questions) -> list[np.ndarray]:
        """int32 items per question, at most ``latest``, without the items of its partial bundle and its options."""
        return self.besides(questions.bundle_ids, questions.partial, questions.options)

    def besides(self, bundle_ids: list[str], partial: list[np.ndarray], options: np.ndarray) -> list[np.ndarray]:
        """The same for questions without wrong options yet: ``options`` [q, n] may hold only the truth."""
        numbers = pc.index_in(pa.array(bundle_ids, pa.large_string()), value_set=self.catalogue.bundles.ids.arrow)
        asked = zip(np.asarray(numbers).tolist(), partial, options, strict=True)
        return [self._before(b, np.concatenate([given, shown])) for b, given, shown in asked]

    def _before(self, b: int, hidden: np.ndarray) -> np.ndarray:
        """The latest items of the group of bundle number ``b``, without those of its bundles and ``hidden`` ones."""
        group = self._numbers[0][b]
        others = self._bundles_of[group]
        if not self._trained[b]:
            others = others[~self._trained[others]]
        hidden = np.concatenate([hidden, *(self.catalogue.bundles.items[other] for other in others)])
        # No more than all of the hidden ones are left out of the last ones, so earlier ones need not be looked at.
        return self._latest(self._histories[group][-(self.latest + len(hidden)) :], hidden)

    def of_user(self, user: str, hidden: Sequence[int]) -> np.ndarray:
        """int32: the ``latest`` items of a user, without those in ``hidden``.

        Raises
        ------
        CatalogueError
            When no interaction is of this user.
        """
        interactions = self.catalogue.interactions
        if user not in interactions.users:
            near = difflib.get_close_matches(user, interactions.users, 3)
            raise CatalogueError(
                f"There is no user {user!r} in interactions.parquet.",
                hint=f"did you mean {', '.join(near)}?" if near else "--user takes a user_id of that table",
            )
        items = interactions.item[interactions.user == interactions.users.index(user)]
        last = np.unique(items[::-1], return_index=True)[1]  # of each item, its last row counted from the end
        return self._latest(items[len(items) - 1 - np.sort(last)[::-1]].astype(np.int32), hidden)

    def _latest(self, history: np.ndarray, hidden: np.ndarray | Sequence[int]) -> np.ndarray:
        return history[~np.isin(history, hidden)][-self.latest :]
