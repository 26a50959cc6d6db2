"""The log lines of the server on standard error."""

from __future__ import annotations

import logging


def talk() -> None:
    """Let the server's own log lines reach standard error, and leave other libraries' as they are."""
    log = logging.getLogger("bundlecache.serve")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
