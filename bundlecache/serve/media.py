"""Pictures and sounds of items for a browser: pictures are decoded and written anew, nothing of a file passes through."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import MediaError

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (64, 128, 256, 512, 1024)  # pixels of the longer side; others are rounded up to one of these
KEPT_THUMBNAILS = 512
MAX_SOUND_BYTES = 20 << 20
QUALITY = 85
SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}


def etag(path: Path, *about: object) -> str:
    """A tag that changes when the file does.

    Raises
    ------
    MediaError
        When there is no such file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise MediaError("the file is missing") from error
    cause = f"{path} {status.st_size} {status.st_mtime_ns} {about}"
    return f'"{hashlib.blake2b(cause.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()}"'


def rounded(size: int) -> int:
    """The next size that is made."""
    return next((known for known in SIZES if known >= size), SIZES[-1])


@lru_cache(maxsize=KEPT_THUMBNAILS)
def thumbnail(path: Path, size: int, tag: str) -> bytes:
    """The picture as a JPEG whose longer side has at most ``size`` pixels; ``tag`` is its `etag`.

    Raises
    ------
    MediaError
        When the file is no picture that can be read.
    """
    from ..features.picture_files import read_picture

    del tag  # it only tells versions of a file apart
    image = read_picture(path, draft=size)
    image.thumbnail((size, size))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()


def is_playable(path: Path) -> bool:
    """Whether a sound can be sent as it is: a browser plays it, it has samples and is not too large.

    Raises
    ------
    MediaError
        When it is no sound that can be read.
    """
    import soundfile

    try:
        small = path.stat().st_size <= MAX_SOUND_BYTES
        return bool(soundfile.info(path).frames) and small and path.suffix.lower() in SOUNDS
    except Exception as error:  # libsndfile and the file system, each with errors of their own
        raise MediaError("the sound cannot be read") from error


def flac(path: Path) -> bytes:
    """The first minute of a sound as FLAC.

    Raises
    ------
    MediaError
        When it is no sound that can be read.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            samples, rate = file.read(60 * file.samplerate, dtype="int16"), file.samplerate
        out = io.BytesIO()
        soundfile.write(out, samples, rate, format="FLAC")
    except Exception as error:  # as above
        raise MediaError("the sound cannot be read") from error
    return out.getvalue()
