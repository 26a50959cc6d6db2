"""Finding the tables of a folder of exports: which file is which."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import CatalogueError
from ...files import user_path
from .column_names import OPTION_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIXES = (".parquet", ".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".json")
SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
FILE_WORDS = {  # a word in a file's name -> what the file is; the first table that fits counts
    "bundles": [
        "bundles",
        "orders",
        "order",
        "carts",
        "cart",
        "baskets",
        "basket",
        "transactions",
        "invoices",
        "playlists",
        "outfits",
        "bestellungen",
    ],
    "interactions": ["interactions", "events", "clicks", "views", "clickstream", "ratings", "reviews", "history"],
    "items": [
        "items",
        "products",
        "product",
        "catalog",
        "catalogue",
        "articles",
        "artikel",
        "produkte",
        "skus",
        "tracks",
        "songs",
    ],
}
MAX_NAMED = 10


def choose_files(src: Path, given: dict[str, Path | None], notes: list[str]) -> dict[str, Path]:
    """The file of each table: as given, by its exact name (``items.csv``), or by a word in its name (``products``).

    Raises
    ------
    CatalogueError
        When a file is not there, when several could be the same table, or when there are no items.
    """
    if not user_path(src, "The source").exists():
        raise CatalogueError(f"There is no {src}.", hint="give a folder that exists")
    folder = src.parent if src.is_file() else src
    chosen = {table: _given(folder, path) for table, path in given.items() if path is not None}
    if src.is_file():
        chosen.setdefault("items", src)
        given = {**given, "items": src}
    else:
        present = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        _by_name(folder, present, chosen, notes)
        unused = [
            path.name for path in present if path not in chosen.values() and path.suffix.lower() in (*SUFFIXES, *SHEETS)
        ]
        if unused and "items" in chosen:
            shown = ", ".join(unused[:MAX_NAMED]) + (", ..." if len(unused) > MAX_NAMED else "")
            notes.append(
                f"Files of {folder.name} that are not used: {shown} (--items, --orders and --events take one)."
            )
    if "items" not in chosen:
        names = [path.name for path in folder.iterdir() if path.is_file()][:MAX_NAMED]
        raise CatalogueError(
            f"{src} is no items table and holds none; its files are: {', '.join(sorted(names)) or 'none'}.",
            hint="name the file with --items FILE; it may be " + " ".join(SUFFIXES),
        )
    for path in chosen.values():
        if path.suffix.lower() in SHEETS:
            raise CatalogueError(
                f"{path} is a spreadsheet, of which no table can be read.",
                hint="save its sheet as CSV (UTF-8) and import that",
            )
        if path.suffix.lower() not in SUFFIXES:
            raise CatalogueError(
                f"{path} is no items table and holds none: a table is one of {' '.join(SUFFIXES)}.",
                hint="give a folder with items.csv, or such a file",
            )
    return chosen


def _given(folder: Path, path: Path) -> Path:
    path = user_path(path, "The table")
    if found := next((candidate for candidate in (folder / path, path) if candidate.is_file()), None):
        return found
    raise CatalogueError(f"There is no file {str(path)[:80]} in {folder}.", hint=f"ls {folder} shows what is there")


def _by_name(folder: Path, present: Sequence[Path], chosen: dict[str, Path], notes: list[str]) -> None:
    for table in OPTION_NAMES:
        if table in chosen:
            continue
        exact = [path for path in present if path.stem == table and path.suffix.lower() in SUFFIXES]
        found = exact or [path for path in present if _table_of(path) == table and path not in chosen.values()]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            reason = (
                "but one table may stand in one format only" if exact else f"and each may be the {OPTION_NAMES[table]}"
            )
            raise CatalogueError(f"{folder} holds {names}, {reason}.", hint=f"--{OPTION_NAMES[table]} {found[0].name}")
        if found:
            chosen[table] = found[0]
            if not exact:
                notes.append(
                    f"{found[0].name} is taken for the {OPTION_NAMES[table]} (--{OPTION_NAMES[table]} says it otherwise)."
                )


def _table_of(path: Path) -> str | None:
    if path.suffix.lower() not in (*SUFFIXES, *SHEETS):
        return None
    words = re.split(r"[\W\d_]+", path.stem.casefold())
    return next((table for table, known in FILE_WORDS.items() if set(words) & set(known)), None)
