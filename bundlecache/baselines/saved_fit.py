"""Keeps what a method of next-item recommendation learnt, so that a question of one user need not wait for it again.

A file belongs to the method, the items, the interactions, the validation questions and the seed that it was learnt with; for
others it is not used, and written anew.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from ..column_digest import add_texts
from ..files import read_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .next_item import HistoryRanker, Training

FORMAT_VERSION = 1
CAUSE = "cause"  # among the arrays of a file
MAX_BYTES = 2**28  # of a file; what is larger is learnt again


def fitted(
    method: HistoryRanker, training: Training, folder: Path, tell: Callable[[str], None] = lambda _name: None
) -> HistoryRanker:
    """The method, with what it learnt before from the same ``training``, else learnt now and kept in ``folder``.

    ``tell`` is called with the name of what is learnt now.
    """
    learner = method.partner or method
    path, cause = folder / f"{learner.name.replace(' ', '-')}.npz", _cause(learner.name, training)
    if (learnt := _read(path, cause)) is not None:
        vars(learner)["learnt"] = learnt  # where functools.cached_property looks first
        return method
    tell(learner.name)
    learnt = learner.learnt
    if sum(array.nbytes for array in learnt.values()) <= MAX_BYTES:
        write_arrays(path, {**learnt, CAUSE: np.array(cause)})
    return method


def _read(path: Path, cause: str) -> dict[str, np.ndarray] | None:
    """What was learnt by that cause; None where there is nothing of it."""
    found = read_arrays(path)
    if found is None or CAUSE not in found or str(found.pop(CAUSE)) != cause:
        return None
    return found


def _cause(name: str, training: Training) -> str:
    """A hash of all that learning depends on."""
    seen, asked = training.seen, training.validation
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, name, training.seed, len(training.catalogue)]).encode())
    for texts in (training.catalogue.item_ids, seen.users):
        add_texts(digest, texts.arrow)
    for numbers in (seen.user, seen.item, seen.time, asked.history.offsets, asked.history.values, asked.target):
        digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()
