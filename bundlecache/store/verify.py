"""Check that what is stored is what was written: rows against their checksums, matrices against the rows, tags."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ..errors import StoreError, counted
from .guards import locked, opening, storing
from .maintenance import damaged_tags, mend_tags
from .matrices import matrix_folder, open_matrix
from .table_schema import Identity, as_numpy, checksum, vector_checksums
from .tables import SAMPLE_ROWS, among
from .text_columns import places, repeated, take, text_column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .store import Store, TableInfo
    from .text_columns import Texts

COLUMNS = ["item_id", "content_hash", "checksum", "live", "vector"]


@dataclass(frozen=True)
class Damage:
    """What is wrong with a table of ``rows`` rows.

    Attributes
    ----------
    item_ids
        Items whose row (vector, and but for tables of an old format id and hash) is not what its checksum says.
    doubled
        Items that stand in the table more than once, which no run of bundlecache writes.
    pieces, lost
        Fragments whose file cannot be read, and the rows in them.
    matrices
        Folders of matrices that differ from the rows.
    tags
        Tags of runs that Lance cannot read; until they are mended, no tag of the table can be listed.
    """

    rows: int
    item_ids: list[str]
    doubled: list[str]
    pieces: list[int]
    lost: int
    matrices: list[Path]
    tags: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.item_ids or self.doubled or self.pieces or self.matrices or self.tags)

    def __str__(self) -> str:
        """What is wrong, in words."""
        said = [
            (
                self.item_ids,
                f"{counted(len(self.item_ids), 'row is', 'rows are')} not what was written ({_few(self.item_ids)})",
            ),
            (
                self.doubled,
                f"{counted(len(self.doubled), 'item stands', 'items stand')} there twice ({_few(self.doubled)})",
            ),
            (self.pieces, f"{counted(self.lost, 'row is', 'rows are')} in files that cannot be read"),
            (self.matrices, "the matrix that training reads differs from the rows"),
            (self.tags, f"{counted(len(self.tags), 'tag')} cannot be read ({_few(self.tags)})"),
        ]
        return "; ".join(words for found, words in said if found) or "sound"


def verify(
    store: Store,
    info: TableInfo,
    item_ids: Texts = (),
    progress: Callable[[int, int], None] | None = None,
) -> Damage:
    """Read every row of a table, and the matrix of ``item_ids`` if there is one.

    Raises
    ------
    StoreError
        When the table cannot even be opened.
    """
    dataset = store.dataset(info)
    identity = Identity.read(dataset.schema)
    assert identity is not None  # noqa: S101 - it is one of store.tables()
    seen, sums, marks = [text_column([])], [np.zeros(0, np.uint64)], [np.zeros(0, bool)]  # ids, checksums, live
    wrong: list[str] = []
    pieces: list[int] = []
    lost = read = 0
    for fragment in dataset.get_fragments():
        with suppress(StoreError), opening(dataset.uri):
            for batch in fragment.to_batches(columns=COLUMNS, batch_size=identity.batch_rows):
                for name in ("item_id", "content_hash"):
                    batch[name].validate(full=True)  # both must be text
                written = vector_checksums(batch, dataset.schema)
                bad = np.flatnonzero(checksum(as_numpy(batch["vector"])) != written)
                wrong += take(text_column(batch["item_id"]), bad).to_pylist()
                seen.append(text_column(batch["item_id"]))
                sums.append(written)
                marks.append(batch["live"].to_numpy(zero_copy_only=False))
                read += len(batch)
                if progress is not None:
                    progress(read, info.rows)
            continue
        pieces.append(fragment.fragment_id)
        lost += fragment.count_rows()
    folder = matrix_folder(store.path, info.table, info.version, item_ids)
    ids, live = pa.concat_arrays(seen), np.flatnonzero(np.concatenate(marks))
    written = np.concatenate(sums)[live]
    matrices = [] if pieces or _same(folder, identity, item_ids, take(ids, live), written) else [folder]
    return Damage(dataset.count_rows(), wrong, repeated(ids), pieces, lost, matrices, damaged_tags(store, info))


def repair(store: Store, info: TableInfo, damage: Damage) -> None:
    """Take damaged rows out of the table, so that the next ``bundlecache encode`` makes them again; mend tags.

    Raises
    ------
    StoreError
        When another process writes to the table, or the disk refuses.
    """
    import lance

    location = store.location
    with locked(store.path, info.table), storing(store.path):
        if damage.pieces:
            dataset = location.dataset(info.table)
            gone = lance.LanceOperation.Delete([], damage.pieces, "the file of these rows cannot be read")
            lance.LanceDataset.commit(dataset, gone, read_version=dataset.version)
        item_ids = [*damage.item_ids, *damage.doubled]
        for low in range(0, len(item_ids), SAMPLE_ROWS):
            location.dataset(info.table).delete(among(item_ids[low : low + SAMPLE_ROWS]))
    if damage.tags:
        mend_tags(store, info)
    for folder in damage.matrices:
        shutil.rmtree(folder, ignore_errors=True)


def _few(item_ids: Sequence[str]) -> str:
    return ", ".join(item_ids[:5]) + (", ..." if len(item_ids) > 5 else "")


def _same(folder: Path, identity: Identity, item_ids: Texts, stored: pa.Array, sums: np.ndarray) -> bool:
    """Whether a matrix holds what the ``stored`` rows and their checksums say, or there is none."""
    if not folder.is_dir():
        return True
    try:
        vectors, mask = open_matrix(folder)
    except (OSError, ValueError):
        return False
    if vectors.dtype != identity.dtype or mask.dtype != np.bool_:
        return False
    if vectors.shape != (len(item_ids), *identity.shape) or mask.shape != (len(item_ids),):
        return False
    row = places(item_ids, among=stored)
    if not np.array_equal(mask, row >= 0):
        return False
    wanted = np.append(sums, np.uint64(0))[row]  # a row of zeros has the checksum 0
    size = identity.batch_rows
    return all(
        np.array_equal(checksum(vectors[low : low + size].reshape(-1, identity.width)), wanted[low : low + size])
        for low in range(0, len(item_ids), size)
    )
