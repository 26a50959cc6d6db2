"""UniMP runs of a workspace, ready to answer, and whether they may be asked what they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BundlecacheError, Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..questions.task_file import TaskQuestions
    from ..train.unimp.answers import UnimpAnswers
    from .session import Session


def newest(session: Session, run: str | None, device: str, *, required: bool) -> UnimpAnswers | None:
    """A UniMP run by its name, ready to answer; the newest one if none is named, None where there is none and it is not required."""
    if run is None and not required and not any(session.folder.run_names("unimp")):
        return None
    name = session.folder.run(None if run == "latest" else run, "unimp").name
    if (name, device) not in session.unimp_answers:
        from ..train.unimp import run as unimp
        from ..train.unimp.answers import UnimpAnswers

        path = session.folder.runs / name
        loaded = unimp.load(session.folder, path, session.catalogue, session.store, device, session.say)
        session.unimp_answers[name, device] = UnimpAnswers(loaded.model, loaded.prompts, name)
    return session.unimp_answers[name, device]


def trained(session: Session, run: str | None, device: str, task: str) -> UnimpAnswers:
    """A UniMP run that was trained for a task: by its name, or the newest one."""
    model = newest(session, run, device, required=True)
    assert model is not None  # noqa: S101 - required
    check_trained(model, task)
    return model


def check_trained(model: UnimpAnswers, task: str) -> None:
    """Refuse to ask a run what it was not trained for.

    Raises
    ------
    BundlecacheError
        Naming what it was trained for.
    """
    if task not in model.data.tasks:
        raise BundlecacheError(
            f"{model.name} was trained for {', '.join(model.data.tasks)}, not for {task}.",
            hint=Command("train", "--recipe", "unimp", "--set", f"data.tasks={','.join([*model.data.tasks, task])}"),
        )


def task_models(session: Session, asked: TaskQuestions, runs: Sequence[str], device: str) -> list[UnimpAnswers]:
    """UniMP runs as methods of a task's bench.

    Raises
    ------
    BundlecacheError
        When a run is of another kind, was not trained for the task, or may have seen the questions in its training.
    """
    models = []
    for name in runs:
        model = trained(session, name, device, asked.task)
        data, header = model.data, asked.header
        ours = (data.split, data.k_core, data.questions_seed, data.min_rating or None)
        if ours != (header["split"], header["k_core"], header["seed"], header.get("min_rating")):
            raise BundlecacheError(
                f"{model.name} was trained beside the questions of split {data.split}, {data.k_core}-core, seed "
                f"{data.questions_seed}, so it may have seen what {asked.name} asks about.",
                hint=Command("bench", "--task", asked.task, "--split", data.split, "--k-core", data.k_core),
            )
        models.append(model)
    return models
