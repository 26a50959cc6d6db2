"""Processes forked from one that has imported what they need: a fresh interpreter spends seconds on imports alone.

`start` gives a process of its own (session, working directory, environment, standard output), which may be killed like
any other. What depends on how an interpreter starts (locale, import order, packaging) starts one instead.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pytest

TOP = Path(__file__).resolve().parents[2]
MODULES = (
    "lancedb",
    "faiss",
    "torch",
    "scipy.sparse",
    "bundlecache.cli",
    "bundlecache.project.workspace",
    "bundlecache.store.store",
    "bundlecache.features.encode_workspace",
)
COMMAND = "bundlecache"  # in the place of a script: the command line
CODE = "-c"  # and: the code is the first word


class Forked:
    """A forked process, with what tests use of `subprocess.Popen`; standard error is kept in a file."""

    def __init__(self, forker: Forker, pid: int, stdout: IO[str], stderr: IO[str]) -> None:
        self._forker, self.pid, self.stdout, self._stderr = forker, pid, stdout, stderr
        self.returncode: int | None = None

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code, or the negative number of the signal that killed it."""
        if self.returncode is None:
            found = self._forker.ask({"wait": self.pid, "seconds": seconds})
            if found is None:
                raise subprocess.TimeoutExpired("a forked process", seconds or 0)
            self.returncode = int(found)
        return self.returncode

    def poll(self) -> int | None:
        """`wait` without waiting: None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, when it has ended."""
        printed = self.stdout.read()
        self.wait(timeout)
        self._stderr.seek(0)
        return printed, self._stderr.read()


class Forker:
    """The process that has imported `MODULES` and forks others when it is told to; it ends with this one."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "tests")])}
        command = [sys.executable, "-m", "helpers.forked", str(theirs.fileno())]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, pass_fds=[theirs.fileno()], cwd=TOP, env=env
        )
        theirs.close()
        self._replies = self._socket.makefile("r")

    def ask(self, request: dict[str, Any], files: tuple[int, ...] = ()) -> Any:
        """The answer to a request; ``files`` are handed over."""
        socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], files)
        answer = self._replies.readline()
        assert answer, f"the forking process ended with {self.process.wait()}"
        return json.loads(answer)

    def start(self, script: str | Path, words: list[str], cwd: Path, **env: str | None) -> Forked:
        """Run a script, or `COMMAND`, with these words; variables that are None are removed."""
        read, write = os.pipe()
        stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - read by the process
        request = {"script": str(script), "words": words, "cwd": str(cwd), "env": env}
        pid = self.ask(request, (write, stderr.fileno()))
        os.close(write)
        return Forked(self, pid, os.fdopen(read, encoding="utf-8", errors="replace"), stderr)


@functools.cache
def forker() -> Forker:
    """The one of this process."""
    return Forker()


def start(script: str | Path, *words: str | Path, cwd: Path = TOP, **env: str | None) -> Forked:
    """A forked process that runs a script as ``python SCRIPT WORDS``, `COMMAND` as the command line, or `CODE`."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked")
    return forker().start(script, list(map(str, words)), cwd, **env)


def import_first(*modules: str) -> None:
    """Import more than `MODULES`, once for all processes that are started from now on."""
    forker().ask({"import": modules})


def _serve(connection: socket.socket) -> None:
    """Answer requests until the other side is gone."""
    while True:
        text, files, _, _ = socket.recv_fds(connection, 1 << 16, 2)
        if not text:
            return
        while not text.endswith(b"\n"):
            text += connection.recv(1 << 16)
        request = json.loads(text)
        if "import" in request:
            answer = _imported(request["import"])
        elif "wait" in request:
            answer = _waited(request["wait"], request["seconds"])
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                _run(request, files)
        for file in files:
            os.close(file)
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _waited(pid: int, seconds: float | None) -> int | None:
    if seconds is None:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.005)


def _run(request: dict[str, Any], files: list[int]) -> None:
    """The child: run what was asked for, and end."""
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(file, number)
            os.close(file)
        os.chdir(request["cwd"])
        for name, value in request["env"].items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        sys.argv = [request["script"], *request["words"]]
        if request["script"] == COMMAND:
            from bundlecache import cli

            cli.main()
        elif request["script"] == CODE:
            sys.argv = [CODE, *request["words"][1:]]
            exec(request["words"][0], {"__name__": "__main__"})
        else:
            sys.path.insert(0, str(Path(request["script"]).parent))
            runpy.run_path(request["script"], run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _imported(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _main() -> None:
    warnings.filterwarnings("ignore", message=".*fork")
    _imported(MODULES)
    _serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    _main()
