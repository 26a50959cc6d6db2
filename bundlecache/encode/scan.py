"""Find what there is to encode: each item's picture, sound, text or graph node, and the hash of its content.

========  ==================  ===============================
modality  source              absent when
========  ==================  ===============================
image     file                the cell is empty
audio     file                the cell is empty
text      title, or --fields  all of these are empty
graph     item_id             the encoder's graph lacks it
========  ==================  ===============================
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogue.columns import Strings
from ..encoder_spec import TITLE
from ..errors import BundlecacheError, MediaError
from ..files import replacing
from ..store.failures import Failure
from ..store.text_columns import is_among, places, take, text_column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder

Stamp = tuple[int, int, int]  # a file's size, time of writing, time of change
CHUNK_BYTES = 1 << 20
STABLE_AFTER_NS = 2_000_000_000  # a file changed later than this ago may change again within the same time stamp
SAVE_SECONDS = 30.0
BLOCK_ITEMS = 65_536  # texts that are Python objects at the same time
FILES_AT_ONCE = 1024
STAMP_COLUMNS = ("size", "mtime_ns", "ctime_ns")
HASH_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),  # differs when a file was replaced by one of equal size and mtime
        ("content_hash", pa.string()),
    ]
)


@dataclass(frozen=True)
class Source:
    """The input of one item: ``value`` for `Encoder.read`, the hash of its bytes, the stamp of a file."""

    value: Path | str
    content_hash: str
    stamp: Stamp | None = None

    def unchanged(self) -> bool:
        """Whether the file is still the one that was hashed."""
        try:
            return self.stamp is None or _stamp(Path(self.value)) == self.stamp
        except OSError:
            return False


@dataclass(frozen=True)
class Scan:
    """What was found among the first s items of a catalogue: p of them are present.

    Attributes
    ----------
    item_ids, present, absent
        Ids of the s items as a column; int64 positions in it, of items with something to encode [p], and of the
        others. Those in neither have ``failed``: their files cannot be read.
    hashes, values, stamps
        Of the present items [p]: content hashes as a column, texts or (as bytes) paths, stamps of files int64 [p, 3].
    """

    item_ids: pa.Array
    present: np.ndarray
    hashes: pa.Array
    values: pa.Array
    absent: np.ndarray
    failed: dict[str, Failure] = field(default_factory=dict)
    stamps: np.ndarray | None = None

    def sources(self, rows: np.ndarray) -> list[Source]:
        """The sources of the present items ``rows`` [n], of p."""
        hashes = self.hashes.take(pa.array(rows)).to_pylist()
        values = self.values.take(pa.array(rows)).to_pylist()
        if self.stamps is None:
            return [Source(text, content_hash) for text, content_hash in zip(values, hashes, strict=True)]
        stamps = zip(*self.stamps[rows].T.tolist(), strict=True)
        paths = (Path(os.fsdecode(path)) for path in values)
        return [Source(*each) for each in zip(paths, hashes, stamps, strict=True)]

    def ids(self, positions: np.ndarray) -> pa.Array:
        """The ids at these positions, as a column."""
        return take(self.item_ids, positions)

    def for_encoder(self, encoder: Any) -> Scan:
        """The same for one encoder: items that its graph lacks (``has``) are absent."""
        has = getattr(encoder, "has", None)
        if has is None:
            return self
        blocks = (self.present[low : low + BLOCK_ITEMS] for low in range(0, len(self.present), BLOCK_ITEMS))
        known = np.array([has(item_id) for block in blocks for item_id in self.ids(block).to_pylist()], bool)  # [p]
        rows = np.flatnonzero(known)
        assert self.stamps is None  # noqa: S101 - a graph's nodes are no files
        values = take(self.values, rows)
        absent = np.sort(np.concatenate([self.absent, self.present[~known]]))
        return replace(self, present=self.present[rows], hashes=take(self.hashes, rows), values=values, absent=absent)


def scan_items(
    modality: str,
    catalogue: Catalogue,
    workspace: WorkspaceFolder,
    *,
    workers: int,
    limit: int | None = None,
    columns: Sequence[str] = TITLE,
    scanned: Callable[[int], None] = lambda _: None,
) -> Scan:
    """Find and hash the sources of the first ``limit`` items; ``scanned`` is called with the number of items done.

    Files whose path, size and times are known from an earlier scan are not read again. ``columns`` are those that make
    the text of an item.

    Raises
    ------
    CatalogueError
        When a text is to be made of a column that the items lack.
    """
    count = len(catalogue) if limit is None else min(limit, len(catalogue))
    item_ids = text_column(catalogue.item_ids[:count])
    if modality in ("image", "audio"):
        return _files(item_ids, catalogue.column(modality)[:count], modality, workspace, workers, scanned)
    if modality == "text":
        catalogue.check_text_columns(columns)
    texts = text_column(catalogue.texts(columns)[:count]) if modality == "text" else item_ids
    hashes = [text_column([])]
    there = np.zeros(count, bool)
    for low in range(0, count, BLOCK_ITEMS):
        block = texts.slice(low, BLOCK_ITEMS).cast(pa.large_binary()).to_pylist()
        there[low : low + len(block)] = [bool(text) for text in block]
        hashes.append(text_column([blake2b(text, digest_size=16).hexdigest() for text in block if text]))
        scanned(low + len(block))
    present = np.flatnonzero(there)
    return Scan(item_ids, present, pa.concat_arrays(hashes), take(texts, present), np.flatnonzero(~there))


def hash_file(path: Path) -> str:
    """The content hash of a file."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _files(
    item_ids: pa.Array,
    cells: Sequence[str | None],
    modality: str,
    workspace: WorkspaceFolder,
    workers: int,
    scanned: Callable[[int], None],
) -> Scan:
    column: Strings[str | None] = Strings(cells)
    wanted = np.flatnonzero(column.filled)  # [w]
    coded = take(column.arrow, wanted).dictionary_encode()
    uris, code = text_column(coded.dictionary), coded.indices.to_numpy()  # [u] each file once, [w]
    cache = _HashCache(workspace.store / "hashes" / f"{modality}.parquet", uris)

    def hash_one(row: int, uri: str) -> tuple[bytes, Stamp, str] | Failure:
        try:
            path = workspace.media(uri)
            stamp = _stamp(path)
            known = cache.get(row, stamp) or cache.put(row, stamp, hash_file(path))
            return os.fsencode(path), stamp, known
        except MediaError as error:
            return Failure("read", str(error), "")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Failure("read", f"{uri[:200]}: {reason}", "")

    reasons: dict[int, Failure] = {}  # by file
    paths, hashes = [pa.array([], pa.large_binary())], [text_column([])]
    stamps = np.zeros((len(uris), 3), np.int64)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="hash") as pool:
        for low in range(0, len(uris), FILES_AT_ONCE):
            block = uris.slice(low, FILES_AT_ONCE).to_pylist()
            found = list(pool.map(hash_one, range(low, low + len(block)), block))
            reasons |= {row: each for row, each in enumerate(found, low) if isinstance(each, Failure)}
            read = [(b"", (0, 0, 0), "") if isinstance(each, Failure) else each for each in found]
            paths.append(pa.array([path for path, _, _ in read], pa.large_binary()))
            stamps[low : low + len(block)] = [stamp for _, stamp, _ in read]
            hashes.append(text_column([content_hash for _, _, content_hash in read]))
            scanned((low + len(block)) * len(wanted) // len(uris))
            cache.save(at_least_seconds=SAVE_SECONDS)
    cache.save()
    bad = np.isin(code, list(reasons))  # [w]
    ids = take(item_ids, wanted[bad]).to_pylist()
    good = code[~bad]  # [p]
    return Scan(
        item_ids,
        present=wanted[~bad],
        hashes=take(pa.concat_arrays(hashes), good),
        values=take(pa.concat_arrays(paths), good),
        absent=np.setdiff1d(np.arange(len(item_ids)), wanted, assume_unique=True),
        failed={item_id: reasons[each] for item_id, each in zip(ids, code[bad].tolist(), strict=True)},
        stamps=stamps[good],
    )


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is no regular file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _HashCache:
    """Content hashes by address, size and time of change, kept in one Parquet file; asked for ``uris`` [u] by row."""

    def __init__(self, path: Path, uris: pa.Array) -> None:
        self.path, self.uris = path, uris
        self._new: dict[int, tuple[Stamp, str]] = {}  # by row of uris
        self._saved_new, self._saved_at = 0, time.monotonic()
        try:
            self._known = pq.read_table(path, schema=HASH_SCHEMA).combine_chunks()
        except (OSError, pa.ArrowException):
            self._known = HASH_SCHEMA.empty_table()  # nothing is known: all files are read
        self._row = places(uris, among=self._known["uri"])  # [u]
        self._stamps = np.stack([self._known[name].to_numpy() for name in STAMP_COLUMNS], axis=1)  # [known, 3]
        self._hashes = text_column(self._known["content_hash"])

    def get(self, row: int, stamp: Stamp) -> str | None:
        known = int(self._row[row])
        same = known >= 0 and tuple(self._stamps[known].tolist()) == stamp
        return self._hashes[known].as_py() if same else None

    def put(self, row: int, stamp: Stamp, content_hash: str) -> str:
        if time.time_ns() - max(stamp[1:]) > STABLE_AFTER_NS:
            self._new[row] = (stamp, content_hash)
        return content_hash

    def save(self, at_least_seconds: float = 0.0) -> None:
        if len(self._new) == self._saved_new or time.monotonic() - self._saved_at < at_least_seconds:
            return
        new = dict(self._new)
        rows = np.fromiter(new, np.int64, len(new))
        uris = take(self.uris, rows).cast(pa.string())
        columns = [uris, *(pa.array([stamp[i] for stamp, _ in new.values()], pa.int64()) for i in range(3))]
        made = pa.table([*columns, pa.array([known for _, known in new.values()])], schema=HASH_SCHEMA)
        kept = self._known.filter(pa.array(~is_among(self._known["uri"], uris)))
        # Without the cache the files are read again; a full disk becomes an error when vectors are committed.
        with suppress(BundlecacheError), replacing(self.path) as temporary:
            pq.write_table(pa.concat_tables([kept, made]), temporary)
        self._saved_new, self._saved_at = len(new), time.monotonic()
