"""Encodes items that the catalogue does not know, by the encoders that the stored vectors were made with.

An encoder is loaded when a new item first needs it. One that is not the encoder of the stored vectors any more (its
fingerprint differs), or that cannot be loaded, is left out, and said: its modality is missing in new items then.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...encoder_spec import TITLE, EncoderSpec
from ...errors import BundlecacheError, MediaError, QuestionsError

if TYPE_CHECKING:
    from ...encode.encoder import Encoder
    from ...store.store import Matrix
    from ..session import Session

ENCODED = ("text", "image")  # what a request brings along
KEPT_ITEMS = 256  # whose vectors are remembered: a page asks about the same cart again and again
MAX_PICTURE_BYTES = 10 << 20
MAX_PICTURE_PIXELS = 40_000_000  # of a picture from outside; larger ones cost too much memory to unpack
DECODED_AT_ONCE = 2


@dataclass
class NewItem:
    """An item of a request: its title, and by name of the stored vectors the sample to encode, then its vector."""

    title: str
    samples: dict[str, Any] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


class NewItems:
    """Reads and encodes new items for the stored vectors ``matrices``."""

    def __init__(self, session: Session, matrices: Mapping[str, Matrix], device: str) -> None:
        self._session, self._matrices, self._device = session, matrices, device
        self._encoders: dict[str, Encoder] = {}
        self.notes: dict[str, str] = {}  # name of the vectors -> why new items have none of them
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)
        self._kept: OrderedDict[str, NewItem] = OrderedDict()

    @cached_property
    def _names(self) -> list[str]:
        """Names of the stored vectors that a title or a picture can have."""
        return [name for name, matrix in self._matrices.items() if matrix.modality in ENCODED]

    def encoder(self, name: str) -> Encoder | None:
        """The encoder of the stored vectors ``name``, loaded once; None where there is none, `notes` says why."""
        with self._lock:
            if name not in self._encoders and name not in self.notes:
                self._load(name, self._matrices[name])
        return self._encoders.get(name)

    def _load(self, name: str, matrix: Matrix) -> None:
        from ...features import registry

        session = self._session
        try:
            info = session.store.current(matrix.modality, matrix.spec, matrix.table)
            options = {"dtype": info.dtype, **registry.options_from_preprocess(info.preprocess)}
            made = registry.load(
                matrix.spec,
                modality=matrix.modality,
                catalogue=session.catalogue,
                device=self._device,
                workspace=session.folder.root,
                **options,
            )
        except BundlecacheError as error:
            self.notes[name] = f"New items have no {name} vector: {error.message}"
            return
        if made.fingerprint != matrix.fingerprint:
            self.notes[name] = (
                f"New items have no {name} vector, because {matrix.spec} is not what the stored vectors were made with."
            )
            return
        self._encoders[name] = made

    def read(self, title: str | None, picture: bytes | None) -> NewItem:
        """A new item, its picture unpacked and checked; to be called in a thread, because pictures take time.

        Raises
        ------
        BundlecacheError
            When it has neither a title nor a picture, or the picture cannot be used.
        """
        title = (title or "").strip()
        if not title and not picture:
            raise QuestionsError("A new item has neither a title nor an image.", hint='{"title": "red mug"}')
        key = hashlib.blake2b(repr(title).encode("utf-8", "surrogatepass") + b"\0" + (picture or b"")).hexdigest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = NewItem(title)
        texts = [name for name in self._names if self._matrices[name].modality == "text"]
        for name in texts if title else []:
            encoder = self.encoder(name)
            if encoder is not None and EncoderSpec.parse(self._matrices[name].spec).columns[:1] == TITLE:
                made.samples[name] = encoder.prepare(encoder.read(title))
        if picture:
            self._read_picture(made, picture)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT_ITEMS:
                self._kept.popitem(last=False)
        return made

    def _read_picture(self, item: NewItem, picture: bytes) -> None:
        """Unpack a picture for every encoder that looks at one."""
        check_picture(picture)
        with self._decoding, tempfile.NamedTemporaryFile(prefix="bundlecache-") as file:
            file.write(picture)  # encoders read files; its name is ours
            file.flush()
            for name in self._names:
                encoder = self.encoder(name) if self._matrices[name].modality == "image" else None
                if encoder is not None:
                    try:
                        item.samples[name] = encoder.prepare(encoder.read(Path(file.name)))
                    except MediaError as error:
                        raise QuestionsError(f"The image of a new item cannot be used: {error.message}.") from error

    def encode(self, items: Sequence[NewItem]) -> None:
        """Fill in the vectors of ``items``, by one forward pass of each encoder."""
        with self._encoding:
            for name in self._names:
                waiting = list({id(item): item for item in items if name in item.samples}.values())
                encoder = self._encoders.get(name)
                if encoder is None or not waiting:
                    continue
                for low in range(0, len(waiting), encoder.batch_size):
                    part = waiting[low : low + encoder.batch_size]
                    vectors = encoder.encode([item.samples[name] for item in part])
                    for item, vector in zip(part, vectors, strict=True):
                        if np.isfinite(vector).all() and vector.any():
                            item.vectors[name] = vector
                for item in waiting:
                    item.samples.pop(name, None)  # several megabytes of a large picture tower

    def extended(self, items: Sequence[NewItem]) -> dict[str, Matrix]:
        """The stored vectors with those of ``items`` behind them."""
        from ...store.extended import extended

        made = {}
        for name, matrix in self._matrices.items():
            mask = np.array([name in item.vectors for item in items], bool)
            vectors = np.zeros((len(items), matrix.vectors.shape[1]), np.float32)
            for row in np.flatnonzero(mask).tolist():
                vectors[row] = items[row].vectors[name]
            made[name] = extended(matrix, vectors, mask)
        return made

    def text_vector(self, text: str) -> tuple[str, np.ndarray] | None:
        """The name of the first stored text vectors, and the vector [d] of ``text`` among them; None without an encoder."""
        for name in self._names:
            encoder = self.encoder(name) if self._matrices[name].modality == "text" else None
            if encoder is not None:
                with self._encoding:
                    return name, encoder.encode([encoder.prepare(encoder.read(text))])[0]
        return None


def check_picture(picture: bytes) -> None:
    """Refuse a picture from outside that is too large, before anything of it is unpacked.

    Raises
    ------
    QuestionsError
        When it is no picture, or has too many bytes or pixels.
    """
    from PIL import Image

    from ...features.picture_files import opened_formats

    if len(picture) > MAX_PICTURE_BYTES:
        raise QuestionsError(
            f"The image of a new item has {len(picture):,} bytes; {MAX_PICTURE_BYTES:,} are allowed.",
            hint="send a smaller one",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(picture), formats=opened_formats()) as opened:
                pixels = opened.width * opened.height
    except Image.DecompressionBombError:
        pixels = MAX_PICTURE_PIXELS + 1
    except Exception as error:  # Pillow's plugins raise anything
        raise QuestionsError(
            "The image of a new item is no picture that can be read.", hint="send a JPEG or PNG"
        ) from error
    if pixels > MAX_PICTURE_PIXELS:
        raise QuestionsError(
            f"The image of a new item has more than {MAX_PICTURE_PIXELS:,} pixels.", hint="send a smaller one"
        )
