"""Baselines of preference: the stars of a user for an item from means of the ratings that training and history hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..catalogue.histories import Histories
    from ..questions.task_file import TaskQuestions

DAMPING = 5.0  # ratings at the global mean that a user's and an item's bias begin with (Koren's baseline predictor)


def predictions(seen: Histories, asked: TaskQuestions) -> dict[str, np.ndarray]:
    """Method -> the predicted stars float64 [q]; where nothing is known of a user or an item, the global mean.

    The user's ratings are those of the question's history; the item's are those that training sees.
    """
    rated = ~np.isnan(seen.rating)
    item, stars = seen.item[rated], seen.rating[rated].astype(np.float64)
    size = int(max(item.max(initial=0), asked.target.max(initial=0), asked.history.values.max(initial=0))) + 1
    mean = float(stars.mean()) if len(stars) else float(np.nanmean(asked.history_rating))
    count = np.bincount(item, minlength=size)
    total = np.bincount(item, weights=stars - mean, minlength=size)
    item_bias = total / (count + DAMPING)  # [I]

    told = ~np.isnan(asked.history_rating)
    row = asked.history.rows[told]
    given = asked.history_rating[told] - mean
    number = np.bincount(row, minlength=len(asked))
    user_mean = np.bincount(row, weights=given, minlength=len(asked)) / np.maximum(number, 1)
    rest = given - item_bias[asked.history.values[told]]
    user_bias = np.bincount(row, weights=rest, minlength=len(asked)) / (number + DAMPING)
    return {
        "global mean": np.full(len(asked), mean),
        "user mean": mean + user_mean,
        "item mean": mean + (total / np.maximum(count, 1))[asked.target],
        "user and item biases": mean + user_bias + item_bias[asked.target],
    }
