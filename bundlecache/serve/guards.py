"""What every request passes: host, token, size, security headers, metrics; and what every error becomes: one sentence.

All of it is plain ASGI, because Starlette's own middleware class would buffer streams and cost time.
"""

from __future__ import annotations

import hmac
import json
import logging
import time
from typing import TYPE_CHECKING

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
OPEN_PATHS = ("/", "/health/live", "/health/ready", "/favicon.ico")
OPEN_FOLDERS = ("/page/",)  # the page itself holds no data: it asks for the token
UNKNOWN = "unknown"


class TooLargeError(Exception):
    """The body of a request is larger than allowed."""


class Guards:
    """Checks requests before they reach ``app``, adds headers to answers, and counts them."""

    serving: Serving

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.hosts = {*LOOPBACK, *(host.lower() for host in settings.hosts)}
        self.any_host = "*" in settings.hosts or (not settings.loopback and not settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, started = time.perf_counter(), 500, False
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.settings.body_bytes:
                raise TooLargeError
            return message

        async def guarded(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                there = {name.lower() for name, _ in message.get("headers", ())}
                extra = [(n.encode(), v.encode()) for n, v in SECURITY_HEADERS.items() if n.encode() not in there]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await _answer(guarded, *refused)
            else:
                await self.app(scope, limited, guarded)
        except TooLargeError:
            if not started:
                await _answer(guarded, *_too_large(self.settings.body_bytes))
        except Exception:
            log.exception("a request failed")
            if not started:
                await _answer(guarded, 500, "The server made a mistake; its log says more.", None)
        finally:
            route = scope.get("route")
            endpoint = getattr(route, "path", UNKNOWN)
            self.metrics.requests.labels(endpoint, str(status)).inc()
            self.metrics.latency.labels(endpoint).observe(time.perf_counter() - began)

    def _refused(self, scope: Scope) -> tuple[int, str, str | None] | None:
        """Status, sentence and hint of a request that is not let in; None for all others."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self.any_host and _name_of(host) not in self.hosts:
            return 400, "This server does not answer to that Host header.", "start it with --allowed-host NAME"
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


def _too_large(allowed: int) -> tuple[int, str, str | None]:
    return 413, f"The request is larger than the {allowed / (1 << 20):.0f} MiB that are allowed.", "send less at once"


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


async def _answer(send: Send, status: int, error: str, hint: str | None) -> None:
    body = json.dumps({"error": error, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))  # what was sent on is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
