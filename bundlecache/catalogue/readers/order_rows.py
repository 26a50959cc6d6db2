"""Orders as rows: long (a row per order and item) or wide (a row per order with a list of items) become bundles."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import CatalogueError
from . import cell_values, cells

if TYPE_CHECKING:
    from .cells import Column
    from .column_names import Resolved
    from .load_table import Table

KEPT = ("split", "group", "name", "timestamp")  # columns of an order that its bundle keeps
MAX_NAMED = 12


def bundles(table: Table, found: Resolved, notes: list[str], dates: str = "auto") -> dict[str, Column]:
    """Columns with one row per bundle, in the order in which the bundles first stand in the file.

    Raises
    ------
    CatalogueError
        When a cell is no list of items, or a wide table has the same bundle in several rows.
    """
    file = table.path.name
    if "timestamp" in found.columns:
        column = found.columns["timestamp"]
        table.columns[column] = dates_of(file, column, table.columns[column], dates, notes)
    if "item_ids" not in found.columns:
        return _grouped(table, found, notes)
    ids = table.ids(found.columns["bundle_id"])
    members = item_lists(table, found.columns["item_ids"])
    lengths = pc.list_value_length(members)
    if pc.count_distinct(ids).as_py() < len(ids) and pc.max(lengths).as_py() <= 1:
        singles = cells.taken(
            pa.chunked_array([members.combine_chunks().flatten()]),
            np.where(_numpy(lengths) > 0, np.cumsum(_numpy(lengths)) - 1, -1),
        )
        single = found.columns["item_id"] = found.columns.pop("item_ids")
        table.replace(single, singles)
        return _grouped(table, found, notes)
    renamed = {column: target for target, column in found.columns.items()}
    made = {renamed.get(name, name): column for name, column in table.columns.items()}
    return {**made, "bundle_id": ids, "item_ids": members}


def _grouped(table: Table, found: Resolved, notes: list[str]) -> dict[str, Column]:
    """Rows of one bundle and one item each, put together; an item counts once per bundle."""
    file = table.path.name
    bundle_ids, item_ids = table.ids(found.columns["bundle_id"]), table.ids(found.columns["item_id"])
    whole = _numpy(pc.and_(pc.not_equal(bundle_ids, ""), pc.not_equal(item_ids, "")))
    rows = np.flatnonzero(whole)
    bundle, bundle_names = cells.codes(cells.taken(bundle_ids, rows))
    item, item_names = cells.codes(cells.taken(item_ids, rows))
    first = np.sort(
        np.unique(bundle * max(len(item_names), 1) + item, return_index=True)[1]
    )  # each item of a bundle once
    order = first[np.argsort(bundle[first], kind="stable")]
    offsets = np.r_[0, np.cumsum(np.bincount(bundle[first], minlength=len(bundle_names)))]
    members = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), item_names.take(pa.array(item[order])))
    made: dict[str, Column] = {"bundle_id": pa.chunked_array([bundle_names])}
    differing = 0
    for target in KEPT:
        if target not in found.columns:
            continue
        kept = table.columns[found.columns[target]]
        filled = np.flatnonzero(cells.filled(kept)[rows])
        at = cells.first_rows(bundle[filled], len(bundle_names))  # into filled: the first row with a cell
        at = np.where(at < len(filled), rows[np.append(filled, 0)[at]], -1)
        made[target] = cells.taken_cells(kept, at)
        if target == "group":
            texts = cells.codes(table.ids(found.columns[target]))[0]
            differing = int((texts[rows[filled]] != texts[at[bundle[filled]]]).sum())
    incomplete = np.flatnonzero(~whole)
    if len(incomplete):
        notes.append(
            f"{file}: {len(incomplete):,} rows without {found.columns['bundle_id']} or {found.columns['item_id']} are left "
            f"out, the first is row {incomplete[0] + 1:,}."
        )
    if differing:
        notes.append(
            f"{file}: {differing:,} rows name another {found.columns['group']} than the first row of their bundle."
        )
    unused = [name for name in table.columns if name not in found.columns.values()]
    if unused:
        notes.append(f"{file}: columns that are not used: {', '.join(unused[:MAX_NAMED])}.")
    notes.append(f"{file}: {len(table):,} rows of one item each make {len(bundle_names):,} bundles.")
    return {**made, "item_ids": pa.chunked_array([members])}


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def item_lists(table: Table, column: str) -> pa.ChunkedArray:
    """The items of every cell of a column, as lists of text; see `item_list`.

    Raises
    ------
    CatalogueError
        When a cell is nested too deeply or holds numbers that are too long.
    """
    found = table.columns[column]
    if not isinstance(found, list) and pa.types.is_list(found.type):
        return cells.id_lists(found)
    parts = []
    row = 0
    for part in cells.blocks(found):
        lists = [item_list(cell, table, number) for number, cell in enumerate(part, row + 1)]
        parts.append(pa.array(lists, pa.list_(pa.string())))
        row += len(part)
    return pa.chunked_array(parts, pa.list_(pa.string()))


def item_list(cell: Any, table: Table, row: int) -> list[str]:
    """The items of a cell: a list, a JSON list, or ids parted by spaces, commas, semicolons or bars.

    Raises
    ------
    CatalogueError
        When the cell is nested too deeply or holds numbers that are too long.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            cell = cell.strip(" []").replace("'", " ").replace('"', " ")
        except (RecursionError, ValueError) as error:
            raise CatalogueError(
                f"{table.path}, row {row:,}, has a list that cannot be read ({type(error).__name__}): {cell[:40]!r}.",
                hint='write ids as ["a", "b"] or a b',
            ) from error
    if isinstance(cell, str):
        cell = re.split(r"[\s,;|]+", cell)
    values = cell if isinstance(cell, list | tuple) else [cell]
    if any(isinstance(value, list | dict) for value in values):
        raise CatalogueError(
            f"{table.path}, row {row:,}, has lists inside the list of items: {str(cell)[:40]!r}.",
            hint='write ids as ["a", "b"]',
        )
    return [text for value in values if (text := cells.id_text(value))]


def dates_of(file: str, name: str, column: Column, order: str, notes: list[str]) -> Column:
    """Cells as dates where all of them are dates; else as they are, which a note says."""
    read = cell_values.read_dates(name, column, order)
    if read is None:
        notes.append(f"{file}: {name} holds cells that are no dates; it stays as it is.")
        return column
    if read.note:
        notes.append(f"{file}: {read.note}.")
    return read.values
