"""The embedding store: one Lance table per (modality, encoder), and the matrices that training reads.

::

    store/
      image--open-clip-ViT-B-16--1f0c2a9b.lance/   vectors, see vectors.py; lancedb.connect("store") opens it
      errors/<table>.parquet                       items that failed: item_id, stage, reason, content_hash
      receipts/<time>--<table>.json                one per run, the newest 50 of a table
      matrices/<table>/<version>-<ids>/            vectors.npy and mask.npy, made once, memory-mapped
      hashes/<modality>.parquet                    content hash by path, size and time, to skip unread files
      locks/<table>.lock                           one writer at a time
      place.json                                   only if the .lance tables are on an object store: where

>>> from bundlecache.store.store import Store
>>> Store(path).matrix(item_ids, "image").vectors  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Command, StoreError
from ..files import replacing
from ..modalities import MODALITIES, check_modality
from ..rows import Result, frame_of
from . import failures, receipts
from .failures import Failure
from .guards import opening, storing
from .location import StoreLocation
from .matrices import export_npy, export_parquet, load_matrix, materialise, matrix_folder
from .table_schema import Identity, as_stored, checksum, flaws
from .tables import TableWriter
from .text_columns import differs, places, take, text_column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa


SHOWN_BYTES = 64 << 20  # of a matrix whose making shows its progress


@dataclass(frozen=True, kw_only=True)
class TableInfo(Identity):
    """What one table holds: its identity, name, rows (valid ones), failed items, bytes and Lance version.

    ``updated`` is the ISO time (UTC) of the last run that wrote to it or checked it.
    """

    table: str
    rows: int
    failed: int
    size_bytes: int
    version: int
    updated: str


@dataclass(frozen=True, repr=False)
class Matrix(Result):
    """Vectors [I, d] in the order of the item ids asked for, zero where ``mask`` [I] is False.

    Token features are [I, t, d]. Both are read-only; ``vectors`` is memory-mapped, which survives a fork of data loading workers.
    """

    modality: str
    spec: str
    table: str
    fingerprint: str
    version: int
    vectors: np.ndarray
    mask: np.ndarray

    def _frame(self) -> Any:
        """A row per item that has a vector, a column per number; the index holds the items' places."""
        return frame_of(self.vectors, self.mask)


