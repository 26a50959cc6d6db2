"""Completes a partial bundle by any ranker: the candidates, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from ..questions.question_file import Questions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .rankers import Ranker


def rank(ranker: Ranker, partial: np.ndarray, candidates: Sequence[int] | np.ndarray) -> list[tuple[int, float]]:
    """Candidates (item indices) with their probabilities among each other, best first; equals keep their order.

    The probability is the softmax of the scores: for the learned ranker and for a model on top of it that is the
    conditional logit whose likelihood was fitted; of other rankers, only the order counts.

    >>> from .rankers import ItemScoreRanker
    >>> [(item, round(p, 2)) for item, p in rank(ItemScoreRanker("x", "content", lambda: np.arange(9.0)), [0], [3, 5])]
    [(5, 0.88), (3, 0.12)]
    """
    options = np.asarray(candidates, np.int32)[None]  # [1, n]
    given = np.asarray(partial, np.int32)
    cause = f"complete {given.tolist()} {options[0].tolist()}"
    asked = Questions("complete", "none", "none", 0, [""], [given], options, np.zeros(1, np.int64), cause, {})
    probabilities = softmax(ranker.scores(asked)[0])  # [n]
    order = np.argsort(-probabilities, kind="stable")
    return [(int(options[0, at]), float(probabilities[at])) for at in order]
