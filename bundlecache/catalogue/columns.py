"""Columns of the catalogue: texts in Arrow memory, lists of item indices, and the look-up of an id.

They behave as the lists that they replace, but a million texts are one block of memory, which may be a mapped file: a
text becomes a Python object when it is asked for, and not before.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, SupportsIndex, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Cell = TypeVar("Cell", bound="str | None", covariant=True)
BLOCK_ROWS = 65_536  # texts that an iteration holds as Python objects


class Strings(Sequence[Cell], Generic[Cell]):
    """n texts, some of which may be None; ``arrow`` is the column as one `pa.Array` of large strings."""

    __slots__ = ("arrow",)

    def __init__(self, texts: Iterable[Cell] | pa.Array | pa.ChunkedArray = ()) -> None:
        if isinstance(texts, Strings):
            texts = texts.arrow
        if not isinstance(texts, pa.Array | pa.ChunkedArray):
            texts = pa.array(texts if isinstance(texts, Sequence) else list(texts), pa.large_string())
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        self.arrow: pa.Array = texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, at: SupportsIndex) -> Cell: ...
    @overload
    def __getitem__(self, at: slice) -> Strings[Cell]: ...
    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        if isinstance(at, slice):
            return Strings(self.arrow[at])
        return self.arrow[int(at)].as_py()

    def __iter__(self) -> Iterator[Cell]:
        for start in range(0, len(self.arrow), BLOCK_ROWS):
            yield from self.arrow.slice(start, BLOCK_ROWS).to_pylist()

    def __contains__(self, text: object) -> bool:
        if text is None:
            return self.arrow.null_count > 0
        return isinstance(text, str) and pc.index(self.arrow, pa.scalar(text, pa.large_string())).as_py() >= 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return bool(self.arrow.equals(other.arrow))
        return isinstance(other, Sequence) and len(other) == len(self) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Strings: {len(self):,}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.arrow.to_pylist(), dtype)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:  # noqa: A002 - pyarrow's name
        return self.arrow if type is None else self.arrow.cast(type)

    def index(self, text: Any, start: int = 0, stop: int | None = None) -> int:
        """The first place of ``text``.

        Raises
        ------
        ValueError
            When it is not there.
        """
        found = pc.index(
            self.arrow.slice(start, None if stop is None else stop - start), pa.scalar(text, pa.large_string())
        ).as_py()
        if found < 0:
            raise ValueError(f"{text!r} is not in the column")
        return int(start + found)

    def take(self, indices: np.ndarray | Sequence[int]) -> Strings[Cell]:
        """The texts at these places, in their order."""
        return Strings(self.arrow.take(pa.array(np.asarray(indices, np.int64))))

    def any(self) -> bool:
        """Whether any text is there and not empty."""
        return bool(self.filled.any())

    @property
    def filled(self) -> np.ndarray:
        """Bool [n], whether a text is there and not empty."""
        return np.asarray(pc.fill_null(pc.greater(pc.binary_length(self.arrow), 0), False))

    def codes(self) -> tuple[np.ndarray, Strings[str]]:
        """The number of each text among the distinct ones (int64 [n]; -1 for None), and the distinct ones as they first appear."""
        coded = pc.dictionary_encode(self.arrow)
        numbers = np.asarray(pc.fill_null(coded.indices.cast(pa.int64()), -1))
        return numbers, Strings(coded.dictionary)


class Lists(Sequence[np.ndarray]):
    """B lists of item indices in compressed rows: list b is ``values[offsets[b]:offsets[b + 1]]``.

    ``offsets`` int64 [B + 1], ``values`` int32 [total].
    """

    __slots__ = ("offsets", "values")

    def __init__(self, lists: Sequence[np.ndarray | Sequence[int]] = ()) -> None:
        self.offsets: np.ndarray
        self.values: np.ndarray
        if isinstance(lists, Lists):
            self.offsets, self.values = lists.offsets, lists.values
            return
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        self.offsets = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        self.values = np.concatenate([np.zeros(0, np.int32), *(np.asarray(each, np.int32) for each in lists)])

    @classmethod
    def of(cls, offsets: np.ndarray, values: np.ndarray) -> Lists:
        """Lists from arrays as they stand in `offsets` and `values`."""
        made = cls()
        made.offsets, made.values = offsets, values
        return made

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, at: SupportsIndex) -> np.ndarray: ...
    @overload
    def __getitem__(self, at: slice) -> Lists: ...
    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        if isinstance(at, slice):
            return self.take(np.arange(len(self))[at])
        b = int(at)
        if b < 0:
            b += len(self)
        if not 0 <= b < len(self):
            raise IndexError(f"list {at} of {len(self)}")
        return self.values[self.offsets[b] : self.offsets[b + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, end in itertools.pairwise(self.offsets.tolist()):
            yield self.values[start:end]

    def __repr__(self) -> str:
        return f"<Lists: {len(self):,} of {len(self.values):,} items>"

    @property
    def lengths(self) -> np.ndarray:
        """int64 [B] the number of items in each list."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """int64 [total] the number of the list that each value is in."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, indices: np.ndarray | Sequence[int]) -> Lists:
        """The lists of these numbers, in their order."""
        chosen = np.asarray(indices, np.int64)
        lengths = self.lengths[chosen]
        offsets = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        first = np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        return Lists.of(offsets, self.values[first + np.arange(len(first))])