class Store:
    """A folder of tables. Opening it writes nothing; a folder that is not there is an empty store."""

    def __init__(self, path: Path | str, bar: Callable[[str], AbstractContextManager[Any]] | None = None) -> None:
        """Open the store in the folder ``path``; ``bar`` gives a progress bar with ``step(done, total)``, by its name."""
        self.path, self._bar = Path(path), bar

    @property
    def location(self) -> StoreLocation:
        """Where the Lance tables are: in the folder, or on an object store."""
        return StoreLocation(self.path)

    def tables(self, *, heads: bool = False) -> list[TableInfo]:
        """All tables, by modality, the newest of each first.

        With ``heads`` no row is read, so that damaged files do not matter; rows that are no longer valid count too.

        Raises
        ------
        StoreError
            When a table is damaged or was written by a newer bundlecache.
        """
        infos = self._infos(self.location.names(), heads=heads)
        rank = {modality: i for i, modality in enumerate(MODALITIES)}
        return sorted(infos, key=lambda info: rank.get(info.modality, len(rank)))

    def current(self, modality: str, spec: str | None = None, table: str | None = None) -> TableInfo:
        """The table of a modality (and encoder) that a run has last written to or checked, if it has rows.

        A table with the name ``table`` is preferred. Token features are found by ``spec`` or ``table`` only: a
        modality alone means one vector an item.

        Raises
        ------
        StoreError
            When there is none.
        """
        check_modality(modality)
        names = [name for name in self.location.names() if name.startswith(f"{modality}--")]  # others stay unopened
        of_modality = [info for info in self._infos(names) if info.modality == modality and info.rows]
        found = [info for info in of_modality if spec in (None, info.spec)]
        found = [info for info in found if spec or not info.tokens or info.table == table]
        if found:
            return next((info for info in found if info.table == table), found[0])
        if of_modality and spec:
            specs = ", ".join(dict.fromkeys(info.spec for info in of_modality))
            raise StoreError(
                f"The store {self.path} holds no {modality} vectors of {spec}; it has those of {specs}.",
                hint=Command("encode", "--modality", modality, "--encoder", spec),
            )
        raise StoreError(
            f"The store {self.path} holds no {modality} vectors.",
            hint=Command("encode", "--modality", modality, *(("--encoder", spec) if spec else ())),
        )

    def modalities(self) -> list[str]:
        """The modalities with one vector an item, for at least one, in the order text, image, audio, graph."""
        return list(dict.fromkeys(info.modality for info in self.tables() if info.rows and not info.tokens))

    def matrix(
        self, item_ids: Sequence[str], modality: str, spec: str | None = None, table: str | None = None
    ) -> Matrix:
        """The vectors of these items, from the `current` table: made once per table version, then memory-mapped.

        Raises
        ------
        StoreError
            When there is no such table, a row is damaged, or the matrix cannot be written.
        """
        info = self.current(modality, spec, table)
        try:
            return self._matrix(info, item_ids)
        except (StoreError, ValueError):
            newer = self.current(modality, spec, table)
            if newer.version == info.version:
                raise
            return self._matrix(newer, item_ids)  # a run that has just ended removed the older version

    def _matrix(self, info: TableInfo, item_ids: Sequence[str]) -> Matrix:
        folder = matrix_folder(self.path, info.table, info.version, item_ids)
        with storing(self.path):
            made = load_matrix(folder, len(item_ids), info)
            if made is None and (self._bar is None or info.rows * info.row_bytes < SHOWN_BYTES):
                made = materialise(self.dataset(info), item_ids, folder)
            elif made is None and self._bar is not None:
                with self._bar(f"{info.modality} matrix") as bar:
                    made = materialise(self.dataset(info), item_ids, folder, bar.step)
            assert made is not None  # noqa: S101 - it was loaded or made
            vectors, mask = made
        return Matrix(
            modality=info.modality,
            spec=info.spec,
            table=info.table,
            fingerprint=info.fingerprint,
            version=info.version,
            vectors=vectors,
            mask=mask,
        )

    def dataset(self, info: TableInfo, version: int | str | None = None) -> Any:
        """The Lance dataset of a table, as ``info`` saw it, or an older version by its number or tag."""
        return self.location.dataset(info.table, version or info.version)

    def live_ids(self, info: TableInfo) -> pa.Array:
        """The ids of the items with a valid vector in a table, as a column."""
        with opening(self.location.uri(info.table)):
            return text_column(self.dataset(info).to_table(columns=["item_id"], filter="live")["item_id"])

    def errors(self, table: str) -> pa.Table:
        """The failed items of a table: item_id, stage (read, decode, encode, check), reason, content_hash."""
        return failures.read(self.path, table)

    def receipts(self) -> list[dict[str, Any]]:
        """The newest finished run of every table, newest last."""
        return receipts.newest(self.path)

    def export(self, out: Path, format: str = "parquet", item_ids: Sequence[str] = ()) -> list[Path]:  # noqa: A002
        """Every table with rows, as files that other programs read.

        ``parquet`` is one file per table: item_id, content_hash, vector (fixed-size list of float). ``npy`` is a
        folder per table, its rows those of ``item_ids``: vectors.npy [I, d], mask.npy [I], ids.txt.

        Raises
        ------
        StoreError
            For another format, an empty store, or a folder that cannot be written.
        """
        if format not in ("parquet", "npy"):
            raise StoreError(f"Vectors cannot be exported as {format!r}, only as parquet or npy.", hint="--format npy")
        infos = [info for info in self.tables() if info.rows]
        if not infos:
            raise StoreError(f"The store {self.path} holds no vectors.", hint=Command("encode", "--modality", "all"))
        if format == "npy":
            for info in infos:
                matrix = self._matrix(info, item_ids)
                with storing(out):
                    export_npy(matrix.vectors, matrix.mask, item_ids, Path(out) / info.table)
            return [Path(out) / info.table / "vectors.npy" for info in infos]
        paths = [Path(out) / f"{info.table}.parquet" for info in infos]
        for info, path in zip(infos, paths, strict=True):
            with storing(path.parent), replacing(path) as temporary:
                export_parquet(self.dataset(info), temporary)
        return paths

    def writer(self, identity: Identity) -> TableWriter:
        """The one writer of the table of ``identity``, to be used in a ``with`` block."""
        return TableWriter(self.path, identity)

    def write(
        self, identity: Identity, item_ids: Sequence[str], vectors: np.ndarray, hashes: Sequence[str] | None = None
    ) -> TableInfo:
        """Put vectors [n, d], or token features [n, t, d], made elsewhere into the store.

        Vectors that are NaN, infinite or zero go to the errors. ``hashes`` say when content has changed; without them
        the checksums of the vectors do.

        Raises
        ------
        StoreError
            When the shape does not fit, an id stands twice, the table is locked or the disk refuses.
        """
        needed, ids = (len(item_ids), *identity.shape), text_column(item_ids)
        if vectors.shape != needed or len(ids.unique()) < len(ids):
            raise StoreError(
                f"{len(ids):,} item ids ({len(ids.unique()):,} distinct) and vectors of shape {vectors.shape} "
                f"were given; needed are distinct ids and the shape {needed}."
            )
        rows = as_stored(vectors, identity)
        content = text_column(
            hashes if hashes is not None else [f"vector:{value:016x}" for value in checksum(rows).tolist()]
        )
        with self.writer(identity) as table:
            receipt = self.begin_run(identity)
            bad = flaws(rows)
            row = places(ids, among=table.item_ids)
            stored = row >= 0
            stored[stored] = ~differs(take(content, np.flatnonzero(stored)), take(table.hashes, row[stored]))
            stored[list(bad)] = True
            keep = np.flatnonzero(~stored)
            if len(keep):
                table.write(take(ids, keep), take(content, keep), rows if len(keep) == len(rows) else rows[keep])
            flawed = {ids[i].as_py(): Failure("check", reason, content[i].as_py()) for i, reason in bad.items()}
            table.update_status(ids, flawed, dead=list(flawed))
            table.tidy()
            figures = {"items": len(rows), "encoded": len(keep), "failed": len(bad), "absent": 0, "forwards": 0}
            self.end_run(receipt, identity, figures | {"cached": len(rows) - len(keep) - len(bad)})
        info = self._info(identity.table_name)
        assert info is not None  # noqa: S101 - it was just written
        return info

    def begin_run(self, identity: Identity) -> Path:
        """Write a receipt that a run has started: this makes its table the current one of its modality."""
        return receipts.begin(self.path, identity)

    def end_run(self, receipt: Path, identity: Identity, figures: dict[str, Any]) -> None:
        """Complete the receipt of :meth:`begin_run` with the run's figures."""
        receipts.end(self.path, receipt, identity, figures)

    def _infos(self, names: Iterable[str], *, heads: bool = False) -> list[TableInfo]:
        """What stands in the tables of these names that are bundlecache's own and complete, the newest first."""
        infos = [info for name in names if (info := self._info(name, heads=heads)) is not None]
        return sorted(infos, key=lambda info: info.updated, reverse=True)

    def _info(self, name: str, *, heads: bool = False) -> TableInfo | None:
        location = self.location
        if not location.has(name):
            return None  # a process died while it made the table
        with opening(location.uri(name)):
            dataset = location.dataset(name)
            identity = Identity.read(dataset.schema)
            if identity is None:
                return None  # a table of somebody else
            rows = dataset.count_rows(None if heads else "live")
        updated = receipts.last_started(self.path, name) or location.written(name)
        return TableInfo(
            **asdict(identity),
            table=name,
            rows=rows,
            failed=len(failures.read(self.path, name)),
            size_bytes=location.size(name),
            version=dataset.version,
            updated=updated.isoformat(),
        )
