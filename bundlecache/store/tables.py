"""The only code that writes a Lance table of vectors.

It avoids three problems of Lance: sliced list columns may be written to the wrong rows (arrays are built anew, and
every commit is read back), upserts of two processes at once duplicate keys (one writer per table, by a lock file), and
files that a killed process wrote stay on the disk (``tidy``). A killed process loses the open commit. Lance does not
fsync; the checksums show what a power cut damaged.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa

from ..errors import BundlecacheError, Command, StoreError, counted
from . import failures
from .failures import Failure
from .fragments import FragmentTarget, absolute, append, record_batches, sound
from .location import StoreLocation, refusal, unreachable
from .table_schema import CHECKSUM_COVERS_IDS, Identity, as_numpy, format_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Set
    from types import TracebackType

SAMPLE_ROWS = 512  # rows of a commit that are read back and compared, if they are not wide
FRAGMENT_BYTES = 1 << 30  # pieces are written together up to this size
COMPACT_FRAGMENTS = 16  # a table in more pieces than this is written together at the end of a run
KEEP_VERSIONS = timedelta(minutes=10)  # long enough for a reader that has just opened an older version
NOT_CHECKED = Failure("", "", "")


@contextmanager
def storing(root: Path) -> Iterator[None]:
    """Turn what a full, read-only or broken disk raises into one sentence."""
    try:
        yield
    except BundlecacheError as error:
        if type(error) is not BundlecacheError:
            raise
        raise StoreError(error.message, hint=error.advice) from error  # raised by files.replacing
    except (OSError, RuntimeError) as error:
        if refused := refusal(error):
            raise unreachable(StoreLocation(root), refused) from error
        text = str(error).splitlines()[0]
        if isinstance(error, RuntimeError) and "lance" not in text.lower():
            raise
        reason = re.sub(r"^(lance error: )?(LanceError\(IO\): )?|, /\S+:\d+:\d+$", "", text)
        raise StoreError(
            f"The store {root} cannot be written: {reason}. What it held before is unharmed.",
            hint="make room or mend the permissions, then type the same command: it goes on from there",
        ) from error


@contextmanager
def opening(path: Path | str) -> Iterator[None]:
    """Turn what Lance raises on opening or reading a table with damaged files into one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if refused := refusal(error):
            raise unreachable(path, refused) from error
        reason = re.sub(r"^(External error: |LanceError\(IO\): )*|, /\S+:\d+:\d+$", "", str(error).splitlines()[0])[
            :200
        ]
        raise StoreError(
            f"The table {path} is damaged: {reason}.",
            hint=[
                Command("verify", "--repair"),
                f"mends it; where that fails too, delete {path} and encode its items again",
            ],
        ) from error


@contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold the lock of a table: whoever changes it does so inside this block.

    Raises
    ------
    StoreError
        When another process holds it, or the disk refuses.
    """
    import filelock

    with storing(root):
        (root / "locks").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(root / "locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(
                f"Another process is writing to {name} in {root}.",
                hint="wait until it has ended, then type the same command",
            ) from None
    try:
        yield
    finally:
        lock.release()


class TableWriter:
    """The one writer of a table: ``with TableWriter(root, identity) as table: table.write(...)``.

    Entering takes the table's lock and makes the table if there is none. ``content`` (item_id -> content
    hash, in the order of the rows) and ``errors`` show what it held then.

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
        self.content: dict[str, str] = dict(
            zip(rows["item_id"].to_pylist(), rows["content_hash"].to_pylist(), strict=True)
        )
        if len(self.content) < len(rows):
            raise StoreError(
                f"The table {self.name} holds {counted(len(rows) - len(self.content), 'item')} twice; "
                "another program has written to it.",
                hint=[
                    Command("verify", "--repair"),
                    "takes them out, so that",
                    Command("encode"),
                    "makes them again",
                ],
            )
        self._present = set(self.content)
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

    def vectors(self, rows: Sequence[int]) -> np.ndarray:
        """Rows [n, w] at ``rows`` of the table as it was on entering."""
        with opening(self.uri):
            return as_numpy(self._opened.take(list(rows), columns=["vector"])["vector"])

    def write(self, item_ids: Sequence[str], hashes: Sequence[str], vectors: np.ndarray) -> None:
        """Commit rows: new items are appended, known ones replaced.

        Vectors [n, d], [n, t, d] or rows [n, w] in the table's dtype, contiguous, as from :func:`as_stored`.

        Raises
        ------
        StoreError
            When the disk refuses, or what is read back is not what was written; then nothing has changed.
        """
        vectors = vectors.reshape(len(item_ids), self.identity.width)
        new = np.array([item_id not in self._present for item_id in item_ids], bool)
        for part, commit in ((new, self._append), (~new, self._replace)):
            if part.all():
                commit(item_ids, hashes, vectors)
            elif part.any():
                rows = np.flatnonzero(part)
                commit([item_ids[row] for row in rows.tolist()], [hashes[row] for row in rows.tolist()], vectors[rows])
        self._present.update(item_ids)

    def target(self, contents: Mapping[str, Sequence[str]] | None = None) -> FragmentTarget:
        """What other processes need to write rows of this table; ``contents`` are the items of each content hash.

        Contents of an item that has a row already are to be sent back instead, for :meth:`write`.
        """
        known = {content for content, item_ids in (contents or {}).items() if not self._present.isdisjoint(item_ids)}
        where = self.root.absolute(), absolute(self.uri), self.location.options
        return FragmentTarget(*where, self.identity, self._keyed, frozenset(known))

    def append_fragments(self, written: Sequence[str], item_ids: Sequence[str]) -> None:
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
        whole = after.count_rows() == rows + len(item_ids) and self._present.isdisjoint(item_ids)
        if not whole or not sound(after.take((rows + self._sample(len(item_ids))).tolist())):
            self._take_back(before)
        self._present.update(item_ids)

    def _append(self, item_ids: Sequence[str], hashes: Sequence[str], vectors: np.ndarray) -> None:
        before = self._unchanged()
        rows = before.count_rows()
        with storing(self.root):
            pieces = self.target().write(item_ids, hashes, vectors)
            after = append(self.uri, self.location.options, pieces, before.version)
        self.wrote, self._version = True, after.version
        picks = self._sample(len(item_ids))
        got = after.take((rows + picks).tolist(), columns=["item_id", "content_hash", "vector"])
        self._compare(before, after.count_rows() - rows, got, picks, item_ids, hashes, vectors)

    def _replace(self, item_ids: Sequence[str], hashes: Sequence[str], vectors: np.ndarray) -> None:
        before = self._unchanged()
        rows = pa.Table.from_batches(record_batches(self.identity, item_ids, hashes, vectors, keyed=self._keyed))
        with storing(self.root):
            table = self.location.database().open_table(self.name)
            table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        after = self.location.dataset(self.name)
        self.wrote, self._version = True, after.version
        picks = self._sample(len(item_ids))
        got = after.to_table(
            columns=["item_id", "content_hash", "vector"], filter=among([item_ids[pick] for pick in picks.tolist()])
        )
        order = {item_id: row for row, item_id in enumerate(got["item_id"].to_pylist())}
        got = got.take([order[item_ids[pick]] for pick in picks.tolist() if item_ids[pick] in order])
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
        item_ids: Sequence[str],
        hashes: Sequence[str],
        vectors: np.ndarray,
    ) -> None:
        same = (
            written == len(item_ids)
            and got["item_id"].to_pylist() == [item_ids[pick] for pick in picks.tolist()]
            and got["content_hash"].to_pylist() == [hashes[pick] for pick in picks.tolist()]
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

    def update_status(self, outcome: Mapping[str, Failure | None], dead: Set[str] = frozenset()) -> None:
        """Record how items are now: with a failure or none, and whose rows are no longer valid (``dead``).

        A row that is not valid keeps its vector, and becomes valid again when its item has no failure and is not
        in ``dead``. Rows of failed items that are not in ``dead``, and of items not in ``outcome``, are left alone.
        """
        errors = {item_id: failure for item_id, failure in self.errors.items() if item_id not in outcome}
        errors |= {item_id: failure for item_id, failure in outcome.items() if failure is not None}
        if errors != self.errors:
            self._save_errors(errors)
        with opening(self.uri):
            rows = self._unchanged().to_table(columns=["item_id", "live"])
        changed: dict[bool, list[str]] = {True: [], False: []}
        for item_id, live in zip(rows["item_id"].to_pylist(), rows["live"].to_pylist(), strict=True):
            if live and item_id in dead:
                changed[False].append(item_id)
            elif not live and item_id not in dead and outcome.get(item_id, NOT_CHECKED) is None:
                changed[True].append(item_id)
        for live, item_ids in changed.items():
            for low in range(0, len(item_ids), SAMPLE_ROWS):
                part = among(item_ids[low : low + SAMPLE_ROWS])
                with storing(self.root):
                    self.location.database().open_table(self.name).update(where=part, values={"live": live})
                    self._version = self.location.dataset(self.name).version
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
