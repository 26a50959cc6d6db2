"""Writes whole columns of texts and lists of texts as JSON, byte for byte as `json.dumps` writes them one by one.

Frozen questions and kept splits are hashed as lines of JSON. A line a call takes seconds for a hundred thousand rows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_ROWS = 65_536  # rows that are written at once
ESCAPED = r'[\x00-\x1f"\\]'  # what JSON cannot hold as it is
NOT_PLAIN_ASCII = r"[^ !#-\[\]-~]"  # the same, and all that is not printable ASCII


def texts(column: pa.Array, *, ascii_only: bool = False) -> pa.Array:
    """Every text of a column of large strings as JSON; null where there is none.

    ``ascii_only`` writes other letters as ``\\uXXXX``, the default of `json.dumps`.
    """
    special = pc.fill_null(pc.match_substring_regex(column, NOT_PLAIN_ASCII if ascii_only else ESCAPED), False)
    plain = pc.fill_null(joined('"', column, '"'), "null")
    if not pc.any(special).as_py():
        return plain
    escaped = [json.dumps(text, ensure_ascii=ascii_only) for text in column.filter(special).to_pylist()]
    return pc.replace_with_mask(plain, special, pa.array(escaped, pa.large_string()))


def lists(column: pa.LargeListArray, separator: str, *, ascii_only: bool = False) -> pa.Array:
    """Every list of a column as JSON; ``separator`` stands between the texts. The column has no null."""
    offsets = column.offsets.cast(pa.int64())
    first, last = (offsets[0].as_py(), offsets[-1].as_py()) if len(offsets) else (0, 0)
    quoted = texts(column.values.slice(first, last - first), ascii_only=ascii_only)
    inner = pc.binary_join(pa.LargeListArray.from_arrays(pc.subtract(offsets, first), quoted), large(separator))
    return joined("[", inner, "]")


def joined(*parts: pa.Array | str) -> pa.Array:
    """The parts of every row joined to one text: columns of large strings, and texts that are the same in every row."""
    return pc.binary_join_element_wise(*(large(part) if isinstance(part, str) else part for part in parts), large(""))


def large(text: str) -> pa.Scalar:
    """A text as a scalar of the type that the columns have."""
    return pa.scalar(text, pa.large_string())


def content(column: pa.Array) -> memoryview:
    """The bytes of all texts of a column, one after the other."""
    data = column.buffers()[2]
    if data is None or not len(column):
        return memoryview(b"")
    offsets = np.frombuffer(column.buffers()[1], np.int64, len(column) + 1, column.offset * 8)
    return memoryview(data)[int(offsets[0]) : int(offsets[-1])]


def blocks(rows: int) -> Iterator[tuple[int, int]]:
    """Start and length of blocks of at most `BLOCK_ROWS` rows."""
    return ((start, min(BLOCK_ROWS, rows - start)) for start in range(0, rows, BLOCK_ROWS))
