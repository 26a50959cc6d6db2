"""What training writes while it runs, and what can make it stop early."""

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

from bundlecache.errors import CheckpointError
from bundlecache.files import write_text


class TrainingLog:
    """``history.jsonl`` and TensorBoard events of a run, line by line; a context manager.

    ``keep`` is how many lines of an earlier file stay, for a training that goes on. TensorBoard is a convenience: when
    the disk refuses its events, training goes on without them.

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
            return  # the curves stand in history.jsonl all the same
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
            with suppress(OSError):  # what could not be written has been told
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
    """The first ``lines`` lines of a history; fewer when a hand has shortened it."""
    if not lines or not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return list(islice(file, lines))


class Stop:
    """Says when to stop: after ``minutes`` (0: never), or once Ctrl-C or SIGTERM came; a context manager.

    The first signal lets the open step finish, so that what was learned is saved; a second Ctrl-C ends at once.
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

    def heed(self, reason: str) -> None:
        """Stop for ``reason``, if there is none yet."""
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
