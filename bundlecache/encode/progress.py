"""How far an encode run is, what limits its speed, and how long it will still take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..store.failures import count_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..store.table_schema import Identity
    from .encoder import Encoder
    from .pipeline import Pipeline
    from .plan import Plan

SHOW_SECONDS = 0.1  # between two reports
ADVICE = {
    "decode": "more --workers, or smaller files",
    "forward": "--device cuda, or --batch-size",  # see `forward_advice`
    "write": "a faster disk for --data",
}


@dataclass(frozen=True)
class Learning:
    """How far an encoder is that learns before it encodes: ``done`` of at most ``total`` epochs.

    ``recall`` is Recall@20 of held-out edges; None stands for what is not known (yet) or not computed.
    """

    done: int
    total: int
    loss: float | None = None
    recall: float | None = None
    seconds_left: float | None = None

    @property
    def figures(self) -> str:
        """The loss and Recall@20, as far as they are known, in one line."""
        loss = "" if self.loss is None else f"loss {self.loss:.3f}"
        recall = "" if self.recall is None else f"Recall@20 {self.recall:.3f}"
        return ", ".join(part for part in (loss, recall) if part)


@dataclass(frozen=True)
class Progress:
    """How far a run is; ``stage`` is "look" (finding and hashing), "learn" (a graph) or "encode".

    While an encoder learns, ``done`` and ``total`` count epochs, and ``learning`` says more.

    With several encoders (``spec`` is "a + b") an item counts once for each of them while they encode, in
    ``done``, ``total`` and ``items_per_second``. The rate is the average since encoding began, over items that were
    encoded or failed; items that were cached or absent do not count. ``note`` is what the user should know by now, or
    "". The shares are parts of the time since encoding began in which the run waited for decoded samples, ran the
    encoder, and waited for the disk. What overlaps costs nothing and counts nowhere. ``faster`` is what would help
    the forwards.
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
    learning: Learning | None = None

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds until the end at the average rate; None before there is a rate. While an encoder learns: of the learning."""
        if self.learning is not None:
            return self.learning.seconds_left
        return (self.total - self.done) / self.items_per_second if self.items_per_second > 0 else None

    @property
    def bound_by(self) -> str:
        """What takes most of the time: "decode", "forward" or "write"."""
        return max(ADVICE, key=lambda name: getattr(self, f"{name}_share"))

    @property
    def advice(self) -> str:
        """What would help, as flags to type; "" where nothing does."""
        return self.faster if self.bound_by == "forward" else ADVICE[self.bound_by]

    @property
    def spent(self) -> str:
        """The shares and the advice, in one line of at most 78 characters."""
        parts = (f"{name} {getattr(self, f'{name}_share'):.0%}" for name in ADVICE)
        return ", ".join(parts) + (f"; faster: {self.advice}" if self.advice else "")


def forward_advice(encoders: Sequence[Encoder]) -> str:
    """The flags that speed up the forwards of these encoders."""
    devices = {str(getattr(encoder, "device", "")) for encoder in encoders}
    if any(device.startswith("cpu") for device in devices):
        return ADVICE["forward"]
    if any(devices):
        return "a larger --batch-size"
    # No device: numpy on one core, or a graph, which is one computation on the whole.
    return "" if encoders[0].modality == "graph" else "--device cpu,cpu (processes)"


class ProgressReporter:
    """Calls ``progress`` as often as a terminal can show it, and always at the end."""

    def __init__(
        self, progress: Callable[[Progress], None] | None, identities: Sequence[Identity], items: int, faster: str
    ) -> None:
        self._progress, self._items, self._encoders, self._faster = progress, items, len(identities), faster
        self._modality, self._spec = identities[0].modality, " + ".join(identity.spec for identity in identities)
        self._unencoded = self._failed = 0  # items that need no encoding, and those of them that failed
        self._next = 0.0

    def watch(self, encoders: Sequence[Encoder]) -> None:
        """Report how far those encoders are that learn before they encode: those with a method ``watch``."""
        for encoder in encoders:
            if hasattr(encoder, "watch"):
                encoder.watch(self.learning)

    def learning(self, learning: Learning) -> None:
        """Report how far the learning is."""
        self._report("learn", learning.done, learning.total, learning=learning)

    def scanned(self, done: int) -> None:
        """Report that ``done`` items were found and hashed."""
        self._report("look", done, self._items)

    def planned(self, plans: Sequence[Plan]) -> None:
        """Count the items that need no encoding."""
        self._unencoded = sum(plan.unencoded for plan in plans)
        self._failed = sum(count_failed(plan.failed) for plan in plans)

    def encoding(self, pipeline: Pipeline) -> None:
        """Report how far the encoders are."""
        encoded = sum(batcher.encoded for batcher in pipeline.batchers)
        failed = sum(batcher.failures for batcher in pipeline.batchers)
        unlearnt = sum(batcher.unlearnt for batcher in pipeline.batchers)
        shares = pipeline.shares()
        self._report(
            "encode",
            self._unencoded + encoded + failed + unlearnt,
            self._items * self._encoders,
            encoded=encoded,
            failed=self._failed + failed,
            items_per_second=(encoded + failed) / shares.seconds,
            decode_share=shares.decode,
            forward_share=shares.forward,
            write_share=shares.write,
            note="; ".join(batcher.note for batcher in pipeline.batchers if batcher.note),
            faster=self._faster,
        )

    def _report(self, stage: str, done: int, total: int, **figures: Any) -> None:
        last = stage == "encode" and done == total
        if self._progress is not None and (last or time.monotonic() >= self._next):
            self._next = time.monotonic() + SHOW_SECONDS
            self._progress(Progress(self._modality, self._spec, stage, done, total, **figures))
