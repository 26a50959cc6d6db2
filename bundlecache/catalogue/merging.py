"""Merges the rows of a table with newer ones, matched by their ids: which are added, edited, removed or the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .readers import cells
from .readers.dataset import ID_COLUMNS
from .tables import cell_list, cell_text, number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .readers.cells import Column


@dataclass(frozen=True)
class Merged:
    """The rows after a merge: the old ones in their order, then the new ones; ``removed`` are row numbers of the old table."""

    rows: pa.Table
    added: int
    changed: int
    unchanged: int
    removed: np.ndarray


def merge(
    table: str, old: Mapping[str, Column], new: pa.Table, absent: Mapping[str, np.ndarray], *, remove_missing: bool
) -> Merged:
    """Merge ``new`` into ``old``, two forms of "items", "bundles" or "interactions".

    Interactions are matched by user, item and timestamp; of equal ones the first matches the first, the second the second.
    A column that ``new`` lacks keeps its cells.

    Parameters
    ----------
    absent
        By column, in which rows of ``new`` [n] bool a cell is missing and not empty; the old cell stays there.
    remove_missing
        Remove the old rows that ``new`` does not have, unless ``new`` has no row at all.
    """
    n_old, n_new = len(next(iter(old.values()), [])), len(new)
    newer = {name: new[name] for name in new.column_names}
    match = _matches(table, old, newer, n_old, n_new)  # [n_old] the row of new, -1 for none
    matched = np.flatnonzero(match >= 0)
    edited = np.zeros(len(matched), bool)
    for name, column in newer.items():
        before = cells.taken_cells(old[name], matched) if name in old else [None] * len(matched)
        differing = differs(name, before, cells.taken(column, match[matched]))
        edited |= differing & ~absent[name][match[matched]] if name in absent else differing
    changed = np.zeros(n_old, bool)
    changed[matched] = edited
    kept = matched if remove_missing and n_new else np.arange(n_old)
    added = np.setdiff1d(np.arange(n_new), match[matched], assume_unique=True)
    columns: dict[str, Column] = {}
    for name in dict.fromkeys((*old, *newer)):
        edit = changed[kept] & (name in newer)
        if name in absent:
            edit &= ~absent[name][match[kept]]
        whole = cells.joined([old.get(name, _nulls(n_old)), newer.get(name, _nulls(n_new))])
        columns[name] = cells.taken_cells(whole, np.r_[np.where(edit, n_old + match[kept], kept), n_old + added])
    rows = pa.table(
        {name: cells.as_array(name, column, is_id=name in ID_COLUMNS[table]) for name, column in columns.items()}
    )
    removed = np.setdiff1d(np.arange(n_old), kept, assume_unique=True)
    return Merged(rows, len(added), int(changed.sum()), len(kept) - int(changed.sum()), removed)


def _nulls(count: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(count, pa.string())])


def _matches(table: str, old: Mapping[str, Column], new: Mapping[str, Column], n_old: int, n_new: int) -> np.ndarray:
    """[n_old] int64 the row of ``new`` that has the same key, -1 where there is none."""
    keys = np.zeros(n_old + n_new, np.int64)
    for name in (*ID_COLUMNS[table], *(("timestamp",) if table == "interactions" else ())):
        codes, different = cells.codes(_comparable(old.get(name, _nulls(n_old)), new.get(name, _nulls(n_new))))
        keys = np.unique(keys * (len(different) + 1) + codes, return_inverse=True)[1].reshape(-1)
    before, after = keys[:n_old], keys[n_old:]
    nth_before, nth_after = _nth(before), _nth(after)
    most = max(nth_before.max(initial=0), nth_after.max(initial=0)) + 1
    before, after = before * most + nth_before, after * most + nth_after
    order = np.argsort(after)
    at = np.searchsorted(after[order], before)
    match = np.append(order, -1)[at]
    return np.where((match >= 0) & (np.append(after, -1)[match] == before), match, -1)


def _comparable(old: Column, new: Column) -> pa.ChunkedArray:
    """The cells of both, of which equal ones say the same: whole numbers and times as they are, all others as text."""
    kind = None if isinstance(old, list) or isinstance(new, list) or old.type != new.type else old.type
    if kind is not None and (pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
        return pa.chunked_array([*old.chunks, *new.chunks], kind)  # type: ignore[union-attr]
    return pa.chunked_array([*cells.id_texts(old).chunks, *cells.id_texts(new).chunks], pa.string())


def _nth(keys: np.ndarray) -> np.ndarray:
    """[n] how often each key stood in the rows before."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.zeros(0, np.int64)
    nth = np.empty(len(keys), np.int64)
    nth[order] = np.arange(len(keys)) - np.repeat(begins, np.diff(np.r_[begins, len(keys)]))
    return nth


def differs(name: str, old: Column, new: Column) -> np.ndarray:
    """[n] bool, whether two cells say different things; 9.50 and 9.5 say the same."""
    rest = np.flatnonzero(~_equal(old, new))  # as they stand; what differs is read
    differing = np.zeros(len(new), bool)
    for start in range(0, len(rest), cells.BLOCK_ROWS):
        rows = rest[start : start + cells.BLOCK_ROWS]
        pairs = zip(cells.values(cells.taken_cells(old, rows)), cells.values(cells.taken_cells(new, rows)), strict=True)
        differing[rows] = [not _same(name, was, now) for was, now in pairs]
    return differing


def _equal(old: Column, new: Column) -> np.ndarray:
    """[n] bool, whether two cells are equal as they stand."""
    if isinstance(old, list) or isinstance(new, list) or old.type != new.type:
        return np.zeros(len(new), bool)
    both_empty = ~cells.filled(old) & ~cells.filled(new)
    if not pa.types.is_list(old.type):
        return both_empty | pc.fill_null(pc.equal(old, new), False).to_numpy()
    lengths, others = (pc.fill_null(pc.list_value_length(column), -1).to_numpy() for column in (old, new))
    rows = np.flatnonzero((lengths == others) & (lengths >= 0))
    was, now = (pc.list_flatten(cells.taken(column, rows)) for column in (old, new))
    unequal = np.r_[0, np.cumsum(~pc.fill_null(pc.equal(was, now), False).to_numpy())]  # cells that differ, before each
    ends = np.r_[0, np.cumsum(lengths[rows])]
    equal = np.zeros(len(new), bool)
    equal[rows] = unequal[ends[1:]] == unequal[ends[:-1]]
    return both_empty | equal


def _same(name: str, old: Any, new: Any) -> bool:
    if name == "item_ids":
        return cell_list(old) == cell_list(new)
    was, now = cell_text(old), cell_text(new)
    return was == now or (number(was) is not None and number(was) == number(now))
