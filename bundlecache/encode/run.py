"""Stage A: run frozen encoders once over every new or changed item, into the store.

Threads decode ahead of the encoders, the encoders run in the calling thread, and one thread commits what is
done every few thousand rows or seconds, so that reading, computing and writing overlap. Killing the process
loses the rows that are not committed yet, nothing else; the next run goes on from there.

>>> receipt = run(encoder, catalogue, workspace, Store(workspace.store))  # doctest: +SKIP
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..encoder_spec import EncoderSpec
from ..errors import EncoderError
from ..store.vectors import Identity
from .batcher import Limits
from .pipeline import Pipeline
from .plan import plan
from .scan import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from ..catalogue.model import Catalogue
    from ..store.store import Store
    from ..workspace import WorkspaceFolder
    from .batcher import Lane
    from .pipeline import Shares
    from .plan import Plan
    from .worker_pool import Crew

COMMIT_ROWS = 4096
COMMIT_SECONDS = 15.0
SHOW_SECONDS = 0.1
ADVICE = {
    "decode": "more --workers, or smaller files",
    "forward": "--device cuda, or --batch-size",  # see `_faster`
    "write": "a faster disk for --data",
}


class Encoder(Protocol):
    """What Stage A needs of an encoder. The graph's may also have ``has(item_id) -> bool``: in its graph or not.

    Attributes
    ----------
    modality, spec
        "text", "image", "audio" or "graph"; the encoder as typed, "open_clip:ViT-B-32/laion2b".
    dim, dtype, batch_size
        Width of a vector; "float16" or "float32", as stored; samples per forward at most.
    tokens
        Vectors of an item, where it has several (token features); 0 for the usual one vector an item.
    fingerprint
        SHA-256 of the weights, or of whatever else the vectors follow from.
    reading
        How a source is opened, in short words: encoders of a modality with equal ``reading`` share one read.
    preprocess
        Every choice that changes pixels, samples or tokens, in short words; contains ``reading``.
    """

    modality: str
    spec: str
    dim: int
    dtype: str
    batch_size: int
    tokens: int
    fingerprint: str
    reading: str
    preprocess: str

    def read(self, source: Path | str) -> Any:
        """What a file (image, audio), a text or an item id (graph) holds, in full; in a worker thread.

        Raises
        ------
        MediaError
            When the content cannot be used; the message is the reason that the user reads.
        """

    def prepare(self, raw: Any) -> Any:
        """One sample for ``encode`` from what was read, which stays as it is; in a worker thread.

        Raises
        ------
        MediaError
            As above.
        """

    def encode(self, samples: list[Any]) -> np.ndarray:
        """Vectors of n samples: float32 [n, d], or [n, t, d] with t ``tokens``."""


@dataclass(frozen=True)
class Progress:
    """How far a run is; ``stage`` is "look" (finding and hashing) or "encode".

    With several encoders (``spec`` is "a + b") an item counts once for each of them while they encode, in
    ``done``, ``total`` and ``items_per_second``. ``note`` is what the user should know by now, or "". The shares
    are parts of the time since encoding began in which the run waited for decoded samples, ran the encoder, and
    waited for the disk. What overlaps costs nothing and counts nowhere. ``faster`` is what would help the forwards.
    """

    modality: str
    spec: str
    stage: str
    done: int
    total: int
    encoded: int = 0
    failed: int = 0
    items_per_second: float = 0.0
    decode_share: float = 0.0
    forward_share: float = 0.0
    write_share: float = 0.0
    note: str = ""
    faster: str = ADVICE["forward"]

    @property
    def bound_by(self) -> str:
        """What takes most of the time: "decode", "forward" or "write"."""
        return max(ADVICE, key=lambda name: getattr(self, f"{name}_share"))

    @property
    def advice(self) -> str:
        """What would help, as flags to type; "" where none does."""
        return self.faster if self.bound_by == "forward" else ADVICE[self.bound_by]

    @property
    def spent(self) -> str:
        """The shares and the advice, in one line of at most 78 characters."""
        parts = (f"{name} {getattr(self, f'{name}_share'):.0%}" for name in ADVICE)
        return ", ".join(parts) + (f"; faster: {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Receipt:
    """What a run did: items = encoded + cached + failed + absent.

    ``forwards`` counts calls of ``encoder.encode``, ``reused`` the encoded items that took the vector of an
    item with the same content; ``batch_size`` is the one at the end, smaller than the encoder's own if memory
    ran out. Shares as in :class:`Progress`, with this encoder's own forwards and writes; ``seconds`` are those
    of the run, with all its encoders.
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
    crew: Crew | None = None,
) -> list[Receipt]:
    """Encode what is new or changed among the first ``limit`` items of the catalogue, and account for all.

    Several encoders of a modality go over the items in one pass: a file is hashed once, and read once for all
    that read alike. Each has its own table, failures and receipt, as if they had run one after the other.
    Items that failed stand in ``store.errors`` and are tried again when their content changes, or with
    ``retry_failed``. With a ``crew``, ``encoders`` are its own, and its workers read and encode. More than
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
    _check_together(identities)
    items = len(catalogue) if limit is None else min(limit, len(catalogue))
    show = _Show(progress, identities, items, "" if crew else _faster(encoders))
    limits = Limits(commit_rows, commit_seconds, max_errors)
    with ExitStack() as open_tables:
        tables = [open_tables.enter_context(store.writer(identity)) for identity in identities]
        notes = [store.begin_run(identity) for identity in identities]
        columns = [EncoderSpec.parse(identity.spec).columns for identity in identities]
        look = partial(survey, identities[0].modality, catalogue, workspace, workers=workers, limit=limit)
        found = {each: look(columns=each, looked=show.looked) for each in set(columns)}
        plans = [
            plan(found[each].seen_by(encoder), table, retry_failed=retry_failed)
            for each, encoder, table in zip(columns, encoders, tables, strict=True)
        ]
        show.planned(plans)
        with Pipeline(encoders, tables, workers, limits, show.encoding) as pipeline:
            for lane, planned in zip(pipeline.lanes, plans, strict=True):
                lane.refuse(planned.found.failed)
                lane.copy(planned.copies)
            pipeline.encode([planned.units for planned in plans], crew)
        receipts = []
        for lane, planned, note in zip(pipeline.lanes, plans, notes, strict=True):
            planned.settle(lane.table, lane.failed)
            lane.table.tidy()
            receipt = _receipt(lane, planned, items, time.monotonic() - began, pipeline.shares([lane]))
            store.end_run(note, lane.table.identity, receipt.to_dict())
            receipts.append(receipt)
    return receipts


def _check_together(identities: Sequence[Identity]) -> None:
    """Encoders that run together read one modality and write to a table each."""
    modalities = list(dict.fromkeys(identity.modality for identity in identities))
    if len(modalities) != 1:
        raise EncoderError(
            f"Encoders that run together read one modality, not {' and '.join(modalities) or 'none'}.",
            hint="run those of each modality on their own",
        )
    if len({identity.table for identity in identities}) < len(identities):
        specs = ", ".join(identity.spec for identity in identities)
        raise EncoderError(f"An encoder was given twice: {specs}.", hint="name each encoder once")


def _faster(encoders: Sequence[Encoder]) -> str:
    """The flags that speed up these encoders' forwards."""
    devices = {str(getattr(encoder, "device", "")) for encoder in encoders}
    if any(device.startswith("cpu") for device in devices):
        return ADVICE["forward"]
    if any(devices):
        return "a larger --batch-size"
    # No device: numpy on one core, or a graph, which is one computation on the whole.
    return "" if encoders[0].modality == "graph" else "--device cpu,cpu (processes)"


