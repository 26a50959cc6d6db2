"""Freeze, import and export the question sets of a workspace."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..questions.question_sets import QuestionSetInfo
    from .session import Session


def questions(
    session: Session,
    *,
    options: int = 10,
    negatives: Sequence[str] | None = None,
    difficulty: float = 1.0,
    seed: int = 0,
) -> Rows[QuestionSetInfo]:
    """Freeze validation and test questions, with random and hard wrong options; those that exist stay as they are."""
    from ..questions import question_sets

    return Rows(
        question_sets.freeze_missing(
            session.folder,
            session.catalogue,
            session.store,
            options=options,
            seed=seed,
            kinds=tuple(negatives or question_sets.NEGATIVES),
            difficulty=difficulty,
            matrices=session.matrices,
            say=session.say.note,
            bar=partial(session.say.bar, "questions"),
        )
    )


def take_questions(session: Session, files: Sequence[Path], *, skip_broken: bool = False) -> Rows[QuestionSetInfo]:
    """Take over question files that others froze, after checking them against the catalogue."""
    from ..questions import question_sets

    return Rows(
        row
        for file in files
        for row in question_sets.take_over(session.folder, session.catalogue, file, skip_broken=skip_broken)
    )


def export_questions(session: Session, out: Path) -> Rows[Any]:
    """Write all question sets as JSON Lines into a folder."""
    from ..questions import question_sets

    return Rows(question_sets.export(session.folder, session.catalogue, out, say=session.say.note))


def leaks(session: Session) -> list[str]:
    """One sentence for every way in which training data and held-out bundles overlap."""
    from ..catalogue import split_leaks

    return split_leaks.leaks(session.catalogue)
