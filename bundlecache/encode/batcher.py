"""One encoder of a run with its table: batches, failures and commits; encoders of one run share only what is read."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, EncoderError, MediaError, counted
from ..store.failures import Failure
from ..store.vectors import as_stored, flaws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from ..store.tables import TableWriter
    from .run import Encoder
    from .scan import Source
    from .worker_pool import Found

COMMIT_BYTES = 64 << 20  # open rows, those of the running commit and its copy stand in memory at the same time
HOPELESS = 32  # items in a row that fail inside the encoder: then it is the encoder that is broken
STARVED = ("out of memory", "can't allocate memory", "alloc_failed")  # how torch and its libraries say it


@dataclass(frozen=True)
class Unit:
    """One content and the items that share it: one sample, one vector, a row for each item.

    ``place`` is that of the first of them in the catalogue.
    """

    source: Source
    item_ids: list[str]
    place: int


@dataclass(frozen=True)
class Unusable:
    """What stands in the place of a sample that could not be made. The exception itself would keep the file's pixels."""

    reason: str


@dataclass(frozen=True)
class Limits:
    """When to commit, and how many failures an encoder may have."""

    commit_rows: int
    commit_seconds: float
    max_errors: int | None


class Lane:
    """Takes the samples of one encoder in batches, and commits what it makes of them in ``committer``'s thread."""

    def __init__(
        self, encoder: Encoder, table: TableWriter, limits: Limits, committer: Executor, changed: Callable[[], None]
    ) -> None:
        self.encoder, self.table, self.limits, self.committer, self.changed = encoder, table, limits, committer, changed
        self.commit_rows = max(1, min(limits.commit_rows, COMMIT_BYTES // table.identity.row_bytes))
        self.batch_size = max(1, encoder.batch_size)
        self.encoded = self.reused = self.forwards = 0
        self.failed: dict[str, Failure] = {}
        self.note = ""
        self.seconds = {"forward": 0.0, "write": 0.0}
        self._too_large = False  # whether the open batch had a sample that does not even fit alone
        self._doubted: dict[str, Failure] = {}  # items that failed inside the encoder since it last worked
        self._misses = 0  # and how many contents they are
        self._batch: list[tuple[Unit, Any]] = []
        self._open: list[tuple[Unit, np.ndarray]] = []
        self._open_rows = 0
        self._committed_at = time.monotonic()
        self._commit: Future[None] | None = None

    @property
    def misses(self) -> int:
        """Items that failed so far."""
        return len(self.failed) + len(self._doubted)

    def refuse(self, failures: Mapping[str, Failure]) -> None:
        """Record items that failed before they came here."""
        self.failed |= failures
        self._count_errors()

    def copy(self, copies: Sequence[tuple[str, str, str]]) -> None:
        """Give items (item, content hash, holder) the stored vector of the item that holds it."""
        rows = {item_id: row for row, item_id in enumerate(self.table.content)}
        for low in range(0, len(copies), self.commit_rows):
            part = copies[low : low + self.commit_rows]
            vectors = self.table.vectors([rows[holder] for _, _, holder in part])
            with self._spent_on("write"):
                self.table.write([item_id for item_id, _, _ in part], [content for _, content, _ in part], vectors)
            self.encoded += len(part)
            self.reused += len(part)
            self.changed()

    def take(self, unit: Unit, sample: Any) -> None:
        """A sample, or what stands in its place; a full batch is encoded at once."""
        if isinstance(sample, Unusable):
            self._fail(unit, "decode", sample.reason)
            return
        self._batch.append((unit, sample))
        if len(self._batch) >= self.batch_size:
            self.encode()

    def encode(self) -> None:
        """Encode what has been taken."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        size, self._too_large = self.batch_size, False
        self._forward(batch)
        if self._too_large:
            self.batch_size = size  # that sample was to blame
        elif self.batch_size < size:
            self.note = f"memory ran out: {self.encoder.spec} goes on with --batch-size {self.batch_size}"
            self.changed()

    def finish(self, *, whole: bool) -> None:
        """Commit what is done; after an error (``whole`` is false) as far as that goes."""
        try:
            if whole:
                self.failed |= self._doubted
            self._flush()
            self._wait()
        except BundlecacheError:
            if whole:
                raise

    def _forward(self, batch: list[tuple[Unit, Any]]) -> None:
        """Encode a batch; when it fails, its halves, down to the single sample that is to blame."""
        try:
            with self._spent_on("forward"):
                self.forwards += 1
                vectors = np.asarray(self.encoder.encode([sample for _, sample in batch]))
        except Exception as error:
            reason, starved = reason_of(error), _out_of_memory(error)
        else:
            self._keep(batch, vectors)
            return
        # Out here, because an exception that is being handled keeps the tensors of the failed forward alive.
        if len(batch) == 1:
            self._too_large |= starved
            self._doubt(batch[0][0], reason)
            return
        half = (len(batch) + 1) // 2
        if starved:
            self.batch_size = half
        while batch:
            count = min(half, self.batch_size)
            self._forward(batch[:count])
            batch = batch[count:]

    def _doubt(self, unit: Unit, reason: str) -> None:
        self._doubted |= dict.fromkeys(unit.item_ids, Failure("encode", reason, unit.source.content_hash))
        self._misses += 1
        if self._misses >= HOPELESS:
            raise EncoderError(
                f"{self.encoder.spec} failed on {self._misses} items in a row: {reason}.",
                hint="nothing was recorded against these items; mend the encoder and type the same command",
            )
        self._count_errors()
        self.changed()

    def _keep(self, batch: list[tuple[Unit, Any]], vectors: np.ndarray) -> None:
        self.failed |= self._doubted
        self._doubted, self._misses = {}, 0
        needed = (len(batch), *self.table.identity.shape)
        if vectors.shape != needed:
            raise EncoderError(
                f"{self.encoder.spec} gave vectors of shape {vectors.shape} for {len(batch)} samples; "
                f"needed is {needed}."
            )
        rows = as_stored(vectors, self.table.identity)  # [n, w]
        bad = flaws(rows)
        for row, (unit, _) in enumerate(batch):
            if row in bad:
                self._fail(unit, "check", bad[row])
                continue
            self._hold(unit, rows[row])
        self._commit_when_due()

    def merge(self, units: Sequence[Unit], found: Found, workers: int) -> None:
        """Take over what one of ``workers`` other processes made: the rows of ``units``, its failures and counts."""
        for unit, row in zip(units, found.rows.values(), strict=True):
            self._hold(unit, row)
        self.failed |= found.failed
        self.forwards += found.forwards
        self.seconds["forward"] += found.forward / workers
        self.batch_size = min(self.batch_size, found.batch_size)
        self.note = found.note or self.note
        self._commit_when_due()
        self._count_errors()

    def _hold(self, unit: Unit, row: np.ndarray) -> None:
        self._open.append((unit, row))
        self._open_rows += len(unit.item_ids)
        self.encoded += len(unit.item_ids)
        self.reused += len(unit.item_ids) - 1

    def _commit_when_due(self) -> None:
        waited = time.monotonic() - self._committed_at
        if self._open_rows >= self.commit_rows or waited >= self.limits.commit_seconds:
            self._flush()
        self.changed()

    def _flush(self) -> None:
        """Hand what is open to the committing thread, once that has finished the commit before."""
        self._wait()
        units, self._open, self._open_rows = self._open, [], 0
        self._commit = self.committer.submit(self._write, units, dict(self.failed))
        self._committed_at = time.monotonic()

    def _write(self, units: list[tuple[Unit, np.ndarray]], failed: dict[str, Failure]) -> None:
        if units:
            item_ids = [item_id for unit, _ in units for item_id in unit.item_ids]
            hashes = [unit.source.content_hash for unit, _ in units for _ in unit.item_ids]
            vectors = np.stack([vector for unit, vector in units for _ in unit.item_ids])  # [n, w]
            self.table.write(item_ids, hashes, vectors)
        self.table.note_errors(failed)

    def _wait(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            with self._spent_on("write"):
                commit.result()

    @contextmanager
    def _spent_on(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - start

    def _fail(self, unit: Unit, stage: str, reason: str) -> None:
        self.failed |= dict.fromkeys(unit.item_ids, Failure(stage, reason, unit.source.content_hash))
        self._count_errors()
        self.changed()

    def _count_errors(self) -> None:
        allowed = self.limits.max_errors
        if allowed is not None and self.misses > allowed:
            item_id, failure = next(iter((self.failed | self._doubted).items()))
            raise EncoderError(
                f"{counted(self.misses, 'item')} failed and {counted(allowed, 'was', 'were')} allowed; the first was {item_id!r}: {failure.reason}.",
                hint="what was encoded is stored; bundlecache status --errors lists the failures",
            )


def _out_of_memory(error: Exception) -> bool:
    """Whether a forward failed for want of memory, in the words of torch; floor 0 does not import its class."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or (isinstance(error, RuntimeError) and any(words in text for words in STARVED))
    )


def reason_of(error: Exception) -> str:
    """Why an item has no vector, in one line.

    Raises
    ------
    BundlecacheError
        The error itself, when it is about more than one item.
    """
    if isinstance(error, BundlecacheError) and not isinstance(error, MediaError):
        raise error
    text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
