"""What a server process holds: the resident that answers, other runs that were asked for, and their replacement.

A new run or new vectors are loaded beside the old ones, in a thread of their own, and take over by one assignment: a
request keeps the resident that it began with.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError
from ..project.serving.resident import Resident
from ..project.session import Session
from ..workspace import WorkspaceFolder, read_manifest
from .batching import Batcher, Job
from .errors import RETRY_SECONDS, RequestError
from .stamp import stamp_of

if TYPE_CHECKING:
    from .metrics import Metrics
    from .settings import ServeSettings

log = logging.getLogger("bundlecache.serve")
OTHER_RUNS = 2  # that are kept beside the one that answers


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
        self._loading = threading.Lock()
        self._stamp = ""
        self.batcher = Batcher(self._answer, queue=settings.queue, batch=settings.batch, tell=metrics.batches.observe)

    # Loading, in threads.

    def load(self, *, force: bool = True) -> bool:
        """Load what answers, and let it take over; whether it did. With ``force`` off, only when something changed.

        Raises
        ------
        BundlecacheError
            When the workspace or the run cannot be used; the old resident goes on then.
        """
        with self._loading:
            self._share_cores()
            stamp = stamp_of(self.folder, self.settings.run)
            if not force and stamp == self._stamp:
                return False
            self._stamp = stamp
            try:
                made = self._made(self.settings.run)
            except BundlecacheError:
                self.metrics.reloads.labels("failed").inc()
                raise
            self._others.clear()
            self.resident = made
            gc.unfreeze()
            gc.collect()
            gc.freeze()  # else every look for garbage would visit the million objects that were just loaded
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
        current = self.ready()
        if name == current.run:
            return current
        with self._loading:
            if name not in self._others:
                self._others[name] = self._made(name, current.session)
            self._others.move_to_end(name)
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
        return await asyncio.to_thread(self.of_run, run)

    def runs(self) -> list[dict[str, Any]]:
        """The finished runs, as the endpoint shows them."""
        from .runs import described

        current = self.ready()
        return [described(self.folder, name, latest=name == current.run) for name in sorted(self.folder.run_names())]

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a run."""
        return read_manifest(self.folder.run(name))

    # In the batch thread.

    def _answer(self, jobs: list[Job]) -> list[list[Any]]:
        """The answers to jobs, those of one resident in one call."""
        groups: dict[int, list[int]] = {}
        for at, job in enumerate(jobs):
            groups.setdefault(id(job.resident), []).append(at)
        found: list[list[Any]] = [[] for _ in jobs]
        began = time.perf_counter()
        for places in groups.values():
            carts = [cart for at in places for cart in jobs[at].carts]
            answers, seconds = jobs[places[0]].resident.complete(carts)
            for step in ("encode", "retrieve", "rank"):
                self.metrics.steps.labels(step).observe(getattr(seconds, step))
            rest = iter(answers)
            for at in places:
                found[at] = [next(rest) for _ in jobs[at].carts]
                self.metrics.steps.labels("wait").observe(began - jobs[at].began)
        return found
