"""The catalogue: items, the bundles people made of them, and who interacted with what.

Read once, checked once, then immutable. Items are indexed by a hash of their id: the order of a file
and of ids tells which items belong together (in public bundle data the nearest row is the right answer
in up to 95 of 100 questions), so neither may survive as an index.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..encoder_spec import TITLE
from ..errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..workspace import WorkspaceFolder

SPLITS = ("train", "valid", "test")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a UTF-16 file begins
WHOLE = re.compile(r"-?\d+\.0")


@dataclass(frozen=True)
class Bundles:
    """B bundles, in the order of their file. ``items`` holds int32 item indices, distinct, in bundle order."""

    ids: list[str] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    split: list[str | None] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    name: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Interactions:
    """E edges of the user-item graph: ``user[e]`` indexes ``users``, ``item[e]`` the catalogue's items."""

    users: list[str] = field(default_factory=list)
    user: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    item: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    group: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Catalogue:
    """I items with their texts, the bundles and the interactions.

    ``columns`` holds every column of the items table except item_id and title, as text, None where the
    cell is empty. ``notes`` says, one sentence each, what loading had to pass over.
    """

    item_ids: list[str]
    titles: list[str]
    columns: dict[str, list[str | None]]
    bundles: Bundles
    interactions: Interactions
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """item_id -> index."""
        return {item_id: i for i, item_id in enumerate(self.item_ids)}

    def column(self, name: str) -> list[str | None]:
        """A column of the items table, all None when the table has no such column."""
        return self.columns.get(name) or [None] * len(self)

    def check_text_columns(self, columns: Sequence[str]) -> None:
        """Refuse columns that the items table lacks; ids are no text, they would tell which items belong together.

        Raises
        ------
        CatalogueError
            Naming the columns there are.
        """
        there = [*TITLE, *self.columns]
        for name in columns:
            if name not in there:
                raise CatalogueError(
                    f"The items have no text column {name!r}; there are {', '.join(there)}.", hint="--fields title"
                )

    def texts(self, columns: Sequence[str] = TITLE) -> list[str]:
        """[I] the cells of these columns that are not empty, joined by ". "; "" where all are empty."""
        cells = [self.titles if name == "title" else self.column(name) for name in columns]
        return [". ".join(cell for cell in row if cell) for row in zip(*cells, strict=True)]

    def has_source(self, modality: str, columns: Sequence[str] = TITLE) -> np.ndarray:
        """[I] bool, whether an item has something to encode (in ``columns``, of texts); for the graph, any edge at all."""
        if modality == "text":
            return np.array([bool(text) for text in self.texts(columns)])
        if modality == "graph":
            linked = np.zeros(len(self), bool)
            for items in (*self.bundles.items, self.interactions.item):
                linked[items] = True
            return linked
        return np.array([bool(cell) for cell in self.column(modality)])

    def indices(self, item_ids: Sequence[str]) -> np.ndarray:
        """int32 indices of ``item_ids``.

        Raises
        ------
        CatalogueError
            When one of them is not in the catalogue.
        """
        for item_id in item_ids:
            if item_id not in self.index:
                near = difflib.get_close_matches(item_id, self.item_ids, n=3, cutoff=0.5) or self.item_ids[:3]
                raise CatalogueError(
                    f"{item_id!r} is none of the {len(self):,} items of this catalogue.",
                    hint=f"ids such as {', '.join(near)}",
                )
        return np.array([self.index[item_id] for item_id in item_ids], np.int32)

    @classmethod
    def read(cls, workspace: WorkspaceFolder) -> Catalogue:
        """Read the three input tables of a workspace; bundles and interactions may be absent.

        Raises
        ------
        CatalogueError
            When the folder or its items are missing, a table cannot be parsed, lacks a column, or an
            item_id stands twice.
        """
        if not workspace.root.is_dir():
            told = f"{workspace.root} is a file" if workspace.root.exists() else f"There is no folder {workspace.root}"
            raise CatalogueError(
                f"{told}; a workspace is a folder with items, bundles and interactions.",
                hint="bundlecache demo --make-data DIR makes one to try",
            )
        path = workspace.table("items")
        if path is None:
            raise CatalogueError(
                f"{workspace.root} holds no items.parquet, items.csv or items.jsonl.",
                hint="bundlecache import FORMAT SRC, or bundlecache demo --make-data DIR for one to try",
            )
        notes: list[str] = []
        item_ids, titles, columns = _items(path, notes)
        index = {item_id: i for i, item_id in enumerate(item_ids)}
        bundles_path, interactions_path = workspace.table("bundles"), workspace.table("interactions")
        return cls(
            item_ids=item_ids,
            titles=titles,
            columns=columns,
            bundles=_bundles(bundles_path, index, notes) if bundles_path else Bundles(),
            interactions=_interactions(interactions_path, index, notes) if interactions_path else Interactions(),
            notes=notes,
        )


