"""Stage A: run a frozen encoder once over every new or changed item, into the store.

Threads decode ahead of the encoder, the encoder runs in the calling thread, and one thread commits what is
done every few thousand rows or seconds, so that reading, computing and writing overlap. Killing the process
loses the rows that are not committed yet, nothing else; the next run goes on from there.

>>> receipt = run(encoder, catalogue, workspace, Store(workspace.store))  # doctest: +SKIP
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..store.vectors import Identity
from .pipeline import Pipeline, Unit
from .sources import survey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from ..catalogue import Catalogue
    from ..store import Store
    from ..store.failures import Failure
    from ..store.tables import TableWriter
    from ..workspace import Workspace
    from .pipeline import Shares
    from .sources import Survey

COMMIT_ROWS = 4096
COMMIT_SECONDS = 15.0
SHOW_SECONDS = 0.1
ADVICE = {
    "decode": "waiting for decoded items: more --workers, or smaller files",
    "forward": "waiting for the encoder: a GPU (--device cuda) or another --batch-size",
    "write": "waiting for the disk: a faster one for --data",
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
        """What a file (image, audio), title (text) or item id (graph) holds, in full; in a worker thread.

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

    The shares are parts of the time since encoding began in which the run waited for decoded samples, ran
    the encoder, and waited for the disk. What overlaps costs nothing and counts nowhere.
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

    @property
    def bound_by(self) -> str:
        """What takes most of the time: "decode", "forward" or "write"."""
        return max(ADVICE, key=lambda name: getattr(self, f"{name}_share"))

    @property
    def advice(self) -> str:
        """What would help, in one line."""
        return ADVICE[self.bound_by]


@dataclass(frozen=True)
class Receipt:
    """What a run did: items = encoded + cached + failed + absent.

    ``forwards`` counts calls of ``encoder.encode``, ``reused`` the encoded items that took the vector of an
    item with the same content. Shares as in :class:`Progress`.
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


@dataclass
class _Plan:
    """What has to be done with the items that were found."""

    cached: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    copies: list[tuple[str, str, str]] = field(default_factory=list)  # item, content hash, item that has its vector
    units: list[Unit] = field(default_factory=list)


def run(
    encoder: Encoder,
    catalogue: Catalogue,
    workspace: Workspace,
    store: Store,
    *,
    workers: int = 4,
    retry_failed: bool = False,
    limit: int | None = None,
    max_errors: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    commit_rows: int = COMMIT_ROWS,
    commit_seconds: float = COMMIT_SECONDS,
) -> Receipt:
    """Encode what is new or changed among the first ``limit`` items of the catalogue, and account for all.

    Items that failed stand in ``store.errors`` and are tried again when their content changes, or with
    ``retry_failed``. More than ``max_errors`` new failures stop the run; what was encoded is stored.

    Raises
    ------
    StoreError
        When another process writes to the same table, or the disk refuses.
    EncoderError
        When the encoder gives something that is no [n, d], fails on everything, or ``max_errors`` is passed.
    """
    began = time.monotonic()
    identity = Identity.of(encoder)
    total = len(catalogue) if limit is None else min(limit, len(catalogue))
    show = _Show(progress, identity, total)
    with store.writer(identity) as table:
        note = store.begin_run(identity)
        found = survey(encoder, catalogue, workspace, workers=workers, limit=limit, looked=show.looked)
        plan = _plan(found, table, retry_failed=retry_failed)
        show.settled, show.failed = len(plan.cached) + len(plan.failed) + len(found.absent), len(plan.failed)
        with Pipeline(encoder, table, workers, commit_rows, commit_seconds, max_errors, show.encoding) as pipeline:
            pipeline.refuse(found.failed)
            pipeline.copy(plan.copies)
            pipeline.encode(plan.units)
        failed = plan.failed | pipeline.failed
        _settle(table, found, failed)
        table.tidy()
        receipt = Receipt(
            modality=identity.modality,
            spec=identity.spec,
            table=identity.table,
            items=total,
            encoded=pipeline.encoded,
            cached=len(plan.cached),
            failed=len(failed),
            absent=len(found.absent),
            forwards=pipeline.forwards,
            reused=pipeline.reused,
            seconds=time.monotonic() - began,
            decode_share=pipeline.shares.decode,
            forward_share=pipeline.shares.forward,
            write_share=pipeline.shares.write,
        )
        store.end_run(note, identity, receipt.to_dict())
    return receipt


def _plan(found: Survey, table: TableWriter, *, retry_failed: bool) -> _Plan:
    """Sort items into cached, failed before, copies of a stored vector, and units of equal content to encode."""
    plan = _Plan()
    holder = {content_hash: item_id for item_id, content_hash in table.content.items()}
    units: dict[str, Unit] = {}
    for item_id, source in found.present.items():
        content_hash = source.content_hash
        failure = table.errors.get(item_id)
        if table.content.get(item_id) == content_hash:
            plan.cached.append(item_id)
        elif failure is not None and failure.content_hash == content_hash and not retry_failed:
            plan.failed[item_id] = failure
        elif content_hash in holder:
            plan.copies.append((item_id, content_hash, holder[content_hash]))
        elif content_hash in units:
            units[content_hash].item_ids.append(item_id)
        else:
            units[content_hash] = Unit(source, [item_id])
    plan.units = list(units.values())
    return plan


def _settle(table: TableWriter, found: Survey, failed: dict[str, Failure]) -> None:
    """Rows whose item has other content now, or none, no longer hold; a file that cannot be read proves nothing."""
    outcome: dict[str, Failure | None] = dict.fromkeys([*found.present, *found.absent])
    dead = {item_id for item_id, failure in failed.items() if failure.content_hash}
    table.settle(outcome | failed, dead=dead | set(found.absent))


class _Show:
    """Tells ``progress`` how far the run is, not more often than a terminal can show, but always the last."""

    def __init__(self, progress: Callable[[Progress], None] | None, identity: Identity, total: int) -> None:
        self.settled = self.failed = 0  # items, and failures among them, that were settled by looking
        self._progress, self._identity, self._total = progress, identity, total
        self._next = 0.0

    def looked(self, done: int) -> None:
        self._show("look", done)

    def encoding(self, shares: Shares, encoded: int, failed: int) -> None:
        self._show(
            "encode",
            self.settled + encoded + failed,
            encoded=encoded,
            failed=self.failed + failed,
            items_per_second=(encoded + failed) / max(shares.seconds, 1e-9),
            decode_share=shares.decode,
            forward_share=shares.forward,
            write_share=shares.write,
        )

    def _show(self, stage: str, done: int, **figures: Any) -> None:
        last = stage == "encode" and done == self._total
        if self._progress is not None and (last or time.monotonic() >= self._next):
            self._next = time.monotonic() + SHOW_SECONDS
            self._progress(Progress(self._identity.modality, self._identity.spec, stage, done, self._total, **figures))
