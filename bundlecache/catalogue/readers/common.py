"""What every dataset reader gives back, and the small parts that several of them need."""

from __future__ import annotations

import csv
import html
import io
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jfif", ".avif", ".ppm", ".pgm")
)
AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".au"))


@dataclass(frozen=True)
class Vectors:
    """Vectors that came with a dataset: ``vectors`` float32 [n, d], one row for each of ``item_ids``.

    ``spec`` names the file they were read from, ``fingerprint`` is its SHA-256: nobody says any more
    which weights made them.
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
class Raw:
    """What a reader found: rows of the three tables, as dicts, and what belongs to them.

    ``media`` pairs a source file with the workspace-relative path that the items table names.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    bundles: list[dict[str, Any]] = field(default_factory=list)
    interactions: list[dict[str, Any]] = field(default_factory=list)
    media: list[tuple[Path, str]] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Groups:
    """Connected groups of anything hashable (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def join(self, a: Hashable, b: Hashable) -> None:
        """Put two things, and all that is connected with them, into one group."""
        self._parent[self.of(a)] = self.of(b)

    def of(self, a: Hashable) -> Hashable:
        """The thing that stands for the group of ``a``."""
        self._parent.setdefault(a, a)
        while (parent := self._parent[a]) != a:
            self._parent[a] = self._parent[parent]  # halve the path on the way
            a = self._parent[a]
        return a


def read_csv(path: Path, columns: Sequence[str], notes: list[str]) -> list[list[str]]:
    """The named columns of a CSV file with a header row, one list per row.

    Text that is not UTF-8 is read as Latin-1, and a note says so.

    Raises
    ------
    CatalogueError
        When the file is missing, is no CSV or lacks a column.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CatalogueError(
            f"{path} cannot be read ({error.strerror}).", hint=f"give the folder that holds {path.name}"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = data.decode("latin-1")
        notes.append(f"{path.name} is not UTF-8 (byte {error.start}); it was read as Latin-1.")
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise CatalogueError(f"{path} is no CSV file ({error}).", hint="save it as comma-separated UTF-8") from error
    header = [name.strip().casefold() for name in rows[0]] if rows else []
    missing = [name for name in columns if name.casefold() not in header]
    if missing:
        raise CatalogueError(
            f"{path} has no column {missing[0]!r}; its columns are: {', '.join(rows[0]) if rows else 'none'}.",
            hint=f"the first row must name {', '.join(columns)}",
        )
    at = [header.index(name.casefold()) for name in columns]
    whole = [row for row in rows[1:] if len(row) > max(at)]
    short = len(rows) - 1 - len(whole) - sum(not row for row in rows[1:])
    if short:
        notes.append(f"{path.name} has {short:,} rows with too few cells; they are left out.")
    return [[row[i].strip() for i in at] for row in whole]


def clean(text: str) -> str:
    """A title in one line: HTML entities read (some sources escape twice), spaces and controls folded.

    >>> clean("Tom &amp;amp; Jerry\\n  mug")
    'Tom & Jerry mug'
    """
    text = html.unescape(html.unescape(text))
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
