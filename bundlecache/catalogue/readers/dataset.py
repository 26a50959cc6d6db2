"""What a reader gives back: the rows of the three tables, and the media files and vectors that belong to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from . import cells

if TYPE_CHECKING:
    from pathlib import Path

    from .cells import Column

Rows: TypeAlias = "pa.Table | list[dict[str, Any]]"
ID_COLUMNS = {"items": ("item_id",), "bundles": ("bundle_id",), "interactions": ("user_id", "item_id")}

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
    """What a reader found: the three tables, each as Arrow table or as rows (dicts by column name).

    A reader may give rows; `table` makes a table of them, once. ``media`` pairs a source file with the path inside the
    workspace that the items table names. ``files`` names the file of a table ("items", "bundles", "interactions"),
    ``mapping`` its columns by their new names; both are for messages. ``notes`` says, one sentence each, what was
    guessed, left out or repaired. ``absent`` holds, by table and column, which rows had no such key.
    """

    items: Rows = field(default_factory=list)
    bundles: Rows = field(default_factory=list)
    interactions: Rows = field(default_factory=list)
    media: list[tuple[Path, str]] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    mapping: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    absent: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def table(self, table: str) -> pa.Table:
        """The "items", "bundles" or "interactions" as columns, in the order of the source.

        Ids are text; a column whose cells are of several kinds is text.
        """
        rows: Rows = getattr(self, table)
        if isinstance(rows, list):
            names = list(dict.fromkeys(str(name) for row in rows for name in row))
            lacking = {name: np.array([name not in row for row in rows], bool) for name in names}
            self.absent[table] = {name: lacks for name, lacks in lacking.items() if lacks.any()}
            rows = as_table(table, {name: cells.of_values([row.get(name) for row in rows]) for name in names})
            setattr(self, table, rows)
        return rows

    def replace_column(self, table: str, name: str, column: pa.ChunkedArray) -> None:
        """Put other cells into a column, which is added where there is none."""
        rows = self.table(table)
        there = rows.column_names.index(name) if name in rows.column_names else None
        setattr(
            self, table, rows.append_column(name, column) if there is None else rows.set_column(there, name, column)
        )


def as_table(table: str, columns: dict[str, Column]) -> pa.Table:
    """Columns as they are written: ids as text, lists of items, other columns of the type of their cells or text."""
    ids = ID_COLUMNS[table]
    return pa.table({name: cells.as_array(name, column, is_id=name in ids) for name, column in columns.items()})
