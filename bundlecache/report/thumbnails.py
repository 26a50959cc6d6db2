"""Pictures and sounds of a few items, small enough to be embedded in one HTML file.

All functions read files of users; a file that cannot be read raises MediaError.
"""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from ..errors import MediaError

SIDE = 112  # pixels of the longer side: sharp at half that size on dense screens
MAX_PIXELS = 100_000_000
SOUND_BYTES = 48_000  # longer sounds are cut and encoded anew
SOUND_SECONDS = 5.0
TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}


def picture(path: Path) -> str:
    """The picture as a ``data:`` address of a small JPEG, turned upright, transparency on white.

    Raises
    ------
    MediaError
        When there is no such file, or it is no picture that can be read.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise MediaError(f"{path.name} has more than {MAX_PIXELS:,} pixels")
                opened.draft("RGB", (SIDE * 2, SIDE * 2))
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
                    image = image.point(lambda level: level / 256).convert("L")
                image.thumbnail((SIDE, SIDE))
                if image.mode != "RGB":
                    clear = image.convert("RGBA")
                    image = Image.new("RGB", clear.size, "white")
                    image.paste(clear, mask=clear.getchannel("A"))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=82, optimize=True)
    except MediaError:
        raise
    except Exception as error:  # Pillow's plugins raise anything: SyntaxError, struct.error, ...
        raise MediaError(f"{path.name} cannot be read as a picture") from error
    return _address("image/jpeg", out.getvalue())


def sound(path: Path) -> str:
    """The sound as a ``data:`` address: the file itself when it is small, else its first seconds as Vorbis.

    Raises
    ------
    MediaError
        When there is no such file, it is no sound that can be read, or stays too large.
    """
    import soundfile

    try:
        kind = TYPES.get(path.suffix.lower())
        if kind and 0 < path.stat().st_size <= SOUND_BYTES:
            if not soundfile.info(path).frames:
                raise MediaError(f"{path.name} is empty")
            return _address(kind, path.read_bytes())
        with soundfile.SoundFile(path) as file:
            samples = file.read(int(SOUND_SECONDS * file.samplerate), dtype="float32", always_2d=True).mean(axis=1)
            rate = file.samplerate
        if not len(samples):
            raise MediaError(f"{path.name} is empty")
        out = io.BytesIO()
        soundfile.write(out, samples, rate, format="OGG", subtype="VORBIS")
    except MediaError:
        raise
    except Exception as error:  # libsndfile and the file system, each with errors of their own
        raise MediaError(f"{path.name} cannot be read as a sound") from error
    if out.tell() > 4 * SOUND_BYTES:
        raise MediaError(f"{path.name} is too large for a page")
    return _address("audio/ogg", out.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
