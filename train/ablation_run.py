"""Runs one point of an ablation grid: train, answer the questions, store the hits; a stopped point is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.bench.ablation import GridPointResult
from bundlecache.bench.exclude_seen import unseen
from bundlecache.bench.metrics import strict_hits
from bundlecache.console.reporter import duration
from bundlecache.files import write_text

from . import checkpoint
from .inference import scoring
from .training import loop
from .training.progress import Progress
from .training.resume import FILE

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.question_file import Questions
    from bundlecache.recipes.recipe import Recipe
    from bundlecache.store.store import Matrix

RESULT = "cell.json"


@dataclass
class GridProgress:
    """How far a grid is, in trainings (grid points times seeds), and the minutes that are left.

    >>> grid = GridProgress(total=6)
    >>> grid.add(None)  # finished by an earlier call
    >>> grid.words
    'training 2 of 6'
    >>> grid.add(30.0)
    >>> grid.words
    'training 3 of 6, about 2 min 0 s left'
    """

    total: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)  # of the trainings of this call

    def add(self, seconds: float | None) -> None:
        """One more training is done, in ``seconds`` (its questions included); None if it was finished before."""
        self.done += 1
        if seconds is not None:
            self.seconds.append(seconds)

    @property
    def words(self) -> str:
        """The training that comes next, and how long the rest takes at the mean speed so far."""
        text = f"training {self.done + 1} of {self.total}"
        if not self.seconds:
            return text
        left = (self.total - self.done) * sum(self.seconds) / len(self.seconds)
        return f"{text}, about {duration(left)} left"


def finished(folder: Path) -> GridPointResult | None:
    """The stored result of a grid point, or None when it is not finished."""
    try:
        return GridPointResult.from_dict(json.loads((folder / RESULT).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    valid: Questions,
    tests: Mapping[str, Questions],
    recipe: Recipe,
    seed: int,
    folder: Path,
    *,
    device: str = "auto",
    token_cache: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> GridPointResult | str:
    """Train ``recipe`` into ``folder`` and answer validation and test questions; the reason, if training was stopped.

    ``tests`` are question sets by their column in the table; questions that the training has seen are left out of them.

    Raises
    ------
    BundlecacheError
        When recipe, base model, vectors and questions do not fit together.
    """
    how: dict[str, Any] = {"device": device, "token_cache": token_cache, "progress": progress}
    if (folder / FILE).is_file():
        done = loop.resume(catalogue, matrices, valid, folder, **how)
    else:
        done = loop.train(catalogue, matrices, valid, recipe, folder, seed=seed, **how)
    if done.stopped:
        return done.stopped
    model = checkpoint.load(folder, catalogue, matrices, device, token_cache)
    seen = {folder.name: record} if (record := checkpoint.seen(folder)) is not None else {}
    graphs = dict.fromkeys(seen, any(matrix.modality == "graph" for matrix in matrices.values()))
    unseen_tests = {column: unseen(asked, seen, catalogue, graphs)[0] for column, asked in tests.items()}
    hits: dict[str, list[float]] = {}
    sets = {"validation": valid, **unseen_tests}
    for column, asked in sets.items():
        answers = scoring.score(model, asked)
        right = strict_hits(answers.logits, asked.truth, answers.valid)
        hits[column] = [int(h) if h in (0, 1) else float(h) for h in right]
    seconds = sum(stage["seconds"] for stage in done.stages)
    questions = {column: asked.sha256 for column, asked in sets.items()}
    result = GridPointResult(seed, hits, questions, seconds)
    write_text(folder / RESULT, json.dumps(result.to_dict()))
    return result
