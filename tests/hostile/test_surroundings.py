"""Commands where the terminal, the locale, the home folder, the disk or the network is not as usual: no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from helpers.paths import TOP

# Runs several command lines in one process, as the entry point does; any look-up of a name or call fails.
SCRIPT = """
import json, os, socket, sys
def refuse(*args, **options):
    raise AssertionError(f"called {args[:2]}")
socket.getaddrinfo = socket.socket.connect = socket.create_connection = refuse
from bundlecache import cli
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["bundlecache", *words]
    try:
        cli.main()
        codes.append(0)
    except SystemExit as leaving:
        codes.append(leaving.code or 0)
os.write(int(os.environ["CODES"]), json.dumps(codes).encode())
"""
PRINTS = [["status"], ["status", "--errors"], ["--help"]]
READS = [*PRINTS, ["candidates", "--k", "3", "--modality", "image"], ["questions"]]
ASKS_A_MODEL = [["complete", "item-00", "item-02", "--with", "model"], ["encode", "--modality", "text"]]
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surroundings")
    with tarfile.open(TOP / "tests" / "data" / "old_workspaces.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "old_workspace"


def run(shop: Path, lines: list[list[str]], *, before: tuple[str, ...] = (), stdout=subprocess.PIPE, **changes):
    """The exit codes of the lines, and all that was printed."""
    read, write = os.pipe()
    env = {**os.environ, "PYTHONPATH": str(TOP), "CODES": str(write), **changes}
    env = {name: value for name, value in env.items() if value is not None}
    words = [[*line, *([] if line == ["--help"] else ["--data", str(shop)])] for line in lines]
    done = subprocess.run(
        [*before, sys.executable, "-c", SCRIPT, json.dumps(words)],
        env=env, pass_fds=[write], stdout=stdout, stderr=subprocess.PIPE, cwd=shop.parent,
    )  # fmt: skip
    os.close(write)
    with os.fdopen(read) as file:
        codes = file.read()
    shown = ((done.stdout or b"") + done.stderr).decode("utf-8", "replace")
    assert "Traceback" not in shown, shown[-3000:]
    assert codes, shown[-3000:]
    return json.loads(codes), shown


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"LANG": "C", "LC_ALL": "C"}, PRINTS),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "20", "HOME": None}, READS),
        ({"HOME": "/nonexistent", "USER": None, "LOGNAME": None, "TERM": "dumb", "COLUMNS": "0"}, PRINTS),
    ],
    ids=["LANG=C", "20 columns of ASCII and no HOME", "a HOME that is none"],
)
def test_a_terminal_that_is_not_as_usual(shop, changes, lines):
    codes, _ = run(shop, lines, **changes)
    assert codes == [0] * len(lines)


@pytest.mark.slow
def test_with_local_folders_alone_nothing_calls_home(shop):
    codes, shown = run(shop, [*ASKS_A_MODEL, *READS], HF_HUB_OFFLINE=None, TRANSFORMERS_OFFLINE=None)
    assert codes == [0] * len(codes), shown[-2000:]


def test_a_closed_standard_output(shop):
    codes, _ = run(shop, READS, before=("sh", "-c", 'exec "$@" >&-', "sh"))
    assert codes == [0] * len(READS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_sentence(shop):
    with Path("/dev/full").open("wb") as full:
        codes, shown = run(shop, [["status"]], stdout=full)
    assert codes == [1]
    assert "cannot be written: No space left on device" in shown


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="the superuser may write everywhere")
def test_a_workspace_that_may_only_be_read(shop, tmp_path):
    read_only = shutil.copytree(shop, tmp_path / "shop")
    writes = [
        ["encode", "--modality", "graph", "--retry-failed"],
        ["questions", "--options", "5"],
        ["report"],
        ["compact"],
    ]
    paths = [read_only, *read_only.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        codes, shown = run(read_only, [["status"], *writes], before=tuple(AS_OTHERS) if os.getuid() == 0 else ())
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)
    assert codes == [0, 1, 1, 1, 1], shown[-3000:]
    assert shown.count("error:") == len(writes)
