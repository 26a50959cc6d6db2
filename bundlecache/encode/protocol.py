"""What the parts of an encode run hand to each other: units of work, limits, results of workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np

    from ..store.failures import Failure
    from ..store.fragments import FragmentTarget
    from .encoder import Encoder, EncoderInfo
    from .scan import Source

    Load = Callable[[str], Sequence[Encoder]]  # device -> encoders; sent to other processes, so it must pickle
    Part = list[list["Unit"]]  # units by encoder

MAX_FAILURES_IN_A_ROW = 32  # contents that fail inside the encoder: then the encoder itself is broken


@dataclass(frozen=True)
class Unit:
    """One content and the items that share it: one sample, one vector, a row for each item.

    ``position`` is that of the first of these items in the catalogue.
    """

    source: Source
    item_ids: list[str]
    position: int


@dataclass(frozen=True)
class Unusable:
    """Takes the place of a sample that could not be made. The exception itself would keep the file's pixels alive."""

    reason: str


@dataclass(frozen=True)
class Limits:
    """When to commit, and how many failures an encoder may have."""

    commit_rows: int
    commit_seconds: float
    max_errors: int | None


@dataclass
class PartResult:
    """What a worker made of a part for one encoder: rows [w] by content hash, failures by item, and counts.

    ``waited`` and ``forward`` are seconds without a decoded sample, and in the encoder. Where the worker has written
    rows itself, ``fragments`` are to be committed; they hold the rows of the contents ``written``.
    """

    rows: dict[str, np.ndarray]
    failed: dict[str, Failure]
    forwards: int
    batch_size: int
    note: str
    waited: float
    forward: float
    fragments: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


class WorkerPool(Protocol):
    """Workers in other processes that are ready, to be used in a ``with`` block.

    Attributes
    ----------
    size
        How many workers there are.
    encoders
        What their encoders declare; these stand for the encoders here, but read and encode nothing.
    writes
        Whether its workers write rows themselves, as fragments; then parts are larger.
    """

    size: int
    encoders: list[EncoderInfo]
    writes: bool

    def map(self, parts: Iterable[Part], targets: Sequence[FragmentTarget] = ()) -> Iterator[list[PartResult]]:
        """The results of each part, by encoder, in the order in which the workers finish.

        ``targets`` are the tables of the encoders, for workers that write.

        Raises
        ------
        EncoderError
            When a worker died, or its encoder is broken.
        """

    def __enter__(self) -> WorkerPool: ...

    def __exit__(self, *exception: Any) -> None: ...
