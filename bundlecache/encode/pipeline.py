"""The three overlapping parts of an encode run: threads that decode, the encoder, one thread that commits."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, EncoderError, MediaError
from ..store.failures import Failure
from ..store.vectors import as_stored, flaws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from ..store.tables import TableWriter
    from . import Encoder
    from .sources import Source

COMMIT_BYTES = 64 << 20  # open rows, those of the running commit and its copy stand in memory at the same time
HOPELESS = 32  # items in a row that fail inside the encoder: then it is the encoder that is broken


@dataclass(frozen=True)
class Unit:
    """One content and the items that share it: one sample, one vector, a row for each item."""

    source: Source
    item_ids: list[str]


@dataclass
class Shares:
    """Parts of the time since the start that were spent waiting for samples, encoding, waiting for the disk."""

    began: float
    busy: dict[str, float]

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.began

    def _part(self, name: str) -> float:
        return min(1.0, self.busy[name] / max(self.seconds, 1e-9))

    @property
    def decode(self) -> float:
        """Waiting for decoded samples."""
        return self._part("decode")

    @property
    def forward(self) -> float:
        """Inside the encoder."""
        return self._part("forward")

    @property
    def write(self) -> float:
        """Waiting for commits."""
        return self._part("write")

    @contextmanager
    def spent_on(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.busy[name] += time.monotonic() - start


class Pipeline:
    """``with Pipeline(...) as p: p.encode(units)``; leaving the block commits what is done, also after an error."""

    def __init__(
        self,
        encoder: Encoder,
        table: TableWriter,
        workers: int,
        commit_rows: int,
        commit_seconds: float,
        max_errors: int | None,
        progress: Callable[[Shares, int, int], None],
    ) -> None:
        self.encoder, self.table, self.workers = encoder, table, max(1, workers)
        self.commit_rows = max(1, min(commit_rows, COMMIT_BYTES // table.identity.row_bytes))
        self.commit_seconds, self.max_errors = commit_seconds, max_errors
        self.progress = progress
        self.batch_size = max(1, encoder.batch_size)
        self.encoded = self.reused = self.forwards = 0
        self.failed: dict[str, Failure] = {}
        self.shares = Shares(time.monotonic(), {"decode": 0.0, "forward": 0.0, "write": 0.0})
        self._doubted: dict[str, Failure] = {}  # items that failed inside the encoder since it last worked
        self._misses = 0  # and how many contents they are
        self._open: list[tuple[Unit, np.ndarray]] = []
        self._open_rows = 0
        self._committed_at = time.monotonic()
        self._decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._commit: Future[None] | None = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders.shutdown(wait=error is None, cancel_futures=True)
        try:
            if error is None:
                self.failed |= self._doubted
            self._flush()
            self._wait()
        except BundlecacheError:
            if error is None:
                raise
        finally:
            self._committer.shutdown()

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
            with self.shares.spent_on("write"):
                self.table.write([item_id for item_id, _, _ in part], [content for _, content, _ in part], vectors)
            self.encoded += len(part)
            self.reused += len(part)
            self._show()

    def encode(self, units: Iterable[Unit]) -> None:
        """Decode, encode and commit; failures stand in ``failed`` afterwards."""
        batch: list[tuple[Unit, Any]] = []
        for unit, sample in self._samples(iter(units)):
            batch.append((unit, sample))
            if len(batch) >= self.batch_size:
                self._forward(batch)
                batch = []
        if batch:
            self._forward(batch)

    def _samples(self, units: Iterator[Unit]) -> Iterator[tuple[Unit, Any]]:
        """Decoded samples in the order of the units, two batches ahead of the encoder."""
        # Several items a task: handing over one costs more than decoding a title.
        size = max(1, min(16, self.batch_size // self.workers))
        ahead = 2 * (self.batch_size // size + self.workers)
        queue: deque[tuple[list[Unit], Future[list[Any]]]] = deque()
        while True:
            while len(queue) < ahead and (part := list(islice(units, size))):
                queue.append((part, self._decoders.submit(self._decode, part)))
            if not queue:
                return
            part, future = queue.popleft()
            with self.shares.spent_on("decode"):
                samples = future.result()
            for unit, sample in zip(part, samples, strict=True):
                if isinstance(sample, Exception):
                    if isinstance(sample, BundlecacheError) and not isinstance(sample, MediaError):
                        raise sample
                    self._fail(unit, "decode", _reason(sample))
                else:
                    yield unit, sample

    def _decode(self, units: list[Unit]) -> list[Any]:
        """Samples, or what was raised in their place."""
        samples: list[Any] = []
        for unit in units:
            try:
                sample = self.encoder.prepare(self.encoder.read(unit.source.value))
                if not unit.source.unchanged():
                    raise MediaError("the file changed while it was read; the next run looks again")
            except Exception as error:
                sample = error
            samples.append(sample)
        return samples

    def _forward(self, batch: list[tuple[Unit, Any]]) -> None:
        """Encode a batch; when it fails, its halves, down to the single sample that is to blame."""
        try:
            with self.shares.spent_on("forward"):
                self.forwards += 1
                vectors = np.asarray(self.encoder.encode([sample for _, sample in batch]))
        except Exception as error:
            if isinstance(error, BundlecacheError) and not isinstance(error, MediaError):
                raise
            if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
                self.batch_size = max(1, len(batch) // 2)
            self._halve(batch, _reason(error))
        else:
            self._take(batch, vectors)

    def _halve(self, batch: list[tuple[Unit, Any]], reason: str) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            self._forward(batch[:middle])
            self._forward(batch[middle:])
            return
        unit = batch[0][0]
        self._doubted |= dict.fromkeys(unit.item_ids, Failure("encode", reason, unit.source.content_hash))
        self._misses += 1
        if self._misses >= HOPELESS:
            raise EncoderError(
                f"{self.encoder.spec} failed on {self._misses} items in a row: {reason}.",
                hint="nothing was recorded against these items; mend the encoder and type the same command",
            )
        self._count_errors()
        self._show()

    def _take(self, batch: list[tuple[Unit, Any]], vectors: np.ndarray) -> None:
        self.failed |= self._doubted
        self._doubted, self._misses = {}, 0
        tokens, dim = self.encoder.tokens, self.encoder.dim
        needed = (len(batch), tokens, dim) if tokens else (len(batch), dim)
        if vectors.shape != needed:
            raise EncoderError(
                f"{self.encoder.spec} gave vectors of shape {vectors.shape} for {len(batch)} samples; "
                f"needed is {needed}."
            )
        rows = as_stored(vectors, self.table.identity)  # [n, d]
        bad = flaws(rows)
        for row, (unit, _) in enumerate(batch):
            if row in bad:
                self._fail(unit, "check", bad[row])
                continue
            self._open.append((unit, rows[row]))
            self._open_rows += len(unit.item_ids)
            self.encoded += len(unit.item_ids)
            self.reused += len(unit.item_ids) - 1
        waited = time.monotonic() - self._committed_at
        if self._open_rows >= self.commit_rows or waited >= self.commit_seconds:
            self._flush()
        self._show()

    def _flush(self) -> None:
        """Hand what is open to the committing thread, once that has finished the commit before."""
        self._wait()
        units, self._open, self._open_rows = self._open, [], 0
        self._commit = self._committer.submit(self._write, units, dict(self.failed))
        self._committed_at = time.monotonic()

    def _write(self, units: list[tuple[Unit, np.ndarray]], failed: dict[str, Failure]) -> None:
        if units:
            item_ids = [item_id for unit, _ in units for item_id in unit.item_ids]
            hashes = [unit.source.content_hash for unit, _ in units for _ in unit.item_ids]
            vectors = np.stack([vector for unit, vector in units for _ in unit.item_ids])  # [n, d]
            self.table.write(item_ids, hashes, vectors)
        self.table.note_errors(failed)

    def _wait(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None:
            with self.shares.spent_on("write"):
                commit.result()

    def _fail(self, unit: Unit, stage: str, reason: str) -> None:
        self.failed |= dict.fromkeys(unit.item_ids, Failure(stage, reason, unit.source.content_hash))
        self._count_errors()
        self._show()

    def _count_errors(self) -> None:
        count = len(self.failed) + len(self._doubted)
        if self.max_errors is not None and count > self.max_errors:
            failures = self.failed | self._doubted
            item_id, failure = next(iter(failures.items()))
            raise EncoderError(
                f"{count:,} items failed and {self.max_errors:,} were allowed; the first was {item_id!r}: {failure.reason}.",
                hint="what was encoded is stored; bundlecache status --errors lists the failures",
            )

    def _show(self) -> None:
        self.progress(self.shares, self.encoded, len(self.failed) + len(self._doubted))


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
