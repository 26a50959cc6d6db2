"""The splits that bundles were given when questions were first frozen: ``splits.parquet`` in the workspace.

Without this file, splits are computed from the bundles alone, and new bundles move old ones: groups grow together, and
the shares are dealt out anew. A bundle that is in the file keeps its split for good; `splits.assign` places new
bundles only. A row is bundle_id, split, group, item_ids (as they were then); the metadata hold the SHA-256 of the rows.
"""

from __future__ import annotations

import hashlib
import itertools
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import json_text
from ..errors import CatalogueError
from ..files import replacing
from ..text import clean_text
from .columns import Lists, Strings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .columns import ItemIds

SCHEMA = pa.schema(
    {"bundle_id": pa.string(), "split": pa.string(), "group": pa.string(), "item_ids": pa.list_(pa.string())}
)
TEXT = pa.large_string()
ROWS = pa.schema({"bundle_id": TEXT, "split": TEXT, "group": TEXT, "item_ids": pa.large_list(TEXT)})  # in memory
SHA_KEY = b"bundlecache_sha256"
MIN_SAME_BUNDLES = 0.5  # share of the ids in common whose items agree; below it, the file is of another data set
COMPARED_BUNDLES = 10_000  # of the ids in common, so many are compared where there are more, evenly spread


class KeptBundle(NamedTuple):
    """A bundle when it was placed: its split, its group and its item ids in ascending order."""

    split: str
    group: str
    item_ids: tuple[str, ...]


class KeptSplits:
    """The bundles as they were when they were placed, by id; bundles that were deleted since are among them.

    ``file_sha256`` is that of the file that they were read from, "" where there is none. The rows of a file are read and
    checked when they are first asked for.
    """

    def __init__(
        self,
        bundles: Mapping[str, KeptBundle] | None = None,
        path: Path | None = None,
        table: pa.Table | None = None,
    ) -> None:
        self._path = path
        self.file_sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
        self._given = table
        if table is None and bundles:
            columns = [[*bundles], *map(list, zip(*bundles.values(), strict=True))]
            self._given = pa.table(columns, schema=ROWS)

    @classmethod
    def of(
        cls, ids: Strings[str], split: np.ndarray, group: Strings[str], items: Lists, item_ids: ItemIds
    ) -> KeptSplits:
        """Bundles with their splits [B], their groups, and their items in a catalogue with these ids."""
        members, ends = item_ids.take(items.values).arrow.to_pylist(), items.offsets.tolist()
        ordered = [sorted(members[first:last]) for first, last in itertools.pairwise(ends)]
        columns = [ids.arrow, pa.array(split, TEXT), group.arrow, pa.array(ordered, ROWS.field("item_ids").type)]
        return cls(table=pa.table(columns, schema=ROWS))

    @cached_property
    def rows(self) -> pa.Table:
        """The rows of `ROWS` in the order of bundle ids.

        Raises
        ------
        CatalogueError
            When the file is damaged, or its rows were changed since they were written.
        """
        if self._path:
            return _read(self._path)
        return _in_order(self._given) if self._given is not None else ROWS.empty_table()

    def __bool__(self) -> bool:
        return bool(self._path or (self._given is not None and len(self._given)))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<KeptSplits: {len(self):,} bundles>"

    @property
    def ids(self) -> Strings[str]:
        """The bundle ids, in ascending order."""
        return Strings(self.rows.column("bundle_id"))

    @property
    def split(self) -> Strings[str]:
        """The split of each."""
        return Strings(self.rows.column("split"))

    @property
    def group(self) -> Strings[str]:
        """The group of each."""
        return Strings(self.rows.column("group"))

    def items(self, item_ids: ItemIds) -> Lists:
        """The items of each in a catalogue with these ids; -1 stands for one that it does not have."""
        lists = self.rows.column("item_ids").combine_chunks()
        ends = np.concatenate([np.zeros(1, np.int64), np.asarray(pc.list_value_length(lists)).cumsum(dtype=np.int64)])
        return Lists.of(ends, item_ids.positions(lists.flatten()))

    def split_of(self, bundle_ids: Strings[str]) -> np.ndarray:
        """[n] the split of each of these bundles, "" of one that is not kept."""
        found = self.split.arrow.take(pc.index_in(bundle_ids.arrow, value_set=self.ids.arrow))
        codes, names = Strings(pc.fill_null(found, "")).codes()
        return np.array([*names], dtype="<U5")[codes] if len(codes) else np.zeros(0, "<U5")

    def are_of(self, ids: Strings[str], items: Lists, item_ids: ItemIds) -> bool:
        """Whether this is the same data set as these bundles of a catalogue with these item ids, edited or not.

        Another import may use the same bundle ids ("1", "2", ...) for other bundles. Those hold other items, while the
        bundles of a catalogue that was edited keep most of theirs.
        """
        found = pc.index_in(ids.arrow, value_set=self.ids.arrow)
        both = np.flatnonzero(np.asarray(pc.is_valid(found)))
        both = both[:: -(-len(both) // COMPARED_BUNDLES) or 1]
        now = items.take(both)
        members, ends = item_ids.take(now.values).arrow.to_pylist(), now.offsets.tolist()
        were = self.rows.column("item_ids").take(found.take(pa.array(both))).to_pylist()
        same = 0
        for (first, last), was in zip(itertools.pairwise(ends), were, strict=True):
            shared = len(set(was) & set(members[first:last]))
            same += 2 * shared >= min(len(set(was)), last - first)
        return not len(both) or same >= MIN_SAME_BUNDLES * len(both)

    def joined(self, others: KeptSplits) -> KeptSplits:
        """These bundles, and those of ``others`` whose ids are new."""
        new = pc.invert(pc.is_in(others.ids.arrow, value_set=self.ids.arrow))
        return KeptSplits(table=pa.concat_tables([self.rows, others.rows.filter(new)]))

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
        return _sha256(self.rows)

    def save(self, path: Path) -> None:
        """Write all rows, whole or not at all.

        Raises
        ------
        BundlecacheError
            When the folder cannot be written.
        """
        table = self.rows.cast(SCHEMA).replace_schema_metadata({SHA_KEY: self.sha256.encode()})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, schema=SCHEMA)
        if any(column.null_count for column in table.columns):
            raise ValueError("a row lacks a cell")
        rows = _in_order(table.cast(ROWS))
        known = (pq.read_schema(path).metadata or {}).get(SHA_KEY, b"").decode("ascii", "replace")
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error
    if _sha256(rows) != known:
        raise CatalogueError(
            f"{path} was changed after it was written, so the split of a bundle cannot be trusted.",
            hint=f"restore {path.name} from a copy",
        )
    return rows


def _in_order(table: pa.Table) -> pa.Table:
    rows = table.replace_schema_metadata(None).sort_by("bundle_id")
    return rows.combine_chunks()


def _sha256(rows: pa.Table) -> str:
    total = hashlib.sha256()
    for start, count in json_text.blocks(len(rows)):
        *columns, item_ids = (column.combine_chunks() for column in rows.slice(start, count).columns)
        ids, split, group = (json_text.texts(column, ascii_only=True) for column in columns)
        lists = json_text.lists(item_ids, ", ", ascii_only=True)
        total.update(json_text.content(json_text.joined("[", ids, ", ", split, ", ", group, ", ", lists, "]\n")))
    return total.hexdigest()


def _damaged(path: Path, error: Exception) -> CatalogueError:
    reason = clean_text(str(error).partition("\n")[0]).rstrip(".")
    return CatalogueError(f"{path} is damaged: {reason}.", hint=f"restore {path.name} from a copy")
