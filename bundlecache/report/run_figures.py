"""The results on a run's page: the headline, the tables by question set, reliability, and other seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bench import result_files
from ..bench.findings import ablated, left_out
from ..bench.metrics import calibration
from ..errors import CheckpointError
from ..workspace import read_manifest
from .charts import diagram
from .reliability import breakdowns, rate, rivals, trust
from .render import axis_end, bar

if TYPE_CHECKING:
    from pathlib import Path

    from ..bench.results import QuestionSetResult
    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder
    from .model_answers import Answered

MARKS = {"better": "below", "worse": "above", "level": "level"}  # how a method stands, seen from the model


def headline(main: QuestionSetResult | None) -> dict[str, Any] | None:
    """The large figure of the page: the model's, or the best method's where no model was evaluated."""
    if main is None:
        return None
    best = main.model_row or main.methods[0]
    rivals = [row for row in main.methods if row.kind not in ("model", "chance")]
    return {
        "row": best,
        "trained": best.kind == "model",
        "rival": next((row for row in rivals if row is not best), None),
        "chance": main.questions.chance,
        "questions": main.questions,
    }


def question_set(result: QuestionSetResult) -> dict[str, Any]:
    """A result with the bars' geometry: percent of the axis, which ends at a round number."""
    tops = [row.hit1_interval[1] for row in result.methods] + [row.hit1_interval[1] for row in result.ablation]
    end = axis_end([result.questions.chance, *tops])
    rows = []
    for row in result.methods:
        mark = MARKS[row.versus_model.standing] if row.versus_model else ""
        rows.append({**row.to_dict(), "bar": bar(row.hit1, row.hit1_interval, end), "mark": mark})
    full = next((row for row in rows if row["name"] == result.model), None)
    ablation = [
        {**row.to_dict(), "bar": bar(row.hit1, row.hit1_interval, end), "name": left_out(row.without)}
        for row in sorted(result.ablation, key=lambda row: row.delta)
    ]
    said_below = set(map(ablated, result.ablation))
    return {
        "questions": result.questions,
        "findings": [*(each for each in result.findings if each not in said_below), *result.worth],
        "methods": rows,
        "full": full,
        "ablation": ablation,
        "chance": round(result.questions.chance / end * 100, 2),
        "axis_end": end,
        "invalid": full is not None and full["valid_ratio"] < 1,
        "fitted": any(row.training_seconds for row in result.methods),
    }


def reliability(
    main: QuestionSetResult | None, answered: Answered | None, catalogue: Catalogue, *, by_letter: bool = True
) -> dict[str, Any]:
    """Calibration and breakdowns of the model's answers, by place only of answers by letter; all None without answers."""
    if main is None or answered is None:
        return {"reliability": None, "trust": None, "breakdowns": []}
    calibrated = vars(calibration(answered.probabilities, answered.truth))
    chart = diagram(*(calibrated[part] for part in ("confidence", "accuracy", "count")))
    ways = breakdowns(answered, catalogue, main.how.permutations, by_letter=by_letter)
    rivals(ways, main)
    for way in ways:
        way["rows"] = [{**row, "bar": bar(row["hit@1"], row["hit@1_interval"], 1.0)} for row in way["rows"]]
    return {
        "reliability": {**rate(answered.right), "chance": main.questions.chance},
        "trust": {**trust(calibrated), "chart": chart},
        "breakdowns": ways,
    }


def siblings(
    workspace: WorkspaceFolder, run: Path, manifest: dict[str, Any], main: QuestionSetResult
) -> list[dict[str, Any]]:
    """Other runs of the same recipe, base and vectors that answered the same questions."""

    def cause(of: dict[str, Any]) -> tuple[Any, ...]:
        tables = [(encoder["table"], encoder["version"]) for encoder in of.get("encoders", [])]
        return of.get("recipe"), (of.get("base") or {}).get("fingerprint"), tables

    found = []
    for name in sorted(set(workspace.run_names()) - {run.name}):
        try:
            other = read_manifest(workspace.runs / name)
            results = result_files.load(workspace.runs / name).get(main.questions.name)
        except CheckpointError:
            continue  # another run's damage is no matter of this page
        row = None if results is None else results.model_row
        if (
            row is not None
            and results is not None
            and cause(other) == cause(manifest)
            and results.questions == main.questions
        ):
            found.append({"run": name, "seed": other.get("seed"), "hit@1": row.hit1})
    return found
