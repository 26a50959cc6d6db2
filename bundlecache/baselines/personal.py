"""A baseline that also knows the user: the partial bundle's score plus the score of the user's history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .learned import weights_on
from .rankers import Kind, Ranker, z_scores

if TYPE_CHECKING:
    from ..questions.question_file import Questions
    from ..questions.user_history import UserHistories


@dataclass(frozen=True)
class PersonalRanker:
    """A ranker that is asked twice: for the partial bundle, and for the user's history as if that were one.

    Both scores are made z-scores within the question and added with one weight of 0 or more each, under which validation
    questions are most likely: a history that tells nothing gets none.
    """

    ranker: Ranker
    histories: UserHistories
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
