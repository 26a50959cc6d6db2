"""What `bundlecache encode` promises at the prompt: exit codes, receipts, failures that can be listed and retried."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from helpers import checkpoints as tiny
from helpers.paths import TOP
from helpers.runner import invoke
from rich.console import Console

from bundlecache import BundlecacheError
from bundlecache.console import output as terminal
from bundlecache.console.reporter import ProgressBar
from bundlecache.encode.progress import Progress

if TYPE_CHECKING:
    from click.testing import Result

    from bundlecache.workspace import WorkspaceFolder

PARTIAL = 3


def encode(workspace: WorkspaceFolder, *args: str) -> Result:
    return invoke("encode", "--modality", "image", "--data", workspace.root, "--json", *args)


def receipts(result: Result) -> list[dict[str, Any]]:
    rows = json.loads(result.stdout)
    for row in rows:
        assert row["items"] == row["encoded"] + row["cached"] + row["failed"] + row["absent"]
    return rows


@pytest.fixture
def damaged(workspace: WorkspaceFolder) -> WorkspaceFolder:
    """The shop with two pictures that are none."""
    for name in ("3.png", "4.png"):
        (workspace.root / "images" / name).write_bytes(b"no picture")
    return workspace


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("moment", "code"), [("rich.markup", -signal.SIGINT), ("bundlecache.features", 130)])
def test_ctrl_c_while_something_is_imported_leaves_no_traceback(
    workspace: WorkspaceFolder, tmp_path: Path, moment: str, code: int
) -> None:
    """By its signal before there is a command line, which shells call 130; as after any Ctrl-C within a command."""
    script = tmp_path / "bundlecache"
    script.write_text(
        f"""import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs of a shell do not have
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.path.insert(0, {str(TOP)!r})
from cli import main
main()
"""
    )
    command = [sys.executable, str(script), "encode", "--data", str(workspace.root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("modality", "options", "words"),
    [
        ("text", ["--draft", "512"], "--draft changes nothing for descriptor:text: it is about pictures"),
        ("image", ["--precision", "float16"], "--precision changes nothing for descriptor:picture: it is about the"),
    ],
)
def test_a_setting_that_changes_nothing_is_refused_before_anything_is_made(
    workspace: WorkspaceFolder, modality: str, options: list[str], words: str
) -> None:
    error = encode(workspace, "--modality", modality, *options).exception
    assert isinstance(error, BundlecacheError)
    assert words in error.message
    assert not list(workspace.store.glob("*.lance"))


def test_some_failures_exit_with_3_and_stand_in_a_parquet_file_with_their_reasons(damaged: WorkspaceFolder) -> None:
    result = encode(damaged)
    assert result.return_value == PARTIAL
    [row] = receipts(result)
    assert (row["encoded"], row["failed"], row["absent"]) == (20, 2, 2)
    assert "2 items failed" in result.stderr
    assert "bundlecache status --errors" in result.stderr
    errors = pq.read_table(damaged.store / "errors" / f"{row['table']}.parquet").to_pylist()
    assert {error["item_id"]: error["stage"] for error in errors} == {"item-03": "decode", "item-04": "decode"}
    assert all("no picture" in error["reason"] and error["content_hash"] for error in errors)


def test_failed_items_are_tried_again_on_request_and_when_they_are_mended(damaged: WorkspaceFolder) -> None:
    encode(damaged)
    assert [row["forwards"] for row in receipts(encode(damaged))] == [0]
    assert encode(damaged, "--retry-failed").return_value == PARTIAL
    tiny.pictures(damaged.root / "images")  # 3.png and 4.png are pictures now, and so are others
    result = encode(damaged)
    assert not result.return_value
    assert [(row["encoded"], row["failed"]) for row in receipts(result)] == [(5, 0)]


def test_more_failures_than_allowed_stop_with_a_sentence_and_what_was_encoded_stays(damaged: WorkspaceFolder) -> None:
    error = encode(damaged, "--max-errors", "1", "--workers", "1").exception
    assert isinstance(error, BundlecacheError)
    assert "2 items failed and 1 was allowed" in error.message
    assert "stored" in str(error.hint)
    [row] = receipts(encode(damaged, "--max-errors", "2"))
    assert row["encoded"] + row["cached"] == 20


def test_two_encoders_share_a_pass_and_train_uses_the_last_one(workspace: WorkspaceFolder, tmp_path: Any) -> None:
    from bundlecache.store.store import Store

    tower = f"open_clip:local-dir:{tiny.open_clip_folder(tmp_path / 'tower')}"
    result = encode(workspace, "--encoder", "descriptor:picture", "--encoder", tower, "--encoder", tower)
    assert [(row["spec"], row["encoded"]) for row in receipts(result)] == [("descriptor:picture", 22), (tower, 22)]
    assert "faster:" in result.stderr, "where the time went stands below"
    assert Store(workspace.store).current("image").spec == tower
    assert [row["forwards"] for row in receipts(encode(workspace, "--encoder", "descriptor:picture"))] == [0]
    assert Store(workspace.store).current("image").spec == "descriptor:picture"


@pytest.mark.parametrize("bound", ["decode", "forward", "write"])
def test_the_progress_line_fits_80_columns_and_names_the_flag_that_would_help(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "log", screen)
    shares = {f"{name}_share": 1.0 if name == bound else 0.33 for name in ("decode", "forward", "write")}
    shown = Progress("image", "a", "encode", 123_456, 1_234_567, items_per_second=1234, **shares, note="batches of 4")
    with ProgressBar("image") as bar:
        bar.encoding(shown)
        bar.encoding(shown)
        bar.bar.refresh()
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    for part in ("1,234/s", "decode 100%" if bound == "decode" else "decode 33%", shown.advice):
        assert part in text
    assert "…" not in text
    assert text.count("batches of 4") == 1
