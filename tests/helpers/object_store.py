"""A server on loopback that speaks S3."""

from __future__ import annotations

import logging
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "NO_PROXY": "127.0.0.1"}


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server with one bucket called shop."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would tell of every request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{url}/shop", method="PUT")).close()
    yield url
    server.stop()


def options_of(endpoint: str) -> dict[str, str]:
    """How Lance reaches it."""
    return {"endpoint": endpoint, "allow_http": "true", "region": "us-east-1"}
