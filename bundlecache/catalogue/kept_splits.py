"""The splits that bundles were given when questions were first frozen: ``splits.parquet`` in the workspace.

Without this file, splits are computed from the bundles alone, and new bundles move old ones: groups grow together, and
the shares are dealt out anew. A bundle that is in the file keeps its split for good; `splits.assign` places new
bundles only. A row is bundle_id, split, group, item_ids (as they were then); the metadata hold the SHA-256 of the rows.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CatalogueError
from ..files import replacing
from ..text import clean_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = pa.schema(
    {"bundle_id": pa.string(), "split": pa.string(), "group": pa.string(), "item_ids": pa.list_(pa.string())}
)
SHA_KEY = b"bundlecache_sha256"
MIN_SAME_BUNDLES = 0.5  # share of the ids in common whose items agree; below it, the file is of another data set


class KeptBundle(NamedTuple):
    """A bundle when it was placed: its split, its group and its item ids in ascending order."""

    split: str
    group: str
    item_ids: tuple[str, ...]


class KeptSplits:
    """Bundle id -> the bundle when it was placed; bundles that were deleted since are among them.

    ``file_sha256`` is that of the file that they were read from, "" where there is none. The rows of a file are read and
    checked when they are first asked for.
    """

    def __init__(self, bundles: Mapping[str, KeptBundle] | None = None, path: Path | None = None) -> None:
        self._given, self._path = bundles, path
        self.file_sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""

    @cached_property
    def bundles(self) -> Mapping[str, KeptBundle]:
        """The rows by bundle id.

        Raises
        ------
        CatalogueError
            When the file is damaged, or its rows were changed since they were written.
        """
        return _read(self._path) if self._path else self._given or {}

    def __bool__(self) -> bool:
        return bool(self._path or self._given)

    def __len__(self) -> int:
        return len(self.bundles)

    def __repr__(self) -> str:
        return f"<KeptSplits: {len(self):,} bundles>"

    def are_of(self, current: Mapping[str, set[str]]) -> bool:
        """Whether this is the same data set as ``current`` (bundle id -> item ids), edited or not.

        Another import may use the same bundle ids ("1", "2", ...) for other bundles. Those hold other items, while the
        bundles of a catalogue that was edited keep most of theirs.
        """
        both = [(set(self.bundles[name].item_ids), items) for name, items in current.items() if name in self.bundles]
        same = sum(2 * len(was & now) >= min(len(was), len(now)) for was, now in both)
        return not both or same >= MIN_SAME_BUNDLES * len(both)

    @classmethod
    def read(cls, path: Path) -> KeptSplits:
        """What `save` wrote; empty where there is no file.

        Raises
        ------
        CatalogueError
            When the file cannot be read.
        """
        try:
            return cls(path=path) if path.is_file() else cls()
        except OSError as error:
            raise _damaged(path, error) from error

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the rows, one JSON list a line, in the order of bundle ids."""
        rows = ([name, *self.bundles[name]] for name in sorted(self.bundles))
        return hashlib.sha256("".join(json.dumps(row) + "\n" for row in rows).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write all rows, whole or not at all.

        Raises
        ------
        BundlecacheError
            When the folder cannot be written.
        """
        rows = [(name, *self.bundles[name]) for name in sorted(self.bundles)]
        columns = {column: [row[k] for row in rows] for k, column in enumerate(SCHEMA.names)}
        table = pa.table(columns, schema=SCHEMA).replace_schema_metadata({SHA_KEY: self.sha256.encode()})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _read(path: Path) -> dict[str, KeptBundle]:
    try:
        table = pq.read_table(path, schema=SCHEMA)
        columns = [table.column(name).to_pylist() for name in SCHEMA.names]
        kept = {
            bundle_id: KeptBundle(split, group, tuple(item_ids))
            for bundle_id, split, group, item_ids in zip(*columns, strict=True)
        }
        known = (pq.read_schema(path).metadata or {}).get(SHA_KEY, b"").decode("ascii", "replace")
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error
    if KeptSplits(kept).sha256 != known:
        raise CatalogueError(
            f"{path} was changed after it was written, so the split of a bundle cannot be trusted.",
            hint=f"restore {path.name} from a copy",
        )
    return kept


def _damaged(path: Path, error: Exception) -> CatalogueError:
    reason = clean_text(str(error).partition("\n")[0]).rstrip(".")
    return CatalogueError(f"{path} is damaged: {reason}.", hint=f"restore {path.name} from a copy")
