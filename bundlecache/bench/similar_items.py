"""The benchmark of similar items: all methods on the same frozen questions, and sentences that say what it shows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..files import make_folder, write_text
from .similar_metrics import FIGURES, VARIANTS, SimilarFigures, figures, paired

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..questions.similar_questions import SimilarQuestions
    from .similar_metrics import Scorer

FORMAT_VERSION = 1
MAIN = "ndcg@5"
LEARNT_LATER = "learnt from clicks of the test period too, so its figures are too high"
REPEATED = (
    0.01  # share of training bundles that are visits of that period, from which on what learns from bundles is marked
)


@dataclass(frozen=True)
class SimilarMethod:
    """A method of the benchmark. ``dim`` and ``bytes_per_item`` are those of its vectors; ``remark`` limits its claim."""

    name: str
    kind: str  # "baseline", "encoder" or "run"
    scores: Scorer
    dim: int | None = None
    bytes_per_item: int | None = None
    remark: str = ""


@dataclass(frozen=True)
class SimilarRow:
    """The figures of one method by variant, with their 95 % intervals over questions and users; ``answered`` of all questions."""

    name: str
    kind: str
    answered: int
    figures: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]]
    dim: int | None = None
    bytes_per_item: int | None = None
    remark: str = ""


@dataclass(frozen=True)
class SimilarResult:
    """All rows, best first by nDCG@5 among options as popular; ``sha256`` is that of the whole set of questions."""

    split: str
    n_questions: int
    n_items: int
    n_options: int
    sha256: str
    rows: list[SimilarRow]
    findings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of the result file."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def run(
    questions: SimilarQuestions,
    methods: Sequence[SimilarMethod],
    n_items: int,
    progress: Callable[[int, int], None] | None = None,
) -> SimilarResult:
    """Score all methods; ``progress(done, total)`` counts questions over all of them."""
    scored: dict[str, SimilarFigures] = {}
    count, total = len(questions), len(questions) * len(methods)
    for number, method in enumerate(methods):

        def step(done: int, _: int, before: int = number * count) -> None:
            if progress is not None:
                progress(before + done, total)

        scored[method.name] = figures(questions, method.scores, n_items, step)
    rows = [_row(method, scored[method.name]) for method in methods]
    rows.sort(key=lambda row: -row.figures[VARIANTS[0]][MAIN])
    return SimilarResult(
        questions.split,
        count,
        n_items,
        int(questions.options.shape[1]),
        questions.sha256,
        rows,
        _findings(rows, scored),
    )


def _row(method: SimilarMethod, found: SimilarFigures) -> SimilarRow:
    means = {variant: {name: found.mean(name, variant) for name in FIGURES} for variant in VARIANTS}
    spread = {variant: found.intervals(variant) for variant in VARIANTS}
    answered = int(found.able.sum())
    return SimilarRow(
        method.name, method.kind, answered, means, spread, method.dim, method.bytes_per_item, method.remark
    )


def _findings(rows: Sequence[SimilarRow], scored: dict[str, SimilarFigures]) -> list[str]:
    """Which vectors are best, by how much they are above the best baseline, and what must not be compared."""
    fair = [row for row in rows if not row.remark]
    vectors = [row for row in fair if row.kind != "baseline"]
    baselines = [row for row in fair if row.kind == "baseline"]
    found = []
    for other in [vectors[1:2], baselines[:1]]:
        if vectors and other:
            difference, low, high = paired(scored[vectors[0].name], scored[other[0].name])
            sure = "" if low > 0 or high < 0 else ", which may be chance"
            found.append(
                f"nDCG@5 of {vectors[0].name} minus that of {other[0].name}, on the same questions: {difference:+.3f} "
                f"({low:+.3f} to {high:+.3f}){sure}."
            )
    found += [f"{row.name}: {row.remark}." for row in rows if row.remark]
    most = max((row.answered for row in rows), default=0)
    found += [
        f"{row.name} has vectors for {row.answered:,} of {most:,} items that are asked about; the others count as wrong."
        for row in rows
        if row.answered < most
    ]
    return found


def save(folder: Path, result: SimilarResult) -> Path:
    """Write ``similar.json`` and ``similar.csv`` (a row per method and variant) into ``folder``; the path of the JSON."""
    make_folder(folder)
    cells = [
        {"method": row.name, "kind": row.kind, "among": variant, "answered": row.answered}
        | {name: round(value, 4) for name, value in row.figures[variant].items()}
        | {"low": round(row.intervals[variant][MAIN][0], 4), "high": round(row.intervals[variant][MAIN][1], 4)}
        | {"dim": row.dim, "bytes_per_item": row.bytes_per_item, "remark": row.remark}
        for variant in VARIANTS
        for row in result.rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(cells[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    write_text(folder / "similar.csv", text.getvalue())
    write_text(folder / "similar.json", json.dumps(result.to_dict(), indent=1) + "\n")
    return folder / "similar.json"
