"""What a reader gives back: the rows of the three tables, and the media files and vectors that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jfif", ".avif", ".ppm", ".pgm")
)
AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".au"))


@dataclass(frozen=True)
class Vectors:
    """Vectors that came with a dataset: ``vectors`` float32 [n, d], one row for each of ``item_ids``.

    ``spec`` names the file they were read from, ``fingerprint`` is its SHA-256: the weights that made them are not known.
    """

    modality: str
    spec: str
    fingerprint: str
    item_ids: list[str]
    vectors: np.ndarray

    @property
    def dim(self) -> int:
        """Width d."""
        return int(self.vectors.shape[1])


@dataclass
class Dataset:
    """What a reader found: the rows of the three tables as dicts, by column name.

    ``media`` pairs a source file with the path inside the workspace that the items table names. ``files`` names the
    file of a table ("items", "bundles", "interactions"), ``mapping`` its columns by their new names; both are for
    messages. ``notes`` says, one sentence each, what was
    guessed, left out or repaired.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    bundles: list[dict[str, Any]] = field(default_factory=list)
    interactions: list[dict[str, Any]] = field(default_factory=list)
    media: list[tuple[Path, str]] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    mapping: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of "items", "bundles" or "interactions"."""
        rows: list[dict[str, Any]] = getattr(self, table)
        return rows
