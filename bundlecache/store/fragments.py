"""Fragments of a table: files of rows that any process or machine may write, and that the table's one writer commits.

A fragment belongs to no version of the table until `TableWriter.append_fragments` commits it. What a process that was
killed has written is removed by `TableWriter.tidy`; nobody has ever read it.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .table_schema import Identity, as_numpy, checksum, id_checksums
from .table_schema import vector_checksums as stored_checksums
from .text_columns import text_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .text_columns import Texts

PIECE_BYTES, WRITERS = 48 << 20, 4  # rows are written in pieces of that size or more, so many at once


@dataclass(frozen=True)
class FragmentTarget:
    """A table as a worker needs it to write rows: the store's folder, the table's address, how rows are laid out.

    ``keyed`` says whether checksums cover ids and hashes. ``send_back`` holds the content hashes of items that have a
    row already: a fragment only adds rows, so the writer of the table replaces these.
    """

    root: Path
    uri: str
    options: Mapping[str, str]
    identity: Identity
    keyed: bool
    send_back: frozenset[str] = frozenset()

    def write(self, item_ids: Texts, hashes: Texts, vectors: np.ndarray) -> list[str]:
        """Write rows [n, w] as fragments, in several pieces at once where they are large; what to commit, as JSON.

        Raises
        ------
        OSError
            When the disk or the object store refuses.
        """
        import lance

        item_ids, hashes = text_column(item_ids), text_column(hashes)

        def piece(low: int, high: int) -> list[str]:
            part = slice(low, high)
            batches = record_batches(self.identity, item_ids[part], hashes[part], vectors[part], keyed=self.keyed)
            reader = pa.RecordBatchReader.from_batches(self.identity.schema, batches)
            made = lance.fragment.write_fragments(
                reader, self.uri, mode="append", storage_options=dict(self.options) or None
            )
            sync(self.uri, "data", [file.path for fragment in made for file in fragment.files])  # as others are encoded
            return [json.dumps(fragment.to_json()) for fragment in made]

        # Lance encodes a piece on one core.
        count = max(1, min(WRITERS, vectors.nbytes // PIECE_BYTES))
        cuts = np.linspace(0, len(item_ids), count + 1).astype(int).tolist()
        with ThreadPoolExecutor(count) as pool:
            return [fragment for made in pool.map(piece, cuts[:-1], cuts[1:]) for fragment in made]


def record_batches(
    identity: Identity, item_ids: pa.Array, hashes: pa.Array, vectors: np.ndarray, *, keyed: bool
) -> Iterator[pa.RecordBatch]:
    """Rows [n, w] as a table of ``identity`` stores them, in batches; their checksums cover ids where it is ``keyed``."""
    schema, size = identity.schema, identity.batch_rows
    for low in range(0, len(item_ids), size):
        part = vectors[low : low + size]
        texts = [column.slice(low, size).cast(pa.string()) for column in (item_ids, hashes)]
        columns = [
            *texts,
            pa.array(checksum(part) + id_checksums(*texts) if keyed else checksum(part)),
            pa.array(np.ones(len(part), bool)),
            pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), identity.width),
        ]
        yield pa.record_batch(columns, schema=schema)


def append(uri: str, options: Mapping[str, str], fragments: Sequence[str], read_version: int) -> Any:
    """The table with these fragments: one new version, or none at all."""
    import lance

    pieces = [lance.FragmentMetadata.from_json(fragment) for fragment in fragments]
    adding = lance.LanceOperation.Append(pieces)
    made = lance.LanceDataset.commit(uri, adding, read_version=read_version, storage_options=dict(options) or None)
    sync_version(made)
    return made


def sync_version(dataset: Any) -> None:
    """Wait until the file that names the rows of a version is on this machine's disk."""
    names = [f"{2**64 - 1 - dataset.version:020}.manifest", f"{dataset.version}.manifest"]  # of Lance, new and old
    sync(dataset.uri, "_versions", [*names, "latest_version_hint.json"])


def sync_changes(before: Any, after: Any) -> None:
    """Wait until all that a version has and the version before it had not is on this machine's disk."""
    old = {each.fragment_id: _deletions(each) for each in before.get_fragments()}
    data, deletions = [], []
    for each in after.get_fragments():
        if each.fragment_id not in old:
            data += [file.path for file in each.metadata.files]
        if old.get(each.fragment_id, "") != (deleted := _deletions(each)):
            deletions.append(deleted)
    sync(after.uri, "data", data)
    sync(after.uri, "_deletions", deletions)
    sync_version(after)


def _deletions(fragment: Any) -> str:
    """The name of the file that says which rows of a fragment are deleted; "" where none are."""
    deleted = fragment.metadata.deletion_file
    return Path(deleted.path(fragment.fragment_id)).name if deleted is not None else ""


def sync(uri: str, folder: str, names: Sequence[str]) -> None:
    """Wait until these files of a table's ``folder`` are on this machine's disk, those of them that are there."""
    if "://" in uri:
        return
    path = Path(uri) / folder
    files = [path / name for name in names if (path / name).exists()]
    for file in [*files, path] if os.name == "posix" and files else files:  # Windows opens no folder
        handle = os.open(file, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sound(rows: pa.Table) -> bool:
    """Whether rows that were read back have the checksums that were computed before they were written."""
    return bool(np.array_equal(stored_checksums(rows, rows.schema), checksum(as_numpy(rows["vector"]))))


def absolute(address: str) -> str:
    """The address of a table for processes that run in another folder."""
    return address if "://" in address else str(Path(address).absolute())
