"""Draws training rows of UniMP from user histories: new ones at every step, determined by the seed and the number of the step.

Only what the frozen questions leave to training is read (`bundlecache.questions.task_split.training_rows`), so no row holds
a test user's, or a later, interaction. Rows have the form of frozen questions, and prompts are built of both by the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.catalogue.columns import Lists
from bundlecache.errors import Command, QuestionsError
from bundlecache.questions.task_file import TASKS, TaskName, TaskQuestions
from bundlecache.questions.tasks import CANDIDATES, ONE_RIGHT_SHARE, candidates_of, queries_of, taken_keys

from ..prompts.tokens import ranges
from ..training.epochs import EpochOrder

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.catalogue.histories import Histories
    from bundlecache.recipes.unimp_recipe import UnimpRecipe

BLOCK_STEPS = 64
"""Steps over which every task gets exactly its share of the rows."""
MIX_STREAM, ROW_STREAM = 1, 2  # beside the seed
STREAMS: tuple[TaskName, ...] = (*TASKS, "draw")
"""The tasks by the number that stands beside the seed."""


class _Targets:
    """The interactions of training that a task can ask about, user by user: E' rows of the histories, u users."""

    def __init__(self, seen: Histories, usable: np.ndarray) -> None:
        first = seen.ends[:-1][seen.user]
        self.rows = np.flatnonzero(usable & (np.arange(len(seen)) > first))
        users, start, count = np.unique(seen.user[self.rows], return_index=True, return_counts=True)
        self.start, self.count = start, count
        self.place = self.rows - first[self.rows]  # how long the history before each is
        self.users = users

    def __len__(self) -> int:
        return len(self.users)


