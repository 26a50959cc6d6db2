"""Write a table's rows as files that training and other programs read: a memory-mapped matrix, Parquet, npy."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BundlecacheError, Command, StoreError, counted
from ..files import read_json, replacing, write_text
from .guards import opening
from .table_schema import BATCH_ROWS, Identity, as_numpy, checksum, flaws, vector_checksums
from .text_columns import joined_bytes, places_of_ids, take, text_column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .text_columns import Texts

ABANDONED_SECONDS = 3600.0
SYNC_BYTES = 64 << 20  # of a matrix that is made, between two waits for the disk
RECORD = "made.json"  # of a matrix folder: the hash of its content, and size and time of its files


def matrix_folder(root: Path, table: str, version: int, item_ids: Texts) -> Path:
    """Where the matrix of these items stands, or would stand."""
    ids = hashlib.blake2b(joined_bytes(item_ids), digest_size=8).hexdigest()  # 0.05 s for a million ids
    return root / "matrices" / table / f"{version}-{ids}"


def load_matrix(folder: Path, items: int, identity: Identity) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors [I, d] or [I, t, d], memory-mapped, and mask [I]; None when they are missing or not as they were made.

    A damaged folder is removed, so that the caller makes it again. Files that nobody touched are recognised by their
    size and time; others (copied, edited) are read once and compared with the checksums of the rows they were made from.
    """
    if not folder.is_dir():
        return None
    try:
        vectors, mask = open_matrix(folder)
        if vectors.dtype != identity.dtype or vectors.shape != (items, *identity.shape):
            raise ValueError("vectors.npy has another shape or type")
        if mask.dtype != np.bool_ or mask.shape != (items,):
            raise ValueError("mask.npy has another shape or type")
        _check_content(folder, vectors.reshape(items, identity.width), mask)
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return vectors, mask


