"""Self-contained HTML pages: one about a run, with methods, reliability, examples, encoders, curves; one about two runs.

A page needs no network and makes no request; its policy forbids any. Every text of a user is escaped by
the templates. What is missing is shown as missing.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench import benchmark as bench
from ..bench.findings import ablated, left_out, permutations, standing
from ..bench.metrics import calibration
from ..errors import CheckpointError
from ..files import write_text
from ..workspace import read_manifest
from . import answered as answers
from . import comparison
from .charts import Line, diagram, draw, smooth
from .gallery import by_kind
from .reliability import breakdowns, rate, rivals, trust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalogue.model import Catalogue
    from ..workspace import WorkspaceFolder
    from .answered import Answered

MODALITIES = {"text": "texts", "image": "pictures", "audio": "sounds", "graph": "graphs"}
COLUMNS = {"text": "title", "image": "image", "audio": "audio"}
STAGES = {
    "text": "LoRA adapter, titles only",
    "fusion": "fusion, projector and soft separator; language model and adapter frozen",
    "joint": "adapter and fusion together",
}
ENCODERS = {
    "descriptor": "cheap descriptors, not a pretrained network",
    "lightgcn": "a graph network trained on this catalogue's training edges only",
    "open_clip": "pretrained OpenCLIP image encoder, frozen",
    "hf": "pretrained transformers text encoder, frozen",
    "clap": "pretrained CLAP sound encoder, frozen",
    "blip2": "pretrained BLIP-2 image encoder, frozen",
}


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
    path = render("comparison.html.j2", compared | {"made": _now()}, out or run / f"against-{against.name}.html")
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
    results = bench.load(run)
    main = next(iter(results.values()), None)
    answered = answers.read(run, main) if main else None
    return {
        "run": run.name,
        "made": _now(),
        "catalogue": {
            "items": len(catalogue),
            "bundles": len(catalogue.bundles),
            "users": len(catalogue.interactions.users),
            "notes": catalogue.notes,
        },
        "manifest": manifest,
        "base": _base(manifest),
        "headline": _headline(main),
        "sets": [_question_set(result) for result in results.values()],
        "gallery": by_kind(workspace, catalogue, answered, main) if answered and main else None,
        **_reliability(main, answered, catalogue),
        "siblings": _siblings(workspace, run, manifest, main) if main else [],
        "attention": answers.attention(main) if main else None,
        "encoded": _encoded(workspace, catalogue, manifest),
        "stages": [{**stage, "trains": STAGES.get(stage["name"], "")} for stage in manifest["stages"]],
        **_curves(_history(run), main),
        "recipe": _recipe_text(run, manifest),
    }


def percent(rate: float | None, digits: int = 1) -> str:
    """0.532 -> ``53.2%``."""
    return "–" if rate is None else f"{rate * 100:.{digits}f}%"


def signed(rate: float) -> str:
    """A difference in points: 0.1 -> ``+10.0``; a true minus sign."""
    return f"{rate * 100:+.1f}".replace("-", "\u2212")


def seconds(value: float | None) -> str:
    """A duration as short as it can be said."""
    if value is None:
        return "–"
    if value >= 90:
        return f"{value / 60:.1f}\u202fmin"
    if value >= 0.01:
        return f"{value:.1f}\u202fs" if value >= 1 else f"{value:.2f}\u202fs"
    return "<0.01\u202fs"


def render(template: str, values: dict[str, Any], path: Path) -> Path:
    """Write a page of this package; a value that the template asks for and that is not there is an error."""
    import jinja2

    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters.update(percent=percent, signed=signed, seconds=seconds)
    html = page.get_template(template).render(values)
    write_text(path, html)
    return path


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _base(manifest: dict[str, Any]) -> dict[str, Any] | None:
    base = manifest["base"]
    if not base:
        return None
    return {**base, "embedded": base["spec"] == "embedded"}


def _headline(main: dict[str, Any] | None) -> dict[str, Any] | None:
    if main is None:
        return None
    best = next((row for row in main["methods"] if row["name"] == main.get("model")), main["methods"][0])
    rivals = [row for row in main["methods"] if row["kind"] not in ("model", "chance")]
    return {
        "row": best,
        "trained": best["kind"] == "model",
        "rival": next((row for row in rivals if row is not best), None),
        "chance": 1 / main["questions"]["n_options"],
        "questions": main["questions"],
    }


def _question_set(result: dict[str, Any]) -> dict[str, Any]:
    """A results file with the bars' geometry: percent of the axis, which ends at a round number."""
    chance = 1 / result["questions"]["n_options"]
    end = axis_end([chance, *(row["hit@1_interval"][1] for row in [*result["methods"], *result["ablation"]])])
    rows = []
    for row in result["methods"]:
        versus = row.get("versus_model")
        mark = {"better": "below", "worse": "above", "level": "level"}[standing(versus["interval"])] if versus else ""
        rows.append({**row, "bar": bar(row["hit@1"], row["hit@1_interval"], end), "mark": mark})
    full = next((row for row in rows if row["name"] == result.get("model")), None)
    ablation = [
        {
            **row,
            "bar": bar(row["hit@1"], row["hit@1_interval"], end),
            "name": left_out(row["without"]),
        }
        for row in result["ablation"]
    ]
    said_below = {ablated(row) for row in ablation}
    return {
        **result,
        "verdict": [sentence for sentence in result["verdict"] if sentence not in said_below],
        "methods": rows,
        "full": full,
        "ablation": sorted(ablation, key=lambda row: row["delta"]),
        "chance": round(chance / end * 100, 2),
        "axis_end": end,
        "invalid": full is not None and full["valid_ratio"] < 1,
    }