class Samples:
    """Rows of the tasks of a recipe; ``seen`` are the interactions that training may see.

    ``drawable`` (bool [I]) are the items whose pictures have codes, for the task ``draw``.

    Raises
    ------
    QuestionsError
        When no interaction of training has what a task needs.
    """

    def __init__(
        self,
        seen: Histories,
        catalogue: Catalogue,
        recipe: UnimpRecipe,
        seed: int,
        drawable: np.ndarray | None = None,
    ) -> None:
        self.seen, self.recipe, self.seed = seen, recipe, seed
        self.drawable = np.zeros(len(catalogue), bool) if drawable is None else drawable
        self.query = queries_of(seen, catalogue)
        self.stock = np.unique(seen.item)
        self._taken = taken_keys(seen)
        self._first = seen.ends[:-1]  # [U]: the first row of each user
        self.targets = {task: _Targets(seen, self._usable(task)) for task in recipe.data.tasks}
        for task, targets in self.targets.items():
            if not len(targets):
                raise QuestionsError(
                    f"No interaction that training may see can be a row of the task {task}: {_needs(task)}.",
                    hint=[f"leave {task} out of data.tasks, or keep users with few interactions:", _freeze_all()],
                )
        if "select" in self.targets and len(self.stock) < int(np.diff(seen.ends).max()) + CANDIDATES:
            raise QuestionsError(
                f"Training sees {len(self.stock):,} items only, so no wrong ones are left for the user who took most of them.",
                hint="leave select out of data.tasks",
            )
        self._order = {
            task: EpochOrder(len(targets), [seed, STREAMS.index(task)]) for task, targets in self.targets.items()
        }
        self._mixed: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # the latest block and the task of its rows

    def batch(self, step: int) -> list[TaskQuestions]:
        """The rows of one optimiser step: a part for each task that has any."""
        tasks, batch = self.recipe.data.tasks, self.recipe.data.batch
        block, place = divmod(step, BLOCK_STEPS)
        if self._mixed[0] != block:
            self._mixed = (block, self._mix(block))
        mixed, parts = self._mixed[1], []
        for number, task in enumerate(tasks):
            before = int((mixed[: place * batch] == number).sum())
            count = int((mixed[place * batch : (place + 1) * batch] == number).sum())
            if count:
                first = block * int((mixed == number).sum()) + before
                rng = np.random.default_rng([self.seed, ROW_STREAM, STREAMS.index(task), step])
                parts.append(self.draw(task, self._order[task].take(first, count), rng))
        return parts

    def _mix(self, block: int) -> np.ndarray:
        """int64: the number of the task of every row of a block; each task has exactly its share, to the row."""
        rows = BLOCK_STEPS * self.recipe.data.batch
        ends = np.rint(np.cumsum([self.recipe.share(task) for task in self.recipe.data.tasks]) * rows).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        made = np.repeat(np.arange(len(counts)), counts)
        return np.random.default_rng([self.seed, MIX_STREAM, block]).permutation(made)

    def draw(self, task: TaskName, users: np.ndarray, rng: np.random.Generator) -> TaskQuestions:
        """One row of each of ``users`` (numbers among those that the task can ask about)."""
        return self.rows(task, self.picked(task, users, rng), rng)

    def picked(self, task: TaskName, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int64: the interaction of each of ``users`` that a row asks about, see ``data.windows``."""
        targets, data = self.targets[task], self.recipe.data
        start, count = targets.start[users], targets.count[users]
        picked = start + np.floor(rng.random(len(users)) * count).astype(np.int64)
        if data.windows == "whole":
            most = self._told(task)
            # Of a long history any part that fills the prompt, of a short one all of it.
            full = np.array(
                [_first_at_least(targets.place[s : s + c], most) for s, c in zip(start, count, strict=True)]
            )
            picked = start + full + np.floor(rng.random(len(users)) * (count - full)).astype(np.int64)
        found: np.ndarray = targets.rows[picked]
        return found

    def rows(self, task: TaskName, target: np.ndarray, rng: np.random.Generator) -> TaskQuestions:
        """The rows that ask about the interactions ``target`` of ``seen``."""
        seen = self.seen
        first, stop = self._first[seen.user[target]], target
        made: dict[str, Any] = {}
        if task == "select":
            made, stop = self._candidates(target, first, rng)
        start = np.maximum(first, stop - self._told(task))
        offsets = np.concatenate([[0], np.cumsum(stop - start)])
        told = ranges(start, stop - start)
        if task in ("search", "draw"):
            made["query"] = self.query.take(target)
        if task in ("preference", "explain"):
            made |= {"rating": seen.rating[target], "history_rating": seen.rating[told]}
        if task == "explain":
            made["explanation"] = seen.explanation.take(target)
            made["history_explanation"] = seen.explanation.take(told)
        history = Lists.of(offsets, seen.item[told])
        users, test = seen.users.take(seen.user[target]), np.zeros(len(target), bool)
        return TaskQuestions(task, {"name": "training"}, users, test, history, seen.item[target], **made)

    def _told(self, task: str) -> int:
        data = self.recipe.data
        return data.history if task in ("recommend", "search", "draw") else data.other_history

    def _usable(self, task: str) -> np.ndarray:
        """Bool [E], as `bundlecache.questions.tasks` chooses its questions."""
        seen = self.seen
        rated = ~np.isnan(seen.rating)
        kinds = {"search": self.query.filled, "preference": rated, "explain": rated & seen.explanation.filled}
        kinds["draw"] = self.query.filled & self.drawable[seen.item]
        found: np.ndarray = kinds.get(task, np.ones(len(seen), bool))
        return found

    def _candidates(
        self, target: np.ndarray, first: np.ndarray, rng: np.random.Generator
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Three items per row and which are right, and where histories stop; wrong ones are none that the user took."""
        two = (rng.random(len(target)) >= ONE_RIGHT_SHARE) & (target - 1 > first)
        return candidates_of(self.seen, target, two, self.stock, self._taken, rng), np.where(two, target - 1, target)


def _first_at_least(ascending: np.ndarray, least: int) -> int:
    """The first place of a number that is at least ``least``; the last place when none is."""
    return min(int(np.searchsorted(ascending, least)), len(ascending) - 1)


def _needs(task: str) -> str:
    kinds = {"search": "it needs a query or a category", "preference": "it needs ratings"}
    kinds["explain"] = "it needs ratings and explanations"
    kinds["draw"] = "it needs a query or a category, and items whose pictures have codes"
    return kinds.get(task, "it needs users with two interactions or more")


def _freeze_all() -> Command:
    return Command("questions", "--task", "recommend", "--k-core", 0)
