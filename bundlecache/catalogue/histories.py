"""User histories: who took what, in the order of time, with what they said of it (rating, explanation, query).

Read from the interactions table as columns, when a task asks for it; bundles need none of this. Time and memory are
linear in the interactions.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CatalogueError, counted
from .arrow_tables import coded_texts, read_columns, texts
from .columns import Lists, Strings
from .readers.cell_values import read_dates
from .tables import number, required_column

if TYPE_CHECKING:
    from ..workspace import WorkspaceFolder
    from .catalogue import Catalogue

EXPLANATIONS = ("explanation", "review", "text")
"""The columns that may hold why a user liked an item; the first that is there counts."""
WANTED = ("user_id", "item_id", "timestamp", "rating", "query", *EXPLANATIONS)


@dataclass(frozen=True)
class Histories:
    """E interactions of U users, user by user, the earliest first; each pair of user and item stands once, as it first was.

    ``time`` is in seconds since 1970, or in whatever unit the table counts; without ``timed`` it is 0 and the order that
    of the table, which means nothing.
    """

    users: Strings[str]  # [U]
    user: np.ndarray  # int64 [E], ascending
    item: np.ndarray  # int32 [E] indices of the catalogue
    time: np.ndarray  # float64 [E]
    timed: bool
    rating: np.ndarray  # float32 [E], NaN where there is none
    explanation: Strings[Any]  # [E], None where there is none
    query: Strings[Any]  # [E], None where there is none

    def __len__(self) -> int:
        return len(self.item)

    @property
    def ends(self) -> np.ndarray:
        """int64 [U + 1]: user u's rows are ``ends[u]:ends[u + 1]``."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1))

    def sequences(self) -> Lists:
        """The items of every user, the earliest first."""
        return Lists.of(self.ends, self.item)

    def take(self, rows: np.ndarray) -> Histories:
        """These rows (numbers or bool [E]) in their order; users without a row are left out."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        there = np.zeros(len(self.users), bool)
        there[self.user[rows]] = True
        user = (np.cumsum(there) - 1)[self.user[rows]]
        if (user[1:] < user[:-1]).any():
            order = np.argsort(user, kind="stable")
            rows, user = rows[order], user[order]
        return replace(
            self,
            users=self.users.take(np.flatnonzero(there)),
            user=user,
            item=self.item[rows],
            time=self.time[rows],
            rating=self.rating[rows],
            explanation=self.explanation.take(rows),
            query=self.query.take(rows),
        )

    def core(self, least: int) -> Histories:
        """The k-core: users and items with fewer than ``least`` interactions are left out, until none has.

        >>> ends = np.array([0, 0, 1, 1, 2])
        >>> made = Histories.of(["a", "b", "c"], ends, np.array([0, 1, 0, 1, 1]), np.arange(5))
        >>> list(made.core(2).users)
        ['a', 'b']
        """
        kept = np.ones(len(self), bool)
        while True:
            few = np.bincount(self.user[kept], minlength=len(self.users))[self.user] < least
            few |= np.bincount(self.item[kept], minlength=self.item.max(initial=0) + 1)[self.item] < least
            if not (few & kept).any():
                return self if kept.all() else self.take(kept)
            kept &= ~few

    def by_lot(self, seed: int) -> Histories:
        """The same interactions, those of each user in an order drawn by lot: for tables without times."""
        return self.take(np.lexsort((np.random.default_rng(seed).permutation(len(self)), self.user)))

    @classmethod
    def of(
        cls, users: Any, user: np.ndarray, item: np.ndarray, time: np.ndarray | None = None, **told: Any
    ) -> Histories:
        """Histories of rows in any order; ``told`` holds rating, explanation and query as far as they are there."""
        count, nothing = len(user), Strings(pa.nulls(len(user), pa.large_string()))
        rating = told.get("rating", np.full(count, np.nan, np.float32))
        made = cls(
            Strings(users),
            user.astype(np.int64),
            item.astype(np.int32),
            np.zeros(count) if time is None else time.astype(np.float64),
            time is not None,
            rating,
            Strings(told.get("explanation", nothing)),
            Strings(told.get("query", nothing)),
        )
        order = np.lexsort((made.time, made.user))  # stable: of equal times, the table's order
        pair = made.user[order] * (np.int64(made.item.max(initial=0)) + 1) + made.item[order]
        by_pair = np.argsort(pair, kind="stable")
        first = np.ones(count, bool)
        first[by_pair[1:]] = pair[by_pair[1:]] != pair[by_pair[:-1]]
        return made.take(order[first])

    @classmethod
    def read(cls, folder: WorkspaceFolder, catalogue: Catalogue, notes: list[str] | None = None) -> Histories:
        """The histories of a workspace; ``notes`` is told in sentences what was left out.

        Raises
        ------
        CatalogueError
            When there are no interactions, or times that are neither dates nor numbers.
        """
        notes = [] if notes is None else notes
        path = folder.table("interactions")
        if path is None:
            raise CatalogueError(
                f"{folder.root} holds no interactions, so there are no user histories.",
                hint="add interactions.parquet with user_id, item_id and timestamp",
            )
        table = read_columns(path, notes, WANTED)
        for name in ("user_id", "item_id"):
            required_column({key: [] for key in table}, path, name)
        user, users = coded_texts(table["user_id"], "user_id", path, notes)
        codes, item_ids = coded_texts(table["item_id"], "item_id", path, notes)
        item = np.append(catalogue.positions(item_ids), -1)[codes]  # of empty cells -1
        time = _times(table["timestamp"], str(path)) if "timestamp" in table else None
        known = (user >= 0) & (item >= 0)
        if time is not None and np.isnan(time[known]).all():
            time = None
        if time is not None:
            untimed = known & np.isnan(time)
            if untimed.any():
                notes.append(
                    f"{counted(int(untimed.sum()), 'interaction')} without a timestamp cannot be put in order and are left out."
                )
            known &= ~untimed
        rows = np.flatnonzero(known)
        told: dict[str, Any] = {}
        text = next((name for name in EXPLANATIONS if name in table), None)
        for name, column in (("explanation", text), ("query", "query" if "query" in table else None)):
            if column is not None:
                told[name] = texts(table[column], column, path, notes).take(rows)
        if "rating" in table:
            told["rating"] = _numbers(*texts(table["rating"], "rating", path, notes).codes())[rows]
        return cls.of(users, user[rows], item[rows], None if time is None else time[rows], **told)


def _numbers(codes: np.ndarray, distinct: Strings[str]) -> np.ndarray:
    """float32 [n] the cells as numbers; NaN for those that are none."""
    found = [number(cell) for cell in distinct]
    return np.array([*(np.nan if value is None else value for value in found), np.nan], np.float32)[codes]


def _times(column: pa.ChunkedArray, source: str) -> np.ndarray:
    """float64 [n]: numbers as they stand, dates as seconds since 1970, NaN for empty cells.

    Raises
    ------
    CatalogueError
        When the cells are neither.
    """
    if pa.types.is_dictionary(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        with suppress(pa.ArrowInvalid):
            column = column.cast(pa.float64())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type):
        return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan), np.float64)
    found = read_dates("timestamp", column)
    if found is None:
        raise CatalogueError(
            f"{source} holds a timestamp that is neither a date nor a number.",
            hint="write times as 2025-12-31 18:30:00, or as seconds since 1970",
        )
    dates = found.values
    assert isinstance(dates, pa.ChunkedArray)  # noqa: S101 - as what was given
    seconds = pc.divide(dates.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
    return np.asarray(pc.fill_null(seconds, np.nan), np.float64)
