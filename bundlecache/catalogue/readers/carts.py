"""Reads a file of carts (partial bundles): a row per cart and item, or a row per cart with the list of its items.

Parquet, CSV and JSON lines. The columns are found as those of orders are: by a mapping, by their names, or by a likely
name, which a note says. A row that cannot be read is a cart with an error, and no matter of the others.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import CatalogueError, Command
from ...files import user_path
from . import cells
from .column_names import Resolved, closest_column, parse_maps, resolve
from .load_table import Table, columns_of, load
from .order_rows import item_list
from .table_files import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LINES = (".jsonl", ".ndjson")
EXAMPLE = '{"bundle_id": "b1", "item_ids": ["i1", "i2"]}'
SCHEMA = pa.schema({"bundle_id": pa.string(), "item_ids": pa.list_(pa.string()), "error": pa.string()})


def read(path: Path, maps: Sequence[str] = (), notes: list[str] | None = None) -> pa.Table:
    """The carts of a file in the order in which they first stand there: a table of `SCHEMA`.

    ``error`` says why a row is no cart. Where no column names the carts, their rows (in JSON lines: lines) are numbered.

    Parameters
    ----------
    maps
        ``bundle_id=COLUMN``, ``item_id=COLUMN`` or ``item_ids=COLUMN`` (a list), as `column_names.parse_maps` reads them.
    notes
        Sentences about what was guessed or left out are appended.

    Raises
    ------
    CatalogueError
        When the file is missing, empty or cannot be read, or no column holds items.
    """
    notes = [] if notes is None else notes
    user_path(path, "The file of carts")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CatalogueError(
            f"{path} is no file of carts; allowed are {', '.join(SUFFIXES)}.", hint="--from carts.parquet"
        )
    if not path.is_file():
        raise CatalogueError(f"{path} cannot be read: there is no such file.", hint="--from carts.parquet")
    broken: list[int] = []
    numbers: np.ndarray | None = None
    if suffix in LINES:
        table, numbers, broken = _lines(path)
    else:
        table = load(path, notes)
    if not len(table) and not broken:
        raise CatalogueError(f"{path} is empty.", hint=f"a line is {EXAMPLE}")
    found = _columns(table, maps, notes) if len(table) else Resolved("bundles")
    numbers = np.arange(1, len(table) + 1) if numbers is None else numbers
    if not len(table):
        made, first = SCHEMA.empty_table(), np.zeros(0, np.int64)
    elif "item_ids" in found.columns and not _is_long(table, found):
        made, first = _listed(table, found, numbers)
    else:
        made, first = _grouped(table, found, numbers, notes)
    if not len(made) and not broken:
        raise CatalogueError(f"{path} holds no carts: {' '.join(notes)}".rstrip(": "), hint="--map bundle_id=COLUMN")
    if broken:
        wrong = pa.table(
            [[str(line) for line in broken], [[]] * len(broken), [f"The line is not {EXAMPLE}."] * len(broken)],
            schema=SCHEMA,
        )
        order = np.argsort(np.concatenate([first, broken]), kind="stable")
        made = pa.concat_tables([made, wrong]).take(pa.array(order))
    return made.combine_chunks()


def _lines(path: Path) -> tuple[Table, np.ndarray, list[int]]:
    """The JSON objects of a file of lines, the numbers of their lines [n], and those of lines that are none."""
    numbers: list[int] = []
    broken: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError):
                    row = None
                if isinstance(row, dict):
                    numbers.append(number)
                    yield row
                else:
                    broken.append(number)

    try:
        columns = columns_of(rows(), lambda _done: None) or {}
    except OSError as error:
        raise CatalogueError(f"{path} cannot be read: {error.strerror}.", hint="--from carts.jsonl") from error
    return Table(path, columns), np.array(numbers, np.int64), broken


def _columns(table: Table, maps: Sequence[str], notes: list[str]) -> Resolved:
    """Which columns name the carts and their items.

    Raises
    ------
    CatalogueError
        When a mapping does not fit, or no column (or more than one) may hold the items.
    """
    file, header = table.path.name, list(table.columns)
    mapped = [replace(each, table="bundles") for each in parse_maps(maps)]
    found = resolve("bundles", file, header, mapped)
    problems, proposal = list(found.problems), "item_ids=COLUMN"
    listed = "item_ids" in found.columns
    for target in ("bundle_id", "item_id"):
        if target in found.open and not (listed and target == "item_id"):
            problems.append(f"{file}: {target} may be {' or '.join(map(repr, found.open[target]))}")
            proposal = f"{target}={found.open[target][0]}"
    if not problems and not listed and not {"bundle_id", "item_id"} <= found.columns.keys():
        missing = "item_id" if "bundle_id" in found.columns else "bundle_id"
        near = closest_column("bundles", missing, [name for name in header if name not in found.columns.values()])
        problems.append(
            f"{file} has no column of items, or none that says which cart a row belongs to; its columns are: "
            + ", ".join(header[:12])
        )
        proposal = f"{missing}={near or 'COLUMN'}"
    if problems:
        raise CatalogueError(
            ". ".join(problems) + ".", hint=Command("complete", "--from", table.path, "--map", proposal)
        )
    found.guessed = [target for target in found.guessed if target in ("bundle_id", "item_id", "item_ids")]
    if note := found.note(file):
        notes.append(note)
    return found


def _is_long(table: Table, found: Resolved) -> bool:
    """Whether a column of lists holds one item a row, and rows of one cart stand below each other."""
    column = table.columns[found.columns["item_ids"]]
    if "bundle_id" not in found.columns or isinstance(column, list) or pa.types.is_list(column.type):
        return False
    ids = table.ids(found.columns["bundle_id"])
    if pc.count_distinct(ids).as_py() == len(ids):
        return False
    marks = pc.match_substring_regex(cells.id_texts(column), r"[\s,;|\[]")
    if pc.any(marks).as_py():
        return False
    found.columns["item_id"] = found.columns.pop("item_ids")
    return True


def _listed(table: Table, found: Resolved, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """A cart a row; and the numbers of its rows [n]."""
    column = table.columns[found.columns["item_ids"]]
    wrong: dict[int, str] = {}
    if not isinstance(column, list) and pa.types.is_list(column.type):
        members = cells.id_lists(column)
    else:
        lists: list[list[str]] = []
        for part in cells.blocks(column):
            for cell in part:
                items, why = _items(cell, table, int(numbers[len(lists)]))
                if why is not None:
                    wrong[len(lists)] = why
                lists.append(items)
        members = pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])
    own = pa.chunked_array([pa.array(numbers).cast(pa.string())])
    ids = own
    if "bundle_id" in found.columns:
        given = table.ids(found.columns["bundle_id"])
        ids = pc.if_else(pc.equal(given, ""), own, given)
    errors = pa.array([wrong.get(row) for row in range(len(table))], pa.string()) if wrong else pa.nulls(len(table))
    return pa.table([ids, members, errors.cast(pa.string())], schema=SCHEMA), numbers


def _items(cell: Any, table: Table, number: int) -> tuple[list[str], str | None]:
    """The items of a cell, and what is wrong with it."""
    try:
        return (
            ([], f"Row {number:,} has no list of items.")
            if isinstance(cell, dict)
            else (item_list(cell, table, number), None)
        )
    except CatalogueError as error:
        return [], error.message


def _grouped(table: Table, found: Resolved, numbers: np.ndarray, notes: list[str]) -> tuple[pa.Table, np.ndarray]:
    """Rows of one cart and one item each, put together; an item counts once a cart. And the first row of each cart [n]."""
    cart_ids, item_ids = table.ids(found.columns["bundle_id"]), table.ids(found.columns["item_id"])
    named = pc.not_equal(cart_ids, "").to_numpy()
    rows = np.flatnonzero(named)
    if len(rows) < len(named):
        notes.append(
            f"{table.path.name}: {len(named) - len(rows):,} rows without {found.columns['bundle_id']} are left out, the "
            f"first is row {int(numbers[np.argmin(named)]):,}."
        )
    cart, names = cells.codes(cells.taken(cart_ids, rows))
    filled = pc.not_equal(item_ids, "").to_numpy()[rows]
    items, known = cells.codes(cells.taken(item_ids, rows[filled]))
    of = cart[filled]
    first = np.sort(np.unique(of * max(len(known), 1) + items, return_index=True)[1])  # each item of a cart once
    order = first[np.argsort(of[first], kind="stable")]
    offsets = np.r_[0, np.cumsum(np.bincount(of[first], minlength=len(names)))]
    members = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), known.take(pa.array(items[order])))
    starts = numbers[rows[cells.first_rows(cart, len(names))]] if len(names) else np.zeros(0, np.int64)
    return pa.table([names, members, pa.nulls(len(names), pa.string())], schema=SCHEMA), starts
