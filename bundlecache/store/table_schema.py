"""How vectors are laid out in a Lance table, and what identifies a table.

=============  ==============================  ====================================================
column         type                            meaning
=============  ==============================  ====================================================
item_id        string                          the key: one row per item
content_hash   string                          blake2b of the bytes that were encoded
checksum       uint64                          :func:`checksum` of the vector + :func:`id_checksums`, checked when it is read
live           bool                            false: the item has other content now, or none; row is kept
vector         fixed_size_list<dtype>[w]       never null: items that failed stand in the errors file
=============  ==============================  ====================================================

dtype is half, float or int8. The width w of a row is d for one vector an item, and t * d for t tokens, one after the other. The schema's
metadata holds the identity under ``bundlecache``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import EncoderError, StoreError

FORMAT_VERSION = 3  # 2: tokens; 3: a row's checksum covers its id and hash, before that the vector alone
CHECKSUM_COVERS_IDS = 3
BATCH_ROWS = 8192  # Lance writes batches of this size several times as fast as one large chunk
BATCH_BYTES = 16 << 20  # and token features take their memory by the batch
MINIBLOCK_BYTES = 4093  # Lance refuses that encoding for wider rows
IMPORTED = (
    "imported as it stands"  # preprocess of vectors that other programs made: no encoder here can make them again
)
DTYPES = ("float16", "float32", "int8")  # int8: whole numbers, of encoders that make them so
BITS = {
    "float16": (np.uint16, 0x7FFF, 0x7C00),
    "float32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "int8": (np.uint8, 0xFF, 0x100),
}  # all but sign, infinity


@dataclass(frozen=True)
class Identity:
    """The cause of a table's vectors, all but the content: two identities never share a table.

    ``tokens`` is t of token features [t, d], and 0 for one vector [d] an item.
    """

    modality: str
    spec: str
    fingerprint: str
    preprocess: str
    dtype: str
    dim: int
    tokens: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise EncoderError(f"{self.spec} wants to store {self.dtype}; allowed are {', '.join(DTYPES)}.")

    @classmethod
    def of(cls, encoder: Any) -> Identity:
        """The identity that an encoder declares."""
        names = [field.name for field in fields(cls) if field.name != "tokens"]
        return cls(**{name: getattr(encoder, name) for name in names}, tokens=getattr(encoder, "tokens", 0))

    @property
    def shape(self) -> tuple[int, ...]:
        """What one item has: (d,), or (t, d) of token features."""
        return (self.tokens, self.dim) if self.tokens else (self.dim,)

    @property
    def width(self) -> int:
        """Numbers in a row: d, or t * d."""
        return math.prod(self.shape)

    @property
    def batch_rows(self) -> int:
        """Rows that are written or read at a time."""
        return max(1, min(BATCH_ROWS, BATCH_BYTES // self.row_bytes))

    @property
    def row_bytes(self) -> int:
        """Size of an item's vector or tokens."""
        return self.width * np.dtype(self.dtype).itemsize

    @property
    def table_name(self) -> str:
        """The table's name, safe as a folder name everywhere: modality, a readable spec, 8 digits of the hash."""
        cause = json.dumps(
            [
                self.modality,
                self.spec,
                self.fingerprint,
                self.preprocess,
                self.dtype,
                *[self.tokens] * bool(self.tokens),
            ]
        )
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", self.spec).strip("-.")[:60].rstrip("-.")
        return f"{self.modality}--{slug}--{hashlib.sha256(cause.encode()).hexdigest()[:8]}"

    @property
    def schema(self) -> pa.Schema:
        """The table's Arrow schema (see the head of this file)."""
        # Hashes and ids do not compress, and trying costs a third of the write; miniblock halves a full scan.
        plain = {"lance-encoding:compression": "none"}
        layout = {"lance-encoding:structural-encoding": "miniblock"} if self.row_bytes <= MINIBLOCK_BYTES else plain
        vector = pa.list_(pa.from_numpy_dtype(np.dtype(self.dtype)), self.width)
        return pa.schema(
            [
                pa.field("item_id", pa.string(), nullable=False, metadata=plain),
                pa.field("content_hash", pa.string(), nullable=False, metadata=plain),
                pa.field("checksum", pa.uint64(), nullable=False),
                pa.field("live", pa.bool_(), nullable=False),
                pa.field("vector", vector, nullable=False, metadata=layout),
            ],
            metadata={"bundlecache": json.dumps({"format_version": FORMAT_VERSION, **asdict(self)})},
        )

    @classmethod
    def read(cls, schema: pa.Schema) -> Identity | None:
        """The identity in a table's schema; None when the table is not one of ours.

        Raises
        ------
        StoreError
            When a newer bundlecache wrote it.
        """
        header = (schema.metadata or {}).get(b"bundlecache")
        if header is None:
            return None
        values = json.loads(header)
        if values.pop("format_version") > FORMAT_VERSION:
            raise StoreError(
                f"The vectors of {values['spec']} were written by a newer bundlecache.",
                hint="pip install --upgrade bundlecache",
            )
        return cls(**values)


