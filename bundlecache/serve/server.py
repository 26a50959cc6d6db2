"""Starts the server: uvicorn with one process or several, until it is told to stop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError
from .logs import talk
from .settings import FAILED

if TYPE_CHECKING:
    from .settings import ServeSettings

GRACE_SECONDS = 30  # for what is under way when the server is told to stop
HUNG_SECONDS = (
    60  # a worker that does not answer for so long is replaced; loading a large model may stop one for a while
)


def uvicorn_options(settings: ServeSettings) -> dict[str, Any]:
    """How uvicorn is started; its own log lines are warnings at least, and it names neither itself nor its version."""
    return {
        "host": settings.host,
        "port": settings.port,
        "log_level": "warning",
        "server_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "timeout_worker_healthcheck": HUNG_SECONDS,
    }


def serve(settings: ServeSettings) -> None:
    """Serve until SIGINT or SIGTERM; what is under way is finished then.

    Raises
    ------
    BundlecacheError
        When the extra ``serve`` is not installed, or the workspace or the run cannot be used.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise BundlecacheError(
            f"The server needs {error.name}, which is not installed.", hint="pip install 'bundlecache[serve]'"
        ) from error
    talk()
    how = uvicorn_options(settings)
    if settings.workers > 1:
        _serve_by_workers(settings, how)
        return
    from .app import make_app

    app = make_app(settings, lambda: setattr(server, "should_exit", True))
    server = uvicorn.Server(uvicorn.Config(app, **how))
    server.run()
    if app.serving.error is not None:
        raise app.serving.error


def _serve_by_workers(settings: ServeSettings, how: dict[str, Any]) -> None:
    """Serve by several processes, whose figures are added up in a folder."""
    import uvicorn

    from .figures_folder import figures_folder

    with figures_folder() as folder:
        settings.to_environment()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        uvicorn.run("bundlecache.serve.app:application", factory=True, workers=settings.workers, **how)
        if (folder / FAILED).exists():
            raise BundlecacheError("The server ended, because its workers could not load the workspace.")
