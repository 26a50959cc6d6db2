"""Dataset readers: a public layout in, the three tables of a workspace out.

A format is one function ``read(src) -> Raw`` in a file of its own and a line in ``FORMATS``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import CatalogueError
from ...files import replacing, write_text
from ...workspace import SUFFIXES
from . import bundlerec, clhe, folder, tables
from .common import Raw, Vectors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...workspace import WorkspaceFolder

__all__ = ["FORMATS", "ImportSummary", "Raw", "Vectors", "read"]

FORMATS: dict[str, Callable[[Path], Raw]] = {
    "bundlerec": bundlerec.read,
    "clhe": clhe.read,
    "folder": folder.read,
    "tables": tables.read,
}
ID_COLUMNS = {"items": ("item_id",), "bundles": ("bundle_id",), "interactions": ("user_id", "item_id")}
RECORD = "import.json"


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote; ``vectors`` came with the data and wait to be put into the store."""

    format: str
    source: str
    items: int
    bundles: int
    interactions: int
    media: int
    vectors: list[Vectors] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For printing: the vectors as modality, spec, rows and width."""
        shapes = [{"modality": v.modality, "spec": v.spec, "rows": len(v.item_ids), "dim": v.dim} for v in self.vectors]
        return {**{name: value for name, value in vars(self).items() if name != "vectors"}, "vectors": shapes}


def read(
    format: str,  # noqa: A002
    src: Path,
    workspace: WorkspaceFolder,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> ImportSummary:
    """Import a dataset into a workspace: write its tables, copy its pictures and sounds.

    Rows are put in an order that a hash of the seed and their ids gives: in public data the order of rows
    tells which items belong together.

    Raises
    ------
    CatalogueError
        For an unknown format, a source that is missing or damaged, ids that stand twice, or a workspace
        that holds another catalogue while ``overwrite`` is off.
    """
    if format not in FORMATS:
        raise CatalogueError(
            f"There is no format {format!r}; there are {', '.join(FORMATS)}.", hint=f"bundlecache import folder {src}"
        )
    if not src.exists():
        raise CatalogueError(f"There is no {src}.", hint="give a folder that exists")
    if workspace.root.resolve().is_relative_to(src.resolve()):
        raise CatalogueError(
            f"The workspace {workspace.root} lies inside the source {src}.", hint="choose another folder with --data"
        )
    record = {"format": format, "source": str(src.resolve()), "seed": seed}
    _guard(workspace, record, overwrite)
    raw = FORMATS[format](src)
    _check(raw, src)
    copied = sum(_copy(source, workspace.root / target) for source, target in raw.media)
    for name, rows in (("bundles", raw.bundles), ("interactions", raw.interactions)):
        _write(workspace, name, rows, seed)
    write_text(workspace.root / RECORD, json.dumps(record, indent=1) + "\n")
    _write(workspace, "items", raw.items, seed)  # last: with it the catalogue is there
    return ImportSummary(
        format=format,
        source=str(src),
        items=len(raw.items),
        bundles=len(raw.bundles),
        interactions=len(raw.interactions),
        media=copied,
        vectors=raw.vectors,
        notes=raw.notes,
    )


def _guard(workspace: WorkspaceFolder, record: dict[str, Any], overwrite: bool) -> None:
    """An import may replace what it wrote itself, and nothing else unless told to."""
    if overwrite or workspace.table("items") is None:
        return
    try:
        held = json.loads((workspace.root / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        held = {}
    if (held.get("format"), held.get("source")) != (record["format"], record["source"]):
        raise CatalogueError(
            f"{workspace.root} holds another catalogue already.",
            hint="choose an empty folder with --data DIR, or pass --overwrite to replace its three tables",
        )


def _check(raw: Raw, src: Path) -> None:
    if not raw.items:
        raise CatalogueError(f"{src} holds no item.", hint="look whether it is the right folder")
    for name, rows in (("item_id", raw.items), ("bundle_id", raw.bundles)):
        ids = [row.get(name) for row in rows]
        if any(i is None or not str(i).strip() for i in ids):
            raise CatalogueError(f"{src} has a row with an empty {name}.", hint="give every row one")
        twice = [i for i, n in Counter(map(str, ids)).items() if n > 1]
        if twice:
            raise CatalogueError(
                f"{src} names {len(twice):,} {name} twice, for instance {twice[0]!r}.", hint="keep one row each"
            )


def _copy(source: Path, target: Path) -> bool:
    """Copy a file with its times, unless it is there already."""
    try:
        before = source.stat()
        with source.open("rb"):
            pass
    except OSError as error:
        raise CatalogueError(
            f"{source} cannot be read: {error.strerror or error}.", hint="mend its permissions or move it away"
        ) from error
    if target.is_file():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
            return False
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        shutil.copystat(source, temporary)
    return True


def _write(workspace: WorkspaceFolder, name: str, rows: list[dict[str, Any]], seed: int) -> None:
    keys = ID_COLUMNS[name]

    def place(row: dict[str, Any]) -> bytes:
        return hashlib.blake2b(f"{seed}/{'/'.join(str(row[key]) for key in keys)}".encode()).digest()

    rows = sorted(rows, key=place)
    columns = list(dict.fromkeys((*keys, *(column for row in rows for column in row))))
    if name == "bundles" and "item_ids" not in columns:
        columns.append("item_ids")
    with replacing(workspace.root / f"{name}.parquet") as temporary:
        pq.write_table(
            pa.table(
                {column: _column(column, [row.get(column) for row in rows], column in keys) for column in columns}
            ),
            temporary,
        )
    for suffix in SUFFIXES:  # the same table in another form would contradict this one
        if suffix != ".parquet":
            (workspace.root / f"{name}{suffix}").unlink(missing_ok=True)


def _id(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(name: str, values: list[Any], is_id: bool) -> pa.Array:
    if name == "item_ids":
        lists = [[_id(v) for v in value] if isinstance(value, list) else value for value in values]
        kinds = {type(value) for value in lists} - {type(None)}
        return pa.array(lists, pa.string() if kinds == {str} else pa.list_(pa.string()))
    if is_id or not any(value is not None for value in values):
        return pa.array([None if value is None else _id(value) for value in values], pa.string())
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # a column of several kinds is text
        return pa.array([None if value is None else str(value) for value in values], pa.string())
