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

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..encoder_spec import TITLE
from ..errors import BundlecacheError, MediaError
from ..files import replacing
from ..store.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder

Stamp = tuple[int, int, int]  # a file's size, time of writing, time of change
CHUNK_BYTES = 1 << 20
STABLE_AFTER_NS = 2_000_000_000  # a file changed later than this ago may change again within the same time stamp
SAVE_SECONDS = 30.0
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
    """What was found, by item_id: sources, files that cannot be read, and items with nothing to encode."""

    present: dict[str, Source] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)

    def for_encoder(self, encoder: Any) -> Scan:
        """The same for one encoder: items that its graph lacks (``has``) are absent."""
        has = getattr(encoder, "has", None)
        if has is None:
            return self
        known = {item_id: source for item_id, source in self.present.items() if has(item_id)}
        return Scan(known, self.failed, self.absent + [item_id for item_id in self.present if item_id not in known])


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
    item_ids = catalogue.item_ids[:count]
    if modality in ("image", "audio"):
        cells = catalogue.column(modality)[:count]
        return _files(dict(zip(item_ids, cells, strict=True)), modality, workspace, workers, scanned)
    if modality == "text":
        catalogue.check_text_columns(columns)
    texts = dict(zip(item_ids, catalogue.texts(columns) if modality == "text" else item_ids, strict=False))
    return Scan(
        present={item_id: Source(text, hash_text(text)) for item_id, text in texts.items() if text},
        absent=[item_id for item_id, text in texts.items() if not text],
    )


def hash_text(text: str) -> str:
    """The content hash of a text or id."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """The content hash of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _files(
    cells: dict[str, str | None],
    modality: str,
    workspace: WorkspaceFolder,
    workers: int,
    scanned: Callable[[int], None],
) -> Scan:
    cache = _HashCache(workspace.store / "hashes" / f"{modality}.parquet")
    found = Scan()

    def hash_one(uri: str) -> Source | Failure:
        try:
            path = workspace.media(uri)
            stamp = _stamp(path)
            return Source(path, cache.get(uri, stamp) or cache.put(uri, stamp, hash_file(path)), stamp)
        except MediaError as error:
            return Failure("read", str(error), "")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Failure("read", f"{uri[:200]}: {reason}", "")

    wanted = {item_id: uri for item_id, uri in cells.items() if uri}
    found.absent.extend(item_id for item_id in cells if item_id not in wanted)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="hash") as pool:
        todo = iter(wanted.items())
        while part := list(islice(todo, 1024)):
            for (item_id, _), source in zip(part, pool.map(hash_one, [uri for _, uri in part]), strict=True):
                if isinstance(source, Source):
                    found.present[item_id] = source
                else:
                    found.failed[item_id] = source
            scanned(len(found.present) + len(found.failed))
            cache.save(at_least_seconds=SAVE_SECONDS)
    cache.save()
    return found


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is no regular file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _HashCache:
    """Content hashes by address, size and time of change, kept in one Parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = False
        self._saved = time.monotonic()
        self._known: dict[str, tuple[Stamp, str]] = {}
        try:
            rows = zip(*pq.read_table(path, schema=HASH_SCHEMA).to_pydict().values(), strict=True)
        except (OSError, pa.ArrowException):
            return  # nothing is known: all files are read
        self._known = {uri: ((size, mtime, ctime), known) for uri, size, mtime, ctime, known in rows}

    def get(self, uri: str, stamp: Stamp) -> str | None:
        known_stamp, content_hash = self._known.get(uri, (None, None))
        return content_hash if known_stamp == stamp else None

    def put(self, uri: str, stamp: Stamp, content_hash: str) -> str:
        if time.time_ns() - max(stamp[1:]) > STABLE_AFTER_NS:
            self._known[uri] = (stamp, content_hash)
            self._new = True
        return content_hash

    def save(self, at_least_seconds: float = 0.0) -> None:
        if not self._new or time.monotonic() - self._saved < at_least_seconds:
            return
        rows = [(uri, *stamp, content_hash) for uri, (stamp, content_hash) in list(self._known.items())]
        table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=HASH_SCHEMA)
        # Without the cache the files are read again; a full disk becomes an error when vectors are committed.
        with suppress(BundlecacheError), replacing(self.path) as temporary:
            pq.write_table(table, temporary)
        self._new, self._saved = False, time.monotonic()
