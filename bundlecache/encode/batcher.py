"""One encoder of a run with its table: makes batches, records failures, commits rows.

The encoders of one run share only what is read; each has a batcher of its own.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, Command, EncoderError, MediaError, counted
from ..store.failures import ABSENT, Failure
from ..store.table_schema import as_stored, flaws
from .encoder import stage_of_flaw
from .protocol import MAX_FAILURES_IN_A_ROW, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from ..store.tables import TableWriter
    from .encoder import Encoder
    from .plan import Copies
    from .protocol import Limits, PartResult, Unit

COMMIT_BYTES = 64 << 20  # open rows, those of the running commit and its copy stand in memory at the same time
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "alloc_failed")  # of torch and its libraries


class EncoderBatcher:
    """Encodes the samples of one encoder in batches, and commits the rows in the thread of ``committer``."""

    def __init__(
        self, encoder: Encoder, table: TableWriter, limits: Limits, committer: Executor, changed: Callable[[], None]
    ) -> None:
        self.encoder, self.table, self.limits, self.committer, self.changed = encoder, table, limits, committer, changed
        self.commit_rows = max(1, min(limits.commit_rows, COMMIT_BYTES // table.identity.row_bytes))
        self.batch_size = max(1, encoder.batch_size)
        self.encoded = self.reused = self.forwards = 0
        self.failed: dict[str, Failure] = {}
        self.unlearnt = 0  # items of `failed` that did not fail: they are absent
        self.note = ""
        self.seconds = {"forward": 0.0, "write": 0.0}
        self._too_large = False  # whether the open batch has a sample that does not fit even alone
        self._unconfirmed: dict[str, Failure] = {}  # failures inside the encoder since it last succeeded
        self._failures_in_a_row = 0  # contents among them
        self._batch: list[tuple[Unit, Any]] = []
        self._open: list[tuple[Unit, np.ndarray]] = []
        self._open_rows = 0
        self._open_fragments: list[tuple[list[str], list[str]]] = []  # of other processes, with their items
        self._committed_at = time.monotonic()
        self._commit: Future[None] | None = None

    @property
    def failures(self) -> int:
        """Items that failed so far."""
        return len(self.failed) - self.unlearnt + len(self._unconfirmed)

    def add_failures(self, failures: Mapping[str, Failure]) -> None:
        """Record items that could not be read or hashed."""
        self.failed |= failures
        self._count_errors()

    def copy_rows(self, copies: Copies) -> None:
        """Write rows for items that have the content of a stored row."""
        for low in range(0, len(copies.rows), self.commit_rows):
            part = slice(low, low + self.commit_rows)
            vectors = self.table.vectors(copies.rows[part])
            with self._spent_on("write"):
                self.table.write(copies.item_ids[part], copies.hashes[part], vectors)
            self.encoded += len(vectors)
            self.reused += len(vectors)
            self.changed()

    def take(self, unit: Unit, sample: Any) -> None:
        """Add a sample, or the reason why there is none; a full batch is encoded at once."""
        if isinstance(sample, Unusable):
            self._fail(unit, "decode", sample.reason)
            return
        self._batch.append((unit, sample))
        if len(self._batch) >= self.batch_size:
            self.encode()

    def encode(self) -> None:
        """Encode the open batch."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        size, self._too_large = self.batch_size, False
        self._forward(batch)
        if self._too_large:
            self.batch_size = size  # one large sample was the reason, not the batch size
        elif self.batch_size < size:
            self.note = f"memory ran out: {self.encoder.spec} goes on with --batch-size {self.batch_size}"
            self.changed()

    def finish(self, *, whole: bool) -> None:
        """Commit the open rows; after an error (``whole`` is false) as far as possible, without a second error."""
        try:
            if whole:
                self.failed |= self._unconfirmed
            self._flush()
            self._wait()
        except BundlecacheError:
            if whole:
                raise

    def _forward(self, batch: list[tuple[Unit, Any]]) -> None:
        """Encode a batch; when it fails, its halves, down to the single sample that causes the failure."""
        try:
            with self._spent_on("forward"):
                self.forwards += 1
                vectors = np.asarray(self.encoder.encode([sample for _, sample in batch]))
        except Exception as error:
            reason, out_of_memory = reason_of(error), _out_of_memory(error)
        else:
            self._keep(batch, vectors)
            return
        # Outside of the except block: an exception that is being handled keeps the tensors of the failed forward alive.
        if len(batch) == 1:
            self._too_large |= out_of_memory
            self._record_failure(batch[0][0], reason)
            return
        half = (len(batch) + 1) // 2
        if out_of_memory:
            self.batch_size = half
        while batch:
            count = min(half, self.batch_size)
            self._forward(batch[:count])
            batch = batch[count:]

    def _record_failure(self, unit: Unit, reason: str) -> None:
        self._unconfirmed |= dict.fromkeys(unit.item_ids, Failure("encode", reason, unit.source.content_hash))
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise EncoderError(
                f"{self.encoder.spec} failed on {self._failures_in_a_row} items in a row: {reason}.",
                hint="nothing was recorded against these items; mend the encoder and type the same command",
            )
        self._count_errors()
        self.changed()

    def _keep(self, batch: list[tuple[Unit, Any]], vectors: np.ndarray) -> None:
        self.failed |= self._unconfirmed
        self._unconfirmed, self._failures_in_a_row = {}, 0
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
                stage = stage_of_flaw(bad[row], self.encoder)
                self.unlearnt += len(unit.item_ids) if stage == ABSENT else 0
                self._fail(unit, stage, bad[row])
                continue
            self._hold(unit, rows[row])
        self._commit_when_due()

    def add_result(self, units: Sequence[Unit], written: Sequence[Unit], result: PartResult, workers: int) -> None:
        """Add the result of one of ``workers`` other processes: the rows of ``units``, its failures and counts.

        The rows of the units ``written`` are in its fragments, to be committed.
        """
        for unit, row in zip(units, result.rows.values(), strict=True):
            self._hold(unit, row)
        if written:
            item_ids = [item_id for unit in written for item_id in unit.item_ids]
            self._open_fragments.append((result.fragments, item_ids))
            self.encoded += len(item_ids)
            self.reused += len(item_ids) - len(written)
        self.failed |= result.failed
        self.forwards += result.forwards
        self.seconds["forward"] += result.forward / workers
        self.batch_size = min(self.batch_size, result.batch_size)
        self.note = result.note or self.note
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
        """Hand the open rows to the committing thread, once the commit before is done."""
        self._wait()
        units, self._open, self._open_rows = self._open, [], 0
        fragments, self._open_fragments = self._open_fragments, []
        self._commit = self.committer.submit(self._write, units, fragments, dict(self.failed))
        self._committed_at = time.monotonic()

    def _write(
        self,
        units: list[tuple[Unit, np.ndarray]],
        fragments: list[tuple[list[str], list[str]]],
        failed: dict[str, Failure],
    ) -> None:
        if fragments:  # one commit for those of all workers
            self.table.append_fragments(
                [fragment for made, _ in fragments for fragment in made],
                [item_id for _, item_ids in fragments for item_id in item_ids],
            )
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
        """Add the seconds of the block to ``seconds[name]``."""
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
        if allowed is not None and self.failures > allowed:
            found = (self.failed | self._unconfirmed).items()
            item_id, failure = next(each for each in found if each[1].stage != ABSENT)
            raise EncoderError(
                f"{counted(self.failures, 'item')} failed and {counted(allowed, 'was', 'were')} allowed; the first was {item_id!r}: {failure.reason}.",
                hint=["what was encoded is stored;", Command("status", "--errors"), "lists the failures"],
            )


def _out_of_memory(error: Exception) -> bool:
    """Whether a forward failed for want of memory, in the words of torch; floor 0 does not import its class."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or (isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY_TEXTS))
    )


def reason_of(error: Exception) -> str:
    """Why an item has no vector, in one line, for the errors table.

    Raises
    ------
    BundlecacheError
        The error itself, when it is about more than one item.
    """
    if isinstance(error, BundlecacheError) and not isinstance(error, MediaError):
        raise error
    text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
