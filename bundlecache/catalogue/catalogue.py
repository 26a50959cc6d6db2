"""The catalogue: items, the bundles that people made of them, and who interacted with which item.

It is read and checked once, and does not change afterwards. Items are indexed in the order of a hash of their id,
because the order of rows and of ids tells which items belong together (in public bundle data the nearest row is the
right answer to up to 95 of 100 questions), so neither may become the index.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..encoder_spec import TITLE
from ..errors import BundlecacheError, CatalogueError, Command, counted
from ..text import listed, quoted
from .kept_splits import KeptSplits
from .table_transaction import finish
from .tables import cell_list, cell_text, number, read_table, required_column, required_texts, unique_ids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas

    from ..workspace import WorkspaceFolder

SPLITS = ("train", "valid", "test")
MAX_COMPARED_CHARS = 100  # of an unknown id, when ids like it are looked for


@dataclass(frozen=True, repr=False)
class Bundles:
    """B bundles, in the order of their file. ``items`` holds int32 item indices, distinct, in bundle order."""

    ids: list[str] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    split: list[str | None] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    name: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        members = sum(map(len, self.items))
        return f"<Bundles: {counted(len(self), 'bundle')} of {counted(members, 'item')}, {counted(len(set(self.group)), 'group')}>"

    def to_pandas(self, item_ids: Sequence[str] | None = None) -> pandas.DataFrame:
        """One row per bundle: bundle_id, items (indices; ids where ``item_ids`` of the catalogue are given), split, group, name.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        items = [items.tolist() if item_ids is None else [item_ids[i] for i in items] for items in self.items]
        columns: dict[str, Any] = {"bundle_id": self.ids, "items" if item_ids is None else "item_ids": items}
        return _frame(columns | {"split": self.split, "group": self.group, "name": self.name})


@dataclass(frozen=True, repr=False)
class Interactions:
    """E edges of the user-item graph: ``user[e]`` indexes ``users``, ``item[e]`` the catalogue's items."""

    users: list[str] = field(default_factory=list)
    user: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    item: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    group: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"<Interactions: {counted(len(self), 'interaction')} of {counted(len(self.users), 'user')}>"

    def to_pandas(self, item_ids: Sequence[str] | None = None) -> pandas.DataFrame:
        """One row per interaction: user_id, item (index; item_id where ``item_ids`` of the catalogue are given), group.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        items = self.item if item_ids is None else [item_ids[i] for i in self.item]
        columns = {"user_id": [self.users[u] for u in self.user], "item" if item_ids is None else "item_id": items}
        return _frame(columns | {"group": [self.group[u] for u in self.user]})


@dataclass(frozen=True, repr=False)
class Catalogue:
    """I items with their texts, the bundles and the interactions.

    ``columns`` holds every column of the items table except item_id and title, as text, None where the
    cell is empty (`numbers` gives a column as numbers). ``notes`` has a sentence for each thing that was left out.
    ``kept_splits`` are the splits of the bundles that had one before; see `splits.assign`.
    """

    item_ids: list[str]
    titles: list[str]
    columns: dict[str, list[str | None]]
    bundles: Bundles
    interactions: Interactions
    notes: list[str] = field(default_factory=list)
    kept_splits: KeptSplits = field(default_factory=KeptSplits)

    def __len__(self) -> int:
        return len(self.item_ids)

    def __repr__(self) -> str:
        parts = [counted(len(self), "item"), counted(len(self.bundles), "bundle")]
        parts += [counted(len(self.interactions), "interaction"), f"columns {listed(['title', *self.columns], 10)}"]
        return f"<Catalogue: {', '.join(parts)}>"

    def to_pandas(self) -> pandas.DataFrame:
        """One row per item, in the order of the catalogue's indices; columns of numbers are float64, NaN where empty.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        columns: dict[str, Any] = {"item_id": self.item_ids, "title": self.titles}
        for name, cells in self.columns.items():
            coded = any(cell and cell[0] == "0" and cell[1:2].isdigit() for cell in cells)  # 00712 is no number
            numbers = self.numbers(name)
            whole = not coded and np.isfinite(numbers).sum() == sum(cell is not None for cell in cells) > 0
            columns[name] = numbers if whole else pa.array(cells, pa.string())
        return _frame(columns)

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
                    f"The items have no text column {quoted(name)}; there are {listed(there)}.", hint="--fields title"
                )

    def texts(self, columns: Sequence[str] = TITLE) -> list[str]:
        """[I] the cells of these columns that are not empty, joined by ". "; "" where all are empty."""
        cells = [self.titles if name == "title" else self.column(name) for name in columns]
        return [". ".join(cell for cell in row if cell) for row in zip(*cells, strict=True)]

    def numbers(self, name: str) -> np.ndarray:
        """float64 [I] a column as numbers, for instance the price; NaN where a cell is empty or no finite number."""
        found = [number(cell) for cell in self.column(name)]
        return np.array([np.nan if value is None else value for value in found], np.float64)

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
                typed = item_id[:MAX_COMPARED_CHARS]
                near = difflib.get_close_matches(typed, self.item_ids, n=3, cutoff=0.5) or self.item_ids[:3]
                raise CatalogueError(
                    f"{quoted(item_id)} is none of the {len(self):,} items of this catalogue.",
                    hint=f"ids such as {listed(near)}",
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
                hint=[Command("demo", "--make-data", "DIR"), "makes one to try"],
            )
        if not os.access(workspace.root, os.R_OK | os.X_OK):
            raise CatalogueError(
                f"The folder {workspace.root} may not be read by this user.", hint="change its permissions"
            )
        finish(workspace.root)
        path = workspace.table("items")
        if path is None:
            raise CatalogueError(
                f"{workspace.root} holds no items.parquet, items.csv or items.jsonl.",
                hint=[Command("import", "FORMAT", "SRC"), "or, to try it, bundlecache demo --make-data DIR"],
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
            kept_splits=KeptSplits.read(workspace.kept_splits),
        )


