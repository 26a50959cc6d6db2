"""Freezes the tasks of personalisation on user histories: recommend, search, select, preference and explain.

==============  ================================================================================================
``recommend``   which item the user takes next, among the whole catalogue
``search``      the same, with what the user typed: the column query of the interaction, or the item's category
``select``      which of three items the user takes: one or two of them are right
``preference``  how many stars the user gives the next item
``explain``     what the user says of it
==============  ================================================================================================

After *Towards Unified Multi-modal Personalization* (UniMP, Wei et al., ICLR 2024). All tasks of one split ask about the same
interactions, as far as these have what a task needs, and share one view of training: what the questions of ``recommend``
leave (`task_split.training_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from ..catalogue.columns import Lists, Strings
from ..catalogue.histories import Histories
from ..errors import CatalogueError, Command, QuestionsError
from ..sorted_arrays import among
from ..text import listed, quoted
from .task_file import TASKS, TaskQuestions, load
from .task_split import SPLITS, hold_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder
    from .task_file import TaskName
    from .task_split import HeldOut, Split

CANDIDATES = 3  # of a question of the task select
ONE_RIGHT_SHARE = 0.6  # of its questions; in the others two of the three are right
SELECT_STREAM = 6  # beside the seed: of the draws of its candidates
K_CORE = 5  # interactions that a user and an item have at least
RATED = ("preference", "explain")


def name_of(task: str, split: str, k_core: int = K_CORE, seed: int = 0, min_rating: float | None = None) -> str:
    """The name of the file of a task's questions.

    >>> name_of("search", "time"), name_of("search", "time", 3, 7), name_of("search", "time", min_rating=4)
    ('search-time', 'search-time-core3-seed7', 'search-time-min4')
    """
    core = f"-core{k_core}" if k_core != K_CORE else ""
    least = f"-min{min_rating:g}" if min_rating is not None else ""
    return f"{task}-{split}{core}{least}" + (f"-seed{seed}" if seed else "")


def path_of(folder: WorkspaceFolder, name: str) -> Path:
    """Where a task's questions stand."""
    return folder.questions / "tasks" / f"{name}.parquet"


def prepared(histories: Histories, split: str, k_core: int, seed: int, min_rating: float | None = None) -> Histories:
    """The histories that a split is drawn from: their k-core, and for the split ``random`` in an order by lot.

    With ``min_rating`` nothing counts but what users gave so many stars: what they like.
    """
    core = (histories if min_rating is None else histories.take(histories.rating >= min_rating)).core(k_core)
    return core.by_lot(seed) if split == "random" else core


def prepared_as(histories: Histories, header: Mapping[str, Any]) -> Histories:
    """The histories that a frozen file was drawn from, by its ``header``."""
    return prepared(histories, header["split"], header["k_core"], header["seed"], header.get("min_rating"))


def apart_from(validation: TaskQuestions, test: TaskQuestions) -> TaskQuestions:
    """The validation questions that tell nothing of what is right in ``test``: of the same user, other items are right there.

    The second right item of a question of ``select`` is what its user took before the target, often a validation target.
    """
    if test.task != "select":
        return validation
    user = np.asarray(pc.index_in(validation.users.arrow, value_set=test.users.arrow).fill_null(-1), np.int64)
    same = (test.candidates[user] == validation.target[:, None]) & test.right[user]
    return validation.take(np.flatnonzero((user < 0) | ~same.any(axis=1)))


@dataclass(frozen=True)
class TaskInfo:
    """One file of task questions; ``made`` is "now" or "before"."""

    name: str
    valid: int
    test: int
    sha256: str
    made: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


