"""Keeping a store small, and keeping what models were trained on.

A tag ``run-NAME`` on a version of a table says that the run NAME was trained on it: no tidying removes that
version. Once the run's folder is deleted, :func:`compact` lets go of it.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from ..errors import StoreError
from .matrices import matrix_folder
from .tables import clean, folder_bytes, has_room, locked, rewrite, storing
from .vectors import Identity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from . import Matrix, Store, TableInfo

PREFIX = "run-"


def tag(store: Store, run: str, matrices: Iterable[Matrix]) -> None:
    """Keep the versions that ``run`` is trained on.

    Raises
    ------
    StoreError
        When the disk refuses, or another process writes to a table just now.
    """
    import lance

    for matrix in matrices:
        with locked(store.path, matrix.table), storing(store.path):
            tags = lance.dataset(str(store.path / f"{matrix.table}.lance")).tags
            name = f"{PREFIX}{run}"
            if name in tags.list():
                tags.update(name, matrix.version)
            else:
                tags.create(name, matrix.version)


def tags(store: Store, info: TableInfo) -> dict[str, int]:
    """Tag -> version, the newest version last."""
    found = {name: int(about["version"]) for name, about in store.dataset(info).tags.list().items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def compact(store: Store, info: TableInfo, item_ids: Sequence[str], runs: Collection[str]) -> tuple[int, int]:
    """Write a table's pieces together, drop what nobody needs, and say its bytes before and after.

    What nobody needs: versions without a tag, tags of runs that are not among ``runs``, matrices of other
    versions or of other items than ``item_ids``.

    Raises
    ------
    StoreError
        When another process writes to the table, or the disk refuses or is too small; nothing is lost then.
    """
    import lance

    folder, matrices = store.path / f"{info.table}.lance", store.path / "matrices" / info.table
    before = folder_bytes(folder) + folder_bytes(matrices)
    with locked(store.path, info.table), storing(store.path):
        dataset = lance.dataset(str(folder))
        for name in dataset.tags.list():
            if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in runs:
                dataset.tags.delete(name)
        if not has_room(store.path, info.table):
            raise StoreError(
                f"The disk of {store.path} has no room to write {info.table} anew beside the old one.",
                hint=f"free {2 * info.size_bytes >> 20:,} MiB, then type the same command",
            )
        made = matrix_folder(store.path, info.table, dataset.version, item_ids)
        identity = Identity.read(dataset.schema)
        assert identity is not None  # noqa: S101 - it is one of store.tables()
        rewrite(dataset, identity)
        clean(dataset, timedelta(0))
        version = lance.dataset(str(folder)).version
    wanted = matrix_folder(store.path, info.table, version, item_ids)
    if made != wanted and made.is_dir():  # the same rows in other files
        made.rename(wanted)
    for other in matrices.iterdir() if matrices.is_dir() else ():
        if other != wanted:
            shutil.rmtree(other, ignore_errors=True)
    return before, folder_bytes(folder) + folder_bytes(matrices)


def drop(store: Store, info: TableInfo, runs: Collection[str]) -> int:
    """Delete a table, its matrices, errors and receipts, and say how many bytes that were.

    Raises
    ------
    StoreError
        When one of ``runs`` was trained on it, another process writes to it, or the disk refuses.
    """
    holders = [name.removeprefix(PREFIX) for name in tags(store, info) if name.removeprefix(PREFIX) in runs]
    if holders:
        raise StoreError(
            f"{info.table} is what {', '.join(holders)} was trained on, so it is not dropped.",
            hint=f"delete the folder of the run {holders[0]} first",
        )
    folders = (store.path / f"{info.table}.lance", store.path / "matrices" / info.table)
    files = [store.path / "errors" / f"{info.table}.parquet", *(store.path / "receipts").glob(f"*--{info.table}.json")]
    size = sum(map(folder_bytes, folders))
    with locked(store.path, info.table), storing(store.path):
        for folder in folders:
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)
        for file in files:
            file.unlink(missing_ok=True)
    return size


def sweep(store: Store) -> int:
    """Delete the matrices of tables that are no more, and say how many bytes that were."""
    tables = {info.table for info in store.tables()}
    root = store.path / "matrices"
    left = [folder for folder in root.iterdir() if folder.name not in tables] if root.is_dir() else []
    size = sum(map(folder_bytes, left))
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return size
