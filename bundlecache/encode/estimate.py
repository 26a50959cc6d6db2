"""What an encode run would do: items by what becomes of them, how long by a measured sample, bytes on the disk."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..store.failures import count_failed
from ..store.table_schema import Identity
from ..store.tables import held
from .pipeline import Pipeline
from .run import check_together, plan_all
from .worker import UNLIMITED, BufferTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Store
    from ..workspace import WorkspaceFolder
    from .encoder import Encoder
    from .plan import Plan, Units

SAMPLE_SECONDS = 5.0  # after which no further part of the sample is begun
SAMPLE_PARTS, PART_BATCHES = 4, 4  # parts of a sample at most, and batches of a part
CELL_BYTES = 25  # of a row beside its texts and vector: checksum, mark, and where the texts begin
HASH_BYTES = 32


@dataclass(frozen=True)
class Estimate:
    """What a run of one encoder would do: items = to_encode + cached + failed + absent.

    ``contents`` are the different contents among the items to encode: each is encoded once, if no stored row has it.
    ``seconds`` follow from the rate ``contents_per_second`` of ``sampled`` contents, of which ``unusable`` gave no
    vector; both are None where nothing was measured, because all is cached. A graph is learned as a whole: its ``seconds``
    are those of the learning at most, from a part of it, and the rate follows from them. ``measured`` says what was measured.
    ``table_bytes`` are those of the new rows, ``matrix_bytes`` those of the matrix that training reads, which is made
    at the first training. ``limit`` is that of the run, None for the whole catalogue.
    """

    modality: str
    spec: str
    table: str
    items: int
    to_encode: int
    cached: int
    failed: int
    absent: int
    contents: int
    sampled: int
    unusable: int
    contents_per_second: float | None
    seconds: float | None
    measured: str
    table_bytes: int
    matrix_bytes: int
    limit: int | None

    @property
    def balances(self) -> bool:
        """Whether every item is accounted for exactly once."""
        return self.items == self.to_encode + self.cached + self.failed + self.absent

    def to_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return {"dry_run": True, **asdict(self)}


def estimate_all(
    encoders: Sequence[Encoder],
    catalogue: Catalogue,
    workspace: WorkspaceFolder,
    store: Store,
    *,
    workers: int = 4,
    retry_failed: bool = False,
    limit: int | None = None,
    devices: int = 1,
    scanned: Callable[[int], None] = lambda _: None,
) -> list[Estimate]:
    """What `run.run_all` would do with the same arguments; it stores no vector and writes no receipt.

    Files are read and hashed, as a run would do, and their hashes are remembered. The sample is decoded and encoded on
    one device; ``devices`` of them are taken to be that many times as fast.

    Raises
    ------
    BundlecacheError
        As `run.run_all`; also when the sample shows that the encoder fails on everything.
    """
    identities = [Identity.of(encoder) for encoder in encoders]
    check_together(identities)
    tables = [held(store.path, identity) for identity in identities]
    plans = plan_all(
        encoders, tables, catalogue, workspace, workers=workers, retry_failed=retry_failed, limit=limit, scanned=scanned
    )
    return [
        _estimate(encoder, identity, planned, len(catalogue), workers, limit, devices)
        for encoder, identity, planned in zip(encoders, identities, plans, strict=True)
    ]


def _estimate(
    encoder: Encoder, identity: Identity, planned: Plan, items: int, workers: int, limit: int | None, devices: int
) -> Estimate:
    units, scan = planned.units, planned.scan
    sampled = unusable = 0
    rate, measured = None, ""
    if len(units) and identity.modality != "graph":
        sampled, unusable, seconds = _measure(encoder, identity, units, workers)
        rate, measured = devices * sampled / seconds, f"{sampled:,} of {len(units):,} contents"
    elif len(units) and hasattr(encoder, "measure_learning"):
        seconds, measured = encoder.measure_learning()
        rate = len(units) / max(seconds, 1e-9)
    new = len(scan.present) - planned.cached - len(planned.failed)
    failed = count_failed(planned.failed)
    id_bytes = scan.item_ids.nbytes / max(1, len(scan.item_ids))
    return Estimate(
        modality=identity.modality,
        spec=identity.spec,
        table=identity.table_name,
        items=len(scan.item_ids),
        to_encode=new,
        cached=planned.cached,
        failed=failed + len(scan.failed),
        absent=len(scan.absent) + len(planned.failed) - failed,
        contents=len(units),
        sampled=sampled,
        unusable=unusable,
        contents_per_second=rate,
        seconds=len(units) / rate if rate else None,
        measured=measured,
        table_bytes=round(new * (identity.row_bytes + id_bytes + HASH_BYTES + CELL_BYTES)),
        matrix_bytes=items * (identity.row_bytes + 1),
        limit=limit,
    )


def _measure(encoder: Encoder, identity: Identity, units: Units, workers: int) -> tuple[int, int, float]:
    """Decode and encode a sample spread over the units: contents, those of them without a vector, and seconds.

    The first batch only warms up, and is encoded again where there are no others.
    """
    batch = max(1, encoder.batch_size)
    count = min(len(units), batch * (1 + SAMPLE_PARTS * PART_BATCHES))
    picks = np.unique(np.linspace(0, len(units) - 1, count).astype(np.int64))
    picks = np.random.default_rng(0).permutation(picks)
    first, rest = picks[:batch], picks[batch:] if len(picks) > batch else picks
    _encode(encoder, identity, units, first, workers)
    sampled = unusable = 0
    began = time.perf_counter()
    for low in range(0, len(rest), batch * PART_BATCHES):
        part = rest[low : low + batch * PART_BATCHES]
        unusable += _encode(encoder, identity, units, part, workers)
        sampled += len(part)
        if time.perf_counter() - began > SAMPLE_SECONDS:
            break
    return sampled, unusable, max(time.perf_counter() - began, 1e-9)


def _encode(encoder: Encoder, identity: Identity, units: Units, numbers: np.ndarray, workers: int) -> int:
    """Encode these units and keep nothing; how many gave no vector."""
    table: Any = BufferTable(identity)
    with Pipeline([encoder], [table], workers, UNLIMITED, lambda _: None) as pipeline:
        pipeline.encode([units.block(numbers)])
    return len(numbers) - len(table.rows)