def freeze_missing(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    wanted: Sequence[TaskName],
    split: Split,
    k_core: int = K_CORE,
    seed: int = 0,
    notes: list[str] | None = None,
    min_rating: float | None = None,
) -> list[TaskInfo]:
    """Freeze the questions of these tasks and of ``recommend``, which say what training sees; files that are there stay.

    Raises
    ------
    BundlecacheError
        When there are no interactions, they lack what a task needs, or a file is damaged.
    """
    for given, allowed, what in ((wanted, TASKS, "task"), ([split], SPLITS, "split")):
        if unknown := [each for each in given if each not in allowed]:
            raise QuestionsError(
                f"There is no {what} {quoted(unknown[0])}; there are {listed(list(allowed))}.",
                hint=f"--{what} {allowed[0]}",
            )
    histories: Histories | None = None
    rows = []
    for task in dict.fromkeys(("recommend", *wanted)):
        path = path_of(folder, name_of(task, split, k_core, seed, min_rating))
        made = "before" if path.exists() and path.with_suffix(".json").exists() else "now"
        if made == "now":
            histories = histories or Histories.read(folder, catalogue, notes)
            freeze(histories, catalogue, task, split, k_core, seed, min_rating).save(path, catalogue)
        asked = load(path, catalogue)
        test = int(asked.test.sum())
        rows.append(TaskInfo(asked.name, len(asked) - test, test, asked.sha256[:16], made))
    return rows


def freeze(
    histories: Histories,
    catalogue: Catalogue,
    task: TaskName,
    split: Split,
    k_core: int = K_CORE,
    seed: int = 0,
    min_rating: float | None = None,
) -> TaskQuestions:
    """Draw the questions of a task; `TaskQuestions.save` writes them.

    Raises
    ------
    CatalogueError
        When no user has a history long enough, or the interactions lack what the task needs.
    """
    _check_rated(histories, task, min_rating)
    core = prepared(histories, split, k_core, seed, min_rating)
    if not len(core):
        rated = "" if min_rating is None else f" with {min_rating:g} stars or more"
        raise CatalogueError(
            f"No user has a history that {task} can ask about: of {len(histories):,} interactions none{rated} is left where "
            f"users and items have at least {k_core} each.",
            hint=[Command("questions", "--task", task, "--k-core", 0), "keeps all of them"],
        )
    held = hold_out(core, split, seed)
    query = queries_of(core, catalogue)
    usable = _usable(task, core, query)[held.row]
    row, test = held.row[usable], held.test[usable]
    if not test.any() or test.all():
        raise CatalogueError(
            f"The split {split} leaves {int((~test).sum()):,} validation and {int(test.sum()):,} test questions for {task}, "
            f"of {len(core.users):,} users; both are needed.",
            hint=[Command("questions", "--task", task, "--k-core", 0), "keeps users with few interactions"],
        )
    rng = np.random.default_rng([seed, SELECT_STREAM])
    made: dict[str, Any] = {}
    start, stop = core.ends[core.user[row]], row  # the history of a question
    if task == "select":
        made, stop = _candidates(core, held, row, start, rng)
    history = _ranges(start, stop)
    if task == "search":
        made["query"] = query.take(row)
    if task in RATED:
        made |= {"rating": core.rating[row], "history_rating": core.rating[history.values]}
    if task == "explain":
        made |= {
            "explanation": core.explanation.take(row),
            "history_explanation": core.explanation.take(history.values),
        }
    header = {
        "name": name_of(task, split, k_core, seed, min_rating),
        "task": task,
        "split": split,
        "k_core": k_core,
        "seed": seed,
        "cut": held.cut,
        "n_questions": {"valid": int((~test).sum()), "test": int(test.sum())},
        "n_users": len(core.users),
        "n_interactions": len(core),
        "n_items": len(np.unique(core.item)),
    }
    if min_rating is not None:
        header["min_rating"] = min_rating
    items = Lists.of(history.offsets, core.item[history.values])
    return TaskQuestions(task, header, core.users.take(core.user[row]), test, items, core.item[row], **made)


def _check_rated(histories: Histories, task: TaskName, min_rating: float | None) -> None:
    """Refuse ``min_rating`` where it would leave nothing to ask about.

    Raises
    ------
    CatalogueError
        When there are no ratings, or the task is to tell high ones from low ones.
    """
    if min_rating is None:
        return
    if np.isnan(histories.rating).all():
        raise CatalogueError(
            "The interactions have no rating, so none has so many stars.",
            hint="add the column rating, or leave out --min-rating",
        )
    if task == "preference":
        raise CatalogueError(
            f"The task preference asks about all ratings, not about those of {min_rating:g} stars or more alone.",
            hint=Command("questions", "--task", "preference"),
        )


