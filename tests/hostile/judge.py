"""What every input must end in: a result, or one clear sentence with a hint; never a traceback."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING

from helpers.runner import invoke

from bundlecache.console.exits import print_error
from bundlecache.errors import BundlecacheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

TYPER_ERRORS = {"ClickException", "Exit", "Abort"}  # typer may carry a copy of click
CONTROL = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)  # all but the end of a line


def judge_error(error: BaseException | None) -> None:
    """An error is one of ours, with a sentence of visible characters and a hint; typer's own say what is allowed."""
    if error is None or {base.__name__ for base in type(error).__mro__} & TYPER_ERRORS:
        return
    if isinstance(error, SystemExit):
        assert error.code in (None, 0, 1, 2, 3)
        return
    assert isinstance(error, BundlecacheError), f"{type(error).__name__}: {str(error)[:300]}"
    assert error.message.strip()
    assert error.hint, f"no hint: {error.message[:200]}"
    for text in (error.message, error.hint):
        assert not CONTROL.search(text), repr(text[:200])


def judge_call(call: Callable[[], object]) -> BaseException | None:
    """Judge what a library call ends in."""
    try:
        call()
    except BaseException as error:
        judge_error(error)
        return error
    return None


def judge_command(*args: str | Path) -> Result:
    """Judge what a command ends in, in this process, and all that a terminal shows of it."""
    result = invoke(*args, standalone_mode=True)
    error = result.exception
    if isinstance(error, AssertionError | KeyboardInterrupt | MemoryError):
        raise error
    judge_error(error)
    shown = io.StringIO(result.output)
    shown.seek(0, io.SEEK_END)
    if isinstance(error, BundlecacheError):
        with contextlib.redirect_stderr(shown):
            print_error(error)
    judge_shown(shown.getvalue())
    return result


def judge_shown(text: str) -> None:
    """No traceback, and nothing of the input that steers a terminal."""
    assert "Traceback" not in text, text[-2000:]
    steering = CONTROL.search(text)
    assert not steering, f"{steering[0]!r} reaches the terminal in {text[max(steering.start() - 80, 0) :][:160]!r}"
