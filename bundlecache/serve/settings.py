"""What a server is started with: workspace, address, limits. Worker processes read it from the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import BundlecacheError

ENVIRONMENT = "BUNDLECACHE_SERVE"
FAILED = "failed"  # a file beside the figures of the workers: one of them could not load the workspace
LOOPBACK = ("127.0.0.1", "::1", "localhost")
MIB = 1 << 20


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server.

    Attributes
    ----------
    run
        The run that answers; the newest one, whichever that is, where it is None.
    token
        What requests must bring as bearer token, if anything.
    hosts
        Names in the Host header that are answered, beside those of loopback; ("*",) answers all.
    queue, batch
        How many requests may wait, and how many are answered by one forward.
    timeout_seconds
        After which a request that still waits gets 503.
    body_bytes, max_items
        Size of a request, and how many items its bundle may hold.
    """

    data: str
    run: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"
    workers: int = 1
    token: str | None = None
    hosts: tuple[str, ...] = ()
    queue: int = 256
    batch: int = 32
    timeout_seconds: float = 30.0
    body_bytes: int = 16 * MIB
    max_items: int = 500
    watch_seconds: float = 2.0

    def to_environment(self) -> None:
        """Leave the settings to the worker processes."""
        os.environ[ENVIRONMENT] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> ServeSettings:
        """The settings that the starting process left."""
        given = json.loads(os.environ[ENVIRONMENT])
        known = {field.name for field in fields(cls)}
        read: dict[str, Any] = {name: value for name, value in given.items() if name in known}
        return cls(**{**read, "hosts": tuple(read.get("hosts", ()))})

    @property
    def loopback(self) -> bool:
        """Whether the server listens on this machine's own addresses only."""
        return self.host in LOOPBACK


def read_token(path: Path | None) -> str | None:
    """The bearer token in a file; None without one.

    Raises
    ------
    BundlecacheError
        When the file cannot be read, or holds no token of one line.
    """
    if path is None:
        return None
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise BundlecacheError(
            f"The token file {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.",
            hint="--token-file FILE, a file with one line",
        ) from error
    if not token or len(token.split()) > 1 or not token.isascii() or not token.isprintable():
        raise BundlecacheError(
            f"The token file {path} holds no token of one word.", hint="write one: openssl rand -hex 32 > token"
        )
    return token
