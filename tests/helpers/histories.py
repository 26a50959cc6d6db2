"""Small user histories whose answers are known by construction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundlecache.baselines.next_item import Training
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.catalogue.histories import Histories
from bundlecache.questions import tasks
from bundlecache.questions.task_split import training_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bundlecache.questions.task_file import TaskName, TaskQuestions


def histories_of(
    sequences: Sequence[Sequence[int]],
    ratings: Sequence[Sequence[float]] | None = None,
    said: Sequence[Sequence[str | None]] | None = None,
) -> Histories:
    """Users u0, u1, ... who took these items one after the other."""
    user = np.repeat(np.arange(len(sequences)), [len(items) for items in sequences])
    item = np.array([item for items in sequences for item in items])
    told = {} if ratings is None else {"rating": np.array([r for rs in ratings for r in rs], np.float32)}
    if said is not None:
        told["explanation"] = [text for texts in said for text in texts]
    return Histories.of([f"u{k}" for k in range(len(sequences))], user, item, np.arange(len(user)), **told)


def catalogue_of(titles: Sequence[str]) -> Catalogue:
    """Items item-0, item-1, ... of these titles."""
    return Catalogue([f"item-{i}" for i in range(len(titles))], list(titles), {}, Bundles(), Interactions())


def training_of(
    sequences: Sequence[Sequence[int]],
    task: TaskName = "recommend",
    ratings: Sequence[Sequence[float]] | None = None,
    titles: Sequence[str] | None = None,
    said: Sequence[Sequence[str | None]] | None = None,
) -> tuple[Training, TaskQuestions]:
    """What training sees of the histories, and the test questions of a task; split leave_last_out, no k-core."""
    histories = histories_of(sequences, ratings, said)
    catalogue = catalogue_of(titles or [f"thing {i}" for i in range(int(histories.item.max()) + 1)])
    recommend = tasks.freeze(histories, catalogue, "recommend", "leave_last_out", k_core=0)
    asked = tasks.freeze(histories, catalogue, task, "leave_last_out", k_core=0)
    seen = histories.take(training_rows(histories, recommend))
    return Training(catalogue, seen, recommend.part(test=False)), asked.part(test=True)
