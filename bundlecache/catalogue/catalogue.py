"""The catalogue: items, the bundles that people made of them, and who interacted with which item.

It is read and checked once, and does not change afterwards. All of it is columns in Arrow memory (`columns`); after the
first reading they are mapped files (`cache`). Items are indexed in the order of a hash of their id,
because the order of rows and of ids tells which items belong together (in public bundle data the nearest row is the
right answer to up to 95 of 100 questions), so neither may become the index.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..encoder_spec import TITLE
from ..errors import CatalogueError, Command, counted
from ..rows import with_pandas
from ..text import listed, quoted
from ..workspace import TABLES
from . import cache
from .columns import ItemIds, ItemIndex, Lists, Strings
from .input_tables import SPLITS, parse
from .kept_splits import KeptSplits
from .table_transaction import finish
from .tables import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas

    from ..workspace import WorkspaceFolder

__all__ = ["SPLITS", "Bundles", "Catalogue", "Interactions"]
MAX_COMPARED_CHARS = 100  # of an unknown id, when ids like it are looked for
MAX_COMPARED_IDS = 20_000  # of the catalogue


@dataclass(frozen=True, repr=False)
class Bundles:
    """B bundles, in the order of their file. ``items`` holds int32 item indices, distinct, in bundle order.

    Texts are `Strings` and lists of items are `Lists`; other sequences are converted.
    """

    ids: Strings[str] = field(default_factory=Strings)
    items: Lists = field(default_factory=Lists)
    split: Strings[str | None] = field(default_factory=Strings)
    group: Strings[str] = field(default_factory=Strings)
    name: Strings[str | None] = field(default_factory=Strings)

    def __post_init__(self) -> None:
        for name in ("ids", "split", "group", "name"):
            object.__setattr__(self, name, Strings(getattr(self, name)))
        object.__setattr__(self, "items", Lists(self.items))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        groups = self.group.codes()[1]
        return f"<Bundles: {counted(len(self), 'bundle')} of {counted(len(self.items.values), 'item')}, {counted(len(groups), 'group')}>"

    def take(self, indices: np.ndarray) -> Bundles:
        """The bundles of these numbers, in their order."""
        split, group, name = self.split.take(indices), self.group.take(indices), self.name.take(indices)
        return Bundles(self.ids.take(indices), self.items.take(indices), split, group, name)

    def with_split(self, split: Sequence[str | None] | np.ndarray | None) -> Bundles:
        """The same bundles with these splits [B]; with none where ``split`` is None."""
        column = pa.nulls(len(self)) if split is None else pa.array(split, pa.large_string())
        return replace(self, split=Strings(column))

    def to_pandas(self, item_ids: Sequence[str] | None = None) -> pandas.DataFrame:
        """One row per bundle: bundle_id, items (indices; ids where ``item_ids`` of the catalogue are given), split, group, name.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        values = pa.array(self.items.values) if item_ids is None else Strings(item_ids).take(self.items.values).arrow
        items = pa.LargeListArray.from_arrays(pa.array(self.items.offsets), values)
        columns: dict[str, Any] = {"bundle_id": self.ids, "items" if item_ids is None else "item_ids": items}
        return _frame(columns | {"split": self.split, "group": self.group, "name": self.name})


@dataclass(frozen=True, repr=False)
class Interactions:
    """E edges of the user-item graph: ``user[e]`` indexes ``users`` and ``group``, ``item[e]`` the catalogue's items."""

    users: Strings[str] = field(default_factory=Strings)
    user: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    item: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    group: Strings[str] = field(default_factory=Strings)

    def __post_init__(self) -> None:
        for name in ("users", "group"):
            object.__setattr__(self, name, Strings(getattr(self, name)))

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
        items: Any = self.item if item_ids is None else Strings(item_ids).take(self.item)
        columns = {"user_id": self.users.take(self.user), "item" if item_ids is None else "item_id": items}
        return _frame(columns | {"group": self.group.take(self.user)})