def id_hash(item_id: str) -> bytes:
    """The sort key that gives an item its index: it depends on nothing but the id, and shows nothing of it."""
    return hashlib.blake2b(item_id.encode(), digest_size=16).digest()


def read_table(path: Path, notes: list[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a parquet, csv or jsonl file, as Python lists; ``notes`` is told of rows with too many cells.

    Raises
    ------
    CatalogueError
        When the file cannot be parsed as what its suffix says.
    """
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pydict()
        names: list[str] = []
        if path.suffix == ".jsonl":
            rows = _json_lines(path)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                # Strict, because an unclosed quote would swallow the rows behind it.
                reader = csv.DictReader(io.StringIO(file.read(), newline=""), strict=True)
                rows, names = list(reader), list(reader.fieldnames or [])
    except UnicodeDecodeError as error:
        raise CatalogueError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}).",
            hint=f"iconv -f {'UTF-16' if error.object[:2] in UTF_16 else 'LATIN1'} -t UTF-8 {path} > fixed{path.suffix}, "
            f"then mv fixed{path.suffix} {path}",
        ) from error
    except (ValueError, csv.Error, pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CatalogueError(
            f"{path} cannot be read as {path.suffix[1:]}: {reason}.", hint="write that file again"
        ) from error
    if not all(isinstance(row, dict) for row in rows):
        raise CatalogueError(f"{path} must hold one JSON object a line.", hint="write that file again")
    if (long := sum(None in row for row in rows)) and notes is not None:
        notes.append(f"{path.name} has {long:,} rows with more cells than its first row; what is beyond is left out.")
    names = list(dict.fromkeys([*names, *(name for row in rows for name in row if name is not None)]))
    table = {name: [row.get(name) for row in rows] for name in names}
    return {name: _whole(cells) for name, cells in table.items()} if path.suffix == ".csv" else table


def _json_lines(path: Path) -> list[Any]:
    """The values of a JSONL file; not by splitlines, which also cuts at characters that may stand in a title."""
    lines = path.read_text("utf-8-sig").split("\n")
    return [_json(line, number) for number, line in enumerate(lines, 1) if line.strip()]


def _json(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise ValueError(f"line {number:,} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"line {number:,} is no JSON ({getattr(error, 'msg', error)})") from None


def _whole(cells: list[Any]) -> list[Any]:
    """A CSV column of whole numbers that pandas wrote as 1.0, 2.0 because a cell was empty: as 1, 2."""
    if any(cells) and all(not cell or WHOLE.fullmatch(cell) for cell in cells):
        return [cell and cell[:-2] for cell in cells]
    return cells


def _items(path: Path, notes: list[str]) -> tuple[list[str], list[str], dict[str, list[str | None]]]:
    table = read_table(path, notes)
    ids = _required(table, path, "item_id")
    twice = [item_id for item_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise CatalogueError(
            f"{path} names {len(twice):,} item_id twice, for instance {twice[0]!r}.", hint="keep one row per item"
        )
    if not ids:
        raise CatalogueError(f"{path} holds no item.", hint="an item needs a row with item_id and title")
    order = sorted(range(len(ids)), key=lambda i: id_hash(ids[i]))
    columns = {
        name: [_text(values[i]) for i in order] for name, values in table.items() if name not in ("item_id", "title")
    }
    titles = [_text(title) or "" for title in table.get("title", [None] * len(ids))]
    untitled = sum(not title for title in titles)
    if untitled:
        notes.append(f"{untitled:,} of {len(ids):,} items have no title.")
    return [ids[i] for i in order], [titles[i] for i in order], columns


def _bundles(path: Path, index: dict[str, int], notes: list[str]) -> Bundles:
    table = read_table(path, notes)
    ids = _required(table, path, "bundle_id")
    members = [_list(cell) for cell in _required(table, path, "item_ids", text=False)]
    nothing: list[Any] = [None] * len(ids)
    splits, groups, names = (table.get(name, nothing) for name in ("split", "group", "name"))
    bundles = Bundles()
    unknown: list[str] = []
    small = 0
    seen: set[str] = set()
    for bundle_id, item_ids, split, group, name in zip(ids, members, splits, groups, names, strict=True):
        if bundle_id in seen:
            raise CatalogueError(f"{path} names bundle_id {bundle_id!r} twice.", hint="keep one row per bundle")
        seen.add(bundle_id)
        if _text(split) not in (None, *SPLITS):
            raise CatalogueError(
                f"{path} puts bundle {bundle_id!r} in the split {split!r}; allowed are train, valid, test."
            )
        known = list(dict.fromkeys(index[item_id] for item_id in item_ids if item_id in index))
        unknown += [item_id for item_id in item_ids if item_id not in index]
        if len(known) < 2:
            small += 1
            continue
        bundles.ids.append(bundle_id)
        bundles.items.append(np.array(known, np.int32))
        bundles.split.append(_text(split))
        bundles.group.append(_text(group) or bundle_id)
        bundles.name.append(_text(name))
    if unknown:
        notes.append(
            f"{path.name} names {len(unknown):,} items that are not in the catalogue, {unknown[0]!r} among them; "
            "they are left out."
        )
    if small:
        notes.append(f"{small:,} bundles have fewer than two known items; they are left out.")
    return bundles


def _interactions(path: Path, index: dict[str, int], notes: list[str]) -> Interactions:
    table = read_table(path, notes)
    user_ids = _required(table, path, "user_id")
    item_ids = _required(table, path, "item_id")
    groups = table.get("group", user_ids)
    users: dict[str, int] = {}
    group: list[str] = []
    user, item = [], []
    for user_id, item_id, row_group in zip(user_ids, item_ids, groups, strict=True):
        if item_id not in index:
            continue
        if user_id not in users:
            users[user_id] = len(users)
            group.append(_text(row_group) or user_id)
        user.append(users[user_id])
        item.append(index[item_id])
    if len(user) < len(user_ids):
        notes.append(f"{path.name} names unknown items in {len(user_ids) - len(user):,} rows; they are left out.")
    return Interactions(list(users), np.array(user, np.int32), np.array(item, np.int32), group)


def _required(table: dict[str, list[Any]], path: Path, name: str, *, text: bool = True) -> list[Any]:
    if name not in table:
        found = ", ".join(table) or "none"
        joined = len(table) == 1 and any(mark in found for mark in ";\t|")
        raise CatalogueError(
            f"{path} has no column {name!r}; its columns are: {found}.",
            hint="separate its cells by commas" if joined else f"rename a column to {name}",
        )
    if not text:
        return table[name]
    values = [_text(value) for value in table[name]]
    if None in values:
        raise CatalogueError(
            f"{path} has an empty {name} in row {values.index(None) + 1:,}.", hint="give every row one"
        )
    return values


def _text(value: object) -> str | None:
    """A cell as text; empty cells and NaN are None; 12.0 that stood for an id is 12."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = str(value).strip()
    if not text.isascii():  # half of a surrogate pair (JSON may hold one) is no text that can be written anywhere
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text or None


def _list(cell: Any) -> list[str]:
    """item_ids: a list, or text that is a JSON list or ids separated by spaces, commas or semicolons."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            cell = cell.strip(" []")
    if isinstance(cell, str):
        cell = cell.replace(";", " ").replace(",", " ").split()
    values = cell if isinstance(cell, list | tuple) else [cell]
    return [text for value in values if (text := _text(value)) is not None]
