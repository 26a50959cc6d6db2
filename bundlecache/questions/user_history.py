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

from ..catalogue import splits
from ..errors import CatalogueError

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
    def _of_bundle(self) -> dict[str, np.ndarray]:
        """bundle_id -> items int32, each once, latest last."""
        bundles, interactions = self.catalogue.bundles, self.catalogue.interactions
        items_in_order: dict[str, dict[int, None]] = {group: {} for group in bundles.group}
        for user, item in zip(interactions.user.tolist(), interactions.item.tolist(), strict=True):
            group = interactions.group[user]
            if group in items_in_order:
                items_in_order[group].pop(item, None)
                items_in_order[group][item] = None
        trained = splits.assign(self.catalogue) == "train"
        histories = {}
        for rows in (np.flatnonzero(~trained), np.flatnonzero(trained)):
            for b in rows:
                for item in bundles.items[b].tolist():
                    items_in_order[bundles.group[b]].pop(item, None)
            for b in rows:
                history = items_in_order[bundles.group[b]]
                histories[bundles.ids[b]] = np.fromiter(history, np.int32, len(history))
        return histories

    def of(self, questions: Questions) -> list[np.ndarray]:
        """int32 items per question, at most ``latest``, without the items of its partial bundle and its options."""
        return self.besides(questions.bundle_ids, questions.partial, questions.options)

    def besides(self, bundle_ids: list[str], partial: list[np.ndarray], options: np.ndarray) -> list[np.ndarray]:
        """The same for questions without wrong options yet: ``options`` [q, n] may hold only the truth."""
        asked = zip(bundle_ids, partial, options, strict=True)
        return [self._latest(self._of_bundle[name], np.concatenate([given, shown])) for name, given, shown in asked]

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
        items_in_order = list(dict.fromkeys(items[::-1].tolist()))[::-1]  # in the order of the last time
        return self._latest(np.array(items_in_order, np.int32), hidden)

    def _latest(self, history: np.ndarray, hidden: np.ndarray | Sequence[int]) -> np.ndarray:
        return history[~np.isin(history, hidden)][-self.latest :]
