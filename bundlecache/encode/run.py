"""Stage A: run frozen encoders once over every new or changed item, into the store.

Threads decode ahead of the encoders, the encoders run in the calling thread, and one thread commits the rows every few
thousand rows or seconds, so that reading, computing and writing overlap. Killing the process loses the rows that are
not committed yet, nothing else; the next run continues from there.

>>> receipt = run(encoder, catalogue, workspace, Store(workspace.store))  # doctest: +SKIP
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..encoder_spec import EncoderSpec
from ..errors import EncoderError
from ..rows import Result
from ..store.failures import count_failed
from ..store.table_schema import Identity
from .changed_texts import changed_texts
from .pipeline import Pipeline
from .plan import plan
from .progress import ProgressReporter, forward_advice
from .protocol import Limits
from .scan import scan_items

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Store
    from ..store.tables import Held
    from ..workspace import WorkspaceFolder
    from .batcher import EncoderBatcher
    from .encoder import Encoder
    from .pipeline import Shares
    from .plan import Plan
    from .progress import Progress
    from .protocol import WorkerPool

COMMIT_ROWS = 4096
COMMIT_SECONDS = 15.0


@dataclass(frozen=True, repr=False)
class Receipt(Result):
    """What a run did: items = encoded + cached + failed + absent. ``absent`` counts items with nothing to encode, and those of
    which a learnt graph says too little.

    ``forwards`` counts calls of ``encoder.encode``, ``reused`` the encoded items that took the vector of an
    item with the same content; ``batch_size`` is the one at the end, smaller than the encoder's own if memory
    ran out. Shares as in :class:`Progress`, with this encoder's own forwards and writes; ``seconds`` are those
    of the run, with all its encoders. ``limit`` is given where the run looked at the first so many items only:
    then ``items`` counts these.
    """

    modality: str
    spec: str
    table: str
    items: int
    encoded: int
    cached: int
    failed: int
    absent: int
    forwards: int
    reused: int
    batch_size: int
    seconds: float
    decode_share: float
    forward_share: float
    write_share: float
    limit: int | None = None

    @property
    def balances(self) -> bool:
        """Whether every item is accounted for exactly once."""
        return self.items == self.encoded + self.cached + self.failed + self.absent

    def to_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


def run(encoder: Encoder, catalogue: Catalogue, workspace: WorkspaceFolder, store: Store, **options: Any) -> Receipt:
    """:func:`run_all` with one encoder."""
    return run_all([encoder], catalogue, workspace, store, **options)[0]


def run_all(
    encoders: Sequence[Encoder],
    catalogue: Catalogue,
    workspace: WorkspaceFolder,
    store: Store,
    *,
    workers: int = 4,
    retry_failed: bool = False,
    limit: int | None = None,
    max_errors: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    commit_rows: int = COMMIT_ROWS,
    commit_seconds: float = COMMIT_SECONDS,
    pool: WorkerPool | None = None,
) -> list[Receipt]:
    """Encode what is new or changed among the first ``limit`` items of the catalogue, and account for each item.

    Several encoders of a modality go over the items in one pass: a file is hashed once, and read once for all
    that read alike. Each has its own table, failures and receipt, as if they had run one after the other.
    Items that failed stand in ``store.errors`` and are tried again when their content changes, or with
    ``retry_failed``. With a ``pool``, ``encoders`` are ``pool.encoders``, and its workers read and encode. More than
    ``max_errors`` new failures of an encoder stop the run; what was encoded is stored.

    Raises
    ------
    StoreError
        When another process writes to the same table, or the disk refuses.
    CatalogueError
        When an encoder's spec names a column of texts that the items lack.
    EncoderError
        When an encoder gives something that is no [n, d], fails on everything, or ``max_errors`` is passed;
        when two encoders are of different modalities, or the same.
    """
    began = time.monotonic()
    identities = [Identity.of(encoder) for encoder in encoders]
    check_together(identities)
    items = len(catalogue) if limit is None else min(limit, len(catalogue))
    reporter = ProgressReporter(progress, identities, items, "" if pool else forward_advice(encoders))
    limits = Limits(commit_rows, commit_seconds, max_errors)
    with ExitStack() as open_tables:
        tables = [open_tables.enter_context(store.writer(identity)) for identity in identities]
        notes = [store.begin_run(identity) for identity in identities]
        plans = plan_all(
            encoders,
            tables,
            catalogue,
            workspace,
            workers=workers,
            retry_failed=retry_failed,
            limit=limit,
            scanned=reporter.scanned,
        )
        reporter.planned(plans)
        reporter.watch(encoders)
        with Pipeline(encoders, tables, workers, limits, reporter.encoding) as pipeline:
            for batcher, planned in zip(pipeline.batchers, plans, strict=True):
                batcher.add_failures(planned.scan.failed)
                batcher.copy_rows(planned.copies)
            pipeline.encode([planned.units for planned in plans], pool)
        receipts = []
        for batcher, planned, note in zip(pipeline.batchers, plans, notes, strict=True):
            planned.update_status(batcher.table, batcher.failed)
            batcher.table.tidy()
            seconds = time.monotonic() - began
            receipt = _receipt(batcher, planned, items, seconds, pipeline.shares([batcher]), limit)
            together = {"together": [identity.spec for identity in identities]}
            store.end_run(note, batcher.table.identity, receipt.to_dict() | together)
            receipts.append(receipt)
        if limit is None and catalogue.cached_in:  # so that `status` need not hash all texts again
            scan_of = {
                batcher.table.name: planned.scan for batcher, planned in zip(pipeline.batchers, plans, strict=True)
            }
            for info in store.tables():
                if info.table in scan_of:
                    changed_texts(store, info, catalogue, workspace, scan_of[info.table])
    return receipts


def plan_all(
    encoders: Sequence[Encoder],
    tables: Sequence[Held],
    catalogue: Catalogue,
    workspace: WorkspaceFolder,
    *,
    workers: int,
    retry_failed: bool,
    limit: int | None,
    scanned: Callable[[int], None],
) -> list[Plan]:
    """Look at the first ``limit`` items once, and say for each encoder what is to be done with them.

    Raises
    ------
    CatalogueError
        When an encoder's spec names a column of texts that the items lack.
    """
    modality = encoders[0].modality
    columns = [EncoderSpec.parse(encoder.spec).columns for encoder in encoders]
    scan = partial(scan_items, modality, catalogue, workspace, workers=workers, limit=limit, scanned=scanned)
    scans = {each: scan(columns=each) for each in set(columns)}
    return [
        plan(scans[each].for_encoder(encoder), table, encoder, retry_failed=retry_failed)
        for each, encoder, table in zip(columns, encoders, tables, strict=True)
    ]


def check_together(identities: Sequence[Identity]) -> None:
    """Encoders that run together read one modality and write to a table each.

    Raises
    ------
    EncoderError
        When they do not.
    """
    modalities = list(dict.fromkeys(identity.modality for identity in identities))
    if len(modalities) != 1:
        raise EncoderError(
            f"Encoders that run together read one modality, not {' and '.join(modalities) or 'none'}.",
            hint="run those of each modality on their own",
        )
    if len({identity.table_name for identity in identities}) < len(identities):
        specs = ", ".join(identity.spec for identity in identities)
        raise EncoderError(f"An encoder was given twice: {specs}.", hint="name each encoder once")


def _receipt(
    batcher: EncoderBatcher, planned: Plan, items: int, seconds: float, shares: Shares, limit: int | None
) -> Receipt:
    identity, found = batcher.table.identity, planned.failed | batcher.failed
    failed = count_failed(found)
    return Receipt(
        modality=identity.modality,
        spec=identity.spec,
        table=identity.table_name,
        items=items,
        encoded=batcher.encoded,
        cached=planned.cached,
        failed=failed,
        absent=len(planned.scan.absent) + len(found) - failed,
        forwards=batcher.forwards,
        reused=batcher.reused,
        batch_size=batcher.batch_size,
        seconds=seconds,
        decode_share=shares.decode,
        forward_share=shares.forward,
        write_share=shares.write,
        limit=limit,
    )
