"""Loads one table file as columns: separated text, JSON and Parquet, a block of rows at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import CatalogueError
from ..arrow_tables import whole_numbers
from ..tables import WRITE_AGAIN, arrow_cells, clean_names, json_value, parsing
from . import cells
from .import_progress import Stages
from .text_files import BLOCK_ROWS, clean, csv_blocks, text_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from .cells import Column

SCAN = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[attr-defined]


@dataclass
class Table:
    """One file as columns of equal length, in the order of the file."""

    path: Path
    columns: dict[str, Column]
    _ids: dict[str, pa.ChunkedArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def ids(self, column: str) -> pa.ChunkedArray:
        """A column as ids: text without spaces around it, "" for empty cells."""
        if column not in self._ids:
            self._ids[column] = cells.id_texts(self.columns[column])
        return self._ids[column]

    def replace(self, column: str, cells_: Column) -> None:
        """Put other cells into a column."""
        self.columns[column] = cells_
        self._ids.pop(column, None)


def load(path: Path, notes: list[str], tell: Callable[[int], None] | None = None) -> Table:
    """The columns of a table file; names of columns are one line without control characters.

    Parameters
    ----------
    notes
        Sentences about what was left out or read as text are appended.
    tell
        Is called with the number of rows that were read so far.

    Raises
    ------
    CatalogueError
        When the file cannot be parsed as what its suffix says.
    """
    suffix, tell = path.suffix.lower(), tell or Stages().begin("")
    if suffix == ".parquet":
        found = _parquet(path, notes)
    elif suffix == ".jsonl":
        found = _json_lines(path, tell)
    elif suffix in (".json", ".ndjson"):
        found = _json_rows(path, notes, tell)
    else:
        found = _separated(path, notes, tell)
    table = Table(path, found)
    tell(len(table))
    return table


def _separated(path: Path, notes: list[str], tell: Callable[[int], None]) -> dict[str, Column]:
    names: list[str] = []
    parts: list[list[pa.Array]] = []
    long = done = 0
    for rows in csv_blocks(path, notes):
        if not names:
            names = _header(rows.pop(0))
            parts = [[] for _ in names]
        width = len(names)
        long += sum(len(row) > width and any(row[width:]) for row in rows)
        if min(map(len, rows), default=width) < width:
            rows = [row + [""] * (width - len(row)) for row in rows]
        for at, part in enumerate(parts):
            part.append(pa.array([row[at] or None for row in rows], pa.string()))
        tell(done := done + len(rows))
    if long:
        notes.append(f"{path.name} has {long:,} rows with more cells than its first row; what is beyond is left out.")
    return {name: whole_numbers(pa.chunked_array(part, pa.string())) for name, part in zip(names, parts, strict=True)}


def _header(row: list[str]) -> list[str]:
    names: list[str] = []
    for number, name in enumerate(map(clean, row), 1):
        name = name or f"column {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return names


def _json_lines(path: Path, tell: Callable[[int], None]) -> dict[str, Column]:
    """A JSONL file; lines end at a line feed only, other marks may stand in a title."""
    with parsing(path):
        try:
            with path.open(encoding="utf-8-sig") as file:
                columns = columns_of((_object(line, row) for row, line in enumerate(file, 1) if line.strip()), tell)
        except UnicodeDecodeError:
            path.read_bytes().decode("utf-8-sig")  # says where in the file, not where in a block of it
            raise
    if columns is None:
        raise CatalogueError(f"{path} must hold one JSON object a line.", hint=WRITE_AGAIN)
    return {clean(name): column for name, column in clean_names(columns).items()}


def _object(line: str, row: int) -> Any:
    """What a line holds; `json.loads` takes half as long again for the checks that only unusual lines need."""
    if line[0] == "{":
        try:
            found, end = SCAN(line, 0)
            if line[end:] in ("\n", ""):
                return found
        except (StopIteration, ValueError, RecursionError):
            pass  # told by the other
    return json_value(line, row)


def _json_rows(path: Path, notes: list[str], tell: Callable[[int], None]) -> dict[str, Column]:
    """A JSON list of objects, or an object a line."""
    file = text_file(path, notes)
    start = next((stripped[0] for line in file.lines() if (stripped := line.lstrip())), "")
    try:
        rows: Iterable[Any]
        if start == "[":
            rows = json.loads("".join(file.lines()))
        else:
            rows = (json.loads(line) for line in file.lines("\n") if line.strip())
        columns = columns_of(rows, tell)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        raise CatalogueError(
            f"{path} cannot be read as JSON: {reason}.", hint="write one JSON object a line"
        ) from error
    if columns is None:
        raise CatalogueError(f"{path} must hold JSON objects, one a row.", hint="write one JSON object a line")
    return {clean(name): column for name, column in columns.items()}


def columns_of(rows: Iterable[Any], tell: Callable[[int], None]) -> dict[str, Column] | None:
    """Rows as columns, in the order in which their names first stand; None where a row is no object.

    A name that a row lacks is an empty cell.
    """
    parts: dict[str, list[Column]] = {}
    done, objects = 0, True
    for block in _blocks(rows):
        objects = objects and all(isinstance(row, dict) for row in block)
        if not objects:
            continue  # what is no JSON at all is told first
        for name in dict.fromkeys(name for row in block for name in row):
            parts.setdefault(name, [pa.chunked_array([pa.nulls(done, pa.string())])])
        for name, column in parts.items():
            column.append(cells.of_values([row.get(name) for row in block]))
        tell(done := done + len(block))
    return {name: cells.joined(column) for name, column in parts.items()} if objects else None


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    found = iter(rows)
    while block := list(islice(found, BLOCK_ROWS)):
        yield block


def _parquet(path: Path, notes: list[str]) -> dict[str, Column]:
    with parsing(path):
        table = pq.read_table(path)
        found = {
            name: _arrow_cells(name, column, path, notes)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    return {clean(name): column for name, column in clean_names(found).items()}


def _arrow_cells(name: str, column: pa.ChunkedArray, path: Path, notes: list[str]) -> Column:
    known = cells.of_arrow(column)
    return cells.of_values(arrow_cells(name, column, path, notes)) if known is None else known
