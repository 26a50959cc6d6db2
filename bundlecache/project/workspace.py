"""A workspace as a library object, and how to open one.

>>> import bundlecache as bc
>>> shop = bc.open("data")  # doctest: +SKIP
>>> run = shop.train(recipe="demo")  # doctest: +SKIP
>>> run.complete(["g2d74a3b7", "g4ab88e8b"], k=5)  # doctest: +SKIP

Importing this package imports no torch; every method imports what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..console.reporter import DEFAULT_DATA
from . import asking, comparing, encoding, overview, search, training, upkeep
from .run import Run
from .session import Session

if TYPE_CHECKING:
    from pathlib import Path


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
    status = overview.status
    errors = overview.errors
    vectors = overview.vectors
    title = overview.title

    questions = asking.questions
    take_questions = asking.take_questions
    export_questions = asking.export_questions
    leaks = asking.leaks
    candidates = search.candidates

    train = training.train
    import_checkpoint = training.import_checkpoint
    bench = comparing.bench
    bench_full = comparing.bench_full
    ablate = comparing.ablate

    verify = upkeep.verify
    compact = upkeep.compact
    drift = upkeep.drift
    import_vectors = upkeep.import_vectors
    export = upkeep.export
    runs = overview.runs

    def run(self, name: str = "latest") -> Run:
        """A finished run by its name; the newest one by default.

        Raises
        ------
        CatalogueError
            When there is none of that name.
        """
        return Run(self, name)
