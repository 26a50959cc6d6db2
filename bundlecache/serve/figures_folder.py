"""The folder in which several workers keep their figures for Prometheus: removed when the server ends, or by a later one.

Its owner holds a lock in it. A killed server holds none any more, so the next one can tell what is left over.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "bundlecache-metrics-"
LOCK = "owner.lock"
YOUNG_SECONDS = 60  # a younger folder may belong to a server that is about to take the lock


@contextmanager
def figures_folder() -> Iterator[Path]:
    """A folder for the figures, as long as the block runs; those of killed servers are removed first."""
    remove_left_over(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with FileLock(folder / LOCK):
            yield folder


def remove_left_over(parent: Path) -> None:
    """Remove the folders in ``parent`` whose server does not live any more; whatever cannot be removed stays."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            if time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue
            with FileLock(folder / LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
