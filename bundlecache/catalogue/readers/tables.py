"""``tables``: parquet, CSV or JSONL tables that have the catalogue's names already.

``SRC`` is a folder with ``items.*`` and, where wanted, ``bundles.*`` and ``interactions.*``, or the items
table alone. Pictures and sounds that the items name relative to it are copied along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import CatalogueError
from ...workspace import SUFFIXES, TABLES, WorkspaceFolder
from ..tables import read_table
from .common import Raw

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = {"items": ("item_id",), "bundles": ("bundle_id", "item_ids"), "interactions": ("user_id", "item_id")}
MEDIA = {"image": "images", "audio": "audio"}


def read(src: Path) -> Raw:
    """Read the tables of a folder, or one items table.

    Raises
    ------
    CatalogueError
        When there are no items, or a table cannot be parsed or lacks a column.
    """
    files = {"items": src} if src.is_file() else {name: WorkspaceFolder(src).table(name) for name in TABLES}
    items = files["items"]
    if items is None or items.suffix not in SUFFIXES:
        raise CatalogueError(
            f"{src} is no items table and holds none.",
            hint="give a folder with items.parquet, items.csv or items.jsonl",
        )
    raw = Raw()
    raw.items, raw.bundles, raw.interactions = (
        _rows(path, NEEDED[name], raw.notes) if (path := files.get(name)) else [] for name in TABLES
    )
    _media(items.parent, raw)
    return raw


def _rows(path: Path, needed: tuple[str, ...], notes: list[str]) -> list[dict[str, Any]]:
    table = read_table(path, notes)
    for name in needed:
        if name not in table:
            raise CatalogueError(
                f"{path} has no column {name!r}; its columns are: {', '.join(table) or 'none'}.",
                hint=f"rename a column to {name}",
            )
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def _media(folder: Path, raw: Raw) -> None:
    missing = 0
    inside = folder.resolve()
    for row in raw.items:
        for column, target in MEDIA.items():
            uri = row.get(column)
            if not isinstance(uri, str) or not uri or "://" in uri:
                continue
            path = (folder / uri).resolve()
            # A table from elsewhere must not pull other files of this machine into the workspace.
            if not path.is_file() or not path.is_relative_to(inside):
                missing += 1
                continue
            relative = path.relative_to(inside).as_posix()
            row[column] = relative if relative.startswith(f"{target}/") else f"{target}/{relative}"
            raw.media.append((path, row[column]))
    if missing:
        raw.notes.append(
            f"{missing:,} pictures or sounds that items name are not in {folder.name}; encoding will report them."
        )
