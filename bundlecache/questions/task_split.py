"""Splits of user histories: which interactions are asked about, and which ones training may see.

==================  ====================================================================================
``leave_last_out``  test: the last interaction of every user; validation: the one before it
``user_holdout``    a tenth of the users each for validation and test; asked: their last interaction
``time``            one date for all: asked is each user's first interaction after it
``random``          as leave_last_out, but in an order drawn by lot: for interactions without times
==================  ====================================================================================

The history of a question is what its user did before. Training sees of a user who is asked about (but for
``user_holdout``: nothing of such a user) the history of the earliest question; with ``time``, nothing after the date.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow.compute as pc

from ..errors import CatalogueError, Command
from ..sorted_arrays import among

if TYPE_CHECKING:
    from ..catalogue.histories import Histories
    from .task_file import TaskQuestions

Split = Literal["leave_last_out", "user_holdout", "time", "random"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT_SHARE = 0.1  # of the users, or of the interactions: validation, and as much again for test


@dataclass(frozen=True)
class HeldOut:
    """q interactions that are asked about: ``row`` [q] of the histories, ``test`` bool [q], else validation.

    ``hidden`` bool [E] are the rows that no training may see. ``cut`` is the time at which training ends, of ``time``.
    """

    row: np.ndarray
    test: np.ndarray
    hidden: np.ndarray
    cut: float | None = None


def hold_out(histories: Histories, split: Split, seed: int = 0) -> HeldOut:
    """Choose the interactions that are asked about; users with too short a history are not asked.

    Raises
    ------
    CatalogueError
        When the interactions have no times, and the split needs them.
    """
    if not histories.timed and split != "random":
        raise CatalogueError(
            f"The interactions have no timestamp, so the split {split} does not know what came last.",
            hint=[
                "add a column timestamp, or hold out by lot:",
                Command("questions", "--task", "recommend", "--split", "random"),
            ],
        )
    ends = histories.ends
    first, last, length = ends[:-1], ends[1:] - 1, np.diff(ends)  # [U]
    if split == "time":
        return _by_time(histories, first)
    if split == "user_holdout":
        place = np.array([_place(user, seed) for user in histories.users])  # [U]
        asked = np.flatnonzero((place < 2 * HELD_OUT_SHARE) & (length > 1))
        return HeldOut(last[asked], place[asked] < HELD_OUT_SHARE, (place < 2 * HELD_OUT_SHARE)[histories.user])
    asked = np.flatnonzero(length > 2)
    row = np.stack([last[asked] - 1, last[asked]], axis=1).ravel()  # validation and test, user by user
    hidden = np.zeros(len(histories), bool)
    hidden[row] = True
    return HeldOut(row, np.tile([False, True], len(asked)), hidden)


def _by_time(histories: Histories, first: np.ndarray) -> HeldOut:
    cuts = np.quantile(histories.time, [1 - 2 * HELD_OUT_SHARE, 1 - HELD_OUT_SHARE], method="lower")
    rows, parts = [], []
    for is_test, low, high in ((False, cuts[0], cuts[1]), (True, cuts[1], np.inf)):
        inside = np.flatnonzero((histories.time >= low) & (histories.time < high))
        _, at = np.unique(histories.user[inside], return_index=True)  # of each user the earliest
        row = inside[at]
        row = row[row > first[histories.user[row]]]  # something came before
        rows.append(row)
        parts.append(np.full(len(row), is_test))
    row, test = np.concatenate(rows), np.concatenate(parts)
    order = np.argsort(row, kind="stable")
    return HeldOut(row[order], test[order], histories.time >= cuts[0], float(cuts[0]))


def _place(user: str, seed: int) -> float:
    """A number in 0..1 that depends on the user and the seed alone."""
    digest = hashlib.blake2b(f"{seed}\0{user}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def training_rows(histories: Histories, recommend: TaskQuestions) -> np.ndarray:
    """Bool [E], which interactions training may see, whatever the task: what the frozen questions of ``recommend`` leave.

    It follows from the questions, not from drawing the split again: interactions that were added since they were frozen,
    of users who are asked about, stay out of training.
    """
    if recommend.split == "time":
        return histories.time < float(recommend.header["cut"])
    user = np.asarray(pc.fill_null(pc.index_in(recommend.users.arrow, value_set=histories.users.arrow), -1), np.int64)
    asked = np.zeros(len(histories.users) + 1, bool)  # the last place is for users who are there no more
    asked[user] = True
    others: np.ndarray = ~asked[histories.user]
    if recommend.split == "user_holdout":
        return others
    earliest = _shortest(user, recommend.history.lengths)
    known = recommend.history.take(earliest)
    size = np.int64(max(histories.item.max(initial=0), known.values.max(initial=0))) + 1
    pairs = user[earliest][known.rows] * size + known.values
    return others | among(histories.user * size + histories.item, np.sort(pairs))


def _shortest(user: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The question of each user [q] with the shortest history [q]."""
    order = np.lexsort((length, user))
    return order[np.unique(user[order], return_index=True)[1]]
