"""Adds columns of texts to a hash, block by block and without making a Python object of a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ABSENT = -1  # the length that stands for a missing text


def add_texts(digest: Any, column: pa.Array) -> None:
    """Update ``digest`` (of `hashlib`) with a column of strings or large strings: with every length, then all bytes.

    Two columns give the same digest only where each text is the same, or missing in both.
    """
    lengths = pc.fill_null(pc.binary_length(column).cast(pa.int64()), ABSENT)
    digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
    if column.null_count:
        column = pc.fill_null(column, "")
    _, offsets, text = column.buffers()
    if text is not None and len(column):
        wide = np.int64 if pa.types.is_large_string(column.type) else np.int32
        first, last = np.frombuffer(offsets, wide)[[column.offset, column.offset + len(column)]].tolist()
        digest.update(memoryview(text)[first:last])
