"""A Ray cluster, on this machine or on many: what ``--engine ray`` of any verb runs on.

Work goes to the actors of Ray Data as pickled items, and comes back as pickled results. An error meant for the user
comes back as itself; Ray would wrap it in errors of its own.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from itertools import islice
from typing import TYPE_CHECKING, Any

from .errors import BundlecacheError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CONNECT_SECONDS = 10.0


class RayCluster:
    """``with RayCluster(address) as cluster``; without an address, one of this machine's own.

    A process that is in a cluster already stays in it.

    Raises
    ------
    EncoderError
        When ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str | None = None) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray starts: nothing calls home
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise EncoderError(
                "--engine ray needs the package ray, which is not installed.", hint="pip install 'bundlecache[ray]'"
            ) from error
        self.ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self.ray.shutdown()

    def shared(self, cores: int, device: str = "auto") -> tuple[int, dict[str, Any]]:
        """How many actors there is room for, and what each takes: a GPU, or ``cores`` where the cluster has none."""
        there, gpus = (int(self.ray.cluster_resources().get(name, 0)) for name in ("CPU", "GPU"))
        gpus = 0 if device == "cpu" else gpus
        size = gpus or max(1, there // cores)
        return size, {"num_cpus": max(1, min(cores, there // size)), "num_gpus": 1 if gpus else 0}

    def call(self, action: Callable[[], Any], needs: dict[str, Any]) -> Any:
        """The result of an action on some machine of the cluster."""
        return _opened(self._raised(self.ray.get, self.ray.remote(**needs)(_packed).remote(action)))

    def map(
        self,
        make: Callable[[], Callable[[Any], Any]],
        items: Iterable[Any],
        size: int,
        needs: dict[str, Any],
        *,
        ordered: bool = False,
        wave: int | None = None,
    ) -> Iterator[Any]:
        """The result of every item, by actors that ``make`` the function for it once; in the order of the items if ``ordered``.

        Ray Data takes items as a whole, so they come in waves of ``wave`` items: as many are in memory at once. All
        items are one wave if it is left out.

        Raises
        ------
        BundlecacheError
            As the function raises it, or when Ray gives up.
        """
        data = self.ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars, context.execution_options.preserve_order = False, ordered
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        todo = iter(items)
        while rows := [{"item": pickle.dumps(item)} for item in islice(todo, wave)]:
            done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                fn_constructor_args=(make,),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=min(size, len(rows))),
                **needs,
            )
            rows_out = iter(done.iter_rows())
            while (row := self._raised(next, rows_out, None)) is not None:
                yield _opened(row["result"])

    def _connect(self, address: str | None) -> None:
        local: dict[str, Any] = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            if parts := re.fullmatch(r"(?:ray://)?([^/:]+):(\d+)", address or ""):
                # Ray itself would try for 15 minutes.
                socket.create_connection((parts[1], int(parts[2])), CONNECT_SECONDS).close()
            self.ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (RuntimeError, ValueError, OSError) as error:
            raise EncoderError(
                f"Ray cannot be reached at {address}: {_last_line(error)}."
                if address
                else f"Ray: {_last_line(error)}.",
                hint="--ray-address is HOST:PORT of a cluster's head (ray start --head); left out, Ray runs here",
            ) from error

    def _raised(self, action: Callable[..., Any], *args: Any) -> Any:
        """The result of an action; an error of Ray becomes one sentence."""
        try:
            return action(*args)
        except self.ray.exceptions.RayError as error:
            raise EncoderError(
                f"Ray gave up: {_last_line(error)}.",
                hint="what was done is stored; type the same command again, perhaps with a smaller --batch-size",
            ) from error


class _Actor:
    """A function as Ray Data calls it: batches of pickled items in, batches of pickled results out."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.task = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [_packed(self.task, pickle.loads(item)) for item in batch["item"]]}


def _packed(action: Callable[..., Any], *args: Any) -> bytes:
    """The pickled result of an action, or an error meant for the user."""
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
