"""The click log of a catalogue: the interactions with their times, and the visits that they form.

A visit is a run of clicks of one user in which no two clicks that follow each other are further apart than a number of
minutes; where the table has a column ``session``, a visit is a session instead, but for clicks without one. Clicks at the same time, such as the lines
of an invoice, stand in a random order that follows from a fixed seed, because the order of a file's rows tells which items belong
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..errors import CatalogueError, Command
from .arrow_tables import coded_texts, read_columns
from .readers.cell_values import read_dates

if TYPE_CHECKING:
    from ..workspace import WorkspaceFolder
    from .catalogue import Catalogue

MICROSECONDS = 1_000_000  # of a second
VISIT_MINUTES = 30.0  # the usual bound of web statistics
ORDER_SEED = 0  # of clicks at the same time
COLUMNS = ("user_id", "item_id", "timestamp", "session")


@dataclass(frozen=True)
class ClickLog:
    """E clicks, by user, then visit, then time. An item that is clicked again in the same visit counts once.

    Attributes
    ----------
    user, item, visit
        int32 [E] numbers of users, item indices and numbers of visits; a visit's clicks stand together.
    time
        int64 [E] microseconds since 1970, UTC.
    """

    user: np.ndarray
    item: np.ndarray
    visit: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def visit_end(self) -> np.ndarray:
        """int64 [E] the time of the last click of each click's visit."""
        last = np.flatnonzero(np.diff(self.visit, append=-1))
        return np.repeat(self.time[last], np.diff(last, prepend=-1))


def read_clicks(folder: WorkspaceFolder, catalogue: Catalogue, visit_minutes: float = VISIT_MINUTES) -> ClickLog:
    """The interactions of a workspace that have a time and a known item.

    Raises
    ------
    CatalogueError
        When there are no interactions, they have no column ``timestamp``, or it holds something that is no time.
    """
    path = folder.table("interactions")
    if path is None or not len(catalogue.interactions):
        raise CatalogueError(
            f"{folder.root} has no interactions, and questions about similar items are made of them.",
            hint=[Command("import", "tables", "SRC", "--events", "FILE"), "reads clicks or purchases"],
        )
    table = read_columns(path, [], COLUMNS)
    if "timestamp" not in table or table["timestamp"].null_count == len(table["timestamp"]):
        raise CatalogueError(
            f"{path.name} has no column timestamp, so nobody can say which click followed which.",
            hint="add when each interaction happened, as a date or in seconds since 1970",
        )
    dates = read_dates("timestamp", table["timestamp"])
    if dates is None:
        raise CatalogueError(
            f"The column timestamp of {path.name} holds something that is no time.",
            hint="write times as 2025-12-31T18:30:00, or in seconds or milliseconds since 1970",
        )
    times = dates.values if not isinstance(dates.values, list) else pa.array(dates.values, pa.timestamp("us"))
    time = np.asarray(times.cast(pa.int64()).fill_null(-1))
    user = coded_texts(table["user_id"], "user_id", path, [])[0]
    code, ids = coded_texts(table["item_id"], "item_id", path, [])
    item = catalogue.positions(ids)[code]
    session = coded_texts(table["session"], "session", path, [])[0] if "session" in table else None
    kept = np.flatnonzero((item >= 0) & (user >= 0) & (time >= 0))
    kept = np.random.default_rng(ORDER_SEED).permutation(kept)
    session = np.full(len(kept), -1) if session is None else session[kept]
    return clicks_of(user[kept], item[kept], time[kept], session, int(visit_minutes * 60 * MICROSECONDS))


def clicks_of(user: np.ndarray, item: np.ndarray, time: np.ndarray, session: np.ndarray, gap: int) -> ClickLog:
    """A click log from columns [E]: sorted, with visits by ``session``.

    Of clicks whose session is -1, a visit ends where more than ``gap`` microseconds pass to the next one.

    >>> log = clicks_of(*np.array([[0, 0, 0, 0], [5, 6, 5, 7], [1, 2, 3, 90], [-1, -1, -1, -1]]), gap=10)
    >>> log.item.tolist(), log.visit.tolist()
    ([5, 6, 7], [0, 0, 1])
    """
    order = np.lexsort((time, session, user))
    user, item, time, session = (each[order] for each in (user, item, time, session))
    new = (np.diff(user, prepend=-1) != 0) | (np.diff(session, prepend=-2) != 0)
    new |= (session < 0) & (np.diff(time, prepend=time[:1]) > gap)
    visit = np.cumsum(new) - 1
    first = np.unique(visit * (int(item.max(initial=0)) + 1) + item, return_index=True)[1]
    first.sort()
    user, item, visit = (each[first].astype(np.int32) for each in (user, item, visit))
    return ClickLog(user, item, visit, time[first].astype(np.int64))
