"""Stage A: the frozen encoders that turn pictures, sounds, titles and graphs into vectors.

An encoder is one file in this folder, with a ``load(spec, options)`` that returns an object of the
protocol ``bundlecache.encode.Encoder``, and one line in the table below. The contract test runs over
every line. Importing this package imports none of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bundlecache.encoder_spec import TITLE, EncoderSpec
from bundlecache.errors import EncoderError
from bundlecache.modalities import MODALITIES, check_modality

from .common import PRECISIONS, Options, resolve_device

if TYPE_CHECKING:
    from bundlecache.catalogue.model import Catalogue
    from bundlecache.encode.run import Encoder

__all__ = ["DEFAULTS", "MODALITIES", "Kind", "Loader", "heeds", "kinds", "load", "modality_of", "options_of"]


@dataclass(frozen=True)
class Kind:
    """One line of the registry: what the user types, what it makes, where it lives."""

    form: str  # as typed; words in capitals stand for names
    modality: str
    module: str  # in this package
    about: str

    @property
    def fixed(self) -> bool:
        """Whether the form is a whole spec, with nothing left to name."""
        return not any(letter.isupper() for letter in self.form)


REGISTRY = (
    Kind("descriptor:text", "text", "text", "hashed words and letter groups; no weights"),
    Kind(
        "hf:FOLDER|ID", "text", "hf_text", "transformers or sentence-transformers, pooled as declared; CLIP and SigLIP"
    ),
    Kind("open_clip:ARCH/PRETRAINED", "text", "open_clip_text", "text tower of open_clip; local-dir:FOLDER too"),
    Kind("descriptor:picture", "image", "image", "colour, light, outline and edges; no weights"),
    Kind("open_clip:ARCH/PRETRAINED", "image", "open_clip_image", "image tower of open_clip; local-dir:FOLDER too"),
    Kind("open_clip-tokens:ARCH/PRETRAINED", "image", "open_clip_image", "its patches: a vector for each"),
    Kind("hf:FOLDER|ID", "image", "hf_image", "vision tower of transformers: CLIP, SigLIP, SigLIP 2, DINOv2"),
    Kind("hf-tokens:FOLDER|ID", "image", "hf_image", "its patches: a vector for each"),
    Kind("blip2:FOLDER|ID", "image", "blip2", "BLIP-2: mean of the Q-Former's query outputs"),
    Kind("blip2-tokens:FOLDER|ID", "image", "blip2", "BLIP-2: each query output of the Q-Former"),
    Kind("blip2-vision:FOLDER|ID", "image", "blip2", "BLIP-2: its vision tower alone"),
    Kind("descriptor:sound", "audio", "audio", "spectrum, pitch, harmony and envelope; no weights"),
    Kind("clap:FOLDER|ID", "audio", "clap_audio", "CLAP of transformers: audio tower with projection"),
    Kind(
        "laion_clap:FILE", "audio", "laion_clap", "an original CLAP checkpoint (.pt) of LAION, in transformers' tower"
    ),
    Kind("lightgcn:user-item", "graph", "graph", "LightGCN on who-bought-what of the training split"),
    Kind("lightgcn:bundle-item", "graph", "graph", "LightGCN on the bundles of the training split"),
    Kind("als:user-item", "graph", "graph", "alternating least squares on who-bought-what, by implicit"),
    Kind("als:bundle-item", "graph", "graph", "alternating least squares on bundles, by implicit"),
    Kind("bpr:user-item", "graph", "graph", "Bayesian personalised ranking on who-bought-what, by implicit"),
    Kind("bpr:bundle-item", "graph", "graph", "Bayesian personalised ranking on bundles, by implicit"),
)

DEFAULTS = {
    "text": "descriptor:text",
    "image": "descriptor:picture",
    "audio": "descriptor:sound",
    "graph": "lightgcn:user-item",
}


def kinds(modality: str | None = None) -> list[Kind]:
    """The registered kinds of encoder, of one modality or of all."""
    return [kind for kind in REGISTRY if modality in (None, kind.modality)]


def load(
    spec: str,
    *,
    modality: str,
    catalogue: Catalogue,
    device: str = "auto",
    dtype: str = "float16",
    batch_size: int | None = None,
    precision: str = "auto",
    draft: int | None = None,
) -> Encoder:
    """The encoder that ``spec`` names, ready to run.

    Parameters
    ----------
    spec
        ``kind:name@revision``; a local folder always works and never calls home. ``#title+category`` behind it says
        which columns texts are made of; that is the encode loop's affair, and stays in the encoder's own spec.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``; only encoders with weights use it.
    dtype
        Of the stored vectors. Encoding itself always answers in float32.
    precision
        Of the forward pass: ``float32``, ``float16``, ``bfloat16``; ``auto`` is float16 on CUDA when vectors are
        stored as float16, else float32.
    draft
        Read a JPEG at 1/2, 1/4 or 1/8 of its size while both sides keep so many pixels; ``None`` reads all.

    Raises
    ------
    EncoderError
        When the spec, the modality, the device, the dtype, the batch size, the precision or the draft is none
        that is allowed, or the checkpoint cannot be loaded.
    """
    parsed = EncoderSpec.parse(spec)
    kind = _find(parsed.without_columns, modality)
    if modality != "text" and parsed.columns != TITLE:
        raise EncoderError(
            f"{spec!r} names columns of texts, but it makes {modality} vectors.", hint=f"type {parsed.without_columns}"
        )
    if dtype not in ("float16", "float32"):
        raise EncoderError(f"Vectors are stored as float16 or float32, not {dtype!r}.")
    if batch_size is not None and batch_size < 1:
        raise EncoderError(f"A batch holds at least 1 item, not {batch_size}.")
    if precision not in PRECISIONS:
        raise EncoderError(f"There is no precision {precision!r}; there are {', '.join(PRECISIONS)}.")
    if draft is not None and draft < 1:
        raise EncoderError(f"A draft keeps at least 1 pixel, not {draft}.", hint="type --draft 512")
    if device not in ("auto", "cpu"):
        resolve_device(device)  # also where an encoder without weights would not look at it
    module = import_module(f".{kind.module}", __package__)
    return module.load(parsed, Options(catalogue, device, dtype, batch_size, precision, draft))


@dataclass(frozen=True)
class Loader:
    """:func:`load` for several encoders of a modality, told apart from the device: it goes to other processes.

    ``catalogue`` matters to the graph's encoders alone.
    """

    specs: tuple[str, ...]
    modality: str
    options: dict[str, Any] = field(default_factory=dict)  # of `load`, without device
    catalogue: Any = None

    def __call__(self, device: str) -> list[Encoder]:
        """The encoders, on this device."""
        named = {"modality": self.modality, "catalogue": self.catalogue, "device": device}
        return [load(spec, **named, **self.options) for spec in self.specs]


def options_of(preprocess: str) -> dict[str, Any]:
    """The options of :func:`load` that a ``preprocess`` tells of: with them the same vectors are made again.

    >>> options_of("JPEG at 1/2, 1/4 or 1/8 while both sides keep 512 px; RGB; forward bfloat16; torch 2.13.0")
    {'precision': 'bfloat16', 'draft': 512}
    """
    precision = re.search(r"\bforward (float32|float16|bfloat16)\b", preprocess)
    draft = re.search(r"\bboth sides keep (\d+) px", preprocess)
    return {"precision": precision[1] if precision else "auto", "draft": int(draft[1]) if draft else None}


def heeds(spec: str, modality: str) -> set[str]:
    """Which of the options ``precision`` and ``draft`` of :func:`load` change anything for this encoder.

    Raises
    ------
    EncoderError
        For an unknown kind.
    """
    drafts = {"draft"} if modality == "image" else set()
    return drafts if _find(EncoderSpec.parse(spec).without_columns, modality).fixed else {"precision"} | drafts


def modality_of(spec: str) -> str:
    """The modality of a spec, the first one where a kind of encoder makes several.

    Raises
    ------
    EncoderError
        For an unknown kind.
    """
    for kind in _matches(EncoderSpec.parse(spec).without_columns):
        return kind.modality
    forms = ", ".join(kind.form for kind in REGISTRY)
    raise EncoderError(f"There is no encoder {spec!r}; there are {forms}.", hint=f"for example {DEFAULTS['image']}")


def _matches(spec: str) -> list[Kind]:
    return [kind for kind in REGISTRY if spec == kind.form or (not kind.fixed and _head(spec) == _head(kind.form))]


def _find(spec: str, modality: str) -> Kind:
    check_modality(modality)
    matches = _matches(spec)
    for kind in matches:
        if kind.modality == modality:
            return kind
    allowed = ", ".join(kind.form for kind in kinds(modality))
    if matches:
        made = " or ".join(sorted({kind.modality for kind in matches}))
        message = f"The encoder {spec!r} makes {made} vectors, not {modality}"
    else:
        message = f"There is no encoder {spec!r}"
    raise EncoderError(f"{message}; for {modality} there are {allowed}.", hint=f"for example {DEFAULTS[modality]}")


def _head(spec: str) -> str:
    return spec.partition(":")[0]
