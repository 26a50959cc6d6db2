"""Freeze the tasks on user histories, and compare methods on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..rows import Rows

if TYPE_CHECKING:
    from pathlib import Path

    from ..bench.task_bench import TaskResult
    from ..questions.task_file import TaskName
    from ..questions.task_split import Split
    from ..questions.tasks import TaskInfo
    from .session import Session


def task_questions(
    session: Session,
    task: str,
    *,
    split: Split = "leave_last_out",
    k_core: int = 5,
    seed: int = 0,
    min_rating: float | None = None,
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
    min_rating
        Ask about interactions with so many stars alone: what users liked. Not for preference.

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
            wanted = [cast("TaskName", each)]
            rows = tasks.freeze_missing(
                session.folder, session.catalogue, wanted, split, k_core, seed, notes, min_rating
            )
        except CatalogueError as error:
            if task != "all" or not made:
                raise
            session.say.note(f"{each}: {error.message}")
            continue
        made.extend(row for row in rows if row.name not in {there.name for there in made})
    for note in dict.fromkeys(notes):
        session.say.note(f"note: {note}")
    return made


def bench_task(
    session: Session,
    task: str,
    *,
    split: Split = "leave_last_out",
    k_core: int = 5,
    seed: int = 0,
    min_rating: float | None = None,
    keep_history: bool = False,
    out: Path | None = None,
) -> tuple[Path, TaskResult]:
    """Score the baselines on the test questions of a task, which are frozen where they are not yet: the file, and its results.

    Parameters
    ----------
    task
        recommend, search, select or preference.
    split, k_core, seed, min_rating
        Which frozen questions, see :func:`task_questions`.
    keep_history
        Rank the items of a user's history too.
    out
        Folder of the results, NAME.json; ``bench/tasks`` of the workspace if left out.

    Raises
    ------
    BundlecacheError
        When the task has no baselines, or its questions cannot be frozen or do not fit the catalogue.
    """
    from ..baselines import next_item, rating_means, search_words
    from ..bench import task_bench
    from ..catalogue.histories import Histories
    from ..errors import BundlecacheError, Command
    from ..features.lightgcn_ranker import lightgcn_ranker
    from ..questions import task_split, tasks
    from ..questions.task_file import load
    from ..train.sasrec import sasrec

    if task not in task_bench.MAIN:
        raise BundlecacheError(
            f"There are no baselines for the task {task}; there are for {', '.join(task_bench.MAIN)}.",
            hint=Command("bench", "--task", "recommend"),
        )
    folder, catalogue = session.folder, session.catalogue
    names = [tasks.name_of(each, split, k_core, seed, min_rating) for each in (task, "recommend")]
    if not all(tasks.path_of(folder, name).is_file() for name in names):
        session.say.note("No questions of this task yet: freezing them now", Command("questions", "--task", task))
        task_questions(session, task, split=split, k_core=k_core, seed=seed, min_rating=min_rating)
    asked, recommend = (load(tasks.path_of(folder, name), catalogue) for name in names)
    histories = tasks.prepared_as(Histories.read(folder, catalogue), recommend.header)
    seen = histories.take(task_split.training_rows(histories, recommend))
    test, n_items = asked.part(test=True), len(catalogue)
    if task == "preference":
        result = task_bench.rate(test, rating_means.predictions(seen, test), n_items)
    else:
        learners = (lightgcn_ranker, sasrec)
        training = next_item.Training(catalogue, seen, recommend.part(test=False), seed, learners)
        methods = list(next_item.rankers(training))
        if task == "search":
            methods = list(search_words.searchers(training, [m for m in methods if m.name in search_words.PARTNERS]))
        with session.say.bar("bench") as bar:
            result = task_bench.rank(test, methods, n_items, keep_history=keep_history, progress=bar.step)
    path = (out or folder.root / "bench" / "tasks") / f"{asked.name}.json"
    result.save(path)
    return path, result
