"""What every input must end in: a result, or one clear sentence with a hint; never a traceback."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from helpers.runner import invoke

from bundlecache.errors import BundlecacheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TYPER_ERRORS = {"ClickException", "Exit", "Abort"}  # typer may carry a copy of click
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x9b]")


def judge_error(error: BaseException | None, *, cleaned: bool = False) -> None:
    """An error is one of ours, with a sentence of visible characters and a hint; typer's own say what is allowed.

    ``cleaned``: the console cleans the text when it prints it.
    """
    if error is None or {base.__name__ for base in type(error).__mro__} & TYPER_ERRORS:
        return
    if isinstance(error, SystemExit):
        assert error.code in (None, 0, 1, 2, 3)
        return
    assert isinstance(error, BundlecacheError), f"{type(error).__name__}: {str(error)[:300]}"
    assert error.message.strip()
    assert cleaned or not CONTROL.search(error.message), repr(error.message[:200])
    assert error.hint, f"no hint: {error.message[:200]}"
    assert cleaned or not CONTROL.search(error.hint), repr(error.hint[:200])


def judge_call(call: Callable[[], object]) -> BaseException | None:
    """Judge what a library call ends in."""
    try:
        call()
    except BaseException as error:
        judge_error(error)
        return error
    return None


def judge_command(*args: str | Path) -> None:
    """Judge what a command ends in, in this process."""
    result = invoke(*args)
    error = result.exception
    if isinstance(error, AssertionError | KeyboardInterrupt | MemoryError):
        raise error
    judge_error(error, cleaned=True)
    assert "Traceback" not in result.output
    assert "\x1b]" not in result.output, "an escape sequence of the input reaches the terminal"
