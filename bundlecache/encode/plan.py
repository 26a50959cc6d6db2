"""What is to be done for one encoder and its table: which items are cached, copied, encoded, or failed before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..store.text_columns import differs, is_among, places, places_of_ids, take, text_column
from .encoder import stage_of_flaw
from .protocol import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..store.failures import Failure
    from ..store.tables import Held, TableWriter
    from .encoder import Encoder
    from .scan import Scan


BLOCK_UNITS = 1024  # units that are made at the same time


@dataclass(frozen=True)
class Copies:
    """Items [c] that get the vector of a stored row: their ids and content hashes as columns, and the rows [c]."""

    item_ids: pa.Array
    hashes: pa.Array
    rows: np.ndarray


class Units(Sequence[Unit]):
    """u units, in the order of their first items; each is made when it is asked for.

    Attributes
    ----------
    hashes, positions
        The content hash of each unit, as a column, and the position of its first item in the catalogue, int64 [u].
    """

    def __init__(self, scan: Scan, rows: np.ndarray) -> None:
        """Units of the present items ``rows`` [n] of a scan, equal contents together."""
        self._scan = scan
        hashes = take(scan.hashes, rows)
        code = hashes.dictionary_encode().indices.to_numpy()  # [n], in the order of first appearance
        order = np.argsort(code, kind="stable")
        self._rows = rows[order]  # unit by unit
        starts = np.flatnonzero(np.diff(code[order], prepend=-1))
        self._cuts = np.append(starts, len(rows))  # [u + 1]
        self._first = self._rows[starts]
        self.hashes = take(scan.hashes, self._first)
        self.positions = scan.present[self._first]

    @property
    def items(self) -> tuple[pa.Array, pa.Array]:
        """Ids and content hashes of all items, unit by unit, as columns."""
        return self._scan.ids(self._scan.present[self._rows]), take(self._scan.hashes, self._rows)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, at: Any) -> Any:
        return self.block(np.arange(len(self))[at]) if isinstance(at, slice) else self.block(np.array([at]))[0]

    def __iter__(self) -> Iterator[Unit]:
        for low in range(0, len(self), BLOCK_UNITS):
            yield from self.block(np.arange(low, min(low + BLOCK_UNITS, len(self))))

    def block(self, numbers: np.ndarray) -> list[Unit]:
        """The units of these numbers [n]; many at once cost less each."""
        starts = self._cuts[numbers]
        counts = self._cuts[numbers + 1] - starts  # [n]
        ends = np.cumsum(counts)
        rows = self._rows[np.repeat(starts - ends + counts, counts) + np.arange(int(counts.sum()))]
        item_ids = self._scan.ids(self._scan.present[rows]).to_pylist()
        sources = self._scan.sources(self._first[numbers])
        cuts = zip((ends - counts).tolist(), ends.tolist(), strict=True)
        return [
            Unit(source, item_ids[low:high], position)
            for source, (low, high), position in zip(sources, cuts, self.positions[numbers].tolist(), strict=True)
        ]


@dataclass
class Plan:
    """How many items are cached, which failed before, which get a copy of a stored vector, and units to encode."""

    scan: Scan
    cached: int
    copies: Copies
    units: Units
    failed: dict[str, Failure] = field(default_factory=dict)

    @property
    def unencoded(self) -> int:
        """Items that need no encoding."""
        return self.cached + len(self.failed) + len(self.scan.absent)

    def update_status(self, table: TableWriter, failed: Mapping[str, Failure]) -> None:
        """Record the failures, and mark rows whose item has other content now, or none, as no longer valid.

        An item whose file cannot be read keeps its row: nothing is known about its content.
        """
        failed = {**self.failed, **failed}
        dead = [item_id for item_id, failure in failed.items() if failure.content_hash]
        absent = self.scan.ids(self.scan.absent)
        table.update_status(self.scan.item_ids, failed, dead=pa.concat_arrays([text_column(dead), absent]))


def plan(scan: Scan, table: Held, encoder: Encoder, *, retry_failed: bool) -> Plan:
    """Sort items into cached, failed before, copies of a stored vector, and units of equal content to encode."""
    item_ids = scan.ids(scan.present)
    row = places_of_ids(item_ids, among=table.item_ids)  # [p]
    todo = row < 0
    known = np.flatnonzero(~todo)
    todo[known] = differs(take(scan.hashes, known), take(table.hashes, row[known]))
    rows = np.flatnonzero(todo)  # of the present items
    failed: dict[str, Failure] = {}
    if table.errors and not retry_failed:
        again = np.ones(len(rows), bool)
        for place in np.flatnonzero(is_among(take(item_ids, rows), list(table.errors))).tolist():
            item_id, content_hash = item_ids[int(rows[place])].as_py(), scan.hashes[int(rows[place])].as_py()
            if table.errors[item_id].content_hash == content_hash:
                failed[item_id], again[place] = _as_listed_now(table.errors[item_id], encoder), False
        rows = rows[again]
    holder = places(take(scan.hashes, rows), among=table.hashes)  # [rows]
    copied = rows[holder >= 0]
    copies = Copies(take(item_ids, copied), take(scan.hashes, copied), holder[holder >= 0])
    return Plan(scan, int((~todo).sum()), copies, Units(scan, rows[holder < 0]), failed)


def _as_listed_now(failure: Failure, encoder: Encoder) -> Failure:
    """A failure of an earlier run; of the items whose learnt vector is all zero, older versions said that they failed."""
    return failure._replace(stage=stage_of_flaw(failure.reason, encoder)) if failure.stage == "check" else failure


def merged(units: Sequence[Sequence[Unit]]) -> np.ndarray:
    """Which units of e encoders have the same content, int64 [contents, e]: the number of each unit, -1 for none.

    Contents stand in the order of their first items in the catalogue.
    """
    if len(units) == 1:
        return np.arange(len(units[0]))[:, None]
    hashes = [each.hashes if isinstance(each, Units) else _hashes(each) for each in units]
    positions = [each.positions if isinstance(each, Units) else _positions(each) for each in units]
    code = pa.concat_arrays(hashes).dictionary_encode().indices.to_numpy()  # [all units]
    number = np.concatenate([np.arange(len(each)) for each in units])
    encoder = np.repeat(np.arange(len(units)), [len(each) for each in units])
    count = int(code.max()) + 1 if len(code) else 0
    rows = np.full((count, len(units)), -1, np.int64)
    rows[code, encoder] = number
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, code, np.concatenate(positions))
    return rows[np.argsort(first, kind="stable")]


def blocks(units: Sequence[Sequence[Unit]]) -> Iterator[list[tuple[Unit | None, ...]]]:
    """The units of e encoders by content, as in `merged`, made in blocks: for each content e units, or None."""
    rows = merged(units)  # [contents, e]
    for low in range(0, len(rows), BLOCK_UNITS):
        columns: list[list[Unit | None]] = []
        for each, numbers in zip(units, rows[low : low + BLOCK_UNITS].T, strict=True):
            there = numbers[numbers >= 0]
            made = iter(each.block(there) if isinstance(each, Units) else [each[number] for number in there.tolist()])
            columns.append([next(made) if number >= 0 else None for number in numbers.tolist()])
        yield list(zip(*columns, strict=True))


def _hashes(units: Sequence[Unit]) -> pa.Array:
    return text_column([unit.source.content_hash for unit in units])


def _positions(units: Sequence[Unit]) -> np.ndarray:
    return np.array([unit.position for unit in units], np.int64)


def items_of(units: Sequence[Unit]) -> tuple[pa.Array, pa.Array]:
    """Ids and content hashes of all items of units, as columns."""
    if isinstance(units, Units):
        return units.items
    pairs = [(item_id, unit.source.content_hash) for unit in units for item_id in unit.item_ids]
    return text_column([item_id for item_id, _ in pairs]), text_column([content for _, content in pairs])
