"""Paths of a workspace: what cannot be a folder is one sentence, and the latest run is one that exists."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import BundlecacheError, CatalogueError, CheckpointError
from bundlecache.workspace import WorkspaceFolder, read_manifest


@pytest.mark.parametrize(
    ("root", "says"),
    [("", "is empty"), ("x" * 300, "too long"), ("x/" * 4000, "too long"), ("a\0b", "character that no path may have")],
    ids=["empty", "long name", "long path", "NUL"],
)
def test_a_path_that_no_folder_has_is_one_sentence(root: str, says: str):
    with pytest.raises(BundlecacheError, match=says):
        WorkspaceFolder(root)  # type: ignore[arg-type]


def test_a_folder_without_permission_is_one_sentence(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    tmp_path.chmod(0)
    try:
        with pytest.raises(BundlecacheError, match="may not be read"):
            Catalogue.read(WorkspaceFolder(tmp_path))
    finally:
        tmp_path.chmod(0o700)


def run(workspace: WorkspaceFolder, name: str, age: int) -> None:
    path = workspace.runs / name / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}", "utf-8")
    os.utime(path, (1_000_000 - age, 1_000_000 - age))


def test_latest_falls_back_to_the_newest_run_when_its_run_was_deleted(tmp_path: Path):
    workspace = WorkspaceFolder(tmp_path)
    with pytest.raises(CatalogueError, match="no trained model"):
        workspace.run()
    for age, name in enumerate(("newest", "a", "z")):
        run(workspace, name, age)
    (workspace.runs / "latest").write_text("z\n", "utf-8")
    assert workspace.run().name == "z"
    (workspace.runs / "z" / "manifest.json").unlink()
    assert workspace.run().name == "newest"
    (workspace.runs / "latest").unlink()
    assert workspace.run().name == "newest"


@pytest.mark.parametrize("name", ["x" * 5000, "", "..", "../shop", "a\0b", "\x1b[31m"])
def test_a_name_that_no_run_has_is_one_clean_sentence(tmp_path: Path, name: str):
    workspace = WorkspaceFolder(tmp_path)
    run(workspace, "mine", 0)
    with pytest.raises(CatalogueError, match=r"no finished run .*; there are: mine") as caught:
        workspace.run(name)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_manifest_nested_too_deeply_is_damaged(tmp_path: Path):
    (tmp_path / "manifest.json").write_text("[" * 10_000, "utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps([1]), "utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_manifest(tmp_path)
