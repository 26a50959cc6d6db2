"""The registered encoders by spec, and the loading of one: the frozen networks and descriptors of Stage A.

An encoder is one file in this folder with a ``load(spec, options)`` that returns an object of the protocol
`bundlecache.encode.run.Encoder`, and one line in ``REGISTRY``. Another package adds one by an entry point, without a change
here; it names an `EncoderKind`::

    [project.entry-points."bundlecache.encoders"]
    mean-colour = "mypackage.encoders:MEAN_COLOUR"

The contract test runs over every line. Importing this module imports none of the encoders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from bundlecache.encoder_spec import TITLE, EncoderSpec
from bundlecache.errors import Command, EncoderError, first_line
from bundlecache.modalities import MODALITIES, check_modality

from .derived_spec import FORMS, Derivation, generic
from .devices import resolve_device
from .encoder_options import PRECISIONS, Options

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.encode.encoder import Encoder

ENTRY_POINT_GROUP = "bundlecache.encoders"
STORED_DTYPES = ("float16", "float32")
MAX_SHOWN = 80  # letters of a spec in a message


@dataclass(frozen=True)
class EncoderKind:
    """One line of the registry: what the user types, what it makes, and the function that loads it.

    ``load`` is a function ``(EncoderSpec, Options) -> Encoder``, or the module of this package that has it as ``load``,
    or ``module:function``.
    """

    form: str  # as typed; words in capitals stand for names, as in "hf:FOLDER|ID"
    modality: str
    load: str | Callable[[EncoderSpec, Options], Encoder]
    about: str

    @property
    def fixed(self) -> bool:
        """Whether the form is a whole spec, with nothing left to name."""
        return not any(letter.isupper() for letter in self.form)

    def matches(self, spec: str) -> bool:
        """Whether a spec without columns is of this kind: equal to a fixed form, or with the same word before the colon."""
        return spec == self.form or (not self.fixed and generic(_before_colon(spec)) == _before_colon(self.form))

    def encoder(self, spec: EncoderSpec, options: Options) -> Encoder:
        """The encoder, loaded."""
        load = self.load
        if isinstance(load, str):
            module, _, function = load.partition(":")
            load = getattr(import_module(f".{module}", __package__), function or "load")
        made: Encoder = load(spec, options)
        return made


REGISTRY = (
    EncoderKind("descriptor:text", "text", "text_descriptor", "hashed words and letter groups; no weights"),
    EncoderKind(
        "hf:FOLDER|ID", "text", "hf_text", "transformers or sentence-transformers, pooled as declared; CLIP and SigLIP"
    ),
    EncoderKind("open_clip:ARCH/PRETRAINED", "text", "open_clip_text", "text tower of open_clip; local-dir:FOLDER too"),
    EncoderKind("descriptor:picture", "image", "picture_descriptor", "colour, light, outline and edges; no weights"),
    EncoderKind(
        "descriptor-tokens:picture", "image", "picture_descriptor", "the same of 4 x 4 patches: a vector for each"
    ),
    EncoderKind(
        "open_clip:ARCH/PRETRAINED", "image", "open_clip_image", "image tower of open_clip; local-dir:FOLDER too"
    ),
    EncoderKind("open_clip-tokens:ARCH/PRETRAINED", "image", "open_clip_image", "its patches: a vector for each"),
    EncoderKind("hf:FOLDER|ID", "image", "hf_image", "vision tower of transformers: CLIP, SigLIP, SigLIP 2, DINOv2"),
    EncoderKind("hf-tokens:FOLDER|ID", "image", "hf_image", "its patches: a vector for each"),
    EncoderKind("blip2:FOLDER|ID", "image", "blip2", "BLIP-2: mean of the Q-Former's query outputs"),
    EncoderKind("blip2-tokens:FOLDER|ID", "image", "blip2", "BLIP-2: each query output of the Q-Former"),
    EncoderKind("blip2-vision:FOLDER|ID", "image", "blip2", "BLIP-2: its vision tower alone"),
    EncoderKind("vqgan:FOLDER|ID", "image", "vqgan", "codes of a VQ autoencoder, to draw pictures with; experimental"),
    EncoderKind("embedded:clip", "image", "adapt.embedded:load_image", "the small towers that ship with the project"),
    EncoderKind("embedded:clip", "text", "adapt.embedded:load_text", "the small towers that ship with the project"),
    EncoderKind("adapted:NAME|FOLDER", "image", "adapt.encoder:load_image", "picture side of what adapt made"),
    EncoderKind("adapted:NAME|FOLDER", "text", "adapt.encoder:load_text", "text side of what adapt made"),
    EncoderKind(
        "timm:MODEL/FILE|FOLDER", "image", "timm_image", "features of any timm network, such as an ImageNet CNN"
    ),
    EncoderKind("descriptor:sound", "audio", "sound_descriptor", "spectrum, pitch, harmony and envelope; no weights"),
    EncoderKind("clap:FOLDER|ID", "audio", "clap_audio", "CLAP of transformers: audio tower with projection"),
    EncoderKind(
        "laion_clap:FILE", "audio", "laion_clap", "an original CLAP checkpoint (.pt) of LAION, in transformers' tower"
    ),
    EncoderKind("lightgcn:user-item", "graph", "graph_encoder", "LightGCN on who-bought-what of the training split"),
    EncoderKind("lightgcn:bundle-item", "graph", "graph_encoder", "LightGCN on the bundles of the training split"),
    EncoderKind("als:user-item", "graph", "graph_encoder", "alternating least squares on who-bought-what, by implicit"),
    EncoderKind("als:bundle-item", "graph", "graph_encoder", "alternating least squares on bundles, by implicit"),
    EncoderKind(
        "bpr:user-item", "graph", "graph_encoder", "Bayesian personalised ranking on who-bought-what, by implicit"
    ),
    EncoderKind("bpr:bundle-item", "graph", "graph_encoder", "Bayesian personalised ranking on bundles, by implicit"),
    *(
        EncoderKind(form, modality, f"derived:load_{modality}", about)
        for form, about in FORMS
        for modality in MODALITIES
    ),
)

DEFAULTS = {
    "text": "descriptor:text",
    "image": "descriptor:picture",
    "audio": "descriptor:sound",
    "graph": "lightgcn:user-item",
}


def kinds(modality: str | None = None) -> list[EncoderKind]:
    """The registered kinds of encoder, of one modality or of all; those of other installed packages included.

    Raises
    ------
    EncoderError
        When an installed package registers something that is no encoder.
    """
    return [kind for kind in (*REGISTRY, *_installed_kinds()) if modality in (None, kind.modality)]


@cache
def _installed_kinds() -> tuple[EncoderKind, ...]:
    """The kinds that other packages register. They are asked for only where no built-in kind matches."""
    found: list[EncoderKind] = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        advice = f"mend or remove the package that registers {point.value}"
        try:
            kind = point.load()
        except Exception as error:  # whatever a foreign module may raise when it is imported
            raise EncoderError(
                f"The encoder {point.name!r} of {point.value} cannot be imported: {first_line(error)}.", hint=advice
            ) from error
        if not isinstance(kind, EncoderKind):
            raise EncoderError(
                f"The encoder {point.name!r} of {point.value} is a {type(kind).__name__}, not an EncoderKind.",
                hint=advice,
            )
        check_modality(kind.modality)
        if any(kind.modality == known.modality and known.matches(kind.form) for known in (*REGISTRY, *found)):
            raise EncoderError(
                f"The encoder {point.name!r} of {point.value} has the form {kind.form!r}, which is taken.", hint=advice
            )
        found.append(kind)
    return tuple(found)


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
    workspace: Path | None = None,
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
    workspace
        The folder of the catalogue; ``adapted:NAME`` is looked up there.

    Raises
    ------
    EncoderError
        When the spec, the modality, the device, the dtype, the batch size, the precision or the draft is none
        that is allowed, or the checkpoint cannot be loaded.
    """
    parsed = EncoderSpec.parse(spec)
    kind = _find(parsed.without_columns, modality)
    command = ("encode", "--modality", modality, "--encoder")
    if modality != "text" and parsed.columns != TITLE:
        raise EncoderError(
            f"{spec!r} names columns of texts, but it makes {modality} vectors.",
            hint=Command(*command, parsed.without_columns),
        )
    if dtype == "int8" and parsed.kind == "int8":
        dtype = STORED_DTYPES[0]  # it is always stored so
    _check_options(Command(*command, spec), dtype, batch_size, precision, draft)
    if device not in ("auto", "cpu"):
        resolve_device(device)  # also where an encoder without weights would not look at it
    return kind.encoder(parsed, Options(catalogue, device, dtype, batch_size, precision, draft, workspace))


