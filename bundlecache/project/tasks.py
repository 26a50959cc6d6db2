"""Freeze the tasks on user histories, and compare methods on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ..errors import BundlecacheError, Command
from ..questions.sample import MAX_QUESTIONS, sample_users
from ..rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ..baselines.next_item import HistoryRanker, Training
    from ..bench.task_bench import TaskResult
    from ..console.reporter import Reporter
    from ..questions.task_file import TaskName, TaskQuestions
    from ..questions.task_split import Split
    from ..questions.tasks import TaskInfo
    from ..recipes.unimp_recipe import UnimpData
    from ..store.store import Matrix
    from ..train.unimp.answers import UnimpAnswers
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


@dataclass(frozen=True)
class TaskSetup:
    """The test questions of a task, those of its validation, and what methods may learn from.

    ``matrices`` are stored vectors by what they are of, but for those of graphs, which have seen the answers.
    """

    asked: TaskQuestions
    training: Training
    valid: TaskQuestions
    matrices: Mapping[str, Matrix]

    def result(
        self,
        say: Reporter,
        models: Sequence[UnimpAnswers] = (),
        *,
        with_baselines: bool = True,
        keep_history: bool = False,
    ) -> TaskResult:
        """All baselines and the ``models`` on the questions."""
        from ..baselines import explanations, rating_means, rating_neighbours
        from ..bench import task_bench

        asked, n_items = self.asked, len(self.training.catalogue)
        if asked.task == "preference":
            stars = {}
            for model in models:
                stars[model.name], stars[f"{model.name}, likeliest"] = model.rate(asked)
            means = rating_means.predictions(self.training.seen, asked) if with_baselines else {}
            if with_baselines:
                means |= rating_neighbours.predictions(self.matrices, self.valid, asked)
            return task_bench.rate(asked, means, n_items, models=stars)
        if asked.task == "explain":
            texts = explanations.explanations(self.training.seen, asked) if with_baselines else {}
            told = {model.name: model.explain(asked) for model in models}
            return task_bench.compare_texts(asked, texts, n_items, models=told)
        methods = list(baselines(self.training, asked.task)) if with_baselines else []
        with say.bar("bench") as bar:
            return task_bench.rank(asked, methods, n_items, models=models, keep_history=keep_history, progress=bar.step)


def baselines(training: Training, task: str) -> Iterator[HistoryRanker]:
    """The methods that rank items for a task, not fitted yet."""
    from ..baselines import search_words

    if task != "search":
        return iter(training.rankers)
    partners = [method for method in training.rankers if method.name in search_words.PARTNERS]
    return search_words.searchers(training, partners)


def task_setup(
    session: Session,
    task: str,
    *,
    split: Split = "leave_last_out",
    k_core: int = 5,
    seed: int = 0,
    min_rating: float | None = None,
    trainings: Sequence[Training] = (),
    sample: int = MAX_QUESTIONS,
) -> TaskSetup:
    """The test questions of a task, at most ``sample`` of them, which are frozen where they are not yet.

    ``trainings`` are those of other tasks beside the same questions: one that has the same validation questions is taken
    over, with all that methods learnt from it.

    Raises
    ------
    BundlecacheError
        When they cannot be frozen or do not fit the catalogue.
    """
    from ..baselines import next_item
    from ..baselines.history_directions import neighbour_ranker
    from ..catalogue.histories import Histories
    from ..features.lightgcn_ranker import lightgcn_ranker
    from ..questions import task_split, tasks
    from ..questions.task_file import load
    from ..train.sasrec import sasrec

    folder, catalogue = session.folder, session.catalogue
    names = [tasks.name_of(each, split, k_core, seed, min_rating) for each in (task, "recommend")]
    if not all(tasks.path_of(folder, name).is_file() for name in names):
        session.say.note("No questions of this task yet: freezing them now", Command("questions", "--task", task))
        task_questions(session, task, split=split, k_core=k_core, seed=seed, min_rating=min_rating)
    asked, recommend = (load(tasks.path_of(folder, name), catalogue) for name in names)
    test = asked.part(test=True)
    validation = tasks.apart_from(recommend.part(test=False), test)
    same = [t for t in trainings if (t.validation.name, len(t.validation)) == (validation.name, len(validation))]
    kinds = [name for name in session.store.modalities() if name != "graph"] if task == "preference" else []
    matrices = {name: session.store.matrix(catalogue.item_ids, name) for name in kinds}
    valid = asked.part(test=False)
    test = sample_users(test, sample)
    if same:
        return TaskSetup(test, same[0], valid, matrices)
    histories = tasks.prepared_as(Histories.read(folder, catalogue), recommend.header)
    seen = histories.take(task_split.training_rows(histories, recommend))
    return TaskSetup(
        test,
        next_item.Training(catalogue, seen, validation, seed, (neighbour_ranker, lightgcn_ranker, sasrec)),
        valid,
        matrices,
    )


def bench_task(
    session: Session,
    task: str,
    *,
    split: Split = "leave_last_out",
    k_core: int = 5,
    seed: int = 0,
    min_rating: float | None = None,
    training_seeds: Sequence[int] = (),
    keep_history: bool = False,
    sample: int = MAX_QUESTIONS,
    runs: Sequence[str] = (),
    device: str = "auto",
    out: Path | None = None,
) -> tuple[Path, TaskResult]:
    """Score all methods on the test questions of a task, which are frozen where they are not yet: the file, and its results.

    Parameters
    ----------
    task
        recommend, search, select, preference or explain.
    split, k_core, seed, min_rating
        Which frozen questions, see :func:`task_questions`.
    training_seeds
        Of the baselines that learn (ALS, BPR, LightGCN, SASRec), ``seed`` if left out; with several, figures are means, and
        intervals hold the seeds too.
    keep_history
        Rank the items of a user's history too.
    sample
        How many questions are asked at most, always the same ones (`questions.sample`); 0 asks all.
    runs, device
        Names of UniMP runs that are asked the same questions, and where they compute.
    out
        Folder of the results, NAME.json; ``bench/tasks`` of the workspace if left out.

    Raises
    ------
    BundlecacheError
        When the task has no baselines, or its questions cannot be frozen or do not fit the catalogue or a run.
    """
    from ..bench import task_bench
    from ..report import task_page
    from .unimp_runs import task_models

    if task not in task_bench.MAIN:
        raise BundlecacheError(
            f"There are no baselines for the task {task}; there are for {', '.join(task_bench.MAIN)}.",
            hint=Command("bench", "--task", "recommend"),
        )
    how: dict[str, Any] = {"split": split, "k_core": k_core, "seed": seed, "min_rating": min_rating}
    setup = task_setup(session, task, sample=sample, **how)
    models = task_models(session, setup.asked, runs, device)
    seeds = (training_seeds or (seed,)) if task in task_bench.LEARNT else (seed,)
    results: list[TaskResult] = []
    for each in seeds:
        seeded = replace(setup, training=replace(setup.training, seed=each))
        results.append(seeded.result(session.say, models if not results else (), keep_history=keep_history))
    result = task_bench.over_seeds(results) if len(results) > 1 else results[0]
    path = (out or session.folder.root / "bench" / "tasks") / f"{setup.asked.name}.json"
    result.save(path)
    task_page.write_tasks(path.parent)
    return path, result


def evaluate_run(
    session: Session,
    name: str,
    tasks: Sequence[str] = (),
    *,
    sample: int = MAX_QUESTIONS,
    baselines: bool = True,
    device: str = "auto",
) -> list[tuple[Path, TaskResult]]:
    """Answer the test questions of the tasks that a UniMP run was trained for, beside the baselines; at most ``sample`` of each.

    Raises
    ------
    BundlecacheError
        When the run is of another kind, or was not trained for one of the ``tasks``.
    """
    from ..report import task_page
    from .unimp_runs import check_trained, newest

    model = newest(session, name, device, required=True)
    assert model is not None  # noqa: S101 - required
    made = []
    trainings: list[Training] = []
    for task in tasks or measured(session, model.data):
        check_trained(model, task)
        setup = task_setup(session, task, trainings=trainings, sample=sample, **beside(model.data))
        trainings.append(setup.training)
        result = setup.result(session.say, [model], with_baselines=baselines)
        path = session.folder.runs / model.name / "tasks" / f"{setup.asked.name}.json"
        result.save(path)
        result.save_values(path)
        task_page.write_tasks(path.parent)
        made.append((path, result))
    return made


def beside(data: UnimpData) -> dict[str, Any]:
    """Which frozen questions a UniMP run is trained beside, as the options of :func:`task_setup`."""
    least = data.min_rating or None
    return {"split": data.split, "k_core": data.k_core, "seed": data.questions_seed, "min_rating": least}


def measured(session: Session, data: UnimpData) -> list[str]:
    """The tasks of a UniMP recipe that have figures here; pictures have none, and that explain has none without its extra is said."""
    from ..bench import text_metrics

    if "explain" in data.tasks and not text_metrics.installed():
        session.say.note("explain is left out: its figures need pip install 'bundlecache[explain]'")
    return [t for t in data.tasks if t != "draw" and (t != "explain" or text_metrics.installed())]


def recipe_questions(session: Session, data: UnimpData) -> dict[str, TaskQuestions]:
    """The test questions of the tasks of a UniMP recipe that have figures; they are frozen already."""
    from ..questions import tasks
    from ..questions.task_file import load

    paths = {t: tasks.path_of(session.folder, tasks.name_of(t, **beside(data))) for t in measured(session, data)}
    return {task: load(path, session.catalogue).part(test=True) for task, path in paths.items()}
