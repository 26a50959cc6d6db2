"""Columns of cells: Arrow arrays where all cells are of one kind, lists of Python values where they are of several.

Everything here takes columns as a whole, so that a million cells need no million Python objects. Only columns of several
kinds, and types that Arrow and Python see differently, are read cell by cell.
"""

from __future__ import annotations

import datetime
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tables import cell_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Column: TypeAlias = "pa.ChunkedArray | list[Any]"
"""The cells of one column: Arrow (None is null), or a list of Python values."""
BLOCK_ROWS = 1 << 16  # rows that are turned into Python objects at once
SPACES = "".join(mark for mark in map(chr, range(0x3001)) if mark.isspace())  # all that str.strip takes away
MAX_TAKEN_BYTES = 1 << 30  # of a text column that is put into another order; Arrow's texts end at twice as much
EXACT_INTEGERS = 1 << 53  # up to which every integer is a float
DAY_SECONDS = 86_400
EPOCH = datetime.datetime(1970, 1, 1)
SECONDS_OF_PYTHON = (  # dates that Python has in every time zone
    (datetime.datetime.min - EPOCH) // datetime.timedelta(seconds=1) + 2 * DAY_SECONDS,
    (datetime.datetime.max - EPOCH) // datetime.timedelta(seconds=1) - 2 * DAY_SECONDS,
)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def id_text(cell: Any) -> str:
    """An id as text without spaces around it; empty for an empty cell, ``12`` for 12.0.

    Half of a surrogate pair, which JSON may hold, is no text that can be written: it becomes a question mark.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return encodable(str(cell).strip())


def encodable(text: str) -> str:
    """The text with question marks where it cannot be written as UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def is_text(column: Column) -> bool:
    """Whether all cells are text or empty."""
    return not isinstance(column, list) and pa.types.is_string(column.type)


def blocks(column: Column) -> Iterator[list[Any]]:
    """The cells as Python values, ``BLOCK_ROWS`` at a time."""
    for start in range(0, len(column), BLOCK_ROWS):
        part = column[start : start + BLOCK_ROWS]
        yield part if isinstance(part, list) else part.to_pylist()


def values(column: Column) -> list[Any]:
    """All cells as Python values."""
    return column if isinstance(column, list) else column.to_pylist()


def of_values(cells: list[Any]) -> Column:
    """A column of Python values: Arrow where they are of one kind that Arrow gives back as it was, else the list itself."""
    kinds = set(map(type, cells)) - {type(None)}
    kind = (
        pa.string() if kinds <= {str} else
        pa.int64() if kinds == {int} else
        pa.float64() if kinds <= {int, float} else
        pa.bool_() if kinds == {bool} else
        pa.list_(pa.string()) if kinds == {list} else None
    )  # fmt: skip
    if kind is None:
        return cells
    try:
        return pa.chunked_array([pa.array(cells, kind, from_pandas=False)])
    except (
        pa.ArrowException,
        OverflowError,
        ValueError,
        TypeError,
    ):  # large integers, half surrogates, lists of others
        return cells


def joined(parts: Sequence[Column]) -> Column:
    """Parts of a column one behind the other."""
    empty = [not isinstance(part, list) and part.null_count == len(part) for part in parts]
    kinds = {None if isinstance(p, list) else p.type for p, nothing in zip(parts, empty, strict=True) if not nothing}
    if kinds == {pa.int64(), pa.float64()} and all(map(_exact, parts)):
        kinds = {pa.float64()}
    if None in kinds or len(kinds) > 1:
        return [cell for part in parts for cell in values(part)]
    kind = next(iter(kinds), pa.string())
    arrays = [
        pa.chunked_array([pa.nulls(len(part), kind)]) if nothing else part.cast(kind)  # type: ignore[union-attr]
        for part, nothing in zip(parts, empty, strict=True)
    ]
    return pa.chunked_array([chunk for array in arrays for chunk in array.chunks], kind)


def _exact(part: Column) -> bool:
    """Whether integers of a part are floats without loss."""
    if isinstance(part, list) or not pa.types.is_integer(part.type) or part.null_count == len(part):
        return True
    return max(pc.max(part).as_py(), -pc.min(part).as_py()) <= EXACT_INTEGERS


def of_arrow(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column of a Parquet file in one of few types; None for a type that has to be read cell by cell.

    Integers become int64, floats float64, dates and times microseconds.
    """
    kind = column.type
    try:
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return column.cast(pa.string())
        if pa.types.is_integer(kind):
            return column.cast(pa.int64())
        if kind in (pa.float32(), pa.float64()):
            return column.cast(pa.float64())
        if pa.types.is_timestamp(kind) or kind == pa.date32():
            return _dates(column)
        if pa.types.is_list(kind):
            inner = kind.value_type
            return column if inner in (pa.string(), pa.int64()) else None
    except (pa.ArrowException, ValueError):
        return None
    return column if pa.types.is_string(kind) or pa.types.is_boolean(kind) else None


def _dates(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Dates, or times in microseconds of their time zone; None where Python has no such date."""
    kind = column.type
    made = kind if kind == pa.date32() else pa.timestamp("us", kind.tz)
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), made)])
    counts = column.cast(pa.int32() if kind == pa.date32() else pa.int64())
    least, most = (
        edge // DAY_SECONDS if kind == pa.date32() else edge * PER_SECOND[kind.unit] for edge in SECONDS_OF_PYTHON
    )
    if not least <= pc.min(counts).as_py() <= pc.max(counts).as_py() <= most:
        return None
    if kind == made or kind.unit != "ns":
        return column.cast(made)
    empty = pc.is_null(counts).to_numpy()
    microseconds = pc.fill_null(counts, 0).to_numpy() // 1000  # towards the past, as Python does
    return pa.chunked_array([pa.array(microseconds, pa.int64(), mask=empty)]).cast(made)


