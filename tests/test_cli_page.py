"""docs/cli.md is what ``--help`` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.paths import TOP


def test_the_page_of_commands_is_fresh(tmp_path: Path):
    fresh = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "bundlecache.cli", "utils", "docs", "--name", "bundlecache"]
    subprocess.run([*command, "--output", str(fresh)], check=True, cwd=TOP, capture_output=True)
    assert (TOP / "docs" / "cli.md").read_text("utf-8") == fresh.read_text("utf-8"), "type: make docs"
