"""A workspace as a library object, and how to open one.

>>> import bundlecache as bc
>>> shop = bc.open("data")  # doctest: +SKIP
>>> run = shop.train()  # doctest: +SKIP
>>> run.complete(["g2d74a3b7", "g4ab88e8b"], k=5)  # doctest: +SKIP

Importing this package imports no torch; every method imports what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..console.reporter import DEFAULT_DATA
from . import (
    ablating,
    adapting,
    bench_runs,
    candidate_search,
    drawing,
    encoding,
    question_sets,
    recommending,
    shrink,
    similar_bench,
    similar_items,
    status_report,
    store_maintenance,
    tasks,
    training,
)
from .completion import complete_file
from .run import Run
from .session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from ..workspace import RunKind


def open(root: Path | str = DEFAULT_DATA, *, allow_outside: bool = False, quiet: bool = False) -> Workspace:  # noqa: A001
    """The workspace in the folder ``root``, with its catalogue read.

    Parameters
    ----------
    allow_outside
        Let item tables name picture and sound files outside the folder.
    quiet
        Show no notes and no progress bars.

    Raises
    ------
    CatalogueError
        When the folder holds no catalogue, or one that cannot be read.
    """
    return Workspace(root, allow_outside=allow_outside, quiet=quiet)


class Workspace(Session):
    """An opened workspace; see :func:`open`. Every method does what the command of its name does.

    What a method lacks is made first, and said: `train` encodes and freezes questions where there are none.
    """

    use_store = encoding.use_store
    encode = encoding.encode
    status = status_report.status
    errors = status_report.errors
    vectors = status_report.vectors
    title = status_report.title

    questions = question_sets.questions
    task_questions = tasks.task_questions
    take_questions = question_sets.take_questions
    export_questions = question_sets.export_questions
    leaks = question_sets.leaks
    candidates = candidate_search.candidates
    similar = similar_items.similar
    similar_questions = similar_bench.similar_questions
    bench_similar = similar_bench.bench_similar
    shrink = shrink.shrink
    complete_file = complete_file.complete_file
    recommend = recommending.recommend
    search = recommending.search
    explain = recommending.explain
    draw = drawing.draw

    adapt = adapting.adapt
    train = training.train
    import_checkpoint = training.import_checkpoint
    bench = bench_runs.bench
    bench_full = bench_runs.bench_full
    bench_task = tasks.bench_task
    ablate = ablating.ablate

    verify = store_maintenance.verify
    compact = store_maintenance.compact
    drift = store_maintenance.drift
    import_vectors = store_maintenance.import_vectors
    export = store_maintenance.export
    runs = status_report.runs

    def run(self, name: str = "latest", kind: RunKind | None = None) -> Run:
        """A finished run by its name; the newest one by default, of a kind where one is named.

        Raises
        ------
        CatalogueError
            When there is none of that name and kind.
        """
        return Run(self, name, kind=kind)
