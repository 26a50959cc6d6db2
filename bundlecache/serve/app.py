"""The application: endpoints, the page, health, metrics, reload, and what happens at start and stop."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST

from ..errors import BundlecacheError
from . import catalogue, completions, errors
from .answers import ERRORS, HealthAnswer, ReloadAnswer
from .docs_page import POLICY, docs_page
from .guards import Guards
from .logs import talk
from .metrics import Metrics
from .settings import FAILED, ServeSettings
from .state import Serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger("bundlecache.serve")
PAGE = files(__package__).joinpath("page")


class PageFiles(StaticFiles):
    """The files of the page; a browser asks whether they have changed, so that an upgrade shows at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def application() -> Any:
    """The application of a worker process, with the settings that the starting process left."""
    talk()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    return make_app(ServeSettings.from_environment(), _stop_all)


def _stop_all() -> None:
    """Stop the process that started the workers: what one cannot load, no other can."""
    (Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) / FAILED).touch()
    os.kill(os.getppid(), signal.SIGTERM)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def make_app(settings: ServeSettings, stop: Callable[[], None]) -> Any:
    """The application; it answers /health/live at once, and everything else once the workspace is loaded.

    ``stop()`` is called when the workspace cannot be loaded at the start.
    """
    metrics = Metrics()
    serving = Serving(settings, metrics, stop)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.batcher.start()
        watching = asyncio.create_task(_load_and_watch(serving))
        yield
        serving.end()
        watching.cancel()
        await serving.batcher.stop()

    app = FastAPI(
        title="bundlecache",
        version=_version(),
        summary="Completes bundles by a trained model.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.serving = serving
    errors.install(app, serving.folder.root)
    app.include_router(completions.router)
    app.include_router(catalogue.router)
    _add_operations(app, serving, metrics)
    _add_page(app)
    guarded = Guards(app, settings, metrics)
    guarded.serving = serving
    return guarded


def _version() -> str:
    """The version of the installed package; a checkout without installation has none."""
    try:
        return version("bundlecache")
    except PackageNotFoundError:
        return "checkout"


async def _load_and_watch(serving: Serving) -> None:
    """Load the workspace, then look for changes of it; the first failure ends the server, later ones are logged."""
    try:
        await serving.in_loader(serving.load)
    except Exception as error:
        serving.failed(error)
        return
    seconds = serving.settings.watch_seconds
    while seconds > 0:
        await asyncio.sleep(seconds)
        if not await asyncio.to_thread(serving.changed):
            continue
        await asyncio.sleep(seconds)  # whoever writes should be done by now
        try:
            await serving.in_loader(lambda: serving.load(force=False))
        except Exception as error:  # the old resident goes on
            log.warning("the changed workspace cannot be loaded: %s", error)


def _add_operations(app: FastAPI, serving: Serving, metrics: Metrics) -> None:
    @app.get("/health/live", tags=["operations"], response_model=HealthAnswer)
    async def live() -> Any:
        """Whether the process answers."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["operations"], response_model=HealthAnswer, responses=ERRORS)
    async def ready() -> Any:
        """Whether completions are answered."""
        if serving.stopping:
            raise errors.RequestError(503, "The server stops.")
        resident = serving.ready()
        return {"status": "ready", "run": resident.run, "store_version": resident.store_version}

    @app.post("/reload", tags=["operations"], response_model=ReloadAnswer, responses=ERRORS)
    async def reload() -> Any:
        """Load the workspace anew beside what answers, and let it take over; who asks before it begins shares one load."""
        before = serving.ready()
        try:
            await serving.reload()
        except BundlecacheError as error:
            said = errors.without_folders(error.message, serving.folder.root)
            raise errors.RequestError(
                503, f"The workspace cannot be loaded, so the old state goes on: {said}"
            ) from error
        after = serving.ready()
        changed = (before.run, before.store_version) != (after.run, after.store_version)
        return {"run": after.run, "store_version": after.store_version, "changed": changed}

    @app.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Figures for Prometheus."""
        metrics.queue.set(serving.batcher.waiting)
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/metrics-summary", tags=["operations"], response_class=PlainTextResponse)
    async def summary() -> str:
        """The same figures as a page of text."""
        metrics.queue.set(serving.batcher.waiting)
        return metrics.summary()


def _add_page(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        described = docs_page(app.openapi(), str(request.base_url).rstrip("/"))
        return HTMLResponse(described, headers={"content-security-policy": POLICY})

    @app.get("/", include_in_schema=False)
    async def index(_: Request) -> Response:
        page = PAGE.joinpath("index.html")
        if not page.is_file():
            return HTMLResponse("<!doctype html><title>bundlecache</title><p>The API answers; see /openapi.json.</p>")
        return HTMLResponse(page.read_bytes(), headers={"cache-control": "no-cache"})

    if PAGE.is_dir():
        app.mount("/page", PageFiles(directory=str(PAGE)), name="page")
