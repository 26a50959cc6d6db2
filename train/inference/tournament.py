"""More options than one question holds: a tournament of questions that the model can be asked.

In every round the options still in are dealt into groups of at most ``size``, each group is one question, and the
better third of it goes on, until those left make one question. The final puts its options on a scale of
log-probabilities. An option that left earlier stands on the same scale, below the last of its group that went on,
by the difference that the model made between these two: were the model to judge every option by itself, this
would be the order, and the probabilities, of asking about all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

KEPT = 3  # one of so many goes on

Ask = Callable[[Sequence[np.ndarray]], list[tuple[np.ndarray, np.ndarray]]]
"""Groups of options of all questions, by position [q, k] -> per group: logits [q, k], was the answer a letter [q]."""


def play(ask: Ask, questions: int, options: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [q, n] on the final's scale, and whether the final was answered with a letter [q].

    Where ``size`` is enough for all options, these are the logits of the one question.

    With groups of two and three, the option of the highest number wins each:

    >>> ask = lambda groups: [(group * 1.0, np.ones(len(group), bool)) for group in groups]
    >>> score, _ = play(ask, questions=1, options=5, size=3)
    >>> np.argsort(-score[0]).tolist(), np.round(np.diff(score[0]), 6).tolist()
    ([4, 3, 2, 1, 0], [1.0, 1.0, 1.0, 1.0])
    """
    alive = np.tile(np.arange(options), (questions, 1))  # [q, a], those from whom most is expected first
    left: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # by group: losers, who they stand below, by how much
    while alive.shape[1] > size:
        places: list[list[np.ndarray]] = []
        groups = _deal(alive, size)
        for group, (logits, _) in zip(groups, ask(groups), strict=True):
            order = np.argsort(-logits, axis=1, kind="stable")
            ranked, by_rank = np.take_along_axis(group, order, 1), np.take_along_axis(logits, order, 1)
            kept = -(-group.shape[1] // KEPT)
            places.append(list(ranked[:, :kept].T))
            left.append((ranked[:, kept:], ranked[:, kept - 1], by_rank[:, kept:] - by_rank[:, kept - 1 : kept]))
        best = max(map(len, places))
        alive = np.stack([group[k] for k in range(best) for group in places if k < len(group)], axis=1)
    ((logits, valid),) = ask([alive])
    if not left:
        return logits, valid
    scores = np.zeros((questions, options))
    top = logits.max(axis=1, keepdims=True)
    np.put_along_axis(scores, alive, logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True)), 1)
    for losers, above, difference in reversed(left):
        np.put_along_axis(scores, losers, np.take_along_axis(scores, above[:, None], 1) + difference, 1)
    return scores, valid


def _deal(alive: np.ndarray, size: int) -> list[np.ndarray]:
    """Columns of ``alive`` [q, a] in turn to as few groups as hold at most ``size`` each."""
    count = -(-alive.shape[1] // size)
    return [alive[:, k::count] for k in range(count)]
