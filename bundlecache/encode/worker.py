"""One worker of a pool: the encoders of one device, and the pipeline of any run over the parts it is given.

A worker uses the same `Pipeline` as a run without workers, with a `BufferTable` instead of the table: batches, halved
batches and failures are the same. Rows are sent back, or written as fragments that the sender commits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..store.guards import storing
from ..store.table_schema import Identity
from .encoder import EncoderInfo
from .pipeline import Pipeline
from .protocol import Limits, PartResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..store.failures import Failure
    from ..store.fragments import FragmentTarget
    from .protocol import Load, Part, Unit

UNLIMITED = Limits(commit_rows=1 << 40, commit_seconds=math.inf, max_errors=None)


@dataclass
class BufferTable:
    """Has the methods of `TableWriter` that a batcher calls, and keeps the rows in memory."""

    identity: Identity
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, item_ids: Sequence[str], hashes: Sequence[str], vectors: np.ndarray) -> None:  # noqa: ARG002
        """Keep one row for each content."""
        self.rows.update(zip(hashes, vectors, strict=True))

    def note_errors(self, failures: Mapping[str, Failure]) -> None:
        """Nothing to do: the batcher's own record of failures is sent back."""


class Worker:
    """The encoders of one device, loaded once."""

    def __init__(self, load: Load, device: str, workers: int, targets: Sequence[FragmentTarget] = ()) -> None:
        self.encoders, self.workers, self.targets = list(load(device)), workers, list(targets)

    def describe(self) -> list[EncoderInfo]:
        """What its encoders declare."""
        return [EncoderInfo.of(encoder) for encoder in self.encoders]

    def encode(self, part: Part) -> list[PartResult]:
        """Read, prepare and encode a part."""
        tables: list[Any] = [BufferTable(Identity.of(encoder)) for encoder in self.encoders]
        with Pipeline(self.encoders, tables, self.workers, UNLIMITED, lambda _: None) as pipeline:
            pipeline.encode(part)
        results = []
        targets: Sequence[FragmentTarget | None] = self.targets or [None] * len(tables)
        for encoder, batcher, table, units, target in zip(
            self.encoders, pipeline.batchers, tables, part, targets, strict=True
        ):
            encoder.batch_size = batcher.batch_size  # a smaller one, if memory ran out, holds for the parts to come
            counts = (batcher.forwards, batcher.batch_size, batcher.note, pipeline.waited, batcher.seconds["forward"])
            written = _write(target, units, table.rows) if target is not None else ([], [])
            results.append(PartResult(table.rows, batcher.failed, *counts, *written))
        return results


def _write(target: FragmentTarget, units: Sequence[Unit], rows: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Write the rows of new items, and take them out of ``rows``: the fragments, and the contents in them."""
    mine = [unit for unit in units if unit.source.content_hash in rows.keys() - target.send_back]
    if not mine:
        return [], []
    vectors = np.stack([rows[unit.source.content_hash] for unit in mine for _ in unit.item_ids])  # [n, w]
    with storing(target.root):
        fragments = target.write(
            [item_id for unit in mine for item_id in unit.item_ids],
            [unit.source.content_hash for unit in mine for _ in unit.item_ids],
            vectors,
        )
    return fragments, [unit.source.content_hash for unit in mine if rows.pop(unit.source.content_hash) is not None]
