"""Orders as rows: long (a row per order and item) or wide (a row per order with a list of items) become bundles."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from ...errors import CatalogueError
from . import cell_values

if TYPE_CHECKING:
    from .column_names import Resolved
    from .table_files import Table

KEPT = ("split", "group", "name", "timestamp")  # columns of an order that its bundle keeps
MAX_NAMED = 12


def id_text(cell: Any) -> str:
    """An id as text without spaces around it; empty for an empty cell, ``12`` for 12.0."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def bundles(table: Table, found: Resolved, notes: list[str], dates: str = "auto") -> list[dict[str, Any]]:
    """One row per bundle, in the order in which the bundles first stand in the file.

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
    ids = [id_text(cell) for cell in table.columns[found.columns["bundle_id"]]]
    members = [item_list(cell, table, row) for row, cell in enumerate(table.columns[found.columns["item_ids"]], 1)]
    if len(set(ids)) < len(ids) and all(len(items) <= 1 for items in members):
        table.columns[found.columns["item_ids"]] = [items[0] if items else None for items in members]
        found.columns["item_id"] = found.columns.pop("item_ids")
        return _grouped(table, found, notes)
    renamed = {column: target for target, column in found.columns.items()}
    rows = [
        {renamed.get(name, name): cell for name, cell in zip(table.columns, cells, strict=True)}
        for cells in zip(*table.columns.values(), strict=True)
    ]
    return [
        {**row, "bundle_id": bundle_id, "item_ids": items}
        for row, bundle_id, items in zip(rows, ids, members, strict=True)
    ]


def _grouped(table: Table, found: Resolved, notes: list[str]) -> list[dict[str, Any]]:
    """Rows of one bundle and one item each, put together; an item counts once per bundle."""
    file = table.path.name
    grouped: dict[str, dict[str, Any]] = {}
    items: dict[str, dict[str, None]] = {}
    kept = {target: table.columns[found.columns[target]] for target in KEPT if target in found.columns}
    incomplete: list[int] = []
    differing = 0
    pairs = zip(table.columns[found.columns["bundle_id"]], table.columns[found.columns["item_id"]], strict=True)
    for row, (bundle_cell, item_cell) in enumerate(pairs):
        bundle_id, item_id = id_text(bundle_cell), id_text(item_cell)
        if not bundle_id or not item_id:
            incomplete.append(row + 1)
            continue
        bundle = grouped.setdefault(bundle_id, {"bundle_id": bundle_id})
        items.setdefault(bundle_id, {})[item_id] = None
        for target, cells in kept.items():
            if bundle.get(target) is None:
                bundle[target] = cells[row]
            elif target == "group" and cells[row] is not None and id_text(cells[row]) != id_text(bundle[target]):
                differing += 1
    if incomplete:
        notes.append(
            f"{file}: {len(incomplete):,} rows without {found.columns['bundle_id']} or {found.columns['item_id']} are left "
            f"out, the first is row {incomplete[0]:,}."
        )
    if differing:
        notes.append(
            f"{file}: {differing:,} rows name another {found.columns['group']} than the first row of their bundle."
        )
    unused = [name for name in table.columns if name not in found.columns.values()]
    if unused:
        notes.append(f"{file}: columns that are not used: {', '.join(unused[:MAX_NAMED])}.")
    notes.append(f"{file}: {len(table):,} rows of one item each make {len(grouped):,} bundles.")
    return [{**bundle, "item_ids": list(items[bundle_id])} for bundle_id, bundle in grouped.items()]


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
    return [text for value in values if (text := id_text(value))]


def dates_of(file: str, name: str, cells: list[Any], order: str, notes: list[str]) -> list[Any]:
    """Cells as dates where all of them are dates; else as they are, which a note says."""
    read = cell_values.read_dates(name, cells, order)
    if read is None:
        notes.append(f"{file}: {name} holds cells that are no dates; it stays as it is.")
        return cells
    if read.note:
        notes.append(f"{file}: {read.note}.")
    return list(read.values)
