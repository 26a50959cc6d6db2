"""``adapted:NAME``: an encoder that `bundlecache adapt` made: the parent's tower or a learned one, and its projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import EncoderError

from .. import registry
from ..fingerprints import fingerprint
from .folder import AdaptedFolder

if TYPE_CHECKING:
    from pathlib import Path

    from ..encoder_options import Options


def load_image(spec: EncoderSpec, options: Options) -> AdaptedEncoder:
    """The picture side of an adapted encoder."""
    return AdaptedEncoder(spec, options, "image")


def load_text(spec: EncoderSpec, options: Options) -> AdaptedEncoder:
    """The text side of an adapted encoder."""
    return AdaptedEncoder(spec, options, "text")


class AdaptedEncoder:
    """A tower and the projection behind it. What made it (parent, pairs, recipe, epoch) is part of its fingerprint."""

    def __init__(self, spec: EncoderSpec, options: Options, modality: str) -> None:
        found = AdaptedFolder.find(spec, options.workspace)
        if modality not in found.sides:
            raise EncoderError(f"{spec.text!r} has no {modality} side.")
        tower = EncoderSpec.parse(found.sides[modality].tower(found.root)).with_columns(spec.columns).text
        self.inner: Any = registry.load(
            tower,
            modality=modality,
            catalogue=options.catalogue,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            precision=options.precision,
            draft=options.draft if modality == "image" else None,
            workspace=options.workspace,
        )
        weight = found.projection(modality)
        self.projection: np.ndarray | None = None if weight is None else weight.numpy()  # [k, d]
        self.modality, self.spec, self.tokens = modality, spec.text, 0
        self.dtype, self.batch_size, self.reading = self.inner.dtype, self.inner.batch_size, self.inner.reading
        self.dim: int = self.inner.dim if weight is None else int(weight.shape[0])
        projected = "" if weight is None else f"; projected {weight.shape[1]} -> {weight.shape[0]}"
        self.preprocess = f"{self.inner.preprocess}{projected}"
        tensors = {} if weight is None else {"projection": weight}
        self.fingerprint = fingerprint("adapted", modality, self.inner.fingerprint, found.cause, tensors=tensors)

    def read(self, source: Path | str) -> Any:
        """As the tower reads it."""
        return self.inner.read(source)

    def prepare(self, raw: Any) -> Any:
        """As the tower prepares it."""
        return self.inner.prepare(raw)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, k]."""
        vectors: np.ndarray = self.inner.encode(samples)
        return vectors if self.projection is None else vectors @ self.projection.T
