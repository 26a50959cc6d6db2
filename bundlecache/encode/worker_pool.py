"""Encoders in processes of their own, one per device or machine, for the one process that writes.

A worker runs the :class:`Pipeline` of any run over the parts that it is given, with an outbox in the place of
the table: the same batches, halvings and failures, and rows that go home instead of to the disk.
:mod:`.processes` and :mod:`.ray` are the two ways to have workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from ..store.vectors import Identity
from .batcher import Limits
from .pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np

    from ..store.failures import Failure
    from .batcher import Unit
    from .run import Encoder

    Load = Callable[[str], Sequence[Encoder]]  # device -> encoders; goes to other processes, so it must pickle
    Part = list[list[Unit]]  # by encoder

UNLIMITED = Limits(commit_rows=1 << 40, commit_seconds=math.inf, max_errors=None)


class Crew(Protocol):
    """Workers that are ready, to be used in a ``with`` block.

    Attributes
    ----------
    size
        How many they are.
    encoders
        What their encoders declare; these stand-ins read and encode nothing themselves.
    """

    size: int
    encoders: list[Described]

    def map(self, parts: Iterable[Part]) -> Iterator[list[Found]]:
        """What came of each part, by encoder, in the order in which the workers finish.

        Raises
        ------
        EncoderError
            When a worker died, or its encoder is broken.
        """


@dataclass(frozen=True)
class Described:
    """What an encoder in another process declares; see `Encoder`."""

    modality: str
    spec: str
    dim: int
    dtype: str
    batch_size: int
    tokens: int
    fingerprint: str
    reading: str
    preprocess: str

    @classmethod
    def of(cls, encoder: Encoder) -> Described:
        """What an encoder here declares."""
        return cls(**{each.name: getattr(encoder, each.name) for each in fields(cls)})


@dataclass
class Found:
    """What came of a part for one encoder: rows [w] by content hash, failures by item, and what a lane counts."""

    rows: dict[str, np.ndarray]
    failed: dict[str, Failure]
    forwards: int
    batch_size: int
    note: str
    waited: float
    forward: float


@dataclass
class Outbox:
    """Stands where a lane expects its table, and keeps what it writes."""

    identity: Identity
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, item_ids: Sequence[str], hashes: Sequence[str], vectors: np.ndarray) -> None:  # noqa: ARG002
        """Keep one row for each content."""
        self.rows.update(zip(hashes, vectors, strict=True))

    def note_errors(self, found: Mapping[str, Failure]) -> None:
        """They stand in the lane."""


class Worker:
    """The encoders of one device, loaded once."""

    def __init__(self, load: Load, device: str, workers: int) -> None:
        self.encoders, self.workers = list(load(device)), workers

    def describe(self) -> list[Described]:
        """What its encoders declare."""
        return [Described.of(encoder) for encoder in self.encoders]

    def encode(self, part: Part) -> list[Found]:
        """Read, prepare and encode a part."""
        outboxes: list[Any] = [Outbox(Identity.of(encoder)) for encoder in self.encoders]
        with Pipeline(self.encoders, outboxes, self.workers, UNLIMITED, lambda _: None) as pipeline:
            pipeline.encode(part)
        found = []
        for encoder, lane, outbox in zip(self.encoders, pipeline.lanes, outboxes, strict=True):
            encoder.batch_size = lane.batch_size  # what memory taught, for the parts to come
            counts = (lane.forwards, lane.batch_size, lane.note, pipeline.waited, lane.seconds["forward"])
            found.append(Found(outbox.rows, lane.failed, *counts))
        return found
