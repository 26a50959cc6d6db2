"""The benchmark's results as one table: methods down, question sets across.

``bench/`` of a workspace holds ``results.json`` (`results.QuestionSetResult`, one per family of sets) and ``table.csv``
(one row per method and family).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from .result_rows import MethodResult, ProbeResult
    from .results import QuestionSetResult

FIGURES = ("hit@1", "hit@3", "hit@5", "mrr", "valid_ratio")


@dataclass
class LeaderboardRow:
    """A method over all families: HitRate@1 and half its interval by heading; seconds of answering all sets together.

    ``training_seconds`` is paid once: training, or fitting with all that the method stands on.
    """

    method: str
    kind: str
    hit1: dict[str, float] = field(default_factory=dict)
    half: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float | None = None


def headings(results: Sequence[QuestionSetResult]) -> list[str]:
    """A short name per family: ``random10`` where only one family is made that way, else its whole name."""
    short = [f"{r.questions.negatives}{r.questions.n_options}" for r in results]
    return [s if short.count(s) == 1 else r.questions.name for s, r in zip(short, results, strict=True)]


def rows(results: Sequence[QuestionSetResult]) -> list[LeaderboardRow]:
    """One row per method, best first by its mean."""
    names = headings(results)
    out: dict[str, LeaderboardRow] = {}
    for name, result in zip(names, results, strict=True):
        for method in result.methods:
            row = out.setdefault(method.name, LeaderboardRow(method.name, method.kind))
            low, high = method.hit1_interval
            row.hit1[name], row.half[name] = method.hit1, (high - low) / 2
            row.seconds += method.seconds or 0.0
            row.training_seconds = method.training_seconds
    return sorted(out.values(), key=lambda row: -sum(row.hit1.get(name, 0.0) for name in names))


def cells(results: Sequence[QuestionSetResult]) -> list[dict[str, Any]]:
    """One row per method and family, for spreadsheets; probes are rows of the kind ``probe``."""
    found: list[dict[str, Any]] = []
    for result in results:
        found += [_cells(result, row) for row in result.methods]
        found += [_cells(result, row) for row in result.probes]
    return found


def _cells(result: QuestionSetResult, row: MethodResult | ProbeResult) -> dict[str, Any]:
    found = row.to_dict()
    return {
        "questions": result.questions.name,
        "sha256": result.questions.sha256,
        "n": result.questions.n_questions,
        "options": result.questions.n_options,
        "method": row.name,
        "kind": found.get("kind", "probe"),
        **{name: round(found[name], 4) if name in found else None for name in FIGURES},
        "low": round(row.hit1_interval[0], 4),
        "high": round(row.hit1_interval[1], 4),
        "seconds": found.get("seconds"),
        "training_seconds": found.get("training_seconds"),
    }


def save(folder: Path, results: Sequence[QuestionSetResult]) -> Path:
    """Write ``table.csv`` and ``results.json``, whose path is given; the page is `report.bench_pages.write_bench`'s."""
    table = cells(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / "table.csv", text.getvalue())
    write_text(folder / "results.json", json.dumps([result.to_dict() for result in results], indent=1) + "\n")
    return folder / "results.json"
