"""Parses and checks the three input tables of a workspace: items, bundles and interactions, as columns.

``items``  item_id, title, then all other columns as text, in the order of `columns.id_hash`; ``keys`` of the ids
``bundles``  bundle_id, items (lists of item indices), split, group, name
``users``  user_id, group; ``edges``  user, item: an interaction by the indices of both
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CatalogueError
from ..text import quoted
from .arrow_tables import coded_texts, column_names, id_lists, read_columns, texts
from .columns import ItemIds, Lists, Strings, hash_order
from .tables import required_column, required_texts, unique_ids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SPLITS = ("train", "valid", "test")
TABLES = ("items", "keys", "bundles", "users", "edges")  # of columns, as the first lines of this file describe them


@dataclass(frozen=True)
class InputTables:
    """The columns by table, and a sentence for each thing that was left out."""

    columns: Mapping[str, pa.RecordBatch]
    notes: list[str]


def parse(paths: Mapping[str, Path | None]) -> InputTables:
    """Read and check the tables; bundles and interactions may be None.

    Raises
    ------
    CatalogueError
        When a table cannot be parsed, lacks a column, or an item or bundle stands twice.
    """
    notes: list[str] = []
    assert paths["items"] is not None  # noqa: S101
    items, keys = _items(paths["items"], notes)
    ids = ItemIds(items["item_id"], np.asarray(keys["key"]))
    bundles = _bundles(paths["bundles"], ids, notes)
    users, edges = _interactions(paths["interactions"], ids, notes)
    tables = {"items": items, "keys": keys, "bundles": bundles, "users": users, "edges": edges}
    return InputTables(tables, notes)


def _items(path: Path, notes: list[str]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    table = read_columns(path, notes)
    ids = _unique(table, path, "item_id", "item", notes)
    if not len(ids):
        raise CatalogueError(f"{path} holds no item.", hint="an item needs a row with item_id and title")
    order, keys = hash_order(ids)
    columns = {
        name: texts(cells, name, path, notes).take(order)
        for name, cells in table.items()
        if name not in ("item_id", "title")
    }
    titles = texts(table["title"], "title", path, notes) if "title" in table else Strings(pa.nulls(len(ids)))
    if titles.arrow.null_count:
        notes.append(f"{titles.arrow.null_count:,} of {len(ids):,} items have no title.")
    shown = pc.fill_null(titles.take(order).arrow, "")
    return _batch({"item_id": ids.take(order), "title": shown, **columns}), _batch({"key": keys})


def _bundles(path: Path | None, items: ItemIds, notes: list[str]) -> pa.RecordBatch:
    if path is None:
        none: Strings[Any] = Strings()
        return _bundle_batch(none, Lists(), none, none, none)
    table = read_columns(path, notes, ("bundle_id", "item_ids", "split", "group", "name"))
    ids = _unique(table, path, "bundle_id", "bundle", notes)
    starts, member_ids = id_lists(_required(table, path, "item_ids"), "item_ids", path, notes)
    nothing = Strings(pa.nulls(len(ids)))
    split, group, name = (
        texts(table[each], each, path, notes) if each in table else nothing for each in ("split", "group", "name")
    )
    _check_split(split, ids, path)
    members = Lists.of(starts, items.positions(member_ids).astype(np.int32))
    known = members.values >= 0
    if not known.all():
        first = member_ids[int(np.flatnonzero(~known)[0])]
        notes.append(
            f"{path.name} names {int((~known).sum()):,} items that are not in the catalogue, {quoted(first)} among them; "
            "they are left out."
        )
    members = _distinct(members, known, len(items))
    kept = np.flatnonzero(members.lengths >= 2)
    if len(kept) < len(ids):
        notes.append(f"{len(ids) - len(kept):,} bundles have fewer than two known items; they are left out.")
    group = Strings(pc.coalesce(group.arrow, ids.arrow))
    split, group, name = (each.take(kept) for each in (split, group, name))
    return _bundle_batch(ids.take(kept), members.take(kept), split, group, name)


def _bundle_batch(
    ids: Strings[Any], members: Lists, split: Strings[Any], group: Strings[Any], name: Strings[Any]
) -> pa.RecordBatch:
    lists = pa.LargeListArray.from_arrays(pa.array(members.offsets), pa.array(members.values, pa.int32()))
    return _batch({"bundle_id": ids, "items": lists, "split": split, "group": group, "name": name})


def _check_split(split: Strings[Any], ids: Strings[Any], path: Path) -> None:
    allowed = pc.is_in(split.arrow, value_set=pa.array([*SPLITS, None], pa.large_string()))
    if pc.all(allowed).as_py() is not False:
        return
    row = int(np.flatnonzero(~np.asarray(allowed))[0])
    raise CatalogueError(
        f"{path} puts bundle {quoted(ids[row])} (row {row + 1:,}) into the split {quoted(split[row])}; "
        f"allowed are {', '.join(SPLITS)}.",
        hint="rename the values of the column split to train, valid and test, or leave the column out: "
        "then bundles are split by group",
    )


def _distinct(members: Lists, known: np.ndarray, n_items: int) -> Lists:
    """The known items of each list, each once, where it stands first."""
    rows, values = members.rows[known], members.values[known]
    first = np.sort(np.unique(rows * np.int64(n_items) + values, return_index=True)[1])
    lengths = np.bincount(rows[first], minlength=len(members))
    return Lists.of(np.concatenate([[0], lengths.cumsum()]).astype(np.int64), values[first])


def _interactions(path: Path | None, items: ItemIds, notes: list[str]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    if path is None:
        nobody: Strings[Any] = Strings()
        nothing = np.zeros(0, np.int32)
        return _batch({"user_id": nobody, "group": nobody}), _batch({"user": nothing, "item": nothing})
    table = read_columns(path, notes, ("user_id", "item_id", "group"))
    user, user_ids = _coded(table, path, "user_id", notes)
    item, item_ids = _coded(table, path, "item_id", notes)
    position = items.positions(item_ids)[item]  # [rows]
    known = np.flatnonzero(position >= 0)
    if len(known) < len(user):
        notes.append(f"{path.name} names unknown items in {len(user) - len(known):,} rows; they are left out.")
    # Users are numbered as they first appear among the rows that are kept.
    present, first, number = np.unique(user[known], return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    names = user_ids.take(present[order])
    group = names
    if "group" in table:
        code, groups = coded_texts(table["group"], "group", path, notes)
        code = code[known[first[order]]]  # of each user's first row
        padded = Strings(pa.concat_arrays([groups.arrow, pa.nulls(1, pa.large_string())]))  # -1 is the last one
        group = Strings(pc.coalesce(padded.take(np.where(code < 0, len(groups), code)).arrow, names.arrow))
    edges = {"user": rank[number.reshape(-1)], "item": position[known].astype(np.int32)}
    return _batch({"user_id": names, "group": group}), _batch(edges)


def _required(table: Mapping[str, pa.ChunkedArray], path: Path, name: str) -> pa.ChunkedArray:
    if name not in table:
        required_column({each: [] for each in column_names(path)}, path, name)
    return table[name]


def _unique(table: Mapping[str, pa.ChunkedArray], path: Path, name: str, kept: str, notes: list[str]) -> Strings[Any]:
    """The ids of a table; the sentence about what is wrong with them comes from `unique_ids`."""
    cells = _required(table, path, name)
    ids = texts(cells, name, path, notes)
    if ids.arrow.null_count or pc.count_distinct(ids.arrow).as_py() < len(ids):
        unique_ids(cells.to_pylist(), path, name, kept)
    return ids


def _coded(
    table: Mapping[str, pa.ChunkedArray], path: Path, name: str, notes: list[str]
) -> tuple[np.ndarray, Strings[str]]:
    """A column in which no cell may be empty, as numbers of distinct texts."""
    cells = _required(table, path, name)
    codes, distinct = coded_texts(cells, name, path, notes)
    if (codes < 0).any():
        required_texts(cells.to_pylist(), path, name)
    return codes, distinct


def _batch(columns: Mapping[str, Strings[Any] | pa.Array | np.ndarray]) -> pa.RecordBatch:
    arrays = [each.arrow if isinstance(each, Strings) else pa.array(each) for each in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
