"""The only code that writes a Lance table of vectors.

It avoids three problems of Lance: sliced list columns may be written to the wrong rows (arrays are built anew, and
every commit is read back), upserts of two processes at once duplicate keys (one writer per table, by a lock file), and
files that a killed process wrote stay on the disk (``tidy``). A killed process loses the open commit, and so does a
power cut: Lance does not fsync, so this module does, at every commit.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
import pyarrow as pa

from ..errors import Command, StoreError, counted
from . import failures
from .failures import Failure
from .fragments import FragmentTarget, absolute, append, record_batches, sound, sync_changes
from .guards import locked, opening, storing
from .location import StoreLocation
from .table_schema import CHECKSUM_COVERS_IDS, Identity, as_numpy, format_of
from .text_columns import IdSet, is_among, places, repeated, take, text_column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from .text_columns import Texts

SAMPLE_ROWS = 512  # rows of a commit that are read back and compared, if they are not wide
FRAGMENT_BYTES = 1 << 30  # pieces are written together up to this size
COMPACT_FRAGMENTS = 16  # a table in more pieces than this is written together at the end of a run
KEEP_VERSIONS = timedelta(minutes=10)  # long enough for a reader that has just opened an older version
MARK_ROWS = 16_384  # rows whose mark "live" is changed by one statement


class Held(Protocol):
    """What a table holds: ids and content hashes of its rows, as columns, and the failures by item."""

    item_ids: pa.Array
    hashes: pa.Array
    errors: dict[str, Failure]


@dataclass
class HeldNow:
    """What a table holds, read without its lock; see `Held`."""

    item_ids: pa.Array
    hashes: pa.Array
    errors: dict[str, Failure]


def held(root: Path, identity: Identity) -> HeldNow:
    """What the table of an identity in the store ``root`` holds now; nothing where there is none.

    Raises
    ------
    StoreError
        When the table or its errors file is damaged.
    """
    location, name = StoreLocation(root), identity.table_name
    errors = failures.by_item(root, name)
    if not location.has(name):
        return HeldNow(text_column([]), text_column([]), errors)
    with opening(location.uri(name)):
        rows = location.dataset(name).to_table(columns=["item_id", "content_hash"])
    return HeldNow(text_column(rows["item_id"]), text_column(rows["content_hash"]), errors)


class TableWriter:
    """The one writer of a table: ``with TableWriter(root, identity) as table: table.write(...)``.

    Entering takes the table's lock and makes the table if there is none. ``item_ids`` and ``hashes`` (columns, in the
    order of the rows) and ``errors`` (item_id -> failure) show what it held then.

    Raises
    ------
    StoreError
        When another process holds the lock, the table is damaged or the disk refuses.
    """

    def __init__(self, root: Path, identity: Identity) -> None:
        self.root, self.identity, self.name = root, identity, identity.table_name
        self.location = StoreLocation(root)
        self.uri = self.location.uri(self.name)
        self.wrote = False

    def __enter__(self) -> TableWriter:
        with ExitStack() as held:
            held.enter_context(locked(self.root, self.name))
            self._open()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def _open(self) -> None:
        if not self.location.has(self.name):  # there is no table, or a process died while it made one
            with storing(self.root):
                # Versions begin anew: a matrix of the table that was here before would pass for one of this.
                shutil.rmtree(self.root / "matrices" / self.name, ignore_errors=True)
                self.location.database().create_table(self.name, schema=self.identity.schema)
        with opening(self.uri):
            self._opened = self.location.dataset(self.name)
            self._version = self._opened.version
            self._keyed = format_of(self._opened.schema) >= CHECKSUM_COVERS_IDS
            rows = self._opened.to_table(columns=["item_id", "content_hash"])
        self.item_ids, self.hashes = (text_column(rows[name]) for name in ("item_id", "content_hash"))
        self._known = IdSet(self.item_ids)
        if not self._known.distinct and (doubled := repeated(self.item_ids)):
            raise StoreError(
                f"The table {self.name} holds {counted(len(doubled), 'item')} twice; "
                "another program has written to it.",
                hint=[
                    Command("verify", "--repair"),
                    "takes them out, so that",
                    Command("encode"),
                    "makes them again",
                ],
            )
        self.errors = failures.by_item(self.root, self.name)

    def _unchanged(self) -> Any:
        """The table, which nobody else has written to: the lock keeps out this machine's processes only."""
        with opening(self.uri):
            dataset = self.location.dataset(self.name)
        if dataset.version != self._version:
            raise StoreError(
                f"Another machine or program has written to {self.uri} meanwhile.",
                hint="what was encoded before is stored; once it has ended, type the same command again",
            )
        return dataset

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Rows [n, w] at ``rows`` [n] of the table as it was on entering."""
        with opening(self.uri):
            return as_numpy(self._opened.take(rows.tolist(), columns=["vector"])["vector"])

    def write(self, item_ids: Texts, hashes: Texts, vectors: np.ndarray) -> None:
        """Commit rows: new items are appended, known ones replaced.

        Vectors [n, d], [n, t, d] or rows [n, w] in the table's dtype, contiguous, as from :func:`as_stored`. On a disk
        of this machine the rows are on the disk when this returns, and outlast a power cut.

        Raises
        ------
        StoreError
            When the disk refuses, or what is read back is not what was written; then nothing has changed.
        """
        item_ids, hashes = text_column(item_ids), text_column(hashes)
        vectors = vectors.reshape(len(item_ids), self.identity.width)
        known = self._known.has(item_ids)
        for part, commit in ((~known, self._append), (known, self._replace)):
            if part.any():
                rows = np.flatnonzero(part)
                commit(take(item_ids, rows), take(hashes, rows), vectors if part.all() else vectors[rows])
        self._known.update(item_ids)

    def target(self, item_ids: Texts = (), hashes: Texts = ()) -> FragmentTarget:
        """What other processes need to write rows of this table, of items [n] with these content hashes [n].

        Contents of an item that has a row already are to be sent back instead, for :meth:`write`.
        """
        known = take(text_column(hashes), np.flatnonzero(self._known.has(item_ids))).to_pylist()
        where = self.root.absolute(), absolute(self.uri), self.location.options
        return FragmentTarget(*where, self.identity, self._keyed, frozenset(known))

    def append_fragments(self, written: Sequence[str], item_ids: Texts) -> None:
        """Commit fragments that other processes wrote by :meth:`target`: rows of these items, which had none before.

        Raises
        ------
        StoreError
            When the disk refuses, or what is read back is not what was written; then nothing has changed.
        """
        before = self._unchanged()
        rows = before.count_rows()
        with storing(self.root):
            after = append(self.uri, self.location.options, written, before.version)
        self.wrote, self._version = True, after.version
        whole = after.count_rows() == rows + len(item_ids) and not self._known.has(item_ids).any()
        if not whole or not sound(after.take((rows + self._sample(len(item_ids))).tolist())):
            self._take_back(before)
        self._known.update(item_ids)

    def _append(self, item_ids: pa.Array, hashes: pa.Array, vectors: np.ndarray) -> None:
        before = self._unchanged()
        rows = before.count_rows()
        with storing(self.root):
            pieces = self.target().write(item_ids, hashes, vectors)
            after = append(self.uri, self.location.options, pieces, before.version)
        self.wrote, self._version = True, after.version
        picks = self._sample(len(item_ids))
        got = after.take((rows + picks).tolist(), columns=["item_id", "content_hash", "vector"])
        self._compare(before, after.count_rows() - rows, got, picks, item_ids, hashes, vectors)

    def _replace(self, item_ids: pa.Array, hashes: pa.Array, vectors: np.ndarray) -> None:
        before = self._unchanged()
        rows = pa.Table.from_batches(record_batches(self.identity, item_ids, hashes, vectors, keyed=self._keyed))
        with storing(self.root):
            table = self.location.database().open_table(self.name)
            table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            after = self.location.dataset(self.name)
            sync_changes(before, after)
        self.wrote, self._version = True, after.version
        picks = self._sample(len(item_ids))
        wanted = take(item_ids, picks)
        got = after.to_table(columns=["item_id", "content_hash", "vector"], filter=among(wanted.to_pylist()))
        order = places(wanted, among=got["item_id"])
        got = got.take(order[order >= 0])
        grown = after.count_rows() - before.count_rows()
        self._compare(before, grown + len(item_ids), got, picks, item_ids, hashes, vectors)

    def _sample(self, count: int) -> np.ndarray:
        """Up to ``SAMPLE_ROWS`` rows of ``count``, evenly spread, both ends included."""
        return np.unique(np.linspace(0, count - 1, min(count, SAMPLE_ROWS, self.identity.batch_rows)).astype(np.int64))

    def _compare(
        self,
        before: Any,
        written: int,
        got: pa.Table,
        picks: np.ndarray,
        item_ids: pa.Array,
        hashes: pa.Array,
        vectors: np.ndarray,
    ) -> None:
        same = (
            written == len(item_ids)
            and text_column(got["item_id"]).equals(take(item_ids, picks))
            and text_column(got["content_hash"]).equals(take(hashes, picks))
            and np.array_equal(as_numpy(got["vector"]).view(np.uint8), vectors[picks].view(np.uint8))
        )
        if not same:
            self._take_back(before)

    def _take_back(self, before: Any) -> NoReturn:
        before.restore()
        raise StoreError(
            f"The table {self.name} did not read back as it was written; the last commit was taken back.",
            hint="no other program may write to the store meanwhile; type the same command again",
        )

    def update_status(self, checked: Texts, failed: Mapping[str, Failure], dead: Texts = ()) -> None:
        """Record how the ``checked`` items are now: which of them have ``failed``, and whose rows are ``dead``.

        A row that is not valid keeps its vector, and becomes valid again when its item is checked, has not failed and is
        not dead. Rows of failed items that are not dead, and of items that were not checked, are left alone.
        """
        old = [] if not self.errors else is_among(list(self.errors), checked).tolist()
        errors = {each: self.errors[each] for each, seen in zip(list(self.errors), old, strict=True) if not seen}
        errors |= failed
        if errors != self.errors:
            self._save_errors(errors)
        with opening(self.uri):
            rows = self._unchanged().to_table(columns=["item_id", "live"])
        item_ids, live = text_column(rows["item_id"]), rows["live"].to_numpy()
        gone = is_among(item_ids, dead)  # [rows]
        kept_out = np.flatnonzero(~live & ~gone)
        candidates = take(item_ids, kept_out)
        back = kept_out[is_among(candidates, checked) & ~is_among(candidates, list(failed))]
        for mark, changed in ((True, back), (False, np.flatnonzero(live & gone))):
            for low in range(0, len(changed), MARK_ROWS):
                part = among(take(item_ids, changed[low : low + MARK_ROWS]).to_pylist())
                with storing(self.root):
                    before = self.location.dataset(self.name)
                    self.location.database().open_table(self.name).update(where=part, values={"live": mark})
                    after = self.location.dataset(self.name)
                    sync_changes(before, after)
                    self._version = after.version
                self.wrote = True

    def note_errors(self, found: Mapping[str, Failure]) -> None:
        """Record failures during a run."""
        if any(self.errors.get(item_id) != failure for item_id, failure in found.items()):
            self._save_errors({**self.errors, **found})

    def _save_errors(self, errors: dict[str, Failure]) -> None:
        with storing(self.root):
            failures.save(self.root, self.name, errors)
        self.errors = errors

    def tidy(self) -> None:
        """End of a run: write the pieces together if they are many, drop old versions and a dead process's files."""
        try:
            dataset = self.location.dataset(self.name)
            if self.wrote and len(dataset.get_fragments()) > COMPACT_FRAGMENTS and self.location.has_room(self.name):
                rewrite(dataset, self.identity)
            clean(self.location, dataset, KEEP_VERSIONS)
        except OSError:
            pass  # every row is stored already; the next run tidies up


def rewrite(dataset: Any, identity: Identity) -> None:
    """Write small pieces together, without the rows that were replaced; the caller holds the table's lock."""
    dataset.optimize.compact_files(
        target_rows_per_fragment=max(1, min(1 << 20, FRAGMENT_BYTES // identity.row_bytes)),
        batch_size=identity.batch_rows,
    )


def clean(location: StoreLocation, dataset: Any, older_than: timedelta) -> None:
    """Drop old versions that no tag holds, and files that killed processes left; the caller holds the table's lock.

    That lock is this machine's: on an object store, files that belong to no version yet may be another's, and
    Lance drops them after a week.
    """
    mine = location.address is None
    dataset.cleanup_old_versions(older_than, delete_unverified=mine, error_if_tagged_old_versions=False)


def among(item_ids: Sequence[str]) -> str:
    """The filter of these items."""
    quoted = ", ".join("'" + item_id.replace("'", "''") + "'" for item_id in item_ids)
    return f"item_id IN ({quoted})"