def _reliability(main: dict[str, Any] | None, answered: Answered | None, catalogue: Catalogue) -> dict[str, Any]:
    """Calibration and breakdowns of the model's answers; all None without answers."""
    if main is None or answered is None:
        return {"reliability": None, "trust": None, "breakdowns": []}
    calibrated = vars(calibration(answered.probabilities, answered.truth))
    chart = diagram(*(calibrated[part] for part in ("confidence", "accuracy", "count")))
    ways = breakdowns(answered, catalogue, permutations(main))
    rivals(ways, main)
    for way in ways:
        way["rows"] = [{**row, "bar": bar(row["hit@1"], row["hit@1_interval"], 1.0)} for row in way["rows"]]
    return {
        "reliability": {**rate(answered.right), "chance": 1 / main["questions"]["n_options"]},
        "trust": {**trust(calibrated), "chart": chart},
        "breakdowns": ways,
    }


def _siblings(
    workspace: WorkspaceFolder, run: Path, manifest: dict[str, Any], main: dict[str, Any]
) -> list[dict[str, Any]]:
    """Other runs of the same recipe, base and vectors that answered the same questions."""

    def cause(of: dict[str, Any]) -> tuple[Any, ...]:
        tables = [(encoder["table"], encoder["version"]) for encoder in of.get("encoders", [])]
        return of.get("recipe"), (of.get("base") or {}).get("fingerprint"), tables

    found = []
    for name in sorted(set(workspace.run_names()) - {run.name}):
        try:
            other = read_manifest(workspace.runs / name)
            results = bench.load(workspace.runs / name).get(main["questions"]["name"])
        except CheckpointError:
            continue  # another run's damage is no matter of this page
        if (
            results
            and cause(other) == cause(manifest)
            and results["questions"]["sha256"] == main["questions"]["sha256"]
        ):
            rows = [row for row in results["methods"] if row["name"] == results.get("model")]
            found += [{"run": name, "seed": other.get("seed"), "hit@1": row["hit@1"]} for row in rows]
    return found


def axis_end(tops: Sequence[float]) -> float:
    """The round number above all rates ``tops``, 1 at most.

    >>> axis_end([0.1, 0.43]), axis_end([0.99])
    (0.5, 1.0)
    """
    return min(1.0, (int(max(tops) * 10) + 1) / 10)


def bar(value: float, interval: Sequence[float], end: float) -> dict[str, float]:
    """A bar and its whiskers on an axis from 0 to ``end``, in percent of the axis."""
    at = partial(round, ndigits=2)
    return {"value": at(value / end * 100), "low": at(interval[0] / end * 100), "high": at(interval[1] / end * 100)}


