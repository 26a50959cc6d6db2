"""Keep a store small, and keep the versions of vectors that models were trained on.

A tag ``run-NAME`` (see `bundlecache.names.tag_name`) on a version of a table says that the run NAME was trained on it:
`compact` never removes that version, until the folder of the run is deleted.
"""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from ..errors import Command, StoreError
from ..files import read_json
from ..names import TAG_PREFIX, tag_name
from .coverage import current_tables
from .guards import locked, storing
from .location import folder_bytes
from .matrices import matrix_folder
from .table_schema import Identity, vector_checksums
from .tables import clean, rewrite
from .text_columns import places, text_column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import numpy as np
    import pyarrow as pa

    from .store import Matrix, Store, TableInfo

LISTING_ERRORS = (ValueError, OSError, RuntimeError)  # of Lance, for a tag that it cannot read


def tag(store: Store, run: str, matrices: Iterable[Matrix]) -> None:
    """Keep the versions that ``run`` is trained on. A tag is one small file: other processes may write meanwhile.

    Raises
    ------
    StoreError
        When a version is no more, or the disk refuses.
    """
    name = tag_name(run)
    for matrix in matrices:
        known = store.location.dataset(matrix.table).tags
        try:
            with storing(store.path):
                # Not by a list of the tags: one damaged tag would make every training fail.
                try:
                    known.create(name, matrix.version)
                except ValueError:
                    known.update(name, matrix.version)
        except ValueError as error:
            raise StoreError(
                f"The {matrix.modality} vectors of {matrix.spec} were written anew just now.",
                hint="type the same command again",
            ) from error


def changed_items(store: Store, info: TableInfo, version: int) -> int | None:
    """How many items of an older version have another vector now, or none; None when that version is no more."""
    if version == info.version:
        return 0
    try:
        older = _sums(store.dataset(info, version))
    except (ValueError, OSError):
        return None
    item_ids, sums = older
    now, sums_now = _sums(store.dataset(info))
    row = places(item_ids, among=now)
    return int((row < 0).sum() + (sums[row >= 0] != sums_now[row[row >= 0]]).sum())


def _sums(dataset: Any) -> tuple[pa.Array, np.ndarray]:
    """The ids of the live rows, and the checksums of their vectors."""
    rows = dataset.to_table(columns=["item_id", "content_hash", "checksum"], filter="live")
    return text_column(rows["item_id"]), vector_checksums(rows, dataset.schema)


