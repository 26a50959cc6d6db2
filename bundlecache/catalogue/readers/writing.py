"""A dataset is checked as a whole, then written as a workspace: its three tables, its pictures and sounds."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import CatalogueError
from ...files import replacing
from ...workspace import SUFFIXES
from ..catalogue import SPLITS
from .order_rows import id_text

if TYPE_CHECKING:
    from pathlib import Path

    from ...workspace import WorkspaceFolder
    from .dataset import Dataset

ID_COLUMNS = {"items": ("item_id",), "bundles": ("bundle_id",), "interactions": ("user_id", "item_id")}
UNIQUE = ("items", "bundles")
MAX_SHOWN = 60
UNTITLED_WARNING = (
    "WARNING: no item has a title, so text vectors and prompts have nothing to read; name the column of the titles "
    "(--map items.title=COLUMN) or import pictures."
)


def check(dataset: Dataset, src: Path) -> int:
    """Check all rows before anything is written, and take the spaces around ids away; the number of untitled items.

    Raises
    ------
    CatalogueError
        For no item, an empty id, an id that stands twice, an unknown split, or a picture that cannot be opened; with
        file and row.
    """
    if not dataset.items:
        raise CatalogueError(
            f"{dataset.files.get('items', src)} holds no item.", hint="look whether it is the right folder"
        )
    for table, columns in ID_COLUMNS.items():
        file = dataset.files.get(table, src)
        source_names = dataset.mapping.get(table, {})
        for column in columns:
            seen: dict[str, int] = {}
            for number, row in enumerate(dataset.rows(table), 1):
                row[column] = text = _encodable(id_text(row.get(column)))
                if not text:
                    name = source_names.get(column, column)
                    raise CatalogueError(f"{file} has an empty {name} in row {number:,}.", hint="give every row one")
                if table in UNIQUE and seen.setdefault(text, number) != number:
                    _refuse_twice(file, source_names.get(column, column), dataset.rows(table), column)
    _check_bundles(dataset, dataset.files.get("bundles", src))
    for path, _ in dataset.media:
        _check_readable(path)
    return sum(not id_text(row.get("title")) for row in dataset.items)


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which JSON may hold, is no text that can be written."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _refuse_twice(file: Path, name: str, rows: list[dict[str, Any]], column: str) -> None:
    at: dict[str, list[int]] = {}
    for number, row in enumerate(rows, 1):
        at.setdefault(_encodable(id_text(row.get(column))), []).append(number)
    twice = {text: numbers for text, numbers in at.items() if len(numbers) > 1}
    text, numbers = next(iter(twice.items()))
    raise CatalogueError(
        f"{file} names {len(twice):,} {name} twice, for instance {text[:MAX_SHOWN]!r} in the rows "
        f"{' and '.join(f'{number:,}' for number in numbers[:2])} (spaces around an id do not count).",
        hint="keep one row each",
    )


def _check_bundles(dataset: Dataset, file: Path) -> None:
    for number, row in enumerate(dataset.bundles, 1):
        split = id_text(row.get("split"))
        if split and split not in SPLITS:
            raise CatalogueError(
                f"{file} puts bundle {row['bundle_id'][:MAX_SHOWN]!r} (row {number:,}) in the split {split[:MAX_SHOWN]!r}; allowed are "
                f"{', '.join(SPLITS)}, or an empty cell.",
                hint=f"write train, valid or test there, or delete the column split of {file.name}",
            )
        items = row.get("item_ids")
        if isinstance(items, list):
            row["item_ids"] = [text for item in items if (text := _encodable(id_text(item)))]


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


def write(dataset: Dataset, workspace: WorkspaceFolder, seed: int, texts: dict[str, str]) -> None:
    """Write the three tables and the small files ``texts``; the items are put in place last, they make the catalogue."""
    with ExitStack() as stack:
        for table in ("items", "interactions", "bundles"):  # left in the opposite order
            temporary = stack.enter_context(replacing(workspace.root / f"{table}.parquet"))
            pq.write_table(_arrow_table(table, dataset.rows(table), seed), temporary)
        for name, text in texts.items():
            stack.enter_context(replacing(workspace.root / name)).write_text(text, "utf-8")
    for table in ID_COLUMNS:  # the same table in another form would contradict this one
        for suffix in SUFFIXES:
            if suffix != ".parquet":
                (workspace.root / f"{table}{suffix}").unlink(missing_ok=True)


def _arrow_table(table: str, rows: list[dict[str, Any]], seed: int) -> pa.Table:
    keys = ID_COLUMNS[table]

    def position(row: dict[str, Any]) -> bytes:
        return hashlib.blake2b(f"{seed}/{'/'.join(str(row[key]) for key in keys)}".encode()).digest()

    rows = sorted(rows, key=position)
    columns = list(dict.fromkeys((*keys, *(column for row in rows for column in row))))
    if table == "bundles" and "item_ids" not in columns:
        columns.append("item_ids")
    return pa.table({column: _array(column, [row.get(column) for row in rows], column in keys) for column in columns})


def _array(name: str, values: list[Any], is_id: bool) -> pa.Array:
    if name == "item_ids":
        lists = [value if value is None or isinstance(value, list) else str(value) for value in values]
        kinds = {type(value) for value in lists} - {type(None)}
        return pa.array(lists, pa.string() if kinds == {str} else pa.list_(pa.string()))
    if is_id or not any(value is not None for value in values):
        return pa.array([None if value is None else id_text(value) for value in values], pa.string())
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError):  # a column of several kinds is text
        return pa.array([None if value is None else _encodable(str(value)) for value in values], pa.string())
