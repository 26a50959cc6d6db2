"""A package that is found as an installed one is, with its entry points, without being installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str, code: str, group: str, name: str, value: str):
    """Put ``module.py`` with this code on the path, and register ``value`` under ``name`` in a group of entry points."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code, "utf-8")
    about = folder / f"{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", "utf-8")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n", "utf-8")
    monkeypatch.syspath_prepend(str(folder))
