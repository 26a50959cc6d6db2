"""From a table's rows to what training and other programs read: a matrix on disk, a Parquet file."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import StoreError, counted
from ..files import replacing, write_text
from .tables import opening
from .vectors import Identity, as_numpy, checksum, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ABANDONED_SECONDS = 3600.0


def matrix_folder(root: Path, table: str, version: int, item_ids: Sequence[str]) -> Path:
    """Where the matrix of these items stands, or would stand."""
    ids = hashlib.blake2b("\0".join(item_ids).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return root / "matrices" / table / f"{version}-{ids}"


def load(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors [I, d] or [I, t, d], memory-mapped, and mask [I]; None when they are not there. What is damaged is removed."""
    if not folder.is_dir():
        return None
    try:
        return np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "mask.npy")
    except (OSError, ValueError, EOFError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def materialise(dataset: Any, item_ids: Sequence[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write vectors.npy [I, d] or [I, t, d] and mask.npy [I] for these items into ``folder``, and load them.

    The folder appears whole or not at all.

    Matrices of other versions of the same table are removed: nothing asks for them again.

    Raises
    ------
    StoreError
        When a row does not match its checksum.
    """
    identity = _identity(dataset)
    row = _rows(dataset, item_ids)  # [I]
    order = np.argsort(row, kind="stable")  # the items in the order of their rows

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        np.save(temporary / "mask.npy", row >= 0)
        with (temporary / "vectors.npy").open("wb", buffering=0) as file:
            # Written, not mapped: faster, and a full disk is an error here, where it would kill a mapping process.
            header = {"descr": np.dtype(identity.dtype).str, "fortran_order": False}
            np.lib.format.write_array_header_2_0(file, {**header, "shape": (len(item_ids), *identity.shape)})
            start = file.tell()
            file.truncate(start + len(item_ids) * identity.row_bytes)  # items without a vector are a hole of zeros
            low = 0
            for vectors, _ in _checked(dataset):
                first, last = np.searchsorted(row[order], [low, low + len(vectors)])
                for place, part in _runs(order[first:last], row[order[first:last]] - low):
                    file.seek(start + place * identity.row_bytes)
                    _write(file, vectors[part])
                low += len(vectors)
            os.fsync(file.fileno())
        with (temporary / "mask.npy").open("rb+") as file:
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster with the same matrix
            _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sweep(folder)
    made = load(folder)
    if made is None:
        raise StoreError(f"{folder} vanished while it was made.", hint="type the same command again")
    return made


def _rows(dataset: Any, item_ids: Sequence[str]) -> np.ndarray:
    """The live row of each item, -1 where there is none, int64 [I]."""
    import pyarrow.compute as pc  # it imports pandas where that is installed

    with opening(dataset.uri):
        table = dataset.to_table(columns=["item_id", "live"])
    live = np.flatnonzero(table["live"].to_numpy())
    found = pc.index_in(pa.array(item_ids, pa.string()), value_set=table["item_id"].take(pa.array(live)))
    return np.append(live, -1)[found.fill_null(len(live)).to_numpy()]


def _runs(places: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Where neighbouring rows go to neighbouring places: first place and rows, run by run."""
    if not len(places):
        return
    breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(rows) != 1)) + 1
    for low, high in itertools.pairwise([0, *breaks.tolist(), len(places)]):
        yield int(places[low]), slice(int(rows[low]), int(rows[low]) + high - low)


def _write(file: Any, rows: np.ndarray) -> None:
    """All of ``rows``: a raw file may take a part, on a disk that is nearly full or beyond 2 GiB."""
    left = rows.view(np.uint8).reshape(-1).data
    while left:
        left = left[file.write(left) :]


def export(dataset: Any, path: Path) -> None:
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
        wrong = checksum(vectors) != told(batch, dataset.schema)
        if wrong.any():
            raise StoreError(
                f"{counted(int(wrong.sum()), 'row')} of {dataset.uri} did not pass the checksum.",
                hint="bundlecache verify --repair takes them out, so that bundlecache encode makes them again",
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
