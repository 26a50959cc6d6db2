"""One encoder process per device of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import EncoderError
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from ..store.fragments import FragmentTarget
    from .encoder import EncoderInfo
    from .protocol import Load, Part, PartResult

PARTS_AHEAD = 2  # of each process: one in work, one that waits

# In a process of the pool:
_worker: Worker | None = None
_working = threading.Lock()  # held while it computes, not while it sends its results
_cancelled = threading.Event()


class ProcessPool:
    """``with ProcessPool(load, ["cuda:0", "cuda:1"], workers) as pool``; each decodes with ``workers`` threads.

    Processes are spawned, not forked: neither Lance nor CUDA survives a fork. After an error or Ctrl-C the parts
    in work are not waited for.

    Raises
    ------
    EncoderError
        When an encoder cannot be loaded, or two devices would make different vectors.
    """

    writes = False

    def __init__(self, load: Load, devices: Sequence[str], workers: int) -> None:
        self.devices, self.size = list(devices), len(devices)
        context = multiprocessing.get_context("spawn")
        lifeline, self._lifeline = context.Pipe(duplex=False)  # closed when the results are no longer wanted
        self._pools = [ProcessPoolExecutor(1, context, _begin, (lifeline,)) for _ in devices]
        self.encoders: list[EncoderInfo] = []
        try:
            starting = [
                pool.submit(_load, load, device, workers) for pool, device in zip(self._pools, devices, strict=True)
            ]
            described = [self._result(future, device) for future, device in zip(starting, devices, strict=True)]
        except BaseException as error:
            self.__exit__(type(error))
            raise
        for device, other in zip(devices, described, strict=True):
            if other != described[0]:
                self.__exit__()
                raise EncoderError(
                    f"{devices[0]} and {device} would make different vectors of {other[0].spec}.",
                    hint="name devices of one kind, or set --precision and --batch-size for all of them",
                )
        self.encoders = described[0]

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None:
            self._lifeline.close()
        # Waited for: an interpreter that ends at the same time may print a traceback (Python < 3.12).
        with ThreadPoolExecutor(self.size) as closing:
            for pool in self._pools:
                closing.submit(pool.shutdown, cancel_futures=True)
        self._lifeline.close()

    def map(self, parts: Iterable[Part], targets: Sequence[FragmentTarget] = ()) -> Iterator[list[PartResult]]:  # noqa: ARG002
        """See `WorkerPool.map`."""
        todo = iter(parts)
        running: dict[Future[list[PartResult]], int] = {}
        for worker in list(range(self.size)) * PARTS_AHEAD:
            self._submit(todo, worker, running)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                worker = running.pop(future)
                found = self._result(future, self.devices[worker])
                self._submit(todo, worker, running)
                yield found

    def _submit(self, todo: Iterator[Part], worker: int, running: dict[Future[list[PartResult]], int]) -> None:
        try:
            running.update((self._pools[worker].submit(_encode, part), worker) for part in islice(todo, 1))
        except BrokenProcessPool as error:
            raise _worker_died(self.devices[worker]) from error

    @staticmethod
    def _result(future: Future, device: str) -> list:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise _worker_died(device) from error


def _worker_died(device: str) -> EncoderError:
    return EncoderError(
        f"The encoder process of {device} has died; often the system ends one that needs more memory than there is.",
        hint="what was encoded is stored; type the same command, perhaps with a smaller --batch-size or fewer devices",
    )


def _begin(lifeline: Connection) -> None:
    """In a new process of the pool: Ctrl-C is for the writing process alone, and the worker ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_when_cancelled, args=(lifeline,), daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only ever called in a child
    parent.join()
    os._exit(1)


def _end_when_cancelled(lifeline: Connection) -> None:
    """End at once while it computes; otherwise only stop working: half a message would leave the reader waiting."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    _cancelled.set()
    if not _working.acquire(blocking=False):
        os._exit(1)
    _working.release()


def _load(load: Load, device: str, workers: int) -> list[EncoderInfo]:
    global _worker
    with _working:
        _worker = Worker(load, device, workers)
        return _worker.describe()


def _encode(part: Part) -> list[PartResult]:
    assert _worker is not None  # noqa: S101 - loaded first
    with _working:
        return [] if _cancelled.is_set() else _worker.encode(part)
