"""What every access to the tables goes through: one sentence for each error of a disk or of Lance, one writer a table."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import BundlecacheError, Command, StoreError
from .location import StoreLocation, refusal, unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def storing(root: Path) -> Iterator[None]:
    """Turn what a full, read-only or broken disk raises into one sentence."""
    try:
        yield
    except BundlecacheError as error:
        if type(error) is not BundlecacheError:
            raise
        raise StoreError(error.message, hint=error.advice) from error  # raised by files.replacing
    except (OSError, RuntimeError) as error:
        if refused := refusal(error):
            raise unreachable(StoreLocation(root), refused) from error
        text = str(error).splitlines()[0]
        if isinstance(error, RuntimeError) and "lance" not in text.lower():
            raise
        reason = re.sub(r"^(lance error: )?(LanceError\(IO\): )?|, /\S+:\d+:\d+$", "", text)
        raise StoreError(
            f"The store {root} cannot be written: {reason}. What it held before is unharmed.",
            hint="make room or mend the permissions, then type the same command: it goes on from there",
        ) from error


@contextmanager
def opening(path: Path | str) -> Iterator[None]:
    """Turn what Lance raises on opening or reading a table with damaged files into one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if refused := refusal(error):
            raise unreachable(path, refused) from error
        reason = re.sub(r"^(External error: |LanceError\(IO\): )*|, /\S+:\d+:\d+$", "", str(error).splitlines()[0])[
            :200
        ]
        raise StoreError(
            f"The table {path} is damaged: {reason}.",
            hint=[
                Command("verify", "--repair"),
                f"mends it; where that fails too, delete {path} and encode its items again",
            ],
        ) from error


@contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold the lock of a table: whoever changes it does so inside this block.

    Raises
    ------
    StoreError
        When another process holds it, or the disk refuses.
    """
    import filelock

    with storing(root):
        (root / "locks").mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(root / "locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(
                f"Another process is writing to {name} in {root}.",
                hint="wait until it has ended, then type the same command",
            ) from None
    try:
        yield
    finally:
        lock.release()
