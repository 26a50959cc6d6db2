"""A stamp of what a workspace holds: it changes when its tables, vectors or newest run do, and costs a few file looks."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from ..workspace import TABLES

if TYPE_CHECKING:
    from pathlib import Path

    from ..workspace import WorkspaceFolder


def stamp_of(folder: WorkspaceFolder, run: str | None) -> str:
    """The stamp of a workspace that is served with ``run`` (None: the newest)."""
    seen: list[str] = []
    with suppress(Exception):  # a run that is being written: the next look sees it whole
        path = folder.run(run)
        seen.append(_seen(path / "manifest.json"))
        seen.append(_seen(path / "completion.json"))  # which method is best, as evaluate found it
    for name in TABLES:
        with suppress(Exception):
            seen.append(_seen(folder.table(name)))
    with suppress(OSError):
        seen += [_seen(path) for path in sorted(folder.store.glob("*.lance/_versions"))]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


def _seen(path: Path | None) -> str:
    if path is None:
        return ""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"
