"""How a command ends: files that were written, partial success, signals, and errors in one sentence."""

from __future__ import annotations

import contextlib
import errno
import io
import sys
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from ..errors import BundlecacheError, Command, counted, hint_text
from .options import DEFAULT_DATA, Typed
from .output import log, plain, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PARTIAL = 3
"""Exit code of a command that did its work while some items failed."""
INTERRUPTED = 130
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What a disk, or a file that standard output leads to, answers when nothing can be written."""
SIGNALLED = {"SIGINT": INTERRUPTED, "SIGTERM": 143}
"""Exit codes of commands that a signal stopped, as shells have them."""


def run_app(app: typer.Typer) -> None:
    """Run a verb: a BundlecacheError is one sentence and exit code 1, a bug keeps its traceback."""
    _write_any_text()
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            log.print("[yellow]Interrupted;[/] what is stored stays stored.")
        raise
    except (BundlecacheError, OSError) as error:
        print_error(error)
        sys.exit(1)


def show_files(paths: Sequence[Path], as_json: bool, title: str) -> None:
    """The files that were written, with their sizes."""
    rows = [{"file": str(path), "size_bytes": path.stat().st_size} for path in paths]
    show(rows, as_json, rows, title=title)


def show_completed(answers: dict[str, Any], as_json: bool) -> None:
    """The file of answers; exits with 3 where some carts have none."""
    failed = answers["failed"]
    show(answers, as_json, [answers], title="Completions, a row per cart")
    if failed:
        log.print(
            f"[yellow]{counted(failed, 'cart has', 'carts have')} no completions[/]; "
            f"{escape(plain(answers['errors'], 1000))} says why.",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(PARTIAL)


def exit_partial(failed: int, one: str, many: str) -> None:
    """Exit with 3 where some items failed; all others are stored."""
    if failed:
        why = command_line(Command("status", "--errors"))
        log.print(f"[yellow]{counted(failed, one, many)}[/] ({escape(why)} says why); all others are stored.")
        raise typer.Exit(PARTIAL)


def exit_signalled(stopped: str | None) -> None:
    """Exit with the code of the signal that stopped a training, if one did."""
    if stopped in SIGNALLED:
        raise typer.Exit(SIGNALLED[stopped])


def print_error(error: BundlecacheError | OSError) -> None:
    """What is wrong, and what to type next; its commands name the workspace that was typed."""
    if isinstance(error, OSError):
        error = _refused_write(error)
    log.print(f"[bold red]error:[/] {escape(plain(error.message, 2000))}", soft_wrap=True, highlight=False)
    if error.advice:
        hint = escape(plain(hint_text(error.advice, typed_data()), 2000))
        log.print(f"  [dim]try:[/] {hint}", soft_wrap=True, highlight=False)


def _write_any_text() -> None:
    """Let a question mark stand for what a terminal of another encoding than Unicode cannot show (help has "…" in it)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors="replace")


def command_line(command: Command) -> str:
    """A command with the workspace that was typed."""
    return command.line(typed_data())


def typed_data() -> Path | None:
    """The workspace to name in commands that are proposed: none where the default one is meant."""
    return None if Typed.data == DEFAULT_DATA else Typed.data


def _refused_write(error: OSError) -> BundlecacheError:
    """The sentence about a disk that takes no more; any other error is a bug, and raised again."""
    if error.errno not in REFUSED:
        raise error
    with contextlib.suppress(OSError):
        sys.stdout.close()  # so that Python does not try to write the rest at its end
    where = error.filename or "Standard output or another file"
    return BundlecacheError(
        f"{where} cannot be written: {error.strerror or error}.", hint="free some space, then type the same command"
    )
