"""The tables of `bench --similar` and `shrink`: every method on similar items, and every form of smaller vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bench.similar_metrics import VARIANTS
from .output import out, plain, say, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..bench.shrinking import ShrunkRow
    from ..bench.similar_items import SimilarResult


def show_similar_bench(path: Path, result: SimilarResult, as_json: bool) -> None:
    """A table among options as popular, one among the whole catalogue, and the findings; ``path`` is the result file."""
    if as_json:
        show({"path": str(path), **result.to_dict()}, as_json, [])
        return
    among = {
        "matched": f"{result.n_options} options, the wrong ones as popular as the right ones",
        "full": f"all {result.n_items:,} items",
    }
    for variant in VARIANTS:
        rows = [
            {
                "method": row.name + ("*" if row.remark else ""),
                "nDCG@5": f"{row.figures[variant]['ndcg@5']:.3f}",
                "95 %": "{:.3f}-{:.3f}".format(*row.intervals[variant]["ndcg@5"]),
                "P@1": f"{row.figures[variant]['p@1']:.3f}",
                "P@3": f"{row.figures[variant]['p@3']:.3f}",
                "MRR": f"{row.figures[variant]['mrr']:.3f}",
            }
            for row in sorted(result.rows, key=lambda row: -row.figures[variant]["ndcg@5"])
        ]
        title = f"Similar items, {result.n_questions:,} {result.split} questions, among {among[variant]}"
        show(None, False, rows, title=title)
    for sentence in result.findings:
        out.print(f"- {plain(sentence, 10_000)}", highlight=False, markup=False, soft_wrap=True)
    say(f"sha256 of the questions: {result.sha256[:12]}. Files: {path}; similar.csv beside it.")


def show_shrunk(made: Sequence[ShrunkRow], encoder: str, k: int, as_json: bool) -> None:
    """A row per dimension and type."""
    data = [row.to_dict() for row in made]
    rows = [
        {
            "vectors": row.encoder.removesuffix(f":{encoder}") if row.encoder != encoder else "full",
            "dim": row.dim,
            "type": row.dtype,
            "bytes": row.bytes_per_item,
            "recall": f"{row.recall:.3f}",
            "nDCG@5": "-" if row.ndcg5 is None else f"{row.ndcg5:.3f}",
            "lost": "-" if row.lost is None else _loss(row.lost),
            "95 %": "-" if row.lost is None else f"{_loss(row.lost_low)} to {_loss(row.lost_high)}",
        }
        for row in made
    ]
    show(
        data,
        as_json,
        rows,
        title=f"Smaller vectors of {encoder}: recall@{k} of the full ones' nearest",
    )


def _loss(value: float | None) -> str:
    """Three decimals, and no minus before a zero."""
    return f"{round(value or 0.0, 3) + 0.0:.3f}"
