"""``embedded:clip``: the small pair of towers that the project pretrained and ships, for demos and tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundlecache.encoder_spec import EncoderSpec

from .. import open_clip_image, open_clip_text

if TYPE_CHECKING:
    from ..encoder_options import Options
    from ..towers import ImageTower, TextTower

FOLDER = Path(__file__).parent / "embedded_clip"


def load_image(spec: EncoderSpec, options: Options) -> ImageTower:
    """Its picture tower."""
    return open_clip_image.load(_of_folder(spec), options)


def load_text(spec: EncoderSpec, options: Options) -> TextTower:
    """Its text tower."""
    return open_clip_text.load(_of_folder(spec), options)


def _of_folder(spec: EncoderSpec) -> EncoderSpec:
    return replace(EncoderSpec.parse(f"open_clip:local-dir:{FOLDER}"), text=spec.text, columns=spec.columns)
