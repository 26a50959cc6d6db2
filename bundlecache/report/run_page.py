"""Self-contained HTML pages: one about a run, with methods, reliability, examples, encoders, curves; one about two runs.

A page makes no network request (its content policy forbids any). The templates escape all texts of users. Missing
data is shown as missing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..bench import completion_examples, result_files
from ..workspace import read_manifest
from . import comparison
from . import model_answers as answers
from .catalogue_map import catalogue_map
from .question_cards import Media, by_kind, completion_cards
from .render import now, render
from .run_figures import headline, question_set, reliability, siblings
from .training_curves import STAGES, log_rows, training_curves
from .vector_receipts import encoded

if TYPE_CHECKING:
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder


def write(workspace: WorkspaceFolder, run: Path, catalogue: Catalogue, out: Path | None = None) -> Path:
    """Write the page of ``run`` and return its path, by default ``report.html`` in the run's folder.

    Raises
    ------
    CheckpointError
        When the run is not finished, or one of its files is damaged.
    """
    return render("report.html.j2", context(workspace, run, catalogue), out or run / "report.html")


def write_comparison(
    workspace: WorkspaceFolder, run: Path, against: Path, catalogue: Catalogue, out: Path | None = None
) -> tuple[Path, list[str]]:
    """Write the page that holds ``run`` against another run, by default into ``run``; its path, and what it says.

    Raises
    ------
    BundlecacheError
        When both are one run, or have answered no frozen questions in common.
    CheckpointError
        When one of them is not finished, or one of their files is damaged.
    """
    compared = comparison.compare(workspace, run, against, catalogue)
    path = render("comparison.html.j2", compared | {"made": now()}, out or run / f"against-{against.name}.html")
    return path, [each["sentence"] for each in compared["sets"]]


def context(workspace: WorkspaceFolder, run: Path, catalogue: Catalogue) -> dict[str, Any]:
    """Everything the template shows, as plain data."""
    nothing: dict[str, Any] = {
        "stages": [],
        "encoders": [],
        "versions": {},
        "questions": {},
        "seed": None,
        "base": None,
    }
    manifest = nothing | read_manifest(run)
    results = result_files.load(run)
    main = next(iter(results.values()), None)
    answered = answers.read(run, main) if main else None
    media, shown = Media(workspace, catalogue), completion_examples.load(run)
    return {
        "run": run.name,
        "made": now(),
        "catalogue": {
            "items": len(catalogue),
            "bundles": len(catalogue.bundles),
            "users": len(catalogue.interactions.users),
            "notes": catalogue.notes,
        },
        "manifest": manifest,
        "base": _base(manifest),
        "by_letter": by_letter(manifest),
        "evidence": _setting(manifest, "fusion", "evidence", "none") != "none",
        "headline": headline(main),
        "sets": [question_set(result) for result in results.values()],
        "gallery": by_kind(media, answered, main) if answered and main else None,
        "prompt": shown.prompt,
        "completions": completion_cards(media, shown.completions),
        "sounds": media.sounds,
        "media_pictures": catalogue.column("image").any(),
        "map": catalogue_map(workspace, catalogue, manifest["encoders"]),
        **reliability(main, answered, catalogue, by_letter=by_letter(manifest)),
        "siblings": siblings(workspace, run, manifest, main) if main else [],
        "attention": answers.attention(main) if main else None,
        "encoded": encoded(workspace, catalogue, manifest),
        "stages": [{**stage, "trains": STAGES.get(stage["name"], "")} for stage in manifest["stages"]],
        **training_curves(log_rows(run), main.questions.chance if main else None),
        "recipe": _recipe_text(run, manifest),
    }


def _base(manifest: dict[str, Any]) -> dict[str, Any] | None:
    base = manifest["base"]
    if not base:
        return None
    return {**base, "embedded": base["spec"] == "embedded"}


def by_letter(manifest: dict[str, Any]) -> bool:
    """Whether the run answers with a letter, as all runs of earlier versions do; in the other forms no order is shown."""
    return bool(_setting(manifest, "answer", "form", "letters") == "letters")


def _setting(manifest: dict[str, Any], section: str, key: str, default: str) -> Any:
    found = (manifest.get("recipe") or {}).get(section)
    return found.get(key, default) if isinstance(found, dict) else default


def _recipe_text(run: Path, manifest: dict[str, Any]) -> str:
    path = run / "recipe.toml"
    if path.is_file():
        return path.read_text("utf-8", "replace")
    return json.dumps(manifest.get("recipe", {}), indent=1)
