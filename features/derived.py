"""``pcaN:``, ``firstN:`` and ``int8:``: smaller vectors, derived from the stored ones of another encoder without reading a file.

The axes of ``pcaN:`` are fitted once, to the vectors of training items alone, and kept in ``store/derived/``. They are part of the
fingerprint, so other axes mean another table; new and edited items are turned by the axes that are kept. A new item that is not in
the store (of the server, or of `verify`) is encoded by the parent encoder first.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.catalogue.splits import training_graph
from bundlecache.errors import Command, EncoderError, counted, first_line
from bundlecache.files import make_folder, replacing
from bundlecache.store.store import Store
from bundlecache.workspace import WorkspaceFolder

from .derived_spec import Derivation
from .fingerprints import fingerprint
from .principal_axes import PrincipalAxes, as_bytes
from .stored_vectors import StoredVectorsEncoder, stored_table

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.encoder_spec import EncoderSpec
    from bundlecache.store.store import Matrix, TableInfo

    from .encoder_options import Options

VERSION = 1  # of the arithmetic
BLOCK_ITEMS = 16_384


def load_text(spec: EncoderSpec, options: Options) -> DerivedEncoder:
    """Derived from a text encoder."""
    return _load(spec, "text", options)


def load_image(spec: EncoderSpec, options: Options) -> DerivedEncoder:
    """Derived from a picture encoder."""
    return _load(spec, "image", options)


def load_audio(spec: EncoderSpec, options: Options) -> DerivedEncoder:
    """Derived from a sound encoder."""
    return _load(spec, "audio", options)


def load_graph(spec: EncoderSpec, options: Options) -> DerivedEncoder:
    """Derived from a graph encoder."""
    return _load(spec, "graph", options)


def _load(spec: EncoderSpec, modality: str, options: Options) -> DerivedEncoder:
    how = Derivation.parse(spec.text)
    assert how is not None  # noqa: S101 - the registry found it by its form
    if options.workspace is None:
        raise EncoderError(f"{spec.text!r} is made of stored vectors, and no workspace was given.")
    store = Store(WorkspaceFolder(options.workspace).store)
    parent = stored_table(store, modality, how.parent)
    if parent is None:
        raise EncoderError(
            f"{spec.text!r} is made of the stored {modality} vectors of {how.parent}, and there are none.",
            hint=Command("encode", "--modality", modality, "--encoder", how.parent),
        )
    if parent.tokens:
        raise EncoderError(f"{how.parent} gives {parent.tokens} vectors an item; {how.kind} needs one.")
    if how.dim > parent.dim:
        raise EncoderError(
            f"{spec.text!r} asks for {how.dim:,} numbers, and the vectors of {how.parent} have {parent.dim:,}.",
            hint=f"--encoder {how.kind}{max(1, parent.dim // 2)}:{how.parent}",
        )
    axes = _axes(how, parent, store, options.catalogue) if how.kind == "pca" else None
    made = DerivedGraphEncoder if modality == "graph" else DerivedEncoder
    return made(spec.text, how, parent, axes, options)


class DerivedEncoder(StoredVectorsEncoder):
    """Smaller vectors of stored ones."""

    def __init__(
        self, spec: str, how: Derivation, parent: TableInfo, axes: PrincipalAxes | None, options: Options
    ) -> None:
        super().__init__(spec, how.parent, parent, options)
        self.how, self.axes = how, axes
        self.dim = how.dim or parent.dim
        self.dtype = "int8" if how.kind == "int8" else options.dtype if options.dtype != "int8" else "float16"
        self.preprocess = f"{self.reading}: {parent.preprocess}; {how.kind} to {self.dim} numbers"
        arrays = () if axes is None else (_digest(axes.axes),)
        cause = (how.kind, VERSION, self.dim, parent.fingerprint, parent.preprocess, parent.dtype)
        self.fingerprint = fingerprint("derived", *cause, *arrays)

    def shrunk(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [n, N] of vectors [n, d] of the parent, as it stores them."""
        if self.axes is not None:
            return self.axes.apply(vectors)
        vectors = np.asarray(vectors, np.float32)
        return as_bytes(vectors) if self.how.kind == "int8" else vectors[:, : self.dim]


class DerivedGraphEncoder(DerivedEncoder):
    """Of a graph encoder, whose graph may lack items."""

    def has(self, item_id: str) -> bool:
        """Whether the parent's graph holds the item."""
        parent: Any = self.parent_encoder()
        return bool(parent.has(item_id))


def training_items(catalogue: Catalogue) -> np.ndarray:
    """Bool [I], the items of training bundles and of training users' interactions; all where there are neither."""
    seen = np.zeros(len(catalogue), bool)
    for kind in ("bundle-item", "user-item"):
        seen[training_graph(catalogue, kind)[:, 1]] = True
    return seen if seen.any() else ~seen


def blocks_of(matrix: Matrix, items: np.ndarray) -> Any:
    """The vectors of these items [n], float32 [<= BLOCK_ITEMS, d] at a time."""
    for low in range(0, len(items), BLOCK_ITEMS):
        yield np.asarray(matrix.vectors[items[low : low + BLOCK_ITEMS]], np.float32)


def axes_file(how: Derivation, parent: TableInfo, store: Store) -> Path:
    """Where the axes of ``pcaN:`` of a table are kept."""
    return store.path / "derived" / f"{parent.table}--pca{how.dim}.safetensors"


def _axes(how: Derivation, parent: TableInfo, store: Store, catalogue: Catalogue) -> PrincipalAxes:
    """The axes that are kept, or else those fitted now to the vectors of training items."""
    path = axes_file(how, parent, store)
    if path.is_file():
        return _read_axes(path)
    matrix = store.matrix(catalogue.item_ids, parent.modality, parent.spec, parent.table)
    items = np.flatnonzero(training_items(catalogue) & matrix.mask)
    if len(items) < how.dim:
        raise EncoderError(
            f"pca{how.dim} is fitted to training items, and {counted(len(items), 'one has', 'have')} vectors of "
            f"{how.parent}; it needs {how.dim}.",
            hint=f"--encoder pca{max(1, len(items) // 4)}:{how.parent}",
        )
    made = PrincipalAxes.fit(blocks_of(matrix, items), how.dim)
    from safetensors.numpy import save_file

    about = {"items": len(items), "parent": parent.table, "version": parent.version, "kept": made.kept_share}
    make_folder(path.parent)
    with replacing(path) as temporary:
        save_file({"axes": made.axes}, temporary, {"bundlecache": json.dumps(about)})
    return made


def read_about(path: Path) -> dict[str, Any]:
    """What is recorded of axes: ``items`` they were fitted to, the ``parent`` table and its ``version``, the ``kept`` share.

    Raises
    ------
    EncoderError
        When the file cannot be read.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            made: dict[str, Any] = json.loads(file.metadata()["bundlecache"])
            return made
    except Exception as error:  # of safetensors' own kind
        raise EncoderError(
            f"{path} is damaged ({first_line(error)}).", hint=f"delete {path}: it is made again"
        ) from error


def _read_axes(path: Path) -> PrincipalAxes:
    from safetensors.numpy import load_file

    about = read_about(path)
    try:
        return PrincipalAxes(load_file(path)["axes"], float(about["kept"]))
    except Exception as error:  # of safetensors' own kind
        raise EncoderError(
            f"{path} is damaged ({first_line(error)}).", hint=f"delete {path}: it is made again"
        ) from error


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
