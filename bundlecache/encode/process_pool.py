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
from .worker_pool import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from .worker_pool import Described, Found, Load, Part

AHEAD = 2  # parts of each process: one that it works on, one that waits

# In a process of the crew:
_worker: Worker | None = None
_working = threading.Lock()  # held while it computes, not while it sends home what it found
_unwanted = threading.Event()


class Processes:
    """``with Processes(load, ["cuda:0", "cuda:1"], workers) as crew``; each decodes with ``workers`` threads.

    Processes are spawned, not forked: neither Lance nor CUDA survives a fork. After an error or Ctrl-C nobody
    waits for the parts that they are at.

    Raises
    ------
    EncoderError
        When an encoder cannot be loaded, or two devices would make different vectors.
    """

    def __init__(self, load: Load, devices: Sequence[str], workers: int) -> None:
        self.devices, self.size = list(devices), len(devices)
        context = multiprocessing.get_context("spawn")
        leash, self._leash = context.Pipe(duplex=False)  # closed when what they do is no longer wanted
        self._pools = [ProcessPoolExecutor(1, context, _begin, (leash,)) for _ in devices]
        self.encoders: list[Described] = []
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

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None:
            self._leash.close()
        # Waited for: an interpreter that ends while they do may print a traceback (Python < 3.12).
        with ThreadPoolExecutor(self.size) as closing:
            for pool in self._pools:
                closing.submit(pool.shutdown, cancel_futures=True)
        self._leash.close()

    def map(self, parts: Iterable[Part]) -> Iterator[list[Found]]:
        """See `Crew.map`."""
        todo = iter(parts)
        running: dict[Future[list[Found]], int] = {}
        for place in list(range(self.size)) * AHEAD:
            self._submit(todo, place, running)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                place = running.pop(future)
                found = self._result(future, self.devices[place])
                self._submit(todo, place, running)
                yield found

    def _submit(self, todo: Iterator[Part], place: int, running: dict[Future[list[Found]], int]) -> None:
        try:
            running.update((self._pools[place].submit(_encode, part), place) for part in islice(todo, 1))
        except BrokenProcessPool as error:
            raise _died(self.devices[place]) from error

    @staticmethod
    def _result(future: Future, device: str) -> list:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise _died(device) from error


def _died(device: str) -> EncoderError:
    return EncoderError(
        f"The encoder process of {device} has died; often the system ends one that needs more memory than there is.",
        hint="what was encoded is stored; type the same command, perhaps with a smaller --batch-size or fewer devices",
    )


def _begin(leash: Connection) -> None:
    """A process of the crew: the one that writes hears Ctrl-C, and nobody outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_unwanted, args=(leash,), daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only ever called in a child
    parent.join()
    os._exit(1)


def _end_unwanted(leash: Connection) -> None:
    """End at once where it computes; elsewhere do nothing more: half a message would leave the reader waiting."""
    with suppress(EOFError, OSError):
        leash.recv()
    _unwanted.set()
    if not _working.acquire(blocking=False):
        os._exit(1)
    _working.release()


def _load(load: Load, device: str, workers: int) -> list[Described]:
    global _worker
    with _working:
        _worker = Worker(load, device, workers)
        return _worker.describe()


def _encode(part: Part) -> list[Found]:
    assert _worker is not None  # noqa: S101 - loaded first
    with _working:
        return [] if _unwanted.is_set() else _worker.encode(part)
