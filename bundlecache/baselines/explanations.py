"""Baselines of explain: what other people said of the item, or the user of other items, in their own words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from .rating_means import predictions
from .search_words import Bm25

if TYPE_CHECKING:
    from ..catalogue.histories import Histories
    from ..questions.task_file import TaskQuestions

USER_WORDS = 10  # of a user's latest explanations, whose words the nearest one is found by


def explanations(seen: Histories, asked: TaskQuestions) -> dict[str, list[str]]:
    """Method -> what it says [q]; where it knows no text of the item or the user, the commonest one of all.

    The item's texts are those that training sees, the user's those of the question's history.
    """
    rows = np.flatnonzero(seen.explanation.filled)
    texts = [str(text) for text in seen.explanation.take(rows)]  # [t]
    item, stars, when = seen.item[rows], seen.rating[rows], seen.time[rows]
    code, distinct = seen.explanation.take(rows).codes()
    common = distinct[int(np.bincount(code).argmax())] if len(rows) else ""
    own = _own(asked)
    order = np.lexsort((np.arange(len(rows)), when))
    latest = {int(item[row]): texts[row] for row in order}  # the last one stays

    by_star = {
        float(star): distinct[int(np.bincount(code[stars == star]).argmax())]
        for star in np.unique(stars[~np.isnan(stars)])
    }
    expected = np.clip(np.rint(predictions(seen, asked)["user and item biases"]), 1, 5)
    return {
        "commonest": [common] * len(asked),
        "commonest of the rating": [by_star.get(float(star), common) for star in expected],
        "item's latest": [latest.get(int(target), common) for target in asked.target],
        "user's latest": [said[-1] if said else common for said in own],
        "item's nearest by words": _nearest(texts, item, asked, own, common),
    }


def _own(asked: TaskQuestions) -> list[list[str]]:
    """What each user said so far, the earliest first."""
    said = list(asked.history_explanation)
    ends = asked.history.offsets.tolist()
    return [[text for text in said[low:high] if text] for low, high in itertools.pairwise(ends)]


def _nearest(texts: list[str], item: np.ndarray, asked: TaskQuestions, own: list[list[str]], common: str) -> list[str]:
    """Of all texts of the item that whose words come nearest to the user's own, by BM25."""
    order = np.argsort(item, kind="stable")
    start, stop = (np.searchsorted(item[order], asked.target, side) for side in ("left", "right"))
    index = Bm25.of(texts) if texts else None
    made = []
    for low, high, said in zip(start, stop, own, strict=True):
        rows = order[low:high]
        if index is None or not len(rows):
            made.append(common)
            continue
        scores = index.scores([" ".join(said[-USER_WORDS:])], rows)[0]
        made.append(texts[rows[int(scores.argmax())]])
    return made
