"""``adapted:NAME``: an encoder that `bundlecache adapt` made: the parent's tower or a learned one, and its projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import Command, EncoderError
from bundlecache.store.store import Store
from bundlecache.workspace import WorkspaceFolder

from .. import registry
from ..fingerprints import fingerprint
from ..stored_vectors import StoredVectorsEncoder, stored_table
from .folder import AdaptedFolder

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.store.store import TableInfo

    from ..encoder_options import Options


def load_image(spec: EncoderSpec, options: Options) -> AdaptedEncoder | AdaptedStored:
    """The picture side of an adapted encoder."""
    return _load(spec, options, "image")


def load_text(spec: EncoderSpec, options: Options) -> AdaptedEncoder | AdaptedStored:
    """The text side of an adapted encoder."""
    return _load(spec, options, "text")


def _load(spec: EncoderSpec, options: Options, modality: str) -> AdaptedEncoder | AdaptedStored:
    """Of stored vectors where nothing of the tower was learned and its parent's vectors are stored, else of the tower."""
    found = AdaptedFolder.find(spec, options.workspace)
    if modality not in found.sides:
        raise EncoderError(f"{spec.text!r} has no {modality} side.")
    parent = found.stored_parent(modality, spec)
    if parent is not None and options.workspace is not None:
        stored = stored_table(Store(WorkspaceFolder(options.workspace).store), modality, parent)
        if stored is not None:
            return AdaptedStored(spec, parent, stored, found, options)
    return AdaptedEncoder(spec, found, options, modality)


class AdaptedStored(StoredVectorsEncoder):
    """The stored vectors of the parent, projected: no encoder is called, and none is loaded but for an item not stored."""

    def __init__(
        self, spec: EncoderSpec, parent_spec: str, parent: TableInfo, found: AdaptedFolder, options: Options
    ) -> None:
        super().__init__(spec.text, parent_spec, parent, options)
        _check_parent(spec, found, self.modality, parent.fingerprint)
        self.projection, self.dim, self.preprocess, self.fingerprint = _made(
            found, self.modality, parent.dim, parent.preprocess, parent.fingerprint
        )
        self.dtype = options.dtype

    def shrunk(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [n, k] of vectors [n, d] of the parent, as it stores them."""
        return _projected(np.asarray(vectors, np.float32), self.projection)


class AdaptedEncoder:
    """A tower and the projection behind it. What made it (parent, pairs, recipe, epoch) is part of its fingerprint."""

    def __init__(self, spec: EncoderSpec, found: AdaptedFolder, options: Options, modality: str) -> None:
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
        if not found.sides[modality].folder:
            _check_parent(spec, found, modality, self.inner.fingerprint)
        self.modality, self.spec, self.tokens = modality, spec.text, 0
        self.dtype, self.batch_size, self.reading = self.inner.dtype, self.inner.batch_size, self.inner.reading
        self.projection, self.dim, self.preprocess, self.fingerprint = _made(
            found, modality, self.inner.dim, self.inner.preprocess, self.inner.fingerprint
        )

    def read(self, source: Path | str) -> Any:
        """As the tower reads it."""
        return self.inner.read(source)

    def prepare(self, raw: Any) -> Any:
        """As the tower prepares it."""
        return self.inner.prepare(raw)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, k]."""
        return _projected(self.inner.encode(samples), self.projection)


def _made(
    found: AdaptedFolder, modality: str, dim: int, preprocess: str, tower: str
) -> tuple[np.ndarray | None, int, str, str]:
    """The projection [k, d] if there is one, the width of the vectors, their preparation, and the fingerprint."""
    weight = found.projection(modality)
    if weight is None:
        return None, dim, preprocess, fingerprint("adapted", modality, tower, found.cause, tensors={})
    made = fingerprint("adapted", modality, tower, found.cause, tensors={"projection": weight})
    return weight.numpy(), len(weight), f"{preprocess}; projected {weight.shape[1]} -> {len(weight)}", made


def _projected(vectors: np.ndarray, projection: np.ndarray | None) -> np.ndarray:
    return vectors if projection is None else vectors @ projection.T


def _check_parent(spec: EncoderSpec, found: AdaptedFolder, modality: str, fingerprint_now: str) -> None:
    """Refuse vectors of other weights than those that the projection was learned on."""
    side = found.sides[modality]
    if side.parent_fingerprint != fingerprint_now:
        raise EncoderError(
            f"{spec.text!r} was learned on {modality} vectors of {side.parent} that were made with other weights.",
            hint=["adapt it to the present ones:", Command("adapt", "--encoder", side.parent, "--name", "another")],
        )
