"""Reads parquet, CSV and JSONL tables as Arrow columns, and their cells as text or as lists of ids.

The results are those of `tables.cell_text` and `tables.cell_list` for every cell. They are called for the few cells that
need them, or once for each distinct cell, so that tables of millions of rows are read without as many Python objects.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import CatalogueError
from ..text import clean_text, quoted
from .columns import Strings
from .tables import WRITE_AGAIN, arrow_cells, cell_list, cell_text, clean_names, json_value, parsing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

BLOCK_ROWS = 50_000  # of CSV and JSONL files, that are held as Python objects
MADE_BY_PANDAS = r"\A-?\p{Nd}+\.0\z"  # a whole number in a CSV column with empty cells
NOT_PLAIN = r"\A[^!-~]|[^!-~]\z"  # begins or ends with something else than a visible ASCII character
LISTS = "item_ids"


def read_columns(path: Path, notes: list[str], wanted: Sequence[str] | None = None) -> dict[str, pa.ChunkedArray]:
    """The columns of a parquet, csv or jsonl file, for `texts` and `id_lists`.

    Parquet columns have the types of the file and those of CSV files are strings. Of JSONL files, ``item_ids`` are lists
    of strings and all others strings.

    Parameters
    ----------
    notes
        Sentences about what was left out are appended.
    wanted
        Read these columns alone, as far as the file has them; they come in the order of the file. A missing one can be
        named to the user only by a reading without it.

    Raises
    ------
    CatalogueError
        When the file cannot be parsed as what its suffix says.
    """
    with parsing(path):
        if path.suffix == ".parquet":
            return _parquet(path, wanted)
        if path.suffix == ".csv":
            return _csv(path, notes, wanted)
        return _json_lines(path, wanted)


def column_names(path: Path) -> list[str]:
    """The names of all columns of a table.

    Raises
    ------
    CatalogueError
        When the file cannot be parsed.
    """
    with parsing(path):
        if path.suffix == ".parquet":
            return list(clean_names(dict.fromkeys(pq.read_schema(path).names)))
    return list(read_columns(path, []))


def texts(column: pa.ChunkedArray | pa.Array, name: str, path: Path, notes: list[str]) -> Strings[Any]:
    """Every cell of a column as `tables.cell_text` reads it: text without outer spaces, None where it is empty.

    Raises
    ------
    CatalogueError
        When cells cannot be read as text.
    """
    cells = _one_array(column)
    if pa.types.is_dictionary(cells.type):
        return Strings(texts(cells.dictionary, name, path, notes).arrow.take(cells.indices))
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return Strings(_stripped(_valid(cells, name, path)))
    try:
        coded = pc.dictionary_encode(cells)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists and the like
        return Strings([cell_text(cell) for cell in arrow_cells(name, cells, path, notes)])
    distinct: Strings[Any] = Strings([cell_text(cell) for cell in arrow_cells(name, coded.dictionary, path, notes)])
    return Strings(distinct.arrow.take(coded.indices))


def coded_texts(
    column: pa.ChunkedArray | pa.Array, name: str, path: Path, notes: list[str]
) -> tuple[np.ndarray, Strings[str]]:
    """The cells as `texts` gives them, as numbers (int64 [n]; -1 where empty) of distinct texts.

    Raises
    ------
    CatalogueError
        When cells cannot be read as text.
    """
    cells = _one_array(column)
    if not pa.types.is_dictionary(cells.type):
        return texts(cells, name, path, notes).codes()
    numbers, distinct = texts(cells.dictionary, name, path, notes).codes()
    numbers = np.append(numbers, -1)  # for cells that are null
    return numbers[np.asarray(pc.fill_null(cells.indices.cast(pa.int64()), -1))], distinct


def id_lists(
    column: pa.ChunkedArray | pa.Array, name: str, path: Path, notes: list[str]
) -> tuple[np.ndarray, Strings[str]]:
    """Every cell as `tables.cell_list` reads it: the ids of all lists, and where each list begins (int64 [B + 1]).

    Raises
    ------
    CatalogueError
        When cells cannot be read as text.
    """
    cells = _one_array(column)
    if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(cells), 0), np.int64)
        ids = texts(cells.flatten(), name, path, notes)
        there = np.asarray(pc.is_valid(ids.arrow))
        ends = np.concatenate([[0], there.cumsum()])[np.concatenate([[0], lengths.cumsum()])]  # empty ones left out
        return ends.astype(np.int64), ids if there.all() else Strings(ids.arrow.drop_null())
    lists = [cell_list(cell) for cell in arrow_cells(name, cells, path, notes)]
    ends = np.concatenate([[0], np.fromiter(map(len, lists), np.int64, len(lists)).cumsum()])
    return ends.astype(np.int64), Strings([each for ids in lists for each in ids])


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries()
        elif pa.types.is_string(column.type):  # whose chunks together may be larger than its offsets can say
            column = column.cast(pa.large_string())
        column = column.combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _valid(cells: pa.Array, name: str, path: Path) -> pa.Array:
    try:
        cells.validate(full=True)
    except pa.ArrowInvalid as error:
        raise CatalogueError(
            f"{path} holds values in the column {quoted(name)} ({clean_text(str(cells.type))}) that cannot be read.",
            hint="write that column as text",
        ) from error
    return cells.cast(pa.large_string())


def _stripped(cells: pa.Array) -> pa.Array:
    """Cells (large_string) without outer spaces, None where nothing is left."""
    unusual = pc.fill_null(pc.match_substring_regex(cells, NOT_PLAIN), False)
    if pc.any(unusual).as_py():
        changed = [cell_text(cell) for cell in cells.filter(unusual).to_pylist()]
        cells = pc.replace_with_mask(cells, unusual, pa.array(changed, pa.large_string()))
    empty = pc.equal(pc.binary_length(cells), 0)
    return pc.if_else(empty, pa.scalar(None, pa.large_string()), cells) if pc.any(empty).as_py() else cells


def _parquet(path: Path, wanted: Sequence[str] | None) -> dict[str, pa.ChunkedArray]:
    schema = pq.read_schema(path)
    names = {raw: clean for clean, raw in clean_names({raw: raw for raw in schema.names}).items()}
    chosen = [raw for raw in schema.names if wanted is None or names[raw] in wanted]
    if wanted is None:
        table = pq.read_table(path)
    else:  # ids that repeat are kept as numbers of distinct ids
        table = pq.read_table(path, columns=chosen, read_dictionary=chosen)
    return {names[name]: column for name, column in zip(table.column_names, table.columns, strict=True)}


def _csv(path: Path, notes: list[str], wanted: Sequence[str] | None) -> dict[str, pa.ChunkedArray]:
    try:
        return _csv_blocks(path, notes, wanted)
    except UnicodeDecodeError:
        path.read_bytes().decode("utf-8-sig")  # says where in the file, not where in a block of it
        raise


def _csv_blocks(path: Path, notes: list[str], wanted: Sequence[str] | None) -> dict[str, pa.ChunkedArray]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)  # strict: an unclosed quote would swallow the rows behind it
        header = next(rows, [])
        place = {name: at for at, name in enumerate(header)}  # of names that stand twice, the last one counts
        names = {name: clean for clean, name in clean_names({name: name for name in place}).items()}
        chosen = [name for name in place if wanted is None or names[name] in wanted]
        blocks: dict[str, list[pa.Array]] = {name: [] for name in chosen}
        too_long = 0
        for block in _blocks(row for row in rows if row):
            too_long += sum(len(row) > len(header) for row in block)
            for name in chosen:
                at = place[name]
                blocks[name].append(pa.array([row[at] if at < len(row) else None for row in block], pa.large_string()))
    if too_long:
        notes.append(f"{path.name} has {too_long:,} rows with more cells than its first row; those cells are left out.")
    return {names[name]: whole_numbers(pa.chunked_array(parts, pa.large_string())) for name, parts in blocks.items()}


def whole_numbers(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """A CSV column of whole numbers that pandas wrote as 1.0, 2.0 because a cell was empty: as 1, 2."""
    filled = cells.filter(pc.greater(pc.binary_length(cells), 0))
    if not len(filled) or not pc.all(pc.match_substring_regex(filled, MADE_BY_PANDAS)).as_py():
        return cells
    return pc.replace_substring_regex(cells, r"\.0\z", "")


def _json_lines(path: Path, wanted: Sequence[str] | None) -> dict[str, pa.ChunkedArray]:
    try:
        return _json_blocks(path, wanted)
    except UnicodeDecodeError:
        path.read_bytes().decode("utf-8-sig")
        raise


def _json_blocks(path: Path, wanted: Sequence[str] | None) -> dict[str, pa.ChunkedArray]:
    columns: dict[str, list[pa.Array]] = {}
    count = 0
    with path.open(encoding="utf-8-sig") as file:
        # Not by splitlines, which also cuts at characters that may stand in a title.
        lines = (json_value(line, row) for row, line in enumerate(file, 1) if line.strip())
        for block in _blocks(lines):
            if not all(isinstance(row, dict) for row in block):
                raise CatalogueError(f"{path} must hold one JSON object a line.", hint=WRITE_AGAIN)
            for name in dict.fromkeys([*columns, *(name for row in block for name in row)]):
                if name not in columns:
                    columns[name] = [_cells(name, [None] * count)]
                columns[name].append(_cells(name, [row.get(name) for row in block]))
            count += len(block)
    table = clean_names({name: pa.chunked_array(parts) for name, parts in columns.items()})
    return {name: column for name, column in table.items() if wanted is None or name in wanted}


def _cells(name: str, cells: list[Any]) -> pa.Array:
    if clean_text(name).strip() == LISTS:
        return pa.array([cell_list(cell) for cell in cells], pa.large_list(pa.large_string()))
    return pa.array([cell_text(cell) for cell in cells], pa.large_string())


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    block: list[Any] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK_ROWS:
            yield block
            block = []
    if block:
        yield block
