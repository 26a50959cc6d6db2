"""Read any sound file as mono samples at a given rate."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.errors import MediaError, first_line

from .fingerprints import package_versions
from .media_files import check_media_file

MAX_SECONDS = 600  # of a longer file the first ten minutes are heard, so that memory stays bounded


def read_sound(path: Path, rate: int) -> np.ndarray:
    """A sound file (wav, flac, ogg, mp3, ...) as mono float32 [samples] at ``rate`` Hz.

    Channels are averaged; silence is a sound like any other.

    Raises
    ------
    MediaError
        With the reason: no such file, empty, no sound, no samples, samples that are no numbers.
    """
    import soundfile
    import soxr

    path = check_media_file(path, "sound")
    try:
        with soundfile.SoundFile(path) as file:
            own_rate = file.samplerate
            # Second by second: a header may promise more samples or channels than there are. Not by `blocks`,
            # which fills up what a cut file lacks with whatever lies in memory.
            seconds = (file.read(own_rate, dtype="float32", always_2d=True) for _ in range(MAX_SECONDS))
            blocks = [block.mean(axis=1) for block in takewhile(len, seconds)]
    except soundfile.LibsndfileError as error:
        raise MediaError(f"the file is no sound that can be read (WAV, FLAC, OGG, MP3, AIFF): {_why(error)}") from error
    except (RuntimeError, ValueError, MemoryError) as error:
        raise MediaError(f"the file is no sound that can be read: {first_line(error)}") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not len(samples):
        raise MediaError("the sound has no samples")
    if not np.isfinite(samples).all():
        raise MediaError("the sound has samples that are no numbers")
    if own_rate != rate:
        resampled = soxr.resample(samples, own_rate, rate, quality="HQ")
        samples = resampled if len(resampled) else samples[:1]
    return np.ascontiguousarray(samples, dtype=np.float32)


def _why(error: Any) -> str:
    """The reason of libsndfile without the path; of what it takes for MP3 and is not, it says that there is no file."""
    reason = error.error_string.rstrip(".")
    return "its content is none of these" if reason.startswith("File does not exist") else reason


def describe_decoding(rate: int) -> str:
    """The part of an identity that names how samples came to be."""
    return f"mono, {rate} Hz by soxr HQ, at most {MAX_SECONDS} s; {package_versions('soundfile', 'soxr')}"
