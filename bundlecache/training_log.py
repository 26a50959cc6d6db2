"""The training log (``history.jsonl`` and TensorBoard events), and what ends a training early."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

from .errors import CheckpointError
from .files import write_text


class TrainingLog:
    """Writes ``history.jsonl`` and TensorBoard events of a run, line by line; a context manager.

    ``keep`` is how many lines of an earlier file stay when a training is resumed. When the disk refuses TensorBoard's
    events, training continues without them.

    Raises
    ------
    CheckpointError
        When the run folder cannot be written.
    """

    def __init__(self, run: Path, *, enabled: bool = True, keep: int = 0) -> None:
        self._run = run
        self.lines = keep
        self._file: TextIO | None = None
        self._board: Any = None
        self._hook = threading.excepthook
        if not enabled:
            return
        try:
            run.mkdir(parents=True, exist_ok=True)
            kept = _head(run / "history.jsonl", keep)
            if kept:
                write_text(run / "history.jsonl", "".join(kept))
            self._file = (run / "history.jsonl").open("a" if kept else "w", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from error
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return  # history.jsonl has the same figures
        threading.excepthook = self._unless_disk  # TensorBoard writes in a thread of its own
        with suppress(OSError):
            for old in run.glob("events.out.tfevents.*"):
                old.unlink()
            self._board = SummaryWriter(str(run))
            for line in map(json.loads, kept):
                self._draw(line.pop("stage"), line.pop("step"), line)

    def add(self, stage: str, step: int, **values: float) -> None:
        """One line: ``{"stage", "step", **values}``."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error
        self.lines += 1
        self._draw(stage, step, values)

    def _draw(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            try:
                for name, value in values.items():
                    self._board.add_scalar(f"{stage}/{name}", value, step)
            except OSError:
                self._board = None

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._file, self._board):
            with suppress(OSError):  # a failed write was reported when it happened
                if writer is not None:
                    writer.close()
        threading.excepthook = self._hook

    def _refused(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self._run} cannot be written: {error.strerror or error}.",
            hint="free some space or choose another --data",
        )

    def _unless_disk(self, args: Any) -> None:
        if not isinstance(args.exc_value, OSError):
            self._hook(args)


def _head(path: Path, lines: int) -> list[str]:
    """The first ``lines`` lines of the log; fewer when somebody has shortened the file."""
    if not lines or not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return list(islice(file, lines))


class Stop:
    """Decides when to stop: after ``minutes`` (0: never), or after Ctrl-C or SIGTERM; a context manager.

    After the first signal the current step is finished and the weights are saved; a second Ctrl-C ends at once.
    """

    def __init__(self, minutes: float = 0.0) -> None:
        self._deadline = time.monotonic() + 60 * minutes if minutes > 0 else None
        self._before: dict[int, Any] = {}
        self._signal: str | None = None

    @property
    def reason(self) -> str | None:
        """Why training must stop, or None."""
        if self._signal is None and self._deadline is not None and time.monotonic() > self._deadline:
            return "the time limit"
        return self._signal

    def request(self, reason: str) -> None:
        """Request a stop for ``reason``; an earlier reason stays."""
        self._signal = self._signal or self.reason or reason

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