def _usable(task: TaskName, core: Histories, query: Strings[Any]) -> np.ndarray:
    """Bool [E], interactions that have what a task asks about.

    Raises
    ------
    CatalogueError
        When none has.
    """
    if task == "search":
        usable, lacking, column = query.filled, "query, and their items no category", "query"
    elif task == "preference":
        usable, lacking, column = ~np.isnan(core.rating), "rating", "rating"
    elif task == "explain":
        usable, lacking, column = (
            core.explanation.filled & ~np.isnan(core.rating),
            "rating and explanation",
            "explanation",
        )
    else:
        return np.ones(len(core), bool)
    if not usable.any():
        raise CatalogueError(
            f"The interactions have no {lacking}, which {task} asks about.",
            hint=f"add the column {column} to the interactions",
        )
    return usable


def queries_of(core: Histories, catalogue: Catalogue) -> Strings[Any]:
    """What was typed, or else the category of the item, its path from the top joined by spaces."""
    category = catalogue.column("category").take(core.item).arrow
    return Strings(pc.coalesce(core.query.arrow, pc.replace_substring(category, " > ", " ")))


def _ranges(start: np.ndarray, stop: np.ndarray) -> Lists:
    """Lists of the numbers from each start to its stop."""
    offsets = np.concatenate([[0], (stop - start).cumsum()]).astype(np.int64)
    first = np.repeat(start - offsets[:-1], stop - start)
    return Lists.of(offsets, first + np.arange(offsets[-1]))


def _candidates(
    core: Histories, held: HeldOut, row: np.ndarray, start: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, Any], np.ndarray]:
    """Three items per question and which are right, and where histories stop.

    The second right item is the interaction before the target, where training does not see it and a history remains.
    """
    two = (rng.random(len(row)) >= ONE_RIGHT_SHARE) & (row - 1 > start)
    two &= held.hidden[row - 1]
    stock = np.unique(core.item)
    if len(stock) < np.diff(core.ends).max() + CANDIDATES:
        raise CatalogueError(
            f"There are {len(stock):,} items only, so no wrong ones are left for the user who took most of them.",
            hint=Command("questions", "--task", "recommend"),
        )
    return candidates_of(core, row, two, stock, taken_keys(core), rng), np.where(two, row - 1, row)


def taken_keys(histories: Histories) -> np.ndarray:
    """int64 [E], ascending: a number for each pair of user and item that stands in the histories, see `candidates_of`."""
    return np.sort(histories.user * _size(histories) + histories.item)


def candidates_of(
    histories: Histories,
    row: np.ndarray,
    two: np.ndarray,
    stock: np.ndarray,
    taken: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Candidates [q, 3] of questions about the interactions ``row`` and which are right, in an order drawn by lot.

    Right is the item of the interaction, and where ``two`` that of the one before it; the others are of ``stock`` and
    no items that the user took (``taken``, of `taken_keys`).
    """
    candidates = stock[rng.integers(len(stock), size=(len(row), CANDIDATES))]
    right = np.zeros(candidates.shape, bool)
    candidates[:, 0], right[:, 0] = histories.item[row], True
    candidates[two, 1], right[two, 1] = histories.item[row[two] - 1], True
    while True:  # wrong ones that the user took, or that stand twice, are drawn again
        key = histories.user[row][:, None] * _size(histories) + candidates
        again = among(key.ravel(), taken).reshape(key.shape) & ~right
        again[:, 2] |= candidates[:, 2] == candidates[:, 1]
        if not again.any():
            break
        candidates[again] = stock[rng.integers(len(stock), size=int(again.sum()))]
    order = rng.permuted(np.tile(np.arange(CANDIDATES), (len(row), 1)), axis=1)
    made = {"candidates": candidates, "right": right}
    return {name: np.take_along_axis(cells, order, axis=1) for name, cells in made.items()}


def _size(histories: Histories) -> np.int64:
    return np.int64(histories.item.max()) + 1
