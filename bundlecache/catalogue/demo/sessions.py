"""Sessions of the demo shop: which clicks of a person belong to one search, for things of one kind, colour and style.

Who clicked what, and when, does not change by this, so that nothing that is learnt from the clicks depends on it; the draws come
from a random stream of their own. Questions about similar items are made of these sessions.
"""

from __future__ import annotations

import numpy as np

STREAM = 41  # of the draws here, beside the seed of the world
SAME_CATEGORY, SAME_COLOUR, SAME_STYLE = 4.5, 2.0, 1.5  # log-odds that the next click of a session is like the last one
LEAVE = 4.0  # log-weight of no further click, beside what the person clicks in other sessions


def sessions(
    clicks: list[tuple[int, int, int]], category: np.ndarray, style: np.ndarray, colour: np.ndarray, seed: int
) -> list[int]:
    """The number of the session of every click (user, item, time)."""
    rng = np.random.RandomState([seed, STREAM])
    users, items, _ = (np.array(column) for column in zip(*clicks, strict=True))
    session = np.zeros(len(clicks), np.int64)
    count = 0
    for user in np.unique(users):
        left = rng.permutation(np.flatnonzero(users == user)).tolist()
        while left:
            last = left.pop()
            session[last] = count
            while left:
                here, others = items[last], items[left]
                like = SAME_CATEGORY * (category[others] == category[here])
                like = (
                    like + SAME_COLOUR * (colour[others] == colour[here]) + SAME_STYLE * (style[others] == style[here])
                )
                weight = np.exp(np.append(like, LEAVE))
                chosen = int(np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random_sample()))
                if chosen >= len(left):
                    break
                last = left.pop(chosen)
                session[last] = count
            count += 1
    return [int(number) for number in session]
