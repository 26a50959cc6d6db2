"""Several files of a folder replaced as one: all of them, or after an interruption none, or on the next look the rest.

The new files are written into the folder ``.update``. Renaming it to ``.update-ready`` is the moment from which the
update counts; `finish` then moves the files to their places, and does so again when it was interrupted.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ..errors import BundlecacheError
from ..workspace import SUFFIXES, TABLES

if TYPE_CHECKING:
    from pathlib import Path

STAGED, READY = ".update", ".update-ready"


def stage(root: Path) -> Path:
    """An empty folder for the new files; what an interrupted update left there is deleted.

    Raises
    ------
    BundlecacheError
        When the folder cannot be made.
    """
    try:
        shutil.rmtree(root / STAGED, ignore_errors=True)
        (root / STAGED).mkdir()
    except OSError as error:
        raise BundlecacheError(
            f"{root} cannot be written: {error.strerror or error}.", hint="free some space or change its permissions"
        ) from error
    return root / STAGED


def discard(root: Path) -> None:
    """Delete what `stage` made."""
    shutil.rmtree(root / STAGED, ignore_errors=True)


def commit(root: Path) -> None:
    """Put the staged files in place.

    Raises
    ------
    BundlecacheError
        When the folder cannot be written.
    """
    try:
        (root / STAGED).rename(root / READY)
    except OSError as error:
        raise BundlecacheError(
            f"{root} cannot be written: {error.strerror or error}.", hint="free some space or change its permissions"
        ) from error
    finish(root)


def finish(root: Path) -> bool:
    """Complete an update that was committed and interrupted; whether there was one.

    A table that comes in another format than it had replaces the file of the old format.

    Raises
    ------
    BundlecacheError
        When the folder cannot be written.
    """
    ready = root / READY
    if not ready.is_dir():
        return False
    try:
        for path in sorted(ready.iterdir()):
            if path.stem in TABLES:
                for suffix in SUFFIXES:
                    if suffix != path.suffix:
                        (root / f"{path.stem}{suffix}").unlink(missing_ok=True)
            path.replace(root / path.name)
        ready.rmdir()
    except FileNotFoundError:  # another process finished it at the same time
        return True
    except OSError as error:
        raise BundlecacheError(
            f"An update of {root} was interrupted and cannot be completed: {error.strerror or error}.",
            hint="make the folder writable, and type the command again",
        ) from error
    return True
