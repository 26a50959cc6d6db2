"""Collects concurrent requests and answers them together: whoever waits while a forward runs is in the next one.

There is no waiting for company: a request that comes alone is answered at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

RATE_MEMORY = 0.9  # of the running mean of seconds per cart


class QueueFullError(Exception):
    """More carts wait than are allowed; ``retry_after`` is the number of seconds until there is room."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} carts wait")
        self.waiting, self.retry_after = waiting, retry_after


class StoppedError(Exception):
    """The server stops and takes no more requests."""


@dataclass
class Job:
    """The carts of one request, the resident that answers them, and who waits for the answers."""

    resident: Any
    carts: Sequence[Any]
    done: asyncio.Future[list[Any]]
    began: float = field(default_factory=time.perf_counter)


class Batcher:
    """A bounded queue in front of one thread that answers up to ``batch`` carts at once.

    ``work(jobs)`` is called in that thread and gives a list of answers, or an error, for every job; ``tell(carts)`` hears
    the size of every batch.
    """

    def __init__(
        self,
        work: Callable[[list[Job]], Sequence[list[Any] | Exception]],
        *,
        queue: int,
        batch: int,
        tell: Callable[[int], None],
    ) -> None:
        self._work, self.queue, self.batch, self._tell = work, queue, batch, tell
        self._waiting: deque[Job] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="complete")
        self._arrived = asyncio.Event()
        self._stopping = False
        self._seconds_per_cart = 0.01
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many carts wait."""
        return sum(len(job.carts) for job in self._waiting)

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._run())

    async def ask(self, resident: Any, carts: Sequence[Any], timeout: float) -> list[Any]:
        """The answers to ``carts``.

        Raises
        ------
        QueueFullError, StoppedError, TimeoutError
            When there is no room, the server stops, or the answer takes longer than ``timeout`` seconds.
        """
        if self._stopping:
            raise StoppedError
        waiting = self.waiting
        if waiting and waiting + len(carts) > self.queue:
            raise QueueFullError(waiting, max(1, round(waiting * self._seconds_per_cart)))
        job = Job(resident, carts, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        try:
            return await asyncio.wait_for(job.done, timeout)
        except asyncio.TimeoutError as error:
            raise TimeoutError from error

    async def stop(self) -> None:
        """Answer all that wait, then end."""
        self._stopping = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while jobs := self._next():
                carts = sum(len(job.carts) for job in jobs)
                began = time.perf_counter()
                try:
                    self._tell(carts)
                    answers = await loop.run_in_executor(self._thread, self._work, jobs)
                except Exception as error:
                    for job in jobs:
                        if not job.done.done():
                            job.done.set_exception(error)
                    continue
                took = (time.perf_counter() - began) / carts
                self._seconds_per_cart = RATE_MEMORY * self._seconds_per_cart + (1 - RATE_MEMORY) * took
                for job, answer in zip(jobs, answers, strict=True):
                    if job.done.done():  # a client that went away does not wait any more
                        continue
                    if isinstance(answer, Exception):
                        job.done.set_exception(answer)
                    else:
                        job.done.set_result(answer)
            if self._stopping and not self._waiting:
                return

    def _next(self) -> list[Job]:
        """The next jobs, as many as one batch holds; those that nobody waits for are dropped."""
        jobs: list[Job] = []
        carts = 0
        while self._waiting and (not jobs or carts + len(self._waiting[0].carts) <= self.batch):
            job = self._waiting.popleft()
            if not job.done.done():
                jobs.append(job)
                carts += len(job.carts)
        return jobs