def open_matrix(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of a matrix folder as they are, without a check.

    Raises
    ------
    OSError, ValueError
        When a file cannot be read, or is no array.
    """
    try:
        arrays: list[Any] = [np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "mask.npy")]
    except (
        SyntaxError,
        TokenError,
        OverflowError,
        TypeError,
        KeyError,
        EOFError,
    ) as error:  # numpy evaluates the header
        raise ValueError(f"a file of {folder.name} is no array ({type(error).__name__})") from error
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise ValueError("an .npz archive is no matrix")
    return arrays[0], arrays[1]


def _check_content(folder: Path, rows: np.ndarray, mask: np.ndarray) -> None:
    """Raise ValueError when rows [I, w] or mask are not those that were written."""
    known: Any = read_json(folder / RECORD) if (folder / RECORD).is_file() else None  # older folders have none
    stamps = _stamps(folder)
    if known is not None and known["stamps"] == stamps:
        return
    sums = np.zeros(len(rows), np.uint64)
    for low in range(0, len(rows), BATCH_ROWS):
        sums[low : low + BATCH_ROWS] = checksum(rows[low : low + BATCH_ROWS])
    content = _content(sums, mask)
    if known is not None and known["content"] != content:
        raise ValueError("the matrix was changed")
    if known is None and (set(flaws(rows)) != set(np.flatnonzero(~mask).tolist()) or sums[~mask].any()):
        raise ValueError("a row is not finite, or contradicts the mask")
    with suppress(BundlecacheError):  # a folder that cannot be written is read again next time
        write_text(folder / RECORD, json.dumps({"content": content, "stamps": stamps}))


def _content(sums: np.ndarray, mask: np.ndarray) -> str:
    """The hash of all rows, by their checksums uint64 [I], and of the mask [I]."""
    return hashlib.blake2b(sums.tobytes() + mask.tobytes(), digest_size=16).hexdigest()


def _stamps(folder: Path) -> list[list[int]]:
    """Size and time of both files."""
    found = [(folder / name).stat() for name in ("vectors.npy", "mask.npy")]
    return [[status.st_size, status.st_mtime_ns] for status in found]


def materialise(
    dataset: Any, item_ids: Texts, folder: Path, progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[np.ndarray, np.ndarray]:
    """Write vectors.npy [I, d] or [I, t, d] and mask.npy [I] for these items into ``folder``, and load them.

    The rows pass through memory batch by batch. The folder appears whole or not at all. Matrices of other versions of
    the same table are removed: nothing asks for them again. ``progress`` is called with the rows done, and all rows.

    Raises
    ------
    StoreError
        When a row does not match its checksum.
    """
    identity = _identity(dataset)
    row = _rows(dataset, item_ids)  # [I]
    order = np.argsort(row, kind="stable")  # the items in the order of their rows
    sums = np.zeros(len(item_ids), np.uint64)

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        np.save(temporary / "mask.npy", row >= 0)
        with ThreadPoolExecutor(1) as syncing, (temporary / "vectors.npy").open("wb", buffering=0) as file:
            # Written, not mapped: faster, and a full disk is an error here, where it would kill a mapping process.
            header = {"descr": np.dtype(identity.dtype).str, "fortran_order": False}
            np.lib.format.write_array_header_2_0(file, {**header, "shape": (len(item_ids), *identity.shape)})
            start = file.tell()
            file.truncate(start + len(item_ids) * identity.row_bytes)  # items without a vector are a hole of zeros
            low, rows = 0, dataset.count_rows()
            for vectors, batch in _checked(dataset):
                first, last = np.searchsorted(row[order], [low, low + len(vectors)])
                sums[order[first:last]] = vector_checksums(batch, dataset.schema)[row[order[first:last]] - low]
                for position, part in _runs(order[first:last], row[order[first:last]] - low):
                    file.seek(start + position * identity.row_bytes)
                    _write(file, vectors[part])
                low += len(vectors)
                progress(low, rows)
                if low * identity.row_bytes % SYNC_BYTES < vectors.nbytes:
                    syncing.submit(os.fsync, file.fileno())  # the disk works while the next rows are read
            syncing.submit(os.fsync, file.fileno()).result()
        with (temporary / "mask.npy").open("rb+") as file:
            os.fsync(file.fileno())
        record = {"content": _content(sums, row >= 0), "stamps": _stamps(temporary)}
        (temporary / RECORD).write_text(json.dumps(record), "utf-8")
        with suppress(FileExistsError):  # another process was faster with the same matrix
            _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sweep(folder)
    made = load_matrix(folder, len(item_ids), identity)
    if made is None:
        raise StoreError(f"{folder} vanished while it was made.", hint="type the same command again")
    return made


def _rows(dataset: Any, item_ids: Texts) -> np.ndarray:
    """The live row of each item, -1 where there is none, int64 [I]."""
    with opening(dataset.uri):
        table = dataset.to_table(columns=["item_id", "live"])
    live = np.flatnonzero(table["live"].to_numpy())
    return np.append(live, -1)[places_of_ids(item_ids, among=take(text_column(table["item_id"]), live))]


def _runs(positions: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Runs of rows that go to consecutive positions: the first position and the rows of each."""
    if not len(positions):
        return
    breaks = np.flatnonzero((np.diff(positions) != 1) | (np.diff(rows) != 1)) + 1
    for low, high in itertools.pairwise([0, *breaks.tolist(), len(positions)]):
        yield int(positions[low]), slice(int(rows[low]), int(rows[low]) + high - low)


def _write(file: Any, rows: np.ndarray) -> None:
    """All of ``rows``: a raw file may take a part, on a disk that is nearly full or beyond 2 GiB."""
    left = rows.view(np.uint8).reshape(-1).data
    while left:
        left = left[file.write(left) :]


def export_parquet(dataset: Any, path: Path) -> None:
    """Write item_id, content_hash and vector (fixed-size list of float32 [w]) of all valid rows as Parquet.

    The schema's metadata carries the identity, as in the store.
    """
    identity = _identity(dataset)
    schema = pa.schema(
        [("item_id", pa.string()), ("content_hash", pa.string()), ("vector", pa.list_(pa.float32(), identity.width))],
        metadata=identity.schema.metadata,
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for vectors, batch in _checked(dataset):
            live = batch["live"].to_numpy(zero_copy_only=False)
            flat = pa.array(vectors[live].astype(np.float32).reshape(-1))
            columns = [batch[name].filter(batch["live"]) for name in ("item_id", "content_hash")]
            rows = [*columns, pa.FixedSizeListArray.from_arrays(flat, identity.width)]
            writer.write_batch(pa.record_batch(rows, schema=schema))


def export_npy(vectors: np.ndarray, mask: np.ndarray, item_ids: Sequence[str], folder: Path) -> None:
    """Write vectors.npy [I, d], mask.npy [I] and ids.txt, one item a line, all in the order of the items.

    Raises
    ------
    StoreError
        When an item id has a line break in it.
    """
    if bad := next((item_id for item_id in item_ids if len(item_id.splitlines()) > 1), None):
        raise StoreError(f"The item id {bad!r} has a line break, so ids.txt cannot hold it.", hint="--format parquet")
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("vectors.npy", vectors), ("mask.npy", mask)):
        with replacing(folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, array)
    write_text(folder / "ids.txt", "".join(f"{item_id}\n" for item_id in item_ids))


def _checked(dataset: Any) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Rows [r, w] of batch after batch, in the order of the rows, each compared with its checksum."""
    for batch in _batches(dataset, ["item_id", "content_hash", "checksum", "live", "vector"]):
        vectors = as_numpy(batch["vector"])
        wrong = checksum(vectors) != vector_checksums(batch, dataset.schema)
        if wrong.any():
            raise StoreError(
                f"{counted(int(wrong.sum()), 'row')} of {dataset.uri} did not pass the checksum.",
                hint=[
                    Command("verify", "--repair"),
                    "takes them out, so that",
                    Command("encode"),
                    "makes them again",
                ],
            )
        yield vectors, batch


def _batches(dataset: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with opening(dataset.uri):
        yield from dataset.to_batches(columns=columns, batch_size=_identity(dataset).batch_rows)


def _identity(dataset: Any) -> Identity:
    identity = Identity.read(dataset.schema)
    if identity is None:
        raise StoreError(f"{dataset.uri} was not written by bundlecache.")
    return identity


def _sweep(folder: Path) -> None:
    """Remove matrices of other versions than that of ``folder``, and what died while it was made."""
    version = folder.name.partition("-")[0]
    for other in folder.parent.iterdir():
        if other.name.startswith("."):
            with suppress(FileNotFoundError):
                if time.time() - other.stat().st_mtime < ABANDONED_SECONDS:
                    continue
        elif other.name.partition("-")[0] == version:
            continue
        shutil.rmtree(other, ignore_errors=True)  # on Windows one that is still mapped stays


def _rename(source: Path, target: Path) -> None:
    """Rename a folder; what systems say differently about a target that is there becomes FileExistsError."""
    try:
        source.rename(target)
    except OSError:
        if target.is_dir():
            raise FileExistsError(target) from None
        raise
