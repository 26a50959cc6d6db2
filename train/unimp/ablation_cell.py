"""Runs one point of an ablation grid of UniMP: train, answer the test questions of its tasks, store the figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bundlecache.bench import task_bench
from bundlecache.bench.ablation import GridPointResult
from bundlecache.files import write_text

from ..ablation_run import RESULT
from ..training.resume import FILE, Snapshot
from . import checkpoint, training
from .answers import UnimpAnswers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.recipes.unimp_recipe import UnimpRecipe

    from ..training.progress import Progress
    from .training import TrainingData


def run(
    data: TrainingData,
    tests: Mapping[str, TaskQuestions],
    recipe: UnimpRecipe,
    seed: int,
    folder: Path,
    *,
    device: str = "auto",
    token_cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> GridPointResult | str:
    """Train ``recipe`` into ``folder`` and answer the test questions by task; the reason, if training was stopped.

    A stopped training is resumed. The columns are those of `task_bench.MAIN`.

    Raises
    ------
    BundlecacheError
        When recipe, base model, features and questions do not fit together.
    """
    how: dict[str, Any] = {"device": device, "token_cache": token_cache}
    snapshot = Snapshot.read(folder) if (folder / FILE).is_file() else None
    done = training.train(data, recipe, folder, seed=seed, snapshot=snapshot, progress=progress, **how)
    if done.stopped:
        return done.stopped
    parts = checkpoint.load(folder, data.catalogue, data.pictures, data.content, drawn=data.drawn, **how)
    values, questions = {}, {}
    for task, asked in tests.items():
        column = f"{task} {task_bench.MAIN[task]}"
        values[column] = figures(UnimpAnswers(parts.model, parts.prompts), asked)
        questions[column] = asked.sha256
    seconds = sum(stage["seconds"] for stage in done.stages)
    result = GridPointResult(seed, values, questions, seconds)
    write_text(folder / RESULT, json.dumps(result.to_dict()))
    return result


def figures(answers: UnimpAnswers, asked: TaskQuestions) -> list[float]:
    """[q] what the main figure of a task is the mean of."""
    n_items = len(answers.prompts.texts)
    if asked.task == "preference":
        result = task_bench.rate(asked, {}, n_items, models={answers.name: answers.rate(asked)[0]})
    elif asked.task == "explain":
        result = task_bench.compare_texts(asked, {}, n_items, models={answers.name: answers.explain(asked)})
    else:
        result = task_bench.rank(asked, [], n_items, models=[answers])
    values: list[float] = result.methods[0].values[task_bench.MAIN[asked.task]].astype(float).tolist()
    return values
