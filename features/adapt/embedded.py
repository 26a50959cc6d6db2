"""``embedded:clip``: the small pair of towers that the project pretrained and ships, for demos and tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundlecache.encoder_spec import EncoderSpec

from .. import hf_image, hf_text

if TYPE_CHECKING:
    from ..encoder_options import Options
    from ..hf_text import HfText
    from ..towers import ImageTower, TextTower

FOLDER = Path(__file__).parent / "embedded_clip"


def load_image(spec: EncoderSpec, options: Options) -> ImageTower:
    """Its picture tower."""
    return hf_image.load(_of_folder(spec), options)


def load_text(spec: EncoderSpec, options: Options) -> HfText | TextTower:
    """Its text tower."""
    return hf_text.load(_of_folder(spec), options)


def _of_folder(spec: EncoderSpec) -> EncoderSpec:
    return replace(EncoderSpec.parse(f"hf:{FOLDER}"), text=spec.text, columns=spec.columns)
