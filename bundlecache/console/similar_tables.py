"""The tables of `bench --similar`: every method on similar items, and what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bench.similar_metrics import VARIANTS
from .output import out, plain, say, show

if TYPE_CHECKING:
    from pathlib import Path

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