def checksum(vectors: np.ndarray) -> np.ndarray:
    """uint64 [n] of rows [n, w]: the sum of each row's 8-byte words, times odd weights, modulo 2**64.

    >>> checksum(np.ones((1, 4), np.float16)) == checksum(np.ones((1, 5), np.float16))
    array([False])
    """
    words = np.ascontiguousarray(vectors).view(np.uint8)  # [n, bytes]
    if words.shape[1] % 8:
        words = np.pad(words, ((0, 0), (0, -words.shape[1] % 8)))
    words = words.view(np.uint64)
    weights = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    return np.einsum("nw,w->n", words, weights)  # [n]


def id_checksums(item_ids: pa.Array, hashes: pa.Array) -> np.ndarray:
    """What ids and hashes add to the checksums of rows, uint64 [n]: a damaged id or hash is noticed as well.

    >>> id_checksums(pa.array(["ab", "a"]), pa.array(["c", "bc"])).tolist() == id_checksums(pa.array(["a", "a"]), pa.array(["c", "bc"])).tolist()
    False
    """
    return text_checksums(item_ids) * np.uint64(0xD6E8FEB86659FD93) + text_checksums(hashes) * np.uint64(
        0xA0761D6478BD642F
    )


def text_checksums(column: pa.Array) -> np.ndarray:
    """:func:`checksum` of strings and their lengths, uint64 [n], without making Python's of them."""
    _, offsets, buffer = column.buffers()
    if not len(column):
        return np.zeros(0, np.uint64)
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    starts = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(buffer or b"", np.uint8)
    lengths = np.diff(starts)  # [n]
    sums = np.zeros(len(column), np.uint64)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        if len(rows) == len(column):  # hashes lie in one piece
            texts = data[starts[0] : starts[-1]].reshape(len(rows), length)
        else:
            texts = data[starts[rows, None] + np.arange(length)]
        sums[rows] = checksum(texts) + np.uint64(length)
    return sums


def vector_checksums(rows: pa.RecordBatch | pa.Table, schema: pa.Schema) -> np.ndarray:
    """The checksums uint64 [n] of the vectors alone, from the columns item_id, content_hash and checksum.

    ``schema`` is the table's: in tables of format 2 and older the checksum is the vector's alone.
    """
    if isinstance(rows, pa.Table):
        rows = rows.combine_chunks()
        return np.concatenate(
            [np.zeros(0, np.uint64), *(vector_checksums(batch, schema) for batch in rows.to_batches())]
        )
    sums = rows["checksum"].to_numpy()
    return (
        sums - id_checksums(rows["item_id"], rows["content_hash"]) if format_of(schema) >= CHECKSUM_COVERS_IDS else sums
    )


def format_of(schema: pa.Schema) -> int:
    """The format version of one of our tables."""
    return int(json.loads(schema.metadata[b"bundlecache"])["format_version"])


ALL_ZERO = "the vector is all zero"


def flaws(vectors: np.ndarray) -> dict[int, str]:
    """Row -> reason, for the rows [n, w] that cannot be compared by cosine: NaN, infinite or all zero.

    >>> flaws(np.array([[0, 0], [0, -1], [np.inf, 1]], np.float16))
    {0: 'the vector is all zero', 2: 'the vector is not finite in float16'}
    """
    found: dict[int, str] = {}
    kind, magnitude, infinity = BITS[vectors.dtype.name]
    for low in range(0, len(vectors), BATCH_ROWS):
        # Without the sign bit, the largest bit pattern of a row shows all three cases in one pass.
        largest = (vectors[low : low + BATCH_ROWS].view(kind) & kind(magnitude)).max(axis=1)
        for row in np.flatnonzero((largest >= infinity) | (largest == 0)):
            not_finite = f"the vector is not finite in {vectors.dtype}"
            found[low + int(row)] = ALL_ZERO if largest[row] == 0 else not_finite
    return found


def as_stored(vectors: np.ndarray, identity: Identity) -> np.ndarray:
    """Vectors [n, d] or [n, t, d] as rows [n, w] of the table's dtype, contiguous.

    What does not fit becomes infinite, see :func:`flaws`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(vectors, dtype=identity.dtype).reshape(len(vectors), identity.width)


def as_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A vector column as rows [n, w]. Not by ``flatten``, which would shift every row behind a null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.list_size
    values = column.values.slice(column.offset * width, len(column) * width)
    return values.to_numpy(zero_copy_only=True).reshape(len(column), width)