class ItemIds(Strings[str]):
    """The ids of all items, distinct, and the look-up of an id by a binary search for its key (`id_hash`).

    Parameters
    ----------
    keys
        uint64 [I], the first eight bytes of each id's hash, where they are known; otherwise they are computed when
        an id is first looked up.
    """

    __slots__ = ("_keys", "_sorted")

    def __init__(self, ids: Iterable[str] | pa.Array | pa.ChunkedArray = (), keys: np.ndarray | None = None) -> None:
        super().__init__(ids)
        self._keys = keys
        self._sorted: tuple[np.ndarray, np.ndarray | None] | None = None

    def position(self, item_id: object) -> int:
        """The index of an id; -1 for an unknown one."""
        if not isinstance(item_id, str):
            return -1
        if self._sorted is None:
            self._sorted = self._sort()
        keys, order = self._sorted
        key = _keys([item_id])[0]
        for place in range(int(np.searchsorted(keys, key)), len(keys)):
            if keys[place] != key:
                break
            i = place if order is None else int(order[place])
            if self.arrow[i].as_py() == item_id:
                return i
        return -1

    def positions(self, ids: Strings[Any] | pa.Array | pa.ChunkedArray | Sequence[str | None]) -> np.ndarray:
        """int64 [n], the index of every id; -1 for one that is unknown or None."""
        found = pc.index_in(Strings(ids).arrow, value_set=self.arrow, skip_nulls=True)
        return np.asarray(pc.fill_null(found.cast(pa.int64()), -1))

    def __contains__(self, text: object) -> bool:
        return self.position(text) >= 0

    def _sort(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The keys in ascending order, and the index of each; None where the ids stand in that order."""
        keys = _keys(self) if self._keys is None else self._keys
        if (keys[:-1] <= keys[1:]).all():
            return keys, None
        order = np.argsort(keys, kind="stable")
        return keys[order], order


class ItemIndex(Mapping[str, int]):
    """item_id -> index, of a catalogue's ids; see `ItemIds.position`."""

    def __init__(self, ids: ItemIds) -> None:
        self._ids = ids

    def __getitem__(self, item_id: str) -> int:
        at = self._ids.position(item_id)
        if at < 0:
            raise KeyError(item_id)
        return at

    def __contains__(self, item_id: object) -> bool:
        return self._ids.position(item_id) >= 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def id_hash(item_id: str) -> bytes:
    """The sort key that gives an item its index; it depends on the id alone, and similar ids have unrelated keys."""
    return hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def hash_order(ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] the order that sorts ids by `id_hash`, and uint64 [n] their keys in that order."""
    halves = np.frombuffer(b"".join(map(id_hash, ids)), ">u8").reshape(-1, 2).astype(np.uint64)  # [n, 2]
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return order, halves[order, 0]


def _keys(ids: Iterable[str]) -> np.ndarray:
    """uint64 [n], the first eight bytes of every id's hash."""
    return np.frombuffer(b"".join(id_hash(each)[:8] for each in ids), ">u8").astype(np.uint64)
