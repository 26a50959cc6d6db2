"""A dataset is checked as a whole, then written as a workspace: its three tables, its pictures and sounds."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import CatalogueError
from ...files import replacing
from ...workspace import SUFFIXES
from ..catalogue import SPLITS
from . import cells
from .dataset import ID_COLUMNS
from .import_progress import Stages

if TYPE_CHECKING:
    from pathlib import Path

    from ...workspace import WorkspaceFolder
    from .dataset import Dataset

UNIQUE = ("items", "bundles")
MAX_SHOWN = 60
KEY_BYTES = 16  # of the hash that puts rows in order; the 48 others would only tell equal halves apart


def check(dataset: Dataset, src: Path) -> int:
    """Check all rows before anything is written, and take the spaces around ids away; the number of untitled items.

    Raises
    ------
    CatalogueError
        For no item, an empty id, an id that stands twice, an unknown split, or a picture that cannot be opened; with
        file and row.
    """
    if not len(dataset.table("items")):
        raise CatalogueError(
            f"{dataset.files.get('items', src)} holds no item.", hint="look whether it is the right folder"
        )
    for table, columns in ID_COLUMNS.items():
        for column in columns:
            _check_ids(dataset, table, column, dataset.files.get(table, src))
    _check_bundles(dataset, dataset.files.get("bundles", src))
    for path, _ in dataset.media:
        _check_readable(path)
    items = dataset.table("items")
    if "title" not in items.column_names:
        return len(items)
    return int(pc.sum(pc.equal(cells.id_texts(items["title"]), "")).as_py())


def _check_ids(dataset: Dataset, table: str, column: str, file: Path) -> None:
    """Refuse an empty id, and where ids have to be unique one that stands twice, whichever comes first."""
    rows = dataset.table(table)
    if not len(rows):
        return
    given = rows[column] if column in rows.column_names else pa.chunked_array([pa.nulls(len(rows), pa.string())])
    ids = cells.id_texts(given)
    name = dataset.mapping.get(table, {}).get(column, column)
    empty = np.flatnonzero(pc.equal(ids, "").to_numpy())
    if table in UNIQUE:
        numbers, different = cells.codes(ids)
        first = cells.first_rows(numbers, len(different))
        again = np.flatnonzero(first[numbers] != np.arange(len(ids)))
        if len(again) and not (len(empty) and empty[0] <= again[0]):
            twice = np.flatnonzero(np.bincount(numbers) > 1)
            text, (a, b) = different[int(twice[0])].as_py(), np.flatnonzero(numbers == twice[0])[:2].tolist()
            raise CatalogueError(
                f"{file} names {len(twice):,} {name} twice, for instance {text[:MAX_SHOWN]!r} in the rows "
                f"{a + 1:,} and {b + 1:,} (spaces around an id do not count).",
                hint="keep one row each",
            )
    if len(empty):
        raise CatalogueError(f"{file} has an empty {name} in row {empty[0] + 1:,}.", hint="give every row one")
    dataset.replace_column(table, column, ids)


def _check_bundles(dataset: Dataset, file: Path) -> None:
    bundles = dataset.table("bundles")
    if "split" in bundles.column_names:
        split = cells.id_texts(bundles["split"])
        wrong = np.flatnonzero(~pc.is_in(split, pa.array(["", *SPLITS])).to_numpy())
        if len(wrong):
            row = int(wrong[0])
            raise CatalogueError(
                f"{file} puts bundle {bundles['bundle_id'][row].as_py()[:MAX_SHOWN]!r} (row {row + 1:,}) in the split "
                f"{split[row].as_py()[:MAX_SHOWN]!r}; allowed are {', '.join(SPLITS)}, or an empty cell.",
                hint=f"write train, valid or test there, or delete the column split of {file.name}",
            )
    if "item_ids" in bundles.column_names and pa.types.is_list(bundles["item_ids"].type):
        lists = bundles["item_ids"]
        cleaned = cells.id_lists(lists)
        if lists.null_count:
            cleaned = pc.if_else(lists.is_valid(), cleaned, pa.scalar(None, cleaned.type))
        dataset.replace_column("bundles", "item_ids", cleaned)


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CatalogueError(
            f"{path} cannot be read: {error.strerror or error}.", hint="mend its permissions or move it away"
        ) from error


def copy_media(dataset: Dataset, workspace: WorkspaceFolder) -> int:
    """Copy pictures and sounds into the workspace; the number of those that were not there already."""
    return sum(_copy(source, workspace.root / target) for source, target in dataset.media)


def _copy(source: Path, target: Path) -> bool:
    """Copy a file with its times, unless it is there already."""
    before = source.stat()
    if target.is_file():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            return False
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        shutil.copystat(source, temporary)
    return True


def write(
    dataset: Dataset, workspace: WorkspaceFolder, seed: int, texts: dict[str, str], stages: Stages | None = None
) -> None:
    """Write the three tables and the small files ``texts``; the items are put in place last, they make the catalogue."""
    stages = stages or Stages()
    with ExitStack() as stack:
        for table in ("items", "interactions", "bundles"):  # left in the opposite order
            temporary = stack.enter_context(replacing(workspace.root / f"{table}.parquet"))
            pq.write_table(_shuffled(table, dataset.table(table), seed, stages), temporary)
        for name, text in texts.items():
            stack.enter_context(replacing(workspace.root / name)).write_text(text, "utf-8")
    for table in ID_COLUMNS:  # the same table in another form would contradict this one
        for suffix in SUFFIXES:
            if suffix != ".parquet":
                (workspace.root / f"{table}{suffix}").unlink(missing_ok=True)


def _shuffled(table: str, rows: pa.Table, seed: int, stages: Stages) -> pa.Table:
    """The rows in the order of a hash of the seed and their ids, the columns of the ids first."""
    keys = ID_COLUMNS[table]
    if not len(rows):
        columns = {key: pa.array([], pa.string()) for key in keys}
        return pa.table(columns | ({"item_ids": pa.array([], pa.list_(pa.string()))} if table == "bundles" else {}))
    tell = stages.begin(f"ordering {table}", len(rows))
    hashes = []
    for start in range(0, len(rows), cells.BLOCK_ROWS):
        part = [cells.id_texts(rows[key][start : start + cells.BLOCK_ROWS]) for key in keys]
        texts = pc.binary_join_element_wise(str(seed), *part, "/").cast(pa.binary()).to_pylist()
        hashes.append(b"".join([hashlib.blake2b(text).digest()[:KEY_BYTES] for text in texts]))
        tell(start + len(texts))
    halves = np.frombuffer(b"".join(hashes), ">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal interactions stay in their order
    stages.begin(f"writing {table}", len(rows))
    names = dict.fromkeys((*keys, *rows.column_names))
    made = {name: cells.as_array(name, cells.taken(rows[name], order)) for name in names}
    if table == "bundles" and "item_ids" not in made:
        made["item_ids"] = pa.chunked_array([pa.nulls(len(rows), pa.list_(pa.string()))])
    return pa.table(made)
