"""The check of a media file before it is read: it exists and is not empty."""

from __future__ import annotations

from pathlib import Path

from bundlecache.errors import MediaError, first_line


def check_media_file(path: Path, what: str) -> Path:
    """The path of a file that is there and holds something.

    Raises
    ------
    MediaError
        With the reason in plain words.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise MediaError(f"there is no {what} file {path.name}")
        if path.stat().st_size == 0:
            raise MediaError(f"the {what} file is empty (0 bytes)")
    except OSError as error:  # no permission, a name too long, a dead network mount
        raise MediaError(f"the {what} file cannot be read: {first_line(error)}") from error
    return path
