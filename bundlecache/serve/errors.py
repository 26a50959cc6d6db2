"""Errors of the server as JSON: one sentence, a hint, and the status that fits."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import BundlecacheError
from ..text import clean_text
from .batching import QueueFullError, StoppedError

BUG = "The server made a mistake; its log says more."
MAX_SENTENCE = 500
RETRY_SECONDS = 2  # while the server loads, or another worker takes over


class RequestError(Exception):
    """A request that cannot be answered: status, sentence, hint, and headers."""

    def __init__(self, status: int, error: str, hint: str | None = None, **headers: str) -> None:
        super().__init__(error)
        self.status, self.error, self.hint = status, error, hint
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def answer(status: int, error: str, hint: str | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as JSON."""
    text = clean_text(error)
    shown = text if len(text) <= MAX_SENTENCE else f"{text[: MAX_SENTENCE - 1]}…"
    return JSONResponse({"error": shown, "hint": hint}, status, headers)


def without_folders(text: str, root: Path) -> str:
    """``text`` that names files of the workspace ``root`` by its name and not by its folder, and the home folder as ~."""
    named = {root.absolute(): root.resolve().name, root.resolve(): root.resolve().name}
    with suppress(RuntimeError):  # a user without one
        named.setdefault(Path.home(), "~")
    for folder, name in named.items():
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text


def install(app: FastAPI, root: Path) -> None:
    """Make every error of ``app``, which serves the workspace ``root``, one sentence."""

    @app.exception_handler(RequestError)
    async def _request(_: Request, error: RequestError) -> JSONResponse:
        return answer(error.status, error.error, error.hint, error.headers)

    @app.exception_handler(BundlecacheError)
    async def _known(_: Request, error: BundlecacheError) -> JSONResponse:
        return answer(400, without_folders(error.message, root), error.hint and without_folders(error.hint, root))

    @app.exception_handler(Exception)
    async def _bug(_: Request, __: Exception) -> JSONResponse:
        return answer(500, BUG)  # its traceback goes to the log, as it is raised on

    @app.exception_handler(QueueFullError)
    async def _full(_: Request, error: QueueFullError) -> JSONResponse:
        said = f"{error.waiting:,} bundles wait already, and no more may."
        return answer(429, said, f"come again in {error.retry_after} s", {"Retry-After": str(error.retry_after)})

    @app.exception_handler(StoppedError)
    async def _stopped(_: Request, __: StoppedError) -> JSONResponse:
        return answer(503, "The server stops.", "come again soon", {"Retry-After": str(RETRY_SECONDS)})

    @app.exception_handler(TimeoutError)
    async def _late(_: Request, __: TimeoutError) -> JSONResponse:
        said = "The answer took longer than is allowed."
        return answer(503, said, "come again soon", {"Retry-After": str(RETRY_SECONDS)})

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, _sentence(error.errors()), "GET /docs shows an example of every request")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            400: "The body cannot be parsed.",
            404: "There is nothing at this address.",
            405: f"{request.method} is not allowed at this address.",
        }.get(error.status_code, str(error.detail))
        headers = dict(error.headers) if error.headers else None
        return answer(error.status_code, said, "GET /docs lists all addresses", headers)


def _sentence(errors: Any) -> str:
    """The first thing that pydantic found wrong: where, what, and what was given."""
    first = errors[0]
    if first.get("type") == "json_invalid":
        return f"The body is no JSON: {first.get('ctx', {}).get('error', 'it cannot be parsed')}."
    place = [part for part in first.get("loc", ()) if part not in ("body", "query", "path", "str", "NewItem")]
    where = ".".join(map(str, place))
    said = str(first.get("msg", "it is not allowed")).rstrip(".")
    said = said[:1].lower() + said[1:]
    given = first.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) and len(repr(given)) < 60 else ""
    return f"{where or 'The body'}: {said}{shown}."
