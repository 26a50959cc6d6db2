"""Read any picture file as an RGB image, as a person would see it on a white page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bundlecache.errors import MediaError, first_line

from .media_files import check_media_file

if TYPE_CHECKING:
    from PIL import Image as PIL_Image


# What a catalogue holds. Left out on purpose: formats whose reading starts another program (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA")
MAX_PIXELS = 100_000_000  # a 100-megapixel photo still passes; a small file that unpacks to gigabytes does not
MAX_SIDES = 64  # longest : shortest side; resizing a one-pixel line by its short side would fill the memory
DECODING = "EXIF turned, first frame, 16 bit scaled to 8, transparency on white, RGB"


def reading(draft: int | None) -> str:
    """How pictures are opened, in short words; a draft is another reading, since it gives other pixels."""
    return DECODING if draft is None else f"JPEG at 1/2, 1/4 or 1/8 while both sides keep {draft} px; {DECODING}"


def read_picture(path: Path, draft: int | None = None) -> PIL_Image.Image:
    """A picture file as an RGB image, as a person would see it on a white page.

    EXIF orientation is applied, an animation gives its first frame, transparency lies on white, CMYK,
    palette, grey and 16-bit pictures become 8-bit RGB. The content decides, not the file's name. With a
    ``draft``, a JPEG is unpacked at the smallest of 1, 1/2, 1/4 and 1/8 of its size at which neither side
    falls below so many pixels: several times as fast for large photos.

    Raises
    ------
    MediaError
        With the reason: no such file, empty, no picture, truncated, too large, too narrow.
    """
    from PIL import Image, UnidentifiedImageError

    path = check_media_file(path, "picture")
    try:
        with Image.open(path, formats=opened_formats()) as image:
            _check_size(*image.size)
            if draft is not None:
                image.draft(None, (draft, draft))  # only JPEG can, all others pass over it
            image.load()
            return _to_rgb(_upright(image))
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(f"the file is no picture that can be read ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"the picture has more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file can fail anywhere inside a decoder, with any exception
        raise MediaError(f"the picture is damaged or cut short: {first_line(error)}") from error


@cache
def opened_formats() -> tuple[str, ...]:
    """The formats above that this build of Pillow can read; what it merely warns of is checked here, or harmless."""
    import warnings

    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"the picture has {width:,} x {height:,} pixels; {MAX_PIXELS:,} are allowed")
    if min(width, height) < 1 or max(width, height) > MAX_SIDES * min(width, height):
        raise MediaError(f"the picture is {width:,} x {height:,} pixels: one side is over {MAX_SIDES} times the other")


def _upright(image: PIL_Image.Image) -> PIL_Image.Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels, which did decode
        return image


def _to_rgb(image: PIL_Image.Image) -> PIL_Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):  # 32-bit pixels have no agreed range: stretch what is there
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        values -= values.min()
        image = Image.fromarray((values * (255 / max(values.max(), 1e-12))).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
