"""What a server process holds: the resident that answers, other runs that were asked for, and their replacement.

A new run or new vectors are loaded beside the old ones, in the one thread that loads, and take over by one assignment: a
request keeps the resident that it began with. The threads that answer never wait for a load.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BundlecacheError
from ..project.serving.new_items import DECODED_AT_ONCE
from ..project.serving.resident import Resident
from ..project.session import Session
from ..workspace import WorkspaceFolder
from .batching import Batcher, Job, StoppedError
from .errors import RETRY_SECONDS, RequestError
from .stamp import stamp_of

if TYPE_CHECKING:
    from .metrics import Metrics
    from .settings import ServeSettings

log = logging.getLogger("bundlecache.serve")
OTHER_RUNS = 2  # that are kept beside the one that answers
T = TypeVar("T")


@dataclass
class _Reload:
    """A load that was asked for: whether it has begun, and its end."""

    begun: bool = False
    done: asyncio.Future[bool] = field(init=False)


class Serving:
    """The state of one server process."""

    def __init__(self, settings: ServeSettings, metrics: Metrics, stop: Callable[[], None]) -> None:
        self.settings, self.metrics = settings, metrics
        self.folder = WorkspaceFolder(settings.data)  # type: ignore[arg-type]
        self.resident: Resident | None = None
        self.stopping = False
        self.error: Exception | None = None  # why the first load failed
        self.stop = stop
        self._others: OrderedDict[str, Resident] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._stamp = ""
        self._reload: _Reload | None = None
        self.decoding = asyncio.Semaphore(DECODED_AT_ONCE)  # pictures: a large one takes hundreds of megabytes
        self.batcher = Batcher(self._answer, queue=settings.queue, batch=settings.batch, tell=self._count)

    async def in_loader(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, called in the thread that loads, after all that was asked of it before."""
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    async def reload(self) -> None:
        """Load the workspace anew; all who ask before the load begins share it.

        Raises
        ------
        BundlecacheError, StoppedError
            When the workspace cannot be used, or the server stops.
        """
        if self.stopping:
            raise StoppedError
        asked = self._reload
        if asked is None or asked.begun:  # one under way may have read what was changed since
            asked = self._reload = _Reload()
            asked.done = asyncio.ensure_future(self.in_loader(partial(self._begin_reload, asked)))
        await asyncio.shield(asked.done)  # a client that goes away ends nobody else's load

    def _begin_reload(self, asked: _Reload) -> bool:
        asked.begun = True
        return self.load()

    def end(self) -> None:
        """Load nothing any more."""
        self.stopping = True
        self._loader.shutdown(wait=False, cancel_futures=True)

    # Called in the thread that loads.

    def load(self, *, force: bool = True) -> bool:
        """Load what answers, and let it take over; whether it did. With ``force`` off, only when something changed.

        Raises
        ------
        BundlecacheError
            When the workspace or the run cannot be used; the old resident goes on then.
        """
        self._share_cores()
        stamp = stamp_of(self.folder, self.settings.run)
        if not force and stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            made = self._made(self.settings.run)
        except Exception:
            self.metrics.reloads.labels("failed").inc()
            raise
        replaced = self.resident is not None
        self._others.clear()
        self.resident = made
        collect()
        if replaced:  # requests that began with the old one hold it until they end
            later = threading.Timer(self.settings.timeout_seconds + 1, collect)
            later.daemon = True
            later.start()
        self.metrics.serve(made.run, made.store_version, made.method)
        self.metrics.reloads.labels("done").inc()
        threading.Thread(target=self._calibrate, args=(made,), name="calibrate", daemon=True).start()
        log.info("answering with run %s, store %s, ranked by %s", made.run, made.store_version, made.method)
        return True

    def _share_cores(self) -> None:
        """Several workers compute with their share of the cores each."""
        if self.settings.workers > 1 and self.resident is None:
            import torch

            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.settings.workers))

    def _calibrate(self, resident: Resident) -> None:
        """Measure how far to trust it, while it answers already; stops when another one took over."""
        try:
            resident.calibrate(lambda: self.stopping or self.resident is not resident)
        except Exception:
            log.exception("the confidence of %s could not be measured", resident.run)

    def _made(self, run: str | None, session: Session | None = None) -> Resident:
        first = self.resident is None and self.settings.workers == 1
        session = session or Session(self.settings.data, quiet=not first)
        name = run or (self.folder.run().name if any(self.folder.run_names()) else None)
        return Resident(session, name, device=self.settings.device).prepare()

    def failed(self, error: Exception) -> None:
        """Give up: the workspace could not be loaded when the server started."""
        self.error = error
        if self.settings.workers > 1:  # nobody else says it
            log.error("error: %s", error.message if isinstance(error, BundlecacheError) else error)
        self.stop()

    def changed(self) -> bool:
        """Whether the workspace looks different from when it was loaded."""
        return stamp_of(self.folder, self.settings.run) != self._stamp

    def of_run(self, name: str) -> Resident:
        """The resident of another run, loaded when it is first asked for."""
        current = self.ready()  # asked here: a reload may have ended since the request came
        if name == current.run:
            return current
        if name not in self._others:
            self._others[name] = self._made(name, current.session)
            while len(self._others) > OTHER_RUNS:
                self._others.popitem(last=False)
        return self._others[name]

    # Asked by endpoints.

    def ready(self) -> Resident:
        """The resident that answers.

        Raises
        ------
        RequestError
            While there is none yet.
        """
        if self.resident is None:
            raise RequestError(503, "The server is loading.", "come again soon", Retry_After=str(RETRY_SECONDS))
        return self.resident

    async def chosen(self, run: str | None) -> Resident:
        """The resident of a run by its name, or the one that answers.

        Raises
        ------
        RequestError
            When there is no such run.
        """
        current = self.ready()
        if run is None or run in (current.run, "latest"):
            return current
        names = sorted(self.folder.run_names())
        if run not in names:
            raise RequestError(404, f"There is no run {run[:80]!r}; GET /runs lists them.", None)
        with suppress(KeyError):  # it is not there, or goes at this moment
            self._others.move_to_end(run)
            return self._others[run]
        return await self.in_loader(lambda: self.of_run(run))

    def runs(self) -> list[dict[str, Any]]:
        """The finished runs, as the endpoint shows them."""
        from .runs import described

        current = self.ready()
        return [described(self.folder, name, latest=name == current.run) for name in sorted(self.folder.run_names())]

    def _count(self, carts: int) -> None:
        """Count a batch; what waits behind it is told by every worker, whichever of them is asked for the figures."""
        self.metrics.batches.observe(carts)
        self.metrics.queue.set(self.batcher.waiting)

    # In the batch thread.

    def _answer(self, jobs: list[Job]) -> list[list[Any] | Exception]:
        """The answers to jobs, those of one resident in one call; the error where a job has none."""
        groups: dict[int, list[int]] = {}
        for at, job in enumerate(jobs):
            groups.setdefault(id(job.resident), []).append(at)
        found: list[list[Any] | Exception] = [[] for _ in jobs]
        began = time.perf_counter()
        for places in groups.values():
            for at, answered in zip(places, self._of_one_resident([jobs[at] for at in places]), strict=True):
                found[at] = answered
                self.metrics.steps.labels("wait").observe(began - jobs[at].began)
        return found

    def _of_one_resident(self, jobs: Sequence[Job]) -> list[list[Any] | Exception]:
        """The answers to jobs of one resident; where they fail together, each is tried alone, so that one harms no other."""
        try:
            answers, seconds = jobs[0].resident.complete([cart for job in jobs for cart in job.carts])
        except Exception as error:
            return [error] if len(jobs) == 1 else [self._of_one_resident([job])[0] for job in jobs]
        for step in ("encode", "retrieve", "rank"):
            self.metrics.steps.labels(step).observe(getattr(seconds, step))
        rest = iter(answers)
        return [[next(rest) for _ in job.carts] for job in jobs]


def collect() -> None:
    """Free what nobody holds any more, and let later looks for garbage pass over what is left: a million loaded objects."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
