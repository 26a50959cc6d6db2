"""``--engine ray``: the workers are actors of Ray Data, on this machine or on a cluster.

On a cluster the workspace must be at the same path on every machine, because the workers read its files. They write
their rows themselves, as fragments of the tables; this process commits them, so it is no bottleneck. For tables on an
object store every machine needs the keys in its environment.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, EncoderError
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..store.fragments import FragmentTarget
    from .encoder import EncoderInfo
    from .protocol import Load, Part, PartResult

CONNECT_SECONDS = 10.0


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
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray starts: nothing calls home
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise EncoderError(
                "--engine ray needs the package ray, which is not installed.", hint="pip install 'bundlecache[ray]'"
            ) from error
        self._ray, self._load, self._device, self._workers = ray, load, device, workers
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address)
        try:
            cores, gpus = (int(ray.cluster_resources().get(name, 0)) for name in ("CPU", "GPU"))
            gpus = 0 if device == "cpu" else gpus
            self.size = gpus or max(1, cores // workers)
            self._needs: dict[str, Any] = {
                "num_cpus": max(1, min(workers, cores // self.size)),
                "num_gpus": 1 if gpus else 0,
            }
            describe = ray.remote(**self._needs)(_described)
            self.encoders: list[EncoderInfo] = _opened(self._raised(ray.get, describe.remote(load, device)))
        except BaseException:
            self.__exit__()
            raise

    def _connect(self, address: str | None) -> None:
        local: dict[str, Any] = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            if parts := re.fullmatch(r"(?:ray://)?([^/:]+):(\d+)", address or ""):
                # Ray itself would try for 15 minutes.
                socket.create_connection((parts[1], int(parts[2])), CONNECT_SECONDS).close()
            self._ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (RuntimeError, ValueError, OSError) as error:
            raise EncoderError(
                f"Ray cannot be reached at {address}: {_last_line(error)}."
                if address
                else f"Ray: {_last_line(error)}.",
                hint="--ray-address is HOST:PORT of a cluster's head (ray start --head); left out, Ray runs here",
            ) from error

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()

    def map(self, parts: Iterable[Part], targets: Sequence[FragmentTarget] = ()) -> Iterator[list[PartResult]]:
        """See `WorkerPool.map`."""
        data = self._ray.data
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"part": pickle.dumps(part)} for part in parts]
        if not rows:
            return
        encoded = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(self._load, self._device, self._workers, list(targets)),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(self.size, len(rows))),
            **self._needs,
        )
        rows_out = iter(encoded.iter_rows())
        while (row := self._raised(next, rows_out, None)) is not None:
            yield _opened(row["results"])

    def _raised(self, action: Any, *args: Any) -> Any:
        """The result of an action; an error of Ray becomes one sentence."""
        try:
            return action(*args)
        except self._ray.exceptions.RayError as error:
            raise EncoderError(
                f"Ray gave up: {_last_line(error)}.",
                hint="what was encoded is stored; type the same command again, perhaps with a smaller --batch-size",
            ) from error


class _Actor:
    """A worker as Ray Data calls it: batches of parts in, batches of results out."""

    def __init__(self, load: Load, device: str, workers: int, targets: Sequence[FragmentTarget]) -> None:
        self.worker = Worker(load, device, workers, targets)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"results": [_packed(self.worker.encode, pickle.loads(part)) for part in batch["part"]]}


def _described(load: Load, device: str) -> bytes:
    return _packed(lambda: Worker(load, device, 1).describe())


def _packed(action: Any, *args: Any) -> bytes:
    """The pickled result of an action, or an error meant for the user: Ray would wrap that in errors of its own."""
    try:
        return pickle.dumps(action(*args))
    except BundlecacheError as error:
        return pickle.dumps(error)


def _opened(packed: bytes) -> Any:
    given = pickle.loads(packed)
    if isinstance(given, BundlecacheError):
        raise given
    return given


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:300]
