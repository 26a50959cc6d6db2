"""Leaves out questions that a run has seen: those about bundles, groups or item sets of its training or selection.

A run records what it has seen (`bundlecache.catalogue.seen_bundles`). When bundles changed their split since, test questions of
today may be about bundles that it was trained on, and its answers to them say nothing about unseen bundles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..baselines.learned import unseen_validation
from ..errors import Command, QuestionsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..baselines.rankers import Ranker
    from ..baselines.sources import Sources
    from ..catalogue.catalogue import Catalogue
    from ..catalogue.seen_bundles import SeenBundles
    from ..questions.question_file import Questions


def unseen(
    questions: Questions,
    seen: Mapping[str, SeenBundles],
    catalogue: Catalogue,
    graphs: Mapping[str, bool] | None = None,
) -> tuple[Questions, int]:
    """The questions that none of the runs has seen, and how many were left out.

    Parameters
    ----------
    seen
        Name of a run -> the bundles it was trained on and selected with.
    graphs
        Name of a run -> whether it uses vectors of a graph, which has seen the interactions of the training users.

    Raises
    ------
    QuestionsError
        When every question was seen.
    """
    marked = np.zeros(len(questions), bool)
    for name, record in seen.items():
        marked |= record.of_questions(questions, catalogue, graph=bool((graphs or {}).get(name)))
    if not marked.any():
        return questions, 0
    if marked.all():
        raise QuestionsError(
            f"All {len(questions):,} questions of {questions.name} are about bundles that {', '.join(seen)} was trained on"
            " or selected with: the split of the catalogue has changed since.",
            hint=["train on the split of today:", Command("train")],
        )
    return questions.take(np.flatnonzero(~marked)), int(marked.sum())


def validation_left_out(ranker: Ranker, sources: Sources) -> str | None:
    """A sentence on validation questions that a model is not weighed or compared on; None where it is on all of them."""
    kept = sum(map(len, unseen_validation(ranker, sources)))
    every = sum(map(len, sources.validation))
    if kept == every:
        return None
    if kept:
        return (
            f"{every - kept:,} of {every:,} validation questions are left out: {ranker.name} was trained on their bundle,"
            " its group or exactly its items, so it is weighed and compared on the others."
        )
    return (
        f"All {every:,} validation questions are about bundles that {ranker.name} was trained on, so no method is chosen on"
        " them: the model and the learned ranker are added with a weight of 1 each, and the model alone completes bundles."
    )
