"""Train grids of settings, several seeds each, and write one table: ablations of Bundle-MLLM and of UniMP."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from ..recipes.recipe import Recipe
from ..rows import Result
from .session import PROCESSES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..bench.ablation import AblationTableRow, Grid, GridPointResult
    from ..recipes.unimp_recipe import UnimpRecipe
    from .session import Session


@dataclass(frozen=True, repr=False)
class AblationTable(Result):
    """One row per grid point, and the folder of the tables; ``stopped`` says why it ended early, if it did."""

    name: str
    path: Path
    rows: list[AblationTableRow]
    figure: str  # that the columns show
    seeds: tuple[int, ...]
    stopped: str | None

    def _frame(self) -> Any:
        """A row per grid point; its figures are columns by question set."""
        return [row.to_dict() for row in self.rows]


@dataclass(frozen=True)
class _Cell:
    """One recipe of a grid: what its results are about beside it, and how it is trained and answers: seed, folder, progress."""

    about: dict[str, Any]
    run: Callable[[int, Path, Callable[[Any], None]], GridPointResult | str]


def ablate(
    session: Session,
    grid: str | Path,
    *,
    seeds: int | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> AblationTable:
    """Train a grid of settings, several seeds each, and write one table; stopped, it goes on when called again.

    Parameters
    ----------
    grid
        Name of a shipped grid, or a TOML file.
    seeds
        Only so many of the grid's seeds.
    out
        Its folder; ``ablations/GRID`` of the workspace if left out.

    Raises
    ------
    BundlecacheError
        When the grid or one of its settings is wrong, or several processes were started.
    """
    from ..bench import ablation
    from ..train import ablation_run
    from ..train.shipped_recipes import read_grid

    wanted = read_grid(grid)
    if PROCESSES > 1:
        raise BundlecacheError("Ablations run in one process.", hint=Command("ablate", grid))
    folder = out or session.folder.root / "ablations" / wanted.name
    chosen, stopped = wanted.seeds[:seeds], None
    rows: list[AblationTableRow] = []
    done: list[list[GridPointResult]] = []
    progress = ablation_run.GridProgress(total=len(wanted.points) * len(chosen))
    for number, point in enumerate(wanted.points, 1):
        recipe = point.recipe
        cell = (
            _of_bundles(session, recipe, wanted, device)
            if isinstance(recipe, Recipe)
            else _of_tasks(session, recipe, device)
        )
        done.append([])
        for seed in chosen:
            place = folder / "cells" / point.key(seed, cell.about)
            result: GridPointResult | str | None = ablation_run.finished(place)
            began = None
            if result is None:
                began = time.monotonic()
                session.say.note(
                    f"grid point {number} of {len(wanted.points)}, seed {seed} ({progress.words}):"
                    f" {point.words or 'the recipe'}"
                )
                with session.say.bar("train") as bar:
                    result = cell.run(seed, place, bar.training)
            if isinstance(result, str):
                stopped = result
                break
            progress.add(None if began is None else time.monotonic() - began)
            done[-1].append(result)
        if done[-1]:
            rows.append(ablation.row(point, done[-1], done[0]))
            ablation.save(folder, wanted, rows)
        if stopped:
            session.say.warn(f"Stopped by {stopped};", "the same command goes on.")
            break
    return AblationTable(wanted.name, folder, rows, wanted.figure, chosen, stopped)


def _of_bundles(session: Session, recipe: Recipe, grid: Grid, device: str) -> _Cell:
    from ..train import ablation_run

    matrices = session.training_matrices(recipe)
    valid, tests = session.ablation_sets(recipe.data.options, grid.negatives)
    about = {name: [matrix.fingerprint, matrix.version] for name, matrix in matrices.items()}
    about |= {name: [asked.sha256] for name, asked in {"valid": valid, **tests}.items()}

    def run(seed: int, place: Path, progress: Callable[[Any], None]) -> GridPointResult | str:
        how: dict[str, Any] = {"device": device, "token_cache": session.folder.tokens, "progress": progress}
        return ablation_run.run(session.catalogue, matrices, valid, tests, recipe, seed, place, **how)

    return _Cell(about, run)


def _of_tasks(session: Session, recipe: UnimpRecipe, device: str) -> _Cell:
    from ..train.unimp import ablation_cell
    from ..train.unimp import run as unimp
    from .tasks import recipe_questions

    data = unimp.training_data(session.folder, session.catalogue, session.store, recipe, session.say)
    tests = recipe_questions(session, recipe.data)
    about: dict[str, Any] = {matrix.table: [matrix.fingerprint, matrix.version] for matrix in data.matrices}
    about |= {asked.name: [asked.sha256] for asked in tests.values()}

    def run(seed: int, place: Path, progress: Callable[[Any], None]) -> GridPointResult | str:
        how: dict[str, Any] = {"device": device, "token_cache": session.folder.tokens, "progress": progress}
        return ablation_cell.run(data, tests, recipe, seed, place, **how)

    return _Cell(about, run)