def naive(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates and times in microseconds of UTC, without a time zone."""
    return column.cast(pa.int64()).cast(pa.timestamp("us"))


def by_unique(column: pa.ChunkedArray, read: Callable[[Any], Any], kind: pa.DataType) -> pa.ChunkedArray:
    """``read`` of every cell, called once for each different one; empty cells stay empty."""
    rows, different = codes(column)
    parts = [pa.array([read(cell) for cell in part], kind) for part in blocks(pa.chunked_array([different]))]
    if not parts:
        return pa.chunked_array([pa.nulls(len(column), kind)])
    return taken(pa.chunked_array(parts, kind), rows)


def id_texts(column: Column) -> pa.ChunkedArray:
    """`id_text` of every cell: string, "" for empty cells."""
    if isinstance(column, list):
        parts = [pa.array([id_text(cell) for cell in part], pa.string()) for part in blocks(column)]
        return pa.chunked_array(parts, pa.string())
    kind = column.type
    if pa.types.is_string(kind):
        return pc.fill_null(pc.utf8_trim(column, SPACES), "")
    if pa.types.is_integer(kind):
        return pc.fill_null(column.cast(pa.string()), "")
    if pa.types.is_nested(kind):
        return id_texts(values(column))
    return pc.fill_null(by_unique(column, id_text, pa.string()), "")


def id_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of ids as text, without empty ones; an empty cell is an empty list."""
    parts = []
    for chunk in column.chunks:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        texts = id_texts(pa.chunked_array([chunk.flatten()])).combine_chunks()
        filled = pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
        before = np.r_[0, np.cumsum(filled)]  # filled ids before each
        offsets = before[np.r_[0, np.cumsum(lengths)]]
        parts.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.filter(pa.array(filled))))
    return pa.chunked_array(parts, pa.list_(pa.string()))


def as_array(name: str, column: Column, *, is_id: bool = False) -> pa.ChunkedArray:
    """A column as it is written: of the type of its cells, text where they are of several; ids are text."""
    if name == "item_ids":
        return _item_lists(column)
    if isinstance(column, list):
        if not is_id and any(cell is not None for cell in column):
            try:
                made = pa.array(column)
            except (pa.ArrowException, OverflowError, ValueError):  # of several kinds
                made = pa.array([None if cell is None else encodable(str(cell)) for cell in column], pa.string())
            return made if isinstance(made, pa.ChunkedArray) else pa.chunked_array([made])
        texts: list[str | None] = [None if cell is None else id_text(cell) for cell in column]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    if not is_id or pa.types.is_string(column.type):
        return column
    return pc.if_else(column.is_valid(), id_texts(column), pa.scalar(None, pa.string()))


def _item_lists(column: Column) -> pa.ChunkedArray:
    if not isinstance(column, list):
        if pa.types.is_list(column.type) and column.type.value_type != pa.string():
            return pc.if_else(column.is_valid(), id_lists(column), pa.scalar(None, pa.list_(pa.string())))
        return (
            column
            if column.null_count < len(column)
            else pa.chunked_array([pa.nulls(len(column), pa.list_(pa.string()))])
        )
    lists = [value if value is None or isinstance(value, list) else encodable(str(value)) for value in column]
    kinds = {type(value) for value in lists} - {type(None)}
    if kinds == {str}:
        return pa.chunked_array([pa.array(lists, pa.string())])
    found = [value if value is None else cell_list(value) for value in lists]
    return pa.chunked_array([pa.array(found, pa.list_(pa.string()))])


def taken(column: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """The cells of ``rows`` (int [n]); -1 gives an empty cell. Texts of more than a gigabyte become large_string."""
    if pa.types.is_string(column.type) and column.nbytes > MAX_TAKEN_BYTES:
        column = column.cast(pa.large_string())
    where = pa.array(rows, pa.int64(), mask=rows < 0 if len(rows) and rows.min() < 0 else None)
    found = column.combine_chunks().take(where)
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def taken_cells(column: Column, rows: np.ndarray) -> Column:
    """`taken` of a column of any kind."""
    if isinstance(column, list):
        return [column[row] if row >= 0 else None for row in rows.tolist()]
    return taken(column, rows)


def filled(column: Column) -> np.ndarray:
    """[n] bool, whether a cell is there at all; text without letters and NaN are."""
    if isinstance(column, list):
        return np.array([cell is not None for cell in column], bool)
    return pc.is_valid(column).to_numpy()


def codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """[n] int64 the number of each cell among the different ones (-1: empty), and those, in the order of their first rows."""
    if not len(column):
        return np.zeros(0, np.int64), pa.array([], column.type)
    whole = column.dictionary_encode().combine_chunks()
    return pc.fill_null(whole.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64), whole.dictionary


def first_rows(numbers: np.ndarray, count: int) -> np.ndarray:
    """[count] int64 the first row of each number in ``numbers`` (int [n]); n for a number that is not there."""
    first = np.full(count, len(numbers), np.int64)
    first[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)
    return first
