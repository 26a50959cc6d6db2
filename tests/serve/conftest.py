"""One trained shop for all tests of the server, and one server of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.server import serving, trained_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helpers.server import Client


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop with a finished run; tests do not change it."""
    return trained_shop(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(trained: Path) -> Iterator[Client]:
    """A server of that shop."""
    with serving(trained) as client:
        yield client
