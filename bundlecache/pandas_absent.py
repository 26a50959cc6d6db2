"""Lets pyarrow work without pandas, which it imports at its first array, in commands that use no data frame."""

from __future__ import annotations

import sys
from typing import Any


class _NoPandas:
    """A finder of modules that finds no pandas, and leaves all others to those behind it."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=name)


def leave_pandas_out() -> None:
    """Let pyarrow look for pandas now and find none: 0.4 s of a command that would end in two.

    For a process that makes no data frame, as pyarrow does not look again.
    """
    if "pandas" in sys.modules:
        return
    finder: Any = _NoPandas
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