def id_hash(item_id: str) -> bytes:
    """The sort key that gives an item its index; it depends on the id alone, and similar ids have unrelated keys."""
    return hashlib.blake2b(item_id.encode(), digest_size=16).digest()


def _items(path: Path, notes: list[str]) -> tuple[list[str], list[str], dict[str, list[str | None]]]:
    table = read_table(path, notes)
    ids = unique_ids(required_column(table, path, "item_id"), path, "item_id", "item")
    if not ids:
        raise CatalogueError(f"{path} holds no item.", hint="an item needs a row with item_id and title")
    order = sorted(range(len(ids)), key=lambda i: id_hash(ids[i]))
    columns = {
        name: [cell_text(values[i]) for i in order]
        for name, values in table.items()
        if name not in ("item_id", "title")
    }
    titles = [cell_text(title) or "" for title in table.get("title", [None] * len(ids))]
    untitled = sum(not title for title in titles)
    if untitled:
        notes.append(f"{untitled:,} of {len(ids):,} items have no title.")
    return [ids[i] for i in order], [titles[i] for i in order], columns


def _bundles(path: Path, index: dict[str, int], notes: list[str]) -> Bundles:
    table = read_table(path, notes)
    ids = unique_ids(required_column(table, path, "bundle_id"), path, "bundle_id", "bundle")
    members = [cell_list(cell) for cell in required_column(table, path, "item_ids")]
    nothing: list[Any] = [None] * len(ids)
    splits, groups, names = (table.get(name, nothing) for name in ("split", "group", "name"))
    bundles = Bundles()
    unknown: list[str] = []
    small = 0
    for row, (bundle_id, item_ids, cell, group, name) in enumerate(
        zip(ids, members, splits, groups, names, strict=True)
    ):
        split = cell_text(cell)
        if split not in (None, *SPLITS):
            raise CatalogueError(
                f"{path} puts bundle {quoted(bundle_id)} (row {row + 1:,}) into the split {quoted(split)}; "
                f"allowed are {', '.join(SPLITS)}.",
                hint="rename the values of the column split to train, valid and test, or leave the column out: "
                "then bundles are split by group",
            )
        known = list(dict.fromkeys(index[item_id] for item_id in item_ids if item_id in index))
        unknown += [item_id for item_id in item_ids if item_id not in index]
        if len(known) < 2:
            small += 1
            continue
        bundles.ids.append(bundle_id)
        bundles.items.append(np.array(known, np.int32))
        bundles.split.append(split)
        bundles.group.append(cell_text(group) or bundle_id)
        bundles.name.append(cell_text(name))
    if unknown:
        notes.append(
            f"{path.name} names {len(unknown):,} items that are not in the catalogue, {quoted(unknown[0])} among them; "
            "they are left out."
        )
    if small:
        notes.append(f"{small:,} bundles have fewer than two known items; they are left out.")
    return bundles


def _interactions(path: Path, index: dict[str, int], notes: list[str]) -> Interactions:
    table = read_table(path, notes)
    user_ids = required_texts(required_column(table, path, "user_id"), path, "user_id")
    item_ids = required_texts(required_column(table, path, "item_id"), path, "item_id")
    groups = table.get("group", user_ids)
    users: dict[str, int] = {}
    group: list[str] = []
    user, item = [], []
    for user_id, item_id, row_group in zip(user_ids, item_ids, groups, strict=True):
        if item_id not in index:
            continue
        if user_id not in users:
            users[user_id] = len(users)
            group.append(cell_text(row_group) or user_id)
        user.append(users[user_id])
        item.append(index[item_id])
    if len(user) < len(user_ids):
        notes.append(f"{path.name} names unknown items in {len(user_ids) - len(user):,} rows; they are left out.")
    return Interactions(list(users), np.array(user, np.int32), np.array(item, np.int32), group)


def _frame(columns: dict[str, Any]) -> pandas.DataFrame:
    try:
        import pandas  # noqa: F401 - so that its absence is told before pyarrow asks for it
    except ImportError as error:
        raise BundlecacheError(
            "to_pandas() needs pandas, which is not installed.", hint="pip install pandas"
        ) from error
    return pa.table(columns).to_pandas()
