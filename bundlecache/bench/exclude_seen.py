"""Leaves out questions that a run has seen: those about bundles, groups or item sets of its training or selection.

A run records what it has seen (`bundlecache.catalogue.seen_bundles`). When bundles changed their split since, test questions of
today may be about bundles that it was trained on, and its answers to them say nothing about unseen bundles.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Command, QuestionsError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    rows = np.flatnonzero(~marked)
    kept = replace(
        questions,
        bundle_ids=[questions.bundle_ids[row] for row in rows],
        partial=[questions.partial[row] for row in rows],
        options=questions.options[rows],
        truth=questions.truth[rows],
        # Answers to other rows must never be compared row by row with answers to these.
        sha256=hashlib.sha256(f"{questions.sha256} rows {rows.tolist()}".encode()).hexdigest(),
    )
    return kept, int(marked.sum())