def _check_options(command: Command, dtype: str, batch_size: int | None, precision: str, draft: int | None) -> None:
    """Refuse an option that is out of range; ``command`` is what was typed, without it."""
    checks = (
        ("--dtype", dtype in STORED_DTYPES, f"Vectors are stored as float16 or float32, not {dtype!r}.", "float16"),
        (
            "--batch-size",
            batch_size is None or batch_size >= 1,
            f"A batch holds at least 1 item, not {batch_size}.",
            "32",
        ),
        (
            "--precision",
            precision in PRECISIONS,
            f"There is no precision {precision!r}; there are {', '.join(PRECISIONS)}.",
            "auto",
        ),
        ("--draft", draft is None or draft >= 1, f"A draft keeps at least 1 pixel, not {draft}.", "512"),
    )
    for option, allowed, message, example in checks:
        if not allowed:
            raise EncoderError(message, hint=Command(command.verb, *command.arguments, option, example))


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


def options_from_preprocess(preprocess: str) -> dict[str, Any]:
    """The options of :func:`load` that a ``preprocess`` tells of: with them the same vectors are made again.

    >>> options_from_preprocess("JPEG at 1/2, 1/4 or 1/8 while both sides keep 512 px; RGB; forward bfloat16; torch 2.13.0")
    {'precision': 'bfloat16', 'draft': 512}
    """
    precision = re.search(r"\bforward (float32|float16|bfloat16)\b", preprocess)
    draft = re.search(r"\bboth sides keep (\d+) px", preprocess)
    return {"precision": precision[1] if precision else "auto", "draft": int(draft[1]) if draft else None}


