"""The base of encoders whose vectors are made of the stored ones of another encoder: smaller vectors, and learned projections.

What the store holds is turned by `shrunk`; a new item that is not in the store (of the server, or of `verify`) is encoded by the
parent encoder first, which is loaded for the first such item.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import EncoderError
from bundlecache.store.table_schema import IMPORTED

from .derived_spec import Derivation

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.encode.encoder import Encoder
    from bundlecache.store.store import Store, TableInfo

    from .encoder_options import Options


class StoredVectorsEncoder(ABC):
    """Vectors that `shrunk` makes of stored ones, and `encode` of what the encoder ``parent_spec`` makes anew."""

    tokens = 0
    dim: int
    dtype: str
    preprocess: str
    fingerprint: str

    def __init__(self, spec: str, parent_spec: str, parent: TableInfo, options: Options) -> None:
        self.spec, self.modality, self.parent_spec, self.parent = spec, parent.modality, parent_spec, parent
        self.batch_size = options.batch_size or 64
        self.reading = f"as {parent_spec}"
        self._options, self._lock = options, threading.Lock()
        self._loaded: Encoder | None = None

    @abstractmethod
    def shrunk(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [n, N] of vectors [n, d] of the parent, as it stores them."""

    def read(self, source: Path | str) -> Any:
        """As the parent reads it."""
        return self.parent_encoder().read(source)

    def prepare(self, raw: Any) -> Any:
        """As the parent prepares it."""
        return self.parent_encoder().prepare(raw)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """float32 [n, N] of what the parent encodes, rounded as the parent stores it."""
        made = np.asarray(self.parent_encoder().encode(samples))
        return self.shrunk(made.astype(self.parent.dtype))

    def parent_encoder(self) -> Encoder:
        """The parent, loaded as it was when its stored vectors were made.

        Raises
        ------
        EncoderError
            When it cannot be loaded, or its vectors were imported.
        """
        from . import registry

        with self._lock:
            if self._loaded is None:
                if self.parent.preprocess == IMPORTED:
                    raise EncoderError(f"The vectors of {self.parent_spec} were imported: nothing here makes new ones.")
                made = {"dtype": self.parent.dtype, **registry.options_from_preprocess(self.parent.preprocess)}
                self._loaded = registry.load(
                    self.parent_spec,
                    modality=self.modality,
                    catalogue=self._options.catalogue,
                    device=self._options.device,
                    workspace=self._options.workspace,
                    **made,
                )
            return self._loaded


def stored_table(store: Store, modality: str, spec: str) -> TableInfo | None:
    """The newest table with vectors of an encoder; None where there is none."""
    found = (info for info in store.tables() if (info.modality, info.spec) == (modality, spec) and info.rows)
    return next(found, None)


def parent_of(spec: str, modality: str, workspace: Path | None) -> str | None:
    """The encoder whose stored vectors ``spec`` is made of; None where it reads items itself.

    Raises
    ------
    EncoderError
        When ``spec`` names an adapted encoder that is not there.
    """
    if derived := Derivation.parse(spec):
        return derived.parent
    parsed = EncoderSpec.parse(spec)
    if parsed.kind != "adapted":
        return None
    from .adapt.folder import AdaptedFolder

    return AdaptedFolder.find(parsed, workspace).stored_parent(modality, parsed)


def chain(spec: str, modality: str, workspace: Path | None) -> list[str]:
    """A spec behind all that it is made of, the first of which reads items."""
    parent = parent_of(spec, modality, workspace)
    return [*(chain(parent, modality, workspace) if parent else ()), spec]


def adapted_sides(spec: str, workspace: Path | None) -> tuple[str, ...]:
    """The modalities of an adapted encoder, or of what is derived from one; empty for all others.

    Raises
    ------
    EncoderError
        When there is no such adapted encoder.
    """
    while derived := Derivation.parse(spec):
        spec = derived.parent
    parsed = EncoderSpec.parse(spec)
    if parsed.kind != "adapted":
        return ()
    from .adapt.folder import AdaptedFolder

    return tuple(AdaptedFolder.find(parsed, workspace).sides)
