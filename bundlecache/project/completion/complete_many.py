"""Completes a long list of partial bundles, a block at a time: one search and one ranking for all bundles of a block.

What is wrong with a bundle is the answer to it, and no matter of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BundlecacheError, Command, LongPromptError, RecipeError
from .complete_bundles import Bundle, complete_bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...baselines.rankers import Ranker
    from ...questions.user_history import UserHistories
    from ...train.run import LoadedRun
    from ..session import Session
    from .complete_bundles import Ranking

BLOCK_BUNDLES = 512  # bundles of a block


class ManyCompleter:
    """A loaded run that completes blocks of bundles; the parameters are those of `Run.complete`.

    Parameters
    ----------
    ranker
        Gives the name of the method that ranks, and its ranker; it is called when the first bundle is ranked.

    Raises
    ------
    BundlecacheError
        When no bundle could be completed: a condition is none, no item may be offered, the prompt tells no history.
    """

    def __init__(
        self,
        session: Session,
        loaded: LoadedRun,
        ranker: Callable[[], tuple[str, Ranker]],
        *,
        options: int | None = None,
        user: str | None = None,
        where: Sequence[str] = (),
        exclude: Sequence[str] = (),
        permutations: int = 1,
        at_once: int | None = None,
    ) -> None:
        from ...candidates import search
        from ...candidates.index import Index

        self.catalogue, self.model, self.user = session.catalogue, loaded.model, user
        self._histories = None if user is None else histories(loaded)
        self._ranker, self._options = ranker, options or loaded.model.max_options
        self._how: dict[str, Any] = {"permutations": permutations, "at_once": at_once}
        self._allowed = None
        if where or exclude:
            self._allowed = search.allowed_items(self.catalogue, where, exclude)
            session.say.note(f"{int(self._allowed.sum()):,} of {len(self.catalogue):,} items may be offered")
        matrices = loaded.matrices or session.matrices()  # a model of titles alone fuses no vectors
        self.index = Index.build(matrices, kind="flat")  # in memory where it fits: it is searched once a block

    def __call__(self, bundles: Sequence[Sequence[str]]) -> list[Ranking | BundlecacheError]:
        """The candidates of every bundle (item ids), ranked, or why it has none."""
        from ...candidates import search

        partials = [self._indices(items) for items in bundles]
        able = [each for each in partials if isinstance(each, np.ndarray)]
        proposed = iter(search.complete_many(self.catalogue, self.index, able, self._options, allowed=self._allowed))
        asked: list[Bundle | BundlecacheError] = []
        for partial in partials:
            if isinstance(partial, BundlecacheError):
                asked.append(partial)
                continue
            found = next(proposed)
            asked.append(
                self._bundle(partial, found)
                if len(found)
                else search.why_nothing(self.catalogue, self.index, partial, allowed=self._allowed)
            )
        ranked = iter(self._ranked([each for each in asked if isinstance(each, Bundle)]))
        return [next(ranked) if isinstance(each, Bundle) else each for each in asked]

    def _ranked(self, bundles: list[Bundle]) -> list[Ranking | BundlecacheError]:
        """All at once; where a prompt is too long, in halves, until it is found."""
        try:
            return list(self._ranked_at_once(bundles))
        except LongPromptError as error:
            if len(bundles) == 1:
                return [error]
            half = len(bundles) // 2
            return [*self._ranked(bundles[:half]), *self._ranked(bundles[half:])]

    def _ranked_at_once(self, bundles: list[Bundle]) -> list[Ranking]:
        from ...bench import method_selection

        if self.user is not None:  # the model alone reads a history
            return complete_bundles(bundles, model=self.model, **self._how)
        if not bundles:
            return []
        method, ranker = self._ranker()
        model = self.model if method == method_selection.MODEL else None
        return complete_bundles(bundles, model=model, ranker=ranker, **self._how)

    def _bundle(self, partial: np.ndarray, proposed: np.ndarray) -> Bundle:
        if self.user is None or self._histories is None:
            return Bundle(partial, proposed)
        return Bundle(partial, proposed, self._histories.of_user(self.user, [*partial, *proposed]))

    def _indices(self, items: Sequence[str]) -> np.ndarray | BundlecacheError:
        """int32 indices of a bundle's items, each once; the error where one is unknown."""
        try:
            return self.catalogue.indices(list(dict.fromkeys(items)))
        except BundlecacheError as error:
            return error


def histories(loaded: LoadedRun) -> UserHistories:
    """The users' histories of a run.

    Raises
    ------
    RecipeError
        When its prompts tell none.
    """
    if loaded.model.histories is None:
        raise RecipeError(
            f"The prompt of {loaded.folder.name} tells no user's history.",
            hint=["leave --user out, or", Command("train", "--set", "prompt.history=10")],
        )
    return loaded.model.histories
