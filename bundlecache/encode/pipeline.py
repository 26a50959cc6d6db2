"""The three overlapping parts of an encode run: threads that decode, the encoders, one thread that commits."""

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
from .batcher import HOPELESS, Lane, Unusable, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from ..store.tables import TableWriter
    from .batcher import Limits, Unit
    from .run import Encoder
    from .scan import Source
    from .worker_pool import Crew

PART_BATCHES = 8  # of a part for another process: while it encodes one batch, it decodes the next


@dataclass(frozen=True)
class Shares:
    """Parts of the time since the start that were spent waiting for samples, encoding, waiting for the disk."""

    seconds: float
    decode: float
    forward: float
    write: float


class Job:
    """One content that one or several encoders need: read once for all that read alike."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.units: dict[Lane, Unit] = {}

    def samples(self) -> dict[Lane, Any]:
        """The sample of each encoder, or why there is none; in a worker thread."""
        raws: dict[str, Any] = {}
        found: dict[Lane, Any] = {}
        for lane in self.units:
            encoder = lane.encoder
            if encoder.reading not in raws:
                raws[encoder.reading] = _tried(self._read, encoder)
            raw = raws[encoder.reading]
            found[lane] = raw if isinstance(raw, Unusable) else _tried(encoder.prepare, raw)
        return found

    def _read(self, encoder: Encoder) -> Any:
        raw = encoder.read(self.source.value)
        if not self.source.unchanged():
            raise MediaError("the file changed while it was read; the next run looks again")
        return raw


class Pipeline:
    """``with Pipeline(...) as p: p.encode(units)``; leaving the block commits what is done, also after an error."""

    def __init__(
        self,
        encoders: Sequence[Encoder],
        tables: Sequence[TableWriter],
        workers: int,
        limits: Limits,
        progress: Callable[[Pipeline], None],
    ) -> None:
        self.workers = max(1, workers)
        self._decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="decode", initializer=_alone)
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self.lanes = [
            Lane(encoder, table, limits, self._committer, lambda: progress(self))
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
            for lane in self.lanes:
                leaving.callback(lane.finish, whole=error is None)
        self._ended = time.monotonic()

    def shares(self, lanes: Sequence[Lane] | None = None) -> Shares:
        """Where the time went, with the forwards and writes of these lanes; of all, if left out."""
        lanes = self.lanes if lanes is None else lanes
        seconds = max((self._ended or time.monotonic()) - self._began, 1e-9)
        forward, write = (sum(lane.seconds[name] for lane in lanes) for name in ("forward", "write"))
        return Shares(seconds, *(min(1.0, part / seconds) for part in (self.waited, forward, write)))

    def encode(self, units: Sequence[Iterable[Unit]], crew: Crew | None = None) -> None:
        """Decode, encode and commit the units of each lane; failures stand in the lanes afterwards.

        With a crew, its workers decode and encode, and what they find is committed here.
        """
        if crew is not None:
            self._hand_out(self._jobs(units), crew)
            return
        for job, samples in self._samples(self._jobs(units)):
            for lane, sample in samples.items():
                lane.take(job.units[lane], sample)
        for lane in self.lanes:
            lane.encode()

    def _hand_out(self, jobs: Sequence[Job], crew: Crew) -> None:
        known = {job.source.content_hash: job for job in jobs}
        batches = max(lane.batch_size for lane in self.lanes) * PART_BATCHES
        size = max(HOPELESS, min(batches, -(-len(jobs) // crew.size)))
        parts = (jobs[low : low + size] for low in range(0, len(jobs), size))
        for result in crew.map(
            [[job.units[lane] for job in part if lane in job.units] for lane in self.lanes] for part in parts
        ):
            self.waited += result[0].waited / crew.size
            for lane, found in zip(self.lanes, result, strict=True):
                lane.merge([known[content].units[lane] for content in found.rows], found, crew.size)

    def _jobs(self, units: Sequence[Iterable[Unit]]) -> list[Job]:
        """The units of all lanes by content, in the order of the catalogue."""
        jobs: dict[str, Job] = {}
        for lane, wanted in zip(self.lanes, units, strict=True):
            for unit in wanted:
                job = jobs.setdefault(unit.source.content_hash, Job(unit.source))
                job.units[lane] = unit
        return sorted(jobs.values(), key=lambda job: min(unit.place for unit in job.units.values()))

    def _samples(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, dict[Lane, Any]]]:
        """Decoded samples in the order of the jobs, two batches ahead of the encoders."""
        # Several items a task: handing over one costs more than decoding a title.
        batch_size = max(lane.batch_size for lane in self.lanes)
        size = max(1, min(16, batch_size // self.workers))
        ahead = 2 * (batch_size // size + self.workers)
        todo = iter(jobs)
        queue: deque[tuple[list[Job], Future[list[dict[Lane, Any]]]]] = deque()
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


def _alone() -> None:
    """Let a decoding thread compute alone: its neighbours decode too, and the other cores are the encoders'."""
    torch = sys.modules.get("torch")  # not imported for this: who does not use it has no such threads
    if torch is not None:
        torch.get_num_threads()  # else torch would set its own number at its first use in this thread
        threadpool_limits(1, user_api="openmp")


def _decode(jobs: list[Job]) -> list[dict[Lane, Any]]:
    return [job.samples() for job in jobs]


def _tried(action: Callable[[Any], Any], value: Any) -> Any:
    """What the action gives, or why it gives nothing."""
    try:
        return action(value)
    except Exception as error:
        return Unusable(reason_of(error))