@dataclass(frozen=True, repr=False)
class Catalogue:
    """I items with their texts, the bundles and the interactions.

    ``columns`` holds every column of the items table except item_id and title, as text, None where the
    cell is empty (`numbers` gives a column as numbers). ``notes`` has a sentence for each thing that was left out.
    ``kept_splits`` are the splits of the bundles that had one before; see `splits.assign`. Texts are `Strings`; other
    sequences are converted. ``memory`` keeps what is computed once per catalogue (`splits.assign`), ``cached_in`` is the
    folder of its mapped files; a catalogue that was made from another one begins without both.
    """

    item_ids: ItemIds
    titles: Strings[str]
    columns: Mapping[str, Strings[str | None]]
    bundles: Bundles
    interactions: Interactions
    notes: list[str] = field(default_factory=list)
    kept_splits: KeptSplits = field(default_factory=KeptSplits)
    memory: dict[Any, Any] = field(default_factory=dict, init=False, compare=False)
    cached_in: Path | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.item_ids, ItemIds):
            object.__setattr__(self, "item_ids", ItemIds(self.item_ids))
        object.__setattr__(self, "titles", Strings(self.titles))
        object.__setattr__(self, "columns", {name: Strings(cells) for name, cells in self.columns.items()})

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
            coded = pc.any(pc.match_substring_regex(cells.arrow, r"\A0[0-9]")).as_py()  # 00712 is no number
            numbers = self.numbers(name)
            there = len(cells) - cells.arrow.null_count
            columns[name] = numbers if not coded and np.isfinite(numbers).sum() == there > 0 else cells
        return _frame(columns)

    @property
    def index(self) -> ItemIndex:
        """item_id -> index."""
        return ItemIndex(self.item_ids)

    def column(self, name: str) -> Strings[str | None]:
        """A column of the items table, all None when the table has no such column."""
        return self.columns[name] if name in self.columns else Strings(pa.nulls(len(self), pa.large_string()))

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

    def texts(self, columns: Sequence[str] = TITLE) -> Strings[str]:
        """[I] the cells of these columns that are not empty, joined by ". "; "" where all are empty."""
        joined, separator = pa.nulls(len(self), pa.large_string()), pa.scalar(". ", pa.large_string())
        for name in columns:
            cells = (self.titles if name == "title" else self.column(name)).arrow
            cells = pc.if_else(pc.equal(pc.binary_length(cells), 0), None, cells)
            both = pc.binary_join_element_wise(joined, cells, separator)  # None where one of them is
            joined = pc.coalesce(both, joined, cells)
        return Strings(pc.fill_null(joined, ""))

    def numbers(self, name: str) -> np.ndarray:
        """float64 [I] a column as numbers, for instance the price; NaN where a cell is empty or no finite number."""
        codes, distinct = self.column(name).codes()
        found = [number(cell) for cell in distinct]
        return np.array([*(np.nan if value is None else value for value in found), np.nan], np.float64)[codes]

    def has_source(self, modality: str, columns: Sequence[str] = TITLE) -> np.ndarray:
        """[I] bool, whether an item has something to encode (in ``columns``, of texts); for the graph, any edge at all."""
        if modality == "text":
            return np.logical_or.reduce(
                [self.titles.filled if name == "title" else self.column(name).filled for name in columns]
            )
        if modality == "graph":
            linked = np.zeros(len(self), bool)
            linked[self.bundles.items.values] = True
            linked[self.interactions.item] = True
            return linked
        return self.column(modality).filled

    def indices(self, item_ids: Sequence[str]) -> np.ndarray:
        """int32 indices of ``item_ids``.

        Raises
        ------
        CatalogueError
            When one of them is not in the catalogue.
        """
        found = [self.item_ids.position(item_id) for item_id in item_ids]
        if -1 in found:
            unknown = item_ids[found.index(-1)]
            raise CatalogueError(
                f"{quoted(unknown)} is none of the {len(self):,} items of this catalogue.",
                hint=f"ids such as {listed(self._like(unknown))}",
            )
        return np.array(found, np.int32)

    def positions(self, item_ids: Strings[Any] | pa.Array | Sequence[str | None]) -> np.ndarray:
        """int64 [n], the index of every id; -1 for one that is unknown or None."""
        return self.item_ids.positions(item_ids)

    def _like(self, unknown: str) -> list[str]:
        """At most three ids that resemble an unknown one; the first ones of the catalogue where none does."""
        compared = self.item_ids[:MAX_COMPARED_IDS]
        near = difflib.get_close_matches(unknown[:MAX_COMPARED_CHARS], compared, n=3, cutoff=0.5)
        return near or list(self.item_ids[:3])

    @classmethod
    def read(cls, workspace: WorkspaceFolder, cached: Path | None = None) -> Catalogue:
        """Read the three input tables of a workspace; bundles and interactions may be absent.

        The first reading of these contents writes what it found into ``cached`` (by default
        `WorkspaceFolder.catalogue_cache`), where later readings map it.

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
        paths = {name: workspace.table(name) for name in TABLES}
        if paths["items"] is None:
            raise CatalogueError(
                f"{workspace.root} holds no items.parquet, items.csv or items.jsonl.",
                hint=[Command("import", "FORMAT", "SRC"), "or, to try it, bundlecache demo --make-data DIR"],
            )
        tables, folder = cache.read_or_build(
            cached or workspace.catalogue_cache, [path for path in paths.values() if path], lambda: parse(paths)
        )
        catalogue = cls._of(tables.columns, tables.notes, KeptSplits.read(workspace.kept_splits))
        object.__setattr__(catalogue, "cached_in", folder)
        return catalogue

    @classmethod
    def _of(cls, tables: Mapping[str, pa.RecordBatch], notes: list[str], kept_splits: KeptSplits) -> Catalogue:
        """A catalogue of the columns that `input_tables.parse` gives."""
        items, bundles, users, edges = (tables[name] for name in ("items", "bundles", "users", "edges"))
        members = bundles["items"]
        return cls(
            ItemIds(items["item_id"], np.asarray(tables["keys"]["key"])),
            items["title"],
            {name: items[name] for name in items.schema.names[2:]},
            Bundles(
                bundles["bundle_id"],
                Lists.of(np.asarray(members.offsets), np.asarray(members.values)),
                *(bundles[name] for name in ("split", "group", "name")),
            ),
            Interactions(users["user_id"], np.asarray(edges["user"]), np.asarray(edges["item"]), users["group"]),
            notes,
            kept_splits,
        )


def _frame(columns: dict[str, Any]) -> pandas.DataFrame:
    with_pandas()  # so that its absence is told before pyarrow asks for it
    return pa.table(columns).to_pandas()
