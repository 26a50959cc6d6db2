"""Runs one point of an ablation grid: train, answer the questions, store the hits; a stopped point is resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.bench.metrics import strict_hits
from bundlecache.files import write_text

from . import checkpoint
from .inference import scoring
from .training import loop
from .training.progress import Progress
from .training.resume import FILE

if TYPE_CHECKING:
    from bundlecache.catalogue.model import Catalogue
    from bundlecache.questions.file import Questions
    from bundlecache.recipes.recipe import Recipe
    from bundlecache.store.store import Matrix

RESULT = "cell.json"


def finished(folder: Path) -> dict[str, Any] | None:
    """The stored result of a grid point, or None when it is not finished."""
    try:
        made: dict[str, Any] = json.loads((folder / RESULT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return made


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
) -> dict[str, Any] | str:
    """Train ``recipe`` into ``folder`` and answer validation and test questions; the reason, if training was stopped.

    ``tests`` are question sets by their column in the table.

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
    hits, sets = {}, {"validation": valid, **tests}
    for column, asked in sets.items():
        answers = scoring.score(model, asked)
        right = strict_hits(answers.logits, asked.truth, answers.valid)
        hits[column] = [int(h) if h in (0, 1) else float(h) for h in right]
    seconds = sum(stage["seconds"] for stage in done.stages)
    questions = {column: asked.sha256 for column, asked in sets.items()}
    result = {"seed": seed, "hits": hits, "questions": questions, "seconds": seconds}
    write_text(folder / RESULT, json.dumps(result))
    return result
