"""Run commands of the command line: in this process, or in a process of their own."""

from __future__ import annotations

import functools
import json
import subprocess
from typing import TYPE_CHECKING, Any

import typer.testing
from typer.testing import CliRunner, Result

from helpers.forked import COMMAND, start
from helpers.paths import TOP

if TYPE_CHECKING:
    from pathlib import Path


# All commands are built at every call, which takes longer than most of them: build them once.
typer.testing._get_command = functools.cache(typer.testing._get_command)


def invoke(*args: str | Path, standalone_mode: bool = False) -> Result:
    """Run a command in this process, as the entry point does; ``Result.exception`` is what it ended in.

    With ``standalone_mode`` wrong usage is printed, as a terminal shows it.
    """
    from bundlecache import cli

    return CliRunner().invoke(cli.app, [str(arg) for arg in args], standalone_mode=standalone_mode)


def succeed(*args: str | Path) -> Result:
    """Run a command in this process and require that it ends without an error, with exit code 0."""
    result = invoke(*args)
    assert result.exception is None, (result.output, result.exception)
    assert not result.return_value
    return result


def printed_json(*args: str | Path) -> Any:
    """What a command prints with ``--json``; an error of the command is raised here."""
    result = invoke(*args, "--json")
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def run_process(*args: str | Path, cwd: Path = TOP) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own and require that no traceback is shown."""
    child = start(COMMAND, *args, cwd=cwd)
    printed, said = child.communicate()
    assert "Traceback" not in printed + said, said
    return subprocess.CompletedProcess(args, child.wait(), printed, said)
