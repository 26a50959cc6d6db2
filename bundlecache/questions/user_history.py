"""Personalised fill-in-the-blank: what the user of a bundle took elsewhere joins the query, or the prompt.

A bundle belongs to the users of its group, and its history is what these users' interactions hold besides
the group's validation and test bundles: an item that was held out, or stands next to one, is never in it. That of a
training bundle is made alike, without any of the group's bundles, or training would find its answers there. In data
where interactions were made from the bundles themselves, nothing is left, and there is nothing personal to know.

Options of the question are taken out of its history too: the truth never stands there, so that an option that
does would be known to be wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..baselines.learned import weights_on
from ..baselines.rankers import Kind, Ranker, z_scores
from ..catalogue import splits
from ..errors import CatalogueError

if TYPE_CHECKING:
    from ..catalogue.model import Catalogue
    from .file import Questions


@dataclass(frozen=True)
class Histories:
    """The ``latest`` items of each bundle's users, in the order of the interactions table, whose end is the latest."""

    catalogue: Catalogue
    latest: int

    @cached_property
    def _of_bundle(self) -> dict[str, np.ndarray]:
        """bundle_id -> items int32, each once, latest last."""
        bundles, interactions = self.catalogue.bundles, self.catalogue.interactions
        taken: dict[str, dict[int, None]] = {group: {} for group in bundles.group}
        for user, item in zip(interactions.user.tolist(), interactions.item.tolist(), strict=True):
            group = interactions.group[user]
            if group in taken:
                taken[group].pop(item, None)
                taken[group][item] = None
        trained = splits.assign(self.catalogue) == "train"
        histories = {}
        for rows in (np.flatnonzero(~trained), np.flatnonzero(trained)):
            for b in rows:
                for item in bundles.items[b].tolist():
                    taken[bundles.group[b]].pop(item, None)
            for b in rows:
                history = taken[bundles.group[b]]
                histories[bundles.ids[b]] = np.fromiter(history, np.int32, len(history))
        return histories

    def of(self, questions: Questions) -> list[np.ndarray]:
        """int32 items per question, ``latest`` at most; none of its partial bundle and none of its options."""
        return self.besides(questions.bundle_ids, questions.partial, questions.options)

    def besides(self, bundle_ids: list[str], partial: list[np.ndarray], options: np.ndarray) -> list[np.ndarray]:
        """The same for questions that are not whole yet: ``options`` [q, n] may be the truth alone."""
        asked = zip(bundle_ids, partial, options, strict=True)
        return [self._latest(self._of_bundle[name], np.concatenate([given, shown])) for name, given, shown in asked]

    def of_user(self, user: str, hidden: Sequence[int]) -> np.ndarray:
        """int32: the ``latest`` items of a user, none of them ``hidden``.

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
        taken = list(dict.fromkeys(items[::-1].tolist()))[::-1]  # in the order of the last time
        return self._latest(np.array(taken, np.int32), hidden)

    def _latest(self, history: np.ndarray, hidden: np.ndarray | Sequence[int]) -> np.ndarray:
        return history[~np.isin(history, hidden)][-self.latest :]


@dataclass(frozen=True)
class Personal:
    """A ranker that is asked twice: for the partial bundle, and for the user's history as if that were one.

    Both scores are made z-scores within the question and added with one weight of 0 or more each, under which validation
    questions are most likely: a history that tells nothing gets none.
    """

    ranker: Ranker
    histories: Histories
    asked: Callable[[], Sequence[Questions]]
    kind: Kind = field(default="personal", init=False)

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.ranker.name} + history"

    @property
    def on_top_of(self) -> str:
        """The method that knows no user."""
        return self.ranker.name

    @cached_property
    def weights(self) -> np.ndarray:
        """[2] of the partial bundle's score and of the history's."""
        return weights_on(self.asked(), self._features, 2)

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] weighted sums; a question without a history is answered as by the ranker alone."""
        return np.round(self._features(questions) @ self.weights, 6)

    def _features(self, questions: Questions) -> np.ndarray:
        """[q, n, 2] the z-scores for the partial bundle and for the history."""
        out = np.zeros((*questions.options.shape, 2))
        out[..., 0] = z_scores(self.ranker.scores(questions))
        histories = self.histories.of(questions)
        rows = np.flatnonzero([len(history) for history in histories])
        if len(rows):
            asked = replace(
                questions,
                bundle_ids=[questions.bundle_ids[row] for row in rows],
                partial=[histories[row] for row in rows],
                options=questions.options[rows],
                truth=questions.truth[rows],
                sha256=f"{questions.sha256}/latest {self.histories.latest}",  # a name to remember answers by
            )
            out[rows, :, 1] = z_scores(self.ranker.scores(asked))
        return out
