"""The real server on loopback, in a thread of this process, and a plain HTTP client."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

import bundlecache as bc
from bundlecache.serve.app import make_app
from bundlecache.serve.server import uvicorn_options
from bundlecache.serve.settings import ServeSettings

from .shop import make_shop

WAIT_SECONDS = 300.0
QUICK = {"text_stage.steps": 3, "fusion_stage.steps": 3, "fusion_stage.contrastive_steps": 2}


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Asks a server on this machine; every request is a connection of its own."""

    port: int
    token: str | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            sent.setdefault("content-type", "application/json")
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Response(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Response:
        return self.ask("GET", path, **headers)

    def complete(self, items: list[Any], **more: Any) -> Response:
        return self.ask("POST", "/complete", {"items": items, **more})

    def wait_ready(self) -> None:
        """Until completions are answered."""
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            try:
                if self.get("/health/ready").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError("the server is not ready")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(root: Path, **settings: Any) -> Iterator[Client]:
    """A server of the workspace ``root`` that answers, as long as the block runs."""
    asked = ServeSettings(str(root), port=free_port(), **{"watch_seconds": 0.0, **settings})
    app = make_app(asked, lambda: None)
    server = uvicorn.Server(uvicorn.Config(app, **uvicorn_options(asked)))
    thread = threading.Thread(target=server.run)
    thread.start()
    client = Client(asked.port, asked.token)
    try:
        client.wait_ready()
        yield client
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "the server does not stop"


def trained_shop(folder: Path) -> Path:
    """The small shop with one finished run, `first`, that reads titles and pictures alone."""
    root = make_shop(folder)
    shop = bc.open(root, quiet=True)
    shop.encode("text")
    shop.encode("image")
    shop.train("demo", settings={**QUICK, "fusion.modalities": ["text", "image"]}, name="first")
    return root
