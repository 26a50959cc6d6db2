"""``--engine ray``: the encoders are actors of Ray Data, on this machine or on a cluster.

On a cluster the workspace must be at the same path on every machine, because the workers read its files. They write
their rows themselves, as fragments of the tables; this process commits them, so it is no bottleneck. For tables on an
object store every machine needs the keys in its environment.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..ray_cluster import RayCluster
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..store.fragments import FragmentTarget
    from .encoder import EncoderInfo
    from .protocol import Load, Part, PartResult

WAVE_PARTS = 16  # parts of a worker in one execution of Ray Data: its memory follows the workers, not the catalogue


class RayPool:
    """``with RayPool(load, workers, address) as pool``; without an address, a cluster of this machine's own.

    One actor per GPU of the cluster, or per ``workers`` cores where it has none.

    Raises
    ------
    EncoderError
        When ray is not installed, nothing answers at the address, or an encoder cannot be loaded.
    """

    writes = True

    def __init__(self, load: Load, workers: int, address: str | None = None, device: str = "auto") -> None:
        self._worker = partial(_EncodeParts, load, device, workers)
        self._cluster = RayCluster(address)
        try:
            self.size, self._needs = self._cluster.shared(workers, device)
            self.encoders: list[EncoderInfo] = self._cluster.call(partial(_described, load, device), self._needs)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.__exit__()

    def map(self, parts: Iterable[Part], targets: Sequence[FragmentTarget] = ()) -> Iterator[list[PartResult]]:
        """See `WorkerPool.map`."""
        make = partial(self._worker, list(targets))
        yield from self._cluster.map(make, parts, self.size, self._needs, wave=self.size * WAVE_PARTS)


class _EncodeParts:
    """A worker as what an actor of `RayCluster` runs."""

    def __init__(self, load: Load, device: str, workers: int, targets: Sequence[FragmentTarget]) -> None:
        self.worker = Worker(load, device, workers, targets)

    def __call__(self, part: Part) -> list[PartResult]:
        return self.worker.encode(part)


def _described(load: Load, device: str) -> list[EncoderInfo]:
    return Worker(load, device, 1).describe()
