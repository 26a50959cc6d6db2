"""The three overlapping stages of an encode run: threads that decode, the encoders, one thread that commits."""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from ..errors import MediaError
from .batcher import EncoderBatcher, reason_of
from .plan import blocks, items_of
from .protocol import MAX_FAILURES_IN_A_ROW, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from ..store.tables import TableWriter
    from .encoder import Encoder
    from .protocol import Limits, Unit, WorkerPool
    from .scan import Source

PART_BATCHES = 8  # batches of a part for another process, so that it decodes one while it encodes another
FRAGMENT_ITEMS = 16_384  # contents of a part whose rows its worker writes: small files cost a reader time
PARTS_PER_WRITER = 4  # parts of each such worker at least, so that all end at about the same time


@dataclass(frozen=True)
class Shares:
    """Shares of the seconds since the start: waiting for decoded samples, encoding, waiting for the disk."""

    seconds: float
    decode: float
    forward: float
    write: float


class Job:
    """One content that one or several encoders need: read once for all that read alike."""

    def __init__(self, source: Source, units: dict[EncoderBatcher, Unit]) -> None:
        self.source, self.units = source, units

    def samples(self) -> dict[EncoderBatcher, Any]:
        """The sample of each encoder, or why there is none; called in a decoding thread."""
        raws: dict[str, Any] = {}
        found: dict[EncoderBatcher, Any] = {}
        for batcher in self.units:
            encoder = batcher.encoder
            if encoder.reading not in raws:
                raws[encoder.reading] = _result_or_reason(self._read, encoder)
            raw = raws[encoder.reading]
            found[batcher] = raw if isinstance(raw, Unusable) else _result_or_reason(encoder.prepare, raw)
        return found

    def _read(self, encoder: Encoder) -> Any:
        raw = encoder.read(self.source.value)
        if not self.source.unchanged():
            raise MediaError("the file changed while it was read; the next run reads it again")
        return raw


class Pipeline:
    """``with Pipeline(...) as p: p.encode(units)``; leaving the block commits the open rows, also after an error."""

    def __init__(
        self,
        encoders: Sequence[Encoder],
        tables: Sequence[TableWriter],
        workers: int,
        limits: Limits,
        progress: Callable[[Pipeline], None],
    ) -> None:
        self.workers = max(1, workers)
        self._decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="decode", initializer=_limit_threads)
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self.batchers = [
            EncoderBatcher(encoder, table, limits, self._committer, lambda: progress(self))
            for encoder, table in zip(encoders, tables, strict=True)
        ]
        self._began, self._ended = time.monotonic(), 0.0
        self.waited = 0.0  # seconds in which no decoded sample was there

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders.shutdown(wait=error is None, cancel_futures=True)
        with ExitStack() as leaving:
            leaving.callback(self._committer.shutdown)
            for batcher in self.batchers:
                leaving.callback(batcher.finish, whole=error is None)
        self._ended = time.monotonic()

    def shares(self, batchers: Sequence[EncoderBatcher] | None = None) -> Shares:
        """Where the time went, with the forwards and writes of these batchers; of all, if left out."""
        batchers = self.batchers if batchers is None else batchers
        seconds = max((self._ended or time.monotonic()) - self._began, 1e-9)
        forward, write = (sum(batcher.seconds[name] for batcher in batchers) for name in ("forward", "write"))
        return Shares(seconds, *(min(1.0, part / seconds) for part in (self.waited, forward, write)))

    def encode(self, units: Sequence[Sequence[Unit]], pool: WorkerPool | None = None) -> None:
        """Decode, encode and commit the units of each encoder; its batcher holds the failures afterwards.

        With a ``pool``, its workers decode and encode, and their rows are committed here.
        """
        if pool is not None:
            self._encode_elsewhere(units, pool)
            return
        for job, samples in self._samples(self._jobs(units)):
            for batcher, sample in samples.items():
                batcher.take(job.units[batcher], sample)
        for batcher in self.batchers:
            batcher.encode()

    def _encode_elsewhere(self, units: Sequence[Sequence[Unit]], pool: WorkerPool) -> None:
        most = max(batcher.batch_size for batcher in self.batchers) * PART_BATCHES
        least, targets = 1, []
        if pool.writes:
            most, least = max(most, FRAGMENT_ITEMS), PARTS_PER_WRITER
            targets = [
                batcher.table.target(*items_of(each)) for batcher, each in zip(self.batchers, units, strict=True)
            ]
        size = max(MAX_FAILURES_IN_A_ROW, min(most, -(-max(map(len, units)) // (least * pool.size))))
        away: list[dict[str, Unit]] = [{} for _ in self.batchers]  # by content: sent to the workers, no result yet

        def parts() -> Iterator[list[list[Unit]]]:
            jobs = self._jobs(units)
            while together := list(islice(jobs, size)):
                part = [[job.units[batcher] for job in together if batcher in job.units] for batcher in self.batchers]
                for sent, wanted in zip(away, part, strict=True):
                    sent.update((unit.source.content_hash, unit) for unit in wanted)
                yield part

        for result in pool.map(parts(), targets):
            self.waited += result[0].waited / pool.size
            for batcher, sent, made in zip(self.batchers, away, result, strict=True):
                rows, written = ([sent.pop(content) for content in contents] for contents in (made.rows, made.written))
                batcher.add_result(rows, written, made, pool.size)
                for failure in made.failed.values():
                    sent.pop(failure.content_hash, None)

    def _jobs(self, units: Sequence[Sequence[Unit]]) -> Iterator[Job]:
        """The units of all encoders by content, in the order of the catalogue; each is made when it is asked for."""
        for part in blocks(units):
            for wanted in part:
                source = next(unit.source for unit in wanted if unit is not None)
                chosen = zip(self.batchers, wanted, strict=True)
                yield Job(source, {batcher: unit for batcher, unit in chosen if unit is not None})

    def _samples(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[EncoderBatcher, Any]]]:
        """Decoded samples in the order of the jobs; decoding runs two batches ahead of the encoders."""
        # Several items a task: handing over one item costs more than decoding a title.
        batch_size = max(batcher.batch_size for batcher in self.batchers)
        size = max(1, min(16, batch_size // self.workers))
        ahead = 2 * (batch_size // size + self.workers)
        todo = iter(jobs)
        queue: deque[tuple[list[Job], Future[list[dict[EncoderBatcher, Any]]]]] = deque()
        while True:
            while len(queue) < ahead and (part := list(islice(todo, size))):
                queue.append((part, self._decoders.submit(_decode, part)))
            if not queue:
                return
            part, future = queue.popleft()
            start = time.monotonic()
            samples = future.result()
            self.waited += time.monotonic() - start
            yield from zip(part, samples, strict=True)


def _limit_threads() -> None:
    """Let a decoding thread use one core: other threads decode too, and the other cores are for the encoders."""
    torch = sys.modules.get("torch")  # not imported here: without torch there are no such threads
    if torch is not None:
        torch.get_num_threads()  # else torch would set its own number at its first use in this thread
        threadpool_limits(1, user_api="openmp")


def _decode(jobs: list[Job]) -> list[dict[EncoderBatcher, Any]]:
    return [job.samples() for job in jobs]


def _result_or_reason(action: Callable[[Any], Any], value: Any) -> Any:
    """The result of the action, or the reason why there is none."""
    try:
        return action(value)
    except Exception as error:
        return Unusable(reason_of(error))
