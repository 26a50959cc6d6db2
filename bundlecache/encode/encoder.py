"""What the encode loop needs of an encoder: the protocol, and what an encoder declares as data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from ..store.failures import ABSENT
from ..store.table_schema import ALL_ZERO, Identity

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


class Encoder(Protocol):
    """One frozen encoder. A graph encoder may also have ``has(item_id) -> bool``: whether its graph holds the item, and
    ``watch(watcher)``, after which it calls ``watcher`` with a `progress.Learning` while it learns, and
    ``measure_learning()``, for a dry run: seconds that the learning takes at most, and in words how they were measured.
    An item with ``has`` whose vector is all zero as stored is absent: the graph says too little of it.

    Attributes
    ----------
    modality, spec
        "text", "image", "audio" or "graph"; the encoder as typed, "open_clip:ViT-B-32/laion2b".
    dim, dtype, batch_size
        Width of a vector; "float16" or "float32", as stored; samples per forward at most.
    tokens
        Vectors of an item, where it has several (token features); 0 for the usual one vector an item.
    fingerprint
        SHA-256 of the weights, or of whatever else the vectors follow from.
    reading
        How a source is opened, in short words: encoders of a modality with equal ``reading`` share one read.
    preprocess
        Every choice that changes pixels, samples or tokens, in short words; contains ``reading``.
    """

    modality: str
    spec: str
    dim: int
    dtype: str
    batch_size: int
    tokens: int
    fingerprint: str
    reading: str
    preprocess: str

    def read(self, source: Path | str) -> Any:
        """The content of a file (image, audio), a text or an item id (graph), in full; called in a decoding thread.

        Raises
        ------
        MediaError
            When the content cannot be used; the message is the reason that the user reads.
        """

    def prepare(self, raw: Any) -> Any:
        """One sample for ``encode`` from what was read, which is not changed; called in a decoding thread.

        Raises
        ------
        MediaError
            As above.
        """

    def encode(self, samples: list[Any]) -> np.ndarray:
        """Vectors of n samples: float32 [n, d], or [n, t, d] with t ``tokens``."""


def stage_of_flaw(flaw: str, encoder: Encoder) -> str:
    """The stage at which an item whose vector has a flaw (`table_schema.flaws`) is listed: "check", or `ABSENT`."""
    return ABSENT if flaw == ALL_ZERO and hasattr(encoder, "has") else "check"


@dataclass(frozen=True, kw_only=True)
class EncoderInfo(Identity):
    """What an encoder declares, as data that other processes can send: its identity, batch size and way of reading."""

    batch_size: int
    reading: str

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderInfo:
        """What ``encoder`` declares; see `Encoder`."""
        return cls(**{each.name: getattr(encoder, each.name) for each in fields(cls)})