def tags(store: Store, info: TableInfo) -> dict[str, int]:
    """Tag -> version, the newest version last.

    Raises
    ------
    StoreError
        When a tag is damaged.
    """
    found = {name: int(about["version"]) for name, about in _listed(store.dataset(info)).items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def damaged_tags(store: Store, info: TableInfo) -> list[str]:
    """Names of the tags of a table that Lance has written and cannot read, so that it can list none of the others.

    Lance accepted names with letters outside of ASCII until names were checked (`bundlecache.names`); files of tags may
    be cut off as well.
    """
    dataset = store.location.dataset(info.table)
    if _list_or_none(dataset) is not None:
        return []
    if store.location.address is None:
        names = []
        for path in sorted((store.path / f"{info.table}.lance" / "_refs" / "tags").glob("*.json")):
            try:
                sound = path.name == quote(path.name) and isinstance(read_json(path)["version"], int)
            except (OSError, ValueError, KeyError, TypeError):
                sound = False
            if not sound:
                names.append(unquote(path.stem))
        return names
    try:
        dataset.tags.list()
    except LISTING_ERRORS as error:
        if named := re.search(r"_refs/tags/(.+?)\.json", str(error)):
            return [unquote(unquote(named[1]))]  # an object store names one at a time
    return []


def mend_tags(store: Store, info: TableInfo) -> list[str]:
    """Delete damaged tags and write them again under names that Lance can read, where their version is known.

    Returns the names of those that were damaged. The versions they kept stay, except where the tag's file was cut off.

    Raises
    ------
    StoreError
        When tags cannot be read for another reason, or the disk refuses.
    """
    mended: list[str] = []
    with locked(store.path, info.table), storing(store.path):
        tags = store.location.dataset(info.table).tags
        while names := [name for name in damaged_tags(store, info) if name not in mended]:
            for name in names:
                version = None
                with suppress(*LISTING_ERRORS):
                    version = tags.get_version(name)
                tags.delete(name)
                if version is not None and name.startswith(TAG_PREFIX):
                    with suppress(ValueError):
                        tags.create(tag_name(name.removeprefix(TAG_PREFIX)), version)
                mended.append(name)
    _listed(store.location.dataset(info.table))
    return mended


def _list_or_none(dataset: Any) -> dict[str, Any] | None:
    try:
        return dict(dataset.tags.list())
    except LISTING_ERRORS:
        return None


def _listed(dataset: Any) -> dict[str, Any]:
    found = _list_or_none(dataset)
    if found is None:
        raise StoreError(
            f"A tag of {dataset.uri} is damaged, so that Lance can read none of them; no vector is harmed.",
            hint=[Command("verify", "--repair"), "writes it anew"],
        )
    return found


def compact(store: Store, info: TableInfo, item_ids: Sequence[str], runs: Collection[str]) -> tuple[int, int]:
    """Write a table's pieces together, drop what nobody needs, and say its bytes before and after.

    What nobody needs: versions without a tag, tags of runs that are not among ``runs``, matrices of other
    versions or of other items than ``item_ids``.

    Raises
    ------
    StoreError
        When another process writes to the table, or the disk refuses or is too small; nothing is lost then.
    """
    location, matrices = store.location, store.path / "matrices" / info.table
    before = location.size(info.table) + folder_bytes(matrices)
    with locked(store.path, info.table), storing(store.path):
        dataset = location.dataset(info.table)
        kept = {tag_name(run) for run in runs}
        for name in _listed(dataset):
            if name.startswith(TAG_PREFIX) and name not in kept:
                dataset.tags.delete(name)
        if not location.has_room(info.table):
            raise StoreError(
                f"The disk of {store.path} has no room to write {info.table} anew beside the old one.",
                hint=f"free {(2 * info.size_bytes >> 20) + 1:,} MiB, then type the same command",
            )
        made = matrix_folder(store.path, info.table, dataset.version, item_ids)
        identity = Identity.read(dataset.schema)
        assert identity is not None  # noqa: S101 - it is one of store.tables()
        rewrite(dataset, identity)
        clean(location, dataset, timedelta(0))
        version = location.dataset(info.table).version
    wanted = matrix_folder(store.path, info.table, version, item_ids)
    if made != wanted and made.is_dir():  # the same rows in other files
        made.rename(wanted)
    for other in matrices.iterdir() if matrices.is_dir() else ():
        if other != wanted:
            shutil.rmtree(other, ignore_errors=True)
    return before, location.size(info.table) + folder_bytes(matrices)


def drop(store: Store, info: TableInfo, runs: Collection[str]) -> int:
    """Delete a table, its matrices, errors and receipts, and say how many bytes that were.

    Raises
    ------
    StoreError
        When one of ``runs`` was trained on it, another process writes to it, or the disk refuses.
    """
    known = tags(store, info)
    holders = [run for run in runs if tag_name(run) in known]
    if holders:
        raise StoreError(
            f"{info.table} is what {', '.join(holders)} was trained on, so it is not dropped.",
            hint=f"delete the folder of the run {holders[0]} first",
        )
    location, matrices = store.location, store.path / "matrices" / info.table
    files = [store.path / "errors" / f"{info.table}.parquet", *(store.path / "receipts").glob(f"*--{info.table}.json")]
    size = location.size(info.table) + folder_bytes(matrices)
    with locked(store.path, info.table), storing(store.path):
        location.remove(info.table)
        with suppress(FileNotFoundError):
            shutil.rmtree(matrices)
        for file in files:
            file.unlink(missing_ok=True)
    return size


def choose(infos: Sequence[TableInfo], names: Sequence[str], *, old_encoders: bool) -> list[TableInfo]:
    """The tables that are called ``names``, or whose encoders are; and those that newer encoders replaced.

    Raises
    ------
    StoreError
        When a name is neither.
    """
    for name in names:
        if not any(name in (info.table, info.spec) for info in infos):
            raise StoreError(
                f"There is no table and no encoder {name!r} in the store.",
                hint=[Command("status", "--json"), "names them"],
            )
    current = {info.table for chosen in current_tables(infos).values() for info in chosen}
    old = {info.table for info in infos if old_encoders and info.rows and not info.tokens} - current
    return [info for info in infos if info.table in old or info.table in names or info.spec in names]


def sweep(store: Store) -> int:
    """Delete the matrices of tables that are no more, and say how many bytes that were."""
    tables = {info.table for info in store.tables()}
    root = store.path / "matrices"
    left = [folder for folder in root.iterdir() if folder.name not in tables] if root.is_dir() else []
    size = sum(map(folder_bytes, left))
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return size
