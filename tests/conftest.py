"""Hermetic tests: no network, one small workspace made from nothing, one CPU thread."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import pytest
from helpers.shop import make_shop

from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only addresses of this machine may be called: a test that reaches out would break elsewhere."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("local", "127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def workspace(tmp_path: Path) -> WorkspaceFolder:
    """A fresh small shop; see `make_shop`."""
    return WorkspaceFolder(make_shop(tmp_path))


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder must not call home even where the hub is allowed: any look-up of a name fails the test."""
    import huggingface_hub.constants

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"called home: {args[:2]}")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
