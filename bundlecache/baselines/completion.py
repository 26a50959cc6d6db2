"""Completes partial bundles by any ranker: the candidates, best first."""

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
    found = probabilities(ranker, [np.asarray(partial, np.int32)], options)[0]  # [n]
    order = np.argsort(-found, kind="stable")
    return [(int(options[0, at]), float(found[at])) for at in order]


def probabilities(ranker: Ranker, partial: Sequence[np.ndarray], options: np.ndarray) -> np.ndarray:
    """[q, n] how probable each of the ``options`` [q, n] is among those of its partial bundle; see `rank`."""
    given = [np.asarray(items, np.int32) for items in partial]
    cause = f"complete {[items.tolist() for items in given]} {options.tolist()}"
    count = len(options)
    asked = Questions("complete", "none", "none", 0, [""] * count, given, options, np.zeros(count, np.int64), cause, {})
    return softmax(ranker.scores(asked), axis=1)
