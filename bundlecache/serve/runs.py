"""Finished runs as the server lists them."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError
from ..workspace import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from ..workspace import WorkspaceFolder


def described(folder: WorkspaceFolder, name: str, *, latest: bool) -> dict[str, Any]:
    """Name, recipe, when it was finished, HitRate@1 on random test questions, and whether it answers."""
    path = folder.run(name)
    recipe = "damaged"
    with suppress(BundlecacheError):
        recipe = str(read_manifest(path).get("recipe_name", ""))
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((path / "manifest.json").stat().st_mtime))
    return {"name": name, "recipe": recipe, "finished": finished, "hit_1": _hit_1(path), "latest": latest}


def _hit_1(run: Path) -> float | None:
    """HitRate@1 of the model alone on the first set of test questions that it was evaluated on."""
    for path in sorted((run / "results").glob("test-random*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            found = json.loads(path.read_text("utf-8"))
            by_name = {row["name"]: row["hit@1"] for row in found["methods"]}
            return round(float(by_name[found["model"]]), 4)
    return None