def effective_options(spec: str, modality: str) -> set[str]:
    """Which of the options ``precision`` and ``draft`` of :func:`load` change anything for this encoder.

    Raises
    ------
    EncoderError
        For an unknown kind.
    """
    if derived := Derivation.parse(spec):
        imported = derived.parent.startswith("import:")  # which no encoder makes
        return set() if imported else effective_options(derived.parent, modality)
    drafts = {"draft"} if modality == "image" else set()
    return drafts if _find(EncoderSpec.parse(spec).without_columns, modality).fixed else {"precision"} | drafts


def modality_of(spec: str) -> str:
    """The modality of a spec, the first one where a kind of encoder makes several.

    Raises
    ------
    EncoderError
        For an unknown kind.
    """
    if derived := Derivation.parse(spec):
        return modality_of(derived.parent)
    plain = EncoderSpec.parse(spec).without_columns
    for kind in _matching(plain):
        return kind.modality
    forms = ", ".join(kind.form for kind in kinds())
    raise EncoderError(
        f"There is no encoder {_shown(spec)}; there are {forms}.",
        hint=Command("encode", "--modality", "image", "--encoder", DEFAULTS["image"]),
    )


def _matching(spec: str) -> Iterator[EncoderKind]:
    """Built-in kinds first, so that no other package can break or replace one of them."""
    yield from (kind for kind in REGISTRY if kind.matches(spec))
    yield from (kind for kind in _installed_kinds() if kind.matches(spec))


def _find(spec: str, modality: str) -> EncoderKind:
    check_modality(modality)
    for kind in _matching(spec):
        if kind.modality == modality:
            return kind
    matching = list(_matching(spec))
    allowed = ", ".join(kind.form for kind in kinds(modality))
    if matching:
        made = " or ".join(sorted({kind.modality for kind in matching}))
        message = f"The encoder {_shown(spec)} makes {made} vectors, not {modality}"
    else:
        message = f"There is no encoder {_shown(spec)}"
    raise EncoderError(
        f"{message}; for {modality} there are {allowed}.",
        hint=Command("encode", "--modality", modality, "--encoder", DEFAULTS[modality]),
    )


def _shown(spec: str) -> str:
    """A spec as messages show it: quoted, and cut where nobody could read it."""
    return repr(spec if len(spec) <= MAX_SHOWN else f"{spec[:MAX_SHOWN]}...")


def _before_colon(spec: str) -> str:
    return spec.partition(":")[0]