def _receipt(lane: Lane, planned: Plan, items: int, seconds: float, shares: Shares) -> Receipt:
    identity, failed = lane.table.identity, planned.failed | lane.failed
    return Receipt(
        modality=identity.modality,
        spec=identity.spec,
        table=identity.table,
        items=items,
        encoded=lane.encoded,
        cached=len(planned.cached),
        failed=len(failed),
        absent=len(planned.found.absent),
        forwards=lane.forwards,
        reused=lane.reused,
        batch_size=lane.batch_size,
        seconds=seconds,
        decode_share=shares.decode,
        forward_share=shares.forward,
        write_share=shares.write,
    )


class _Show:
    """Tells ``progress`` how far the run is, not more often than a terminal can show, but always the last."""

    def __init__(
        self, progress: Callable[[Progress], None] | None, identities: Sequence[Identity], items: int, faster: str
    ) -> None:
        self._progress, self._items, self._lanes, self._faster = progress, items, len(identities), faster
        self._modality, self._spec = identities[0].modality, " + ".join(identity.spec for identity in identities)
        self._settled = self._failed = 0  # items, and failures among them, that were settled by looking
        self._next = 0.0

    def looked(self, done: int) -> None:
        self._show("look", done, self._items)

    def planned(self, plans: Sequence[Plan]) -> None:
        self._settled = sum(len(plan.cached) + len(plan.failed) + len(plan.found.absent) for plan in plans)
        self._failed = sum(len(plan.failed) for plan in plans)

    def encoding(self, pipeline: Pipeline) -> None:
        encoded = sum(lane.encoded for lane in pipeline.lanes)
        failed = sum(lane.misses for lane in pipeline.lanes)
        shares = pipeline.shares()
        self._show(
            "encode",
            self._settled + encoded + failed,
            self._items * self._lanes,
            encoded=encoded,
            failed=self._failed + failed,
            items_per_second=(encoded + failed) / shares.seconds,
            decode_share=shares.decode,
            forward_share=shares.forward,
            write_share=shares.write,
            note="; ".join(lane.note for lane in pipeline.lanes if lane.note),
            faster=self._faster,
        )

    def _show(self, stage: str, done: int, total: int, **figures: Any) -> None:
        last = stage == "encode" and done == total
        if self._progress is not None and (last or time.monotonic() >= self._next):
            self._next = time.monotonic() + SHOW_SECONDS
            self._progress(Progress(self._modality, self._spec, stage, done, total, **figures))