def _encoded(workspace: WorkspaceFolder, catalogue: Catalogue, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Per modality the newest receipts of the store, or why there is none."""
    from ..store.store import Store

    receipts = Store(workspace.store).receipts() if workspace.store.is_dir() else []
    used = {encoder["table"] for encoder in manifest["encoders"]}
    rows: list[dict[str, Any]] = []
    for modality, name in MODALITIES.items():
        found = [receipt for receipt in receipts if receipt["modality"] == modality]
        for receipt in found:
            parts = {key: receipt[key] for key in ("encoded", "cached", "failed", "absent")}
            rows.append(
                {
                    "modality": name,
                    "spec": receipt["spec"],
                    "what": ENCODERS.get(receipt["spec"].partition(":")[0], ""),
                    "items": receipt["items"],
                    **parts,
                    "share": (parts["encoded"] + parts["cached"]) / max(receipt["items"], 1),
                    "balances": receipt["items"] == sum(parts.values()),
                    "used": receipt["table"] in used,
                    "missing": None,
                }
            )
        if not found:
            rows.append({"modality": name, "missing": _why_missing(modality, catalogue)})
    return rows


def _why_missing(modality: str, catalogue: Catalogue) -> str:
    if modality == "graph":
        has = len(catalogue.interactions) or len(catalogue.bundles)
    elif modality == "text":
        has = any(catalogue.titles)
    else:
        has = any(catalogue.column(COLUMNS[modality]))
    return "there, but not encoded" if has else f"absent: this catalogue has no {MODALITIES[modality]}"


def _history(run: Path) -> list[dict[str, Any]]:
    """The training log, with ``at``: the step counted over the stages. A half-written last line is passed over."""
    path = run / "history.jsonl"
    rows: list[dict[str, Any]] = []
    offset, last, stage = 0, 0, None
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            step, name = int(row["step"]), str(row["stage"])
        except (ValueError, KeyError, TypeError):
            continue
        if name != stage:
            # A contrastive warm-up has a loss of its own: it is named beside the charts, not drawn in them.
            offset, stage = offset + (last if stage in STAGES else 0), name
            last = 0
        last = max(last, step)
        rows.append({**row, "at": offset + step, "begins": offset})
    return rows


def _curves(rows: list[dict[str, Any]], main: dict[str, Any] | None) -> dict[str, Any]:
    """Charts of loss and validation HitRate@1 over all steps, and the warm-ups that are not in them."""
    history = [row for row in rows if row["stage"] in STAGES]
    warm = {row["stage"]: row["step"] for row in rows if row["stage"] not in STAGES}
    begins = {row["stage"]: row["begins"] for row in history}
    marks = [(float(at), f"stage {name}") for name, at in begins.items()]
    loss: list[Line] = []
    for stage in begins:
        rows = [row for row in history if row["stage"] == stage and "loss" in row]
        x, y = [row["at"] for row in rows], [float(row["loss"]) for row in rows]
        if len(y) > 20:
            loss.append(Line(x, y, "faint"))
            y = smooth(y, max(2, len(y) // 12))
        loss.append(Line(x, y, "main"))
    seen = [row for row in history if "valid_hit@1" in row]
    hits = [
        Line(
            [r["at"] for r in seen if r["stage"] == s],
            [r["valid_hit@1"] for r in seen if r["stage"] == s],
            "main",
            True,
        )
        for s in begins
    ]
    if seen and main:
        chance = 1 / main["questions"]["n_options"]
        hits.append(Line([0, history[-1]["at"]], [chance, chance], "chance"))
    charts = [
        draw("Training loss (lower is better)", loss, marks),
        draw("HitRate@1 on the validation questions (dashed: guessing)", hits, marks, percent=True, floor=0.0),
    ]
    return {"charts": [chart for chart in charts if chart is not None], "warm": warm}


def _recipe_text(run: Path, manifest: dict[str, Any]) -> str:
    path = run / "recipe.toml"
    if path.is_file():
        return path.read_text("utf-8", "replace")
    return json.dumps(manifest.get("recipe", {}), indent=1)
