"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import BundlecacheError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; afterwards sync it to disk and put it in place.

    A killed process leaves the old file untouched, and so does an error inside the block.

    Raises
    ------
    BundlecacheError
        When the folder cannot be made or written (no permission, disk full).
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        # Not by tempfile, whose files are private: this one has the rights of any new file, a catalogue is shared.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        temporary = name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and try it, before minutes are spent on what shall stand in it.

    Raises
    ------
    BundlecacheError
        When it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> BundlecacheError:
    return BundlecacheError(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="free some space, mend the permissions or choose another folder",
    )
