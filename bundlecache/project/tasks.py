"""Freeze the tasks on user histories, and compare methods on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rows import Rows

if TYPE_CHECKING:
    from ..questions.task_split import Split
    from ..questions.tasks import TaskInfo
    from .session import Session


def task_questions(
    session: Session, task: str, *, split: Split = "leave_last_out", k_core: int = 5, seed: int = 0
) -> Rows[TaskInfo]:
    """Freeze the questions of a task about user histories, of validation and test; files that exist stay as they are.

    Parameters
    ----------
    task
        recommend, search, select, preference or explain; "all": every task that the interactions have the columns for.
    split
        leave_last_out, user_holdout, time or random, see `bundlecache.questions.task_split`.
    k_core
        Users and items with fewer interactions are left out until none has.

    Raises
    ------
    BundlecacheError
        When there are no interactions, or they lack what the task needs.
    """
    from ..errors import CatalogueError
    from ..questions import tasks
    from ..questions.task_file import TASKS

    notes: list[str] = []
    made: Rows[TaskInfo] = Rows()
    for each in TASKS if task == "all" else (task,):
        try:
            rows = tasks.freeze_missing(session.folder, session.catalogue, [each], split, k_core, seed, notes)  # type: ignore[list-item]
        except CatalogueError as error:
            if task != "all" or not made:
                raise
            session.say.note(f"{each}: {error.message}")
            continue
        made.extend(row for row in rows if row.name not in {there.name for there in made})
    for note in dict.fromkeys(notes):
        session.say.note(f"note: {note}")
    return made
