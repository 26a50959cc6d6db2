"""The charts of a training: its loss and the HitRate@1 on validation questions over all steps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .charts import Line, draw, smooth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .charts import Drawing

STAGES = {
    "text": "LoRA adapter, titles only",
    "fusion": "fusion, projector and soft separator; language model and adapter frozen",
    "joint": "adapter and fusion together",
}


def log_rows(run: Path) -> list[dict[str, Any]]:
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


def loss_chart(rows: Sequence[Mapping[str, Any]], marks: list[tuple[float, str]]) -> Drawing | None:
    """The training loss of ``rows`` over their places ``at``, smoothed where there are many; a line for each stage."""
    loss: list[Line] = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        some = [row for row in rows if row["stage"] == stage and "loss" in row]
        x, y = [row["at"] for row in some], [float(row["loss"]) for row in some]
        if len(y) > 20:
            loss.append(Line(x, y, "faint"))
            y = smooth(y, max(2, len(y) // 12))
        loss.append(Line(x, y, "main"))
    return draw("Training loss (lower is better)", loss, marks)


def training_curves(rows: list[dict[str, Any]], chance: float | None) -> dict[str, Any]:
    """Charts of loss and validation HitRate@1 over all steps, and the warm-ups that are not in them."""
    history = [row for row in rows if row["stage"] in STAGES]
    warm = {row["stage"]: row["step"] for row in rows if row["stage"] not in STAGES}
    begins = {row["stage"]: row["begins"] for row in history}
    marks = [(float(at), f"stage {name}") for name, at in begins.items()]
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
    if seen and chance is not None:
        hits.append(Line([0, history[-1]["at"]], [chance, chance], "chance"))
    charts = [
        loss_chart(history, marks),
        draw("HitRate@1 on the validation questions (dashed: guessing)", hits, marks, percent=True, floor=0.0),
    ]
    return {"charts": [chart for chart in charts if chart is not None], "warm": warm}
