"""Item ids and content hashes as Arrow columns: a million texts are one block of memory, compared all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .table_schema import text_checksums

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray

MERGE_PARTS = 16  # sorted arrays of an `IdSet` before they are merged into one


def text_column(texts: Texts) -> pa.Array:
    """Texts as one Arrow array of large strings."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.Array):
        return texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    return pa.array(texts, pa.large_string())


def places(texts: Texts, among: Texts) -> np.ndarray:
    """int64 [n], the first place in ``among`` of each text; -1 where it is not there.

    >>> places(["b", "c"], among=["a", "b"]).tolist()
    [1, -1]
    """
    import pyarrow.compute as pc  # it imports pandas where that is installed

    wanted = text_column(texts)
    if not len(wanted) or not len(among):
        return np.full(len(wanted), -1, np.int64)
    found = pc.index_in(wanted, value_set=text_column(among))
    return found.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def places_of_ids(item_ids: Texts, among: Texts) -> np.ndarray:
    """As `places`, where no id stands in ``among`` twice: equal columns, as after an encode, cost no look-up."""
    wanted, known = text_column(item_ids), text_column(among)
    return np.arange(len(wanted)) if wanted.equals(known) else places(wanted, known)


def is_among(texts: Texts, among: Texts) -> np.ndarray:
    """Bool [n], whether each text is one of ``among``."""
    wanted, known = text_column(texts), text_column(among)
    return np.ones(len(wanted), bool) if wanted.equals(known) else places(wanted, known) >= 0


def differs(texts: Texts, others: Texts) -> np.ndarray:
    """Bool [n], whether the texts at the same place of two columns differ."""
    import pyarrow.compute as pc

    return pc.not_equal(text_column(texts), text_column(others)).to_numpy(zero_copy_only=False)


def take(column: pa.Array, rows: np.ndarray) -> pa.Array:
    """The texts of these rows [n]; the column itself where that is all of them in order."""
    if len(rows) == len(column) and np.array_equal(rows, np.arange(len(column))):
        return column
    return column.take(pa.array(rows, pa.int64()))


def repeated(texts: Texts) -> list[str]:
    """The texts that stand there more than once, as they first appear."""
    import pyarrow.compute as pc

    counts = pc.value_counts(text_column(texts))
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()


def joined_bytes(texts: Texts) -> Any:
    """The UTF-8 bytes of all texts with a zero byte between two of them, without making Python's of them."""
    import pyarrow.compute as pc

    column = text_column(texts)
    if not len(column):
        return b""
    row = pa.LargeListArray.from_arrays(pa.array([0, len(column)], pa.int64()), column)
    joined = pc.binary_join(row, pa.scalar("\0", pa.large_string()))
    _, offsets, data = joined.buffers()
    start, end = np.frombuffer(offsets, np.int64)[joined.offset : joined.offset + 2].tolist()
    return memoryview(data)[start:end]


class IdSet:
    """Which ids are in a table, by a hash of 8 bytes each: one that is there is always found.

    One that is not there is taken for present with a probability of n / 2**64; whoever asks must stay right then.
    """

    def __init__(self, item_ids: Texts) -> None:
        self._parts = [_sorted_keys(item_ids)]

    def update(self, item_ids: Texts) -> None:
        """Add ids."""
        self._parts.append(_sorted_keys(item_ids))
        if len(self._parts) > MERGE_PARTS:
            self._parts = [np.sort(np.concatenate(self._parts), kind="stable")]  # runs that are sorted merge quickly

    @property
    def distinct(self) -> bool:
        """Whether no two ids were equal for sure; two that differ may have one hash."""
        keys = np.sort(np.concatenate(self._parts))
        return not (keys[1:] == keys[:-1]).any()

    def has(self, item_ids: Texts) -> np.ndarray:
        """Bool [n], whether each id is there."""
        keys = _keys(item_ids)
        found = np.zeros(len(keys), bool)
        for part in self._parts:
            if len(part):
                place = np.minimum(np.searchsorted(part, keys), len(part) - 1)
                found |= part[place] == keys
        return found


def _sorted_keys(item_ids: Texts) -> np.ndarray:
    return np.sort(_keys(item_ids))


def _keys(item_ids: Texts) -> np.ndarray:
    """uint64 [n], a hash of each id."""
    return text_checksums(text_column(item_ids))
