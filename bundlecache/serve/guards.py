"""What every request passes: host, token, size, security headers, metrics; and what every error becomes: one sentence.

All of it is plain ASGI, because Starlette's own middleware class would buffer streams and cost time.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .errors import BUG
from .settings import LOOPBACK, ServeSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .metrics import Metrics
    from .state import Serving

log = logging.getLogger("bundlecache.serve")
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self';"
        " script-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
PROBES = ("/health/live", "/health/ready")  # asked by an orchestrator, which names the address of the machine as Host
OPEN_PATHS = ("/", *PROBES, "/favicon.ico")
OPEN_FOLDERS = ("/page/",)  # the page itself holds no data: it asks for the token
UNKNOWN = "unknown"
SPARE_REQUESTS = 64  # under way beside those that wait for completions
Refusal = tuple[int, str, str | None]
"""Status, sentence and hint."""
SKIPPED_TIMES = 8  # as much as is allowed is read of a request that is too large, before its connection is closed


class RefusedBodyError(Exception):
    """The body of a request is larger than allowed, or comes too slowly."""


class _Body:
    """The body of a request, which is read as far, and as long, as is allowed; ``refused`` says why it was not."""

    def __init__(self, receive: Receive, allowed: int, seconds: float) -> None:
        self._receive, self._allowed = receive, allowed
        self._until = time.monotonic() + seconds  # for all of it: a byte now and then is too slow too
        self._received, self._more = 0, True
        self.refused: Refusal | None = None

    async def receive(self) -> Message:
        """The next part.

        Raises
        ------
        RefusedBodyError
            When all parts together are larger than allowed, or do not come in time.
        """
        if not self._more:  # what comes now is that the client went away
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._until - time.monotonic())
        except asyncio.TimeoutError as error:
            self.refused = 408, "The body of the request comes too slowly.", "send it at once"
            raise RefusedBodyError from error
        self._received += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._received > self._allowed:
            await self.skip(more=self._more)
            self.refused = _too_large(self._allowed)
            raise RefusedBodyError
        return message

    async def skip(self, *, more: bool = True) -> None:
        """Read on without keeping anything, so that the client can read why it is refused; not without end."""
        skipped = 0
        while more and skipped < SKIPPED_TIMES * self._allowed:
            try:
                message = await asyncio.wait_for(self._receive(), self._until - time.monotonic())
            except asyncio.TimeoutError:
                return
            if message["type"] != "http.request":
                return
            skipped += len(message.get("body", b""))
            more = message.get("more_body", False)


class Guards:
    """Checks requests before they reach ``app``, adds headers to answers, and counts them."""

    serving: Serving

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.hosts = {*LOOPBACK, *(host.lower() for host in settings.hosts)}
        self.under_way, self.most = 0, SPARE_REQUESTS + 2 * settings.queue
        self.any_host = "*" in settings.hosts or (not settings.loopback and not settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, started = time.perf_counter(), 500, False
        body = _Body(receive, self.settings.body_bytes, self.settings.timeout_seconds)

        async def guarded(message: Message) -> None:
            nonlocal status, started
            if body.refused is not None:  # whatever the application makes of its error
                if not started:
                    started, status = True, body.refused[0]
                    await _answer(send, *body.refused, extra=SECURITY)
                return
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message = {**message, "headers": [*message.get("headers", ()), *_security(message.get("headers", ()))]}
            await send(message)

        self.under_way += 1
        try:
            refused = self._refused(scope)
            if refused is not None:
                await body.skip()
                await _answer(guarded, *refused)
            else:
                await self.app(scope, body.receive, guarded)
        except Exception:
            log.exception("a request failed")
            if not started:
                await _answer(guarded, 500, BUG, None)
        finally:
            self.under_way -= 1
            route = scope.get("route")
            endpoint = getattr(route, "path", UNKNOWN)
            self.metrics.requests.labels(endpoint, str(status)).inc()
            self.metrics.latency.labels(endpoint).observe(time.perf_counter() - began)

    def _refused(self, scope: Scope) -> Refusal | None:
        """Status, sentence and hint of a request that is not let in; None for all others."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self.any_host and scope["path"] not in PROBES and _name_of(host) not in self.hosts:
            return 400, "This server does not answer to that Host header.", "start it with --allowed-host NAME"
        if headers.get(b"sec-fetch-site") == b"cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "A page of another site asks, which is not answered.", None
        if self.under_way > self.most and not _is_open(scope["path"]):
            return 429, f"{self.most:,} requests are under way already.", "come again in 1 s"
        token = self.settings.token
        if token is not None and not _is_open(scope["path"]):
            given = headers.get(b"authorization", b"").decode("latin-1")
            kind, _, value = given.partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(value.strip().encode(), token.encode()):
                return 401, "The bearer token is missing or wrong.", "Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.settings.body_bytes:
            return _too_large(self.settings.body_bytes)
        return None


def _too_large(allowed: int) -> Refusal:
    return 413, f"The request is larger than the {allowed / (1 << 20):.0f} MiB that are allowed.", "send less at once"


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _security(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The security headers that are not among ``headers`` yet."""
    there = {name.lower() for name, _ in headers}
    return [pair for pair in SECURITY if pair[0] not in there]


async def _answer(
    send: Send, status: int, error: str, hint: str | None, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    body = json.dumps({"error": error, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += extra
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # what was sent on is not read
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
