"""The tables of the verbs: what a result looks like in a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bench import leaderboard
from ..bench.slices import ends, leading
from ..errors import Command
from .exits import command_line
from .output import columns_in_pieces, log, out, plain, say, show

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..bench.full_results import FullCatalogueResult
    from ..bench.result_rows import GroupMethod
    from ..bench.results import QuestionSetResult
    from ..catalogue.readers.registry import ImportSummary
    from ..catalogue.update import UpdateSummary
    from ..encode.estimate import Estimate
    from ..encode.run import Receipt

HEADINGS_OF_TIMES = {  # of a piece of the bench's table that holds no HitRate@1
    ("seconds",): "Seconds to answer",
    ("training",): "Seconds to train or fit, before the first answer",
    ("seconds", "training"): "Seconds to answer, and before that to train or fit",
}


def show_import(summary: ImportSummary, as_json: bool, title: str) -> None:
    """What was imported; of a dry run, how the columns were understood, and the first rows of every table."""
    made = summary.to_dict()
    if as_json or not summary.dry_run:
        show(made, as_json, [made], title=title, columns=["items", "bundles", "interactions", "media"])
        return
    for table in summary.preview:
        columns = ", ".join(f"{new} = {old}" if new != old else new for new, old in table.columns.items())
        say(f"{table.table}: {table.rows:,} rows of {table.file}; columns: {columns}")
        if table.first:
            show(None, False, [{name: _as_read(cell) for name, cell in row.items()} for row in table.first])
    say("Nothing was written (--dry-run).")


def _as_read(cell: Any) -> Any:
    """A number with all its digits: a preview shows how a price was read.

    >>> _as_read(3.5), _as_read(1234.5), _as_read("1.234,50")
    ('3.5', '1,234.5', '1.234,50')
    """
    return f"{cell:,.12g}" if isinstance(cell, float) else cell


def show_update(summary: UpdateSummary, receipts: Sequence[Receipt], as_json: bool, title: str) -> None:
    """Rows added, changed, removed and unchanged per table, and the receipts of encoding."""
    rows = [vars(table) for table in summary.tables]
    encoded = [receipt.to_dict() for receipt in receipts]
    made = {"tables": rows, "media": summary.media, "dry_run": summary.dry_run, "encoded": encoded}
    show(made, as_json, rows, title=title + (" (nothing was written)" if summary.dry_run else ""))
    if encoded and not as_json:
        show(None, False, encoded, columns=["spec", "items", "encoded", "cached", "failed", "absent", "seconds"])


def show_encoding(rows: Sequence[Receipt | Estimate], as_json: bool) -> int:
    """The receipts of encoding, or what a run would do (``--dry-run``); how many items failed in the run."""
    data = [row.to_dict() for row in rows]
    limit = next((row.limit for row in rows if row.limit is not None), None)
    part = f" (the first {limit:,} of the catalogue, --limit)" if limit is not None else ""
    if not any(row.get("dry_run") for row in data):
        shown = ["spec", "items", "encoded", "cached", "failed", "absent", "seconds"]
        show(data, as_json, data, title=f"Receipt: items{part} = encoded + cached + failed + absent", columns=shown)
        return sum(row["failed"] for row in data)
    shown = ["spec", "items", "to_encode", "cached", "failed", "absent", "seconds", "table_bytes"]
    show(data, as_json, data, title=f"Dry run: items{part} = to encode + cached + failed + absent", columns=shown)
    if not as_json:
        for row in data:
            if row["modality"] == "graph" and row["contents"]:
                how = f"at most, measured on {row['measured']}" if row["measured"] else "which was not measured"
                say(f"{row['spec']}: a graph is learned as a whole; the seconds are those of learning {how}.")
            if row["unusable"]:
                say(f"{row['spec']}: {row['unusable']:,} of {row['sampled']:,} sampled contents gave no vector.")
        say("Nothing was encoded or stored (--dry-run).")
    return 0


def show_failed_items(rows: list[dict[str, Any]], data: Path, as_json: bool) -> None:
    """Which items failed, at which stage, and why."""
    show(rows, as_json, rows, title=f"Failed items in {data}", columns=["item_id", "modality", "stage", "reason"])


def show_candidates(data: dict[str, Any], summary: dict[str, Any], index: str, as_json: bool) -> None:
    """How well an index finds held-out items: ``data`` is what JSON holds, ``index`` how it is built, in words."""
    row = {key: value for key, value in summary.items() if key not in ("modalities", "split", "k", "items")}
    row |= {"index": index, "seconds": data["seconds"]}
    searched = " + ".join(summary["modalities"])
    title = f"Held-out items of {summary['split']} bundles found by {searched} -> {data['path']}"
    show(data, as_json, [row], title=title)


def show_bench(path: Path, results: Sequence[QuestionSetResult], ways: Sequence[str], as_json: bool) -> None:
    """The table of all methods, findings, and groups of questions by ``ways``; ``path`` is the page."""
    if as_json:
        show({"path": str(path), "results": [result.to_dict() for result in results]}, as_json, [])
        return
    show_leaderboard(results)
    for result in results:
        show_slices(result, ways, result.questions.name)
    say(f"Page: {path}; table.csv and results.json beside it.")


def show_full_bench(path: Path, result: FullCatalogueResult, ways: Sequence[str], as_json: bool) -> None:
    """The table of ranking among the whole catalogue, findings, and groups of questions by ``ways``."""
    if as_json:
        show({"path": str(path), "results": result.to_dict()}, as_json, [])
        return
    show_full(result)
    show_slices(result, ways, "Full catalogue")
    say(f"Page: {path}; full.csv and full.json beside it.")


def show_status(status: dict[str, Any], data: object, as_json: bool) -> None:
    """Counts of the catalogue, a table of stored vectors, what is out of date, and the names of the runs."""
    if as_json:
        show(status, as_json, [])
        return
    say(f"{data}: " + ", ".join(f"{value:,} {name}" for name, value in status["catalogue"].items()))
    rows = [
        {
            **row,
            "encoder": row["spec"] + ("" if _is_used(row) else " (older)")
            if row["spec"]
            else f"({row['modality']}: none yet)",
            "dim": f"{row['tokens']}x{row['dim']}" if row["tokens"] else row["dim"],
        }
        for row in status["store"]
    ]
    columns = ["encoder", "rows", "missing", "failed", "absent", "dim", "dtype", "size_bytes"]
    if any(row.get("changed") for row in rows):
        columns.insert(2, "changed")
    if rows:
        show(None, False, rows, title="Store", columns=columns)
    else:
        say("Nothing to encode: no title, picture, sound, bundle or interaction.")
    if any(row["current"] and row["missing"] + row.get("changed", 0) for row in rows):
        say(f"New or changed items wait for their vectors: {command_line(Command('encode'))}")
    if lacking := [row["modality"] for row in rows if not row["spec"]]:
        say(f"No vectors of {' and '.join(lacking)} yet: {command_line(Command('encode'))}")
    for spec in status["other_edges"]:
        say(
            f"Graph vectors of {spec} were learned from other edges or items than training may see today:"
            f" {command_line(Command('encode', '--modality', 'graph', '--encoder', spec))}"
        )
    for each in status["stale"]:
        say(f"Out of date: {each['what']}: {each['why']}: {command_line(Command(*each['command']))}")
    say("Runs: " + (", ".join(status["runs"]) or f"none yet ({command_line(Command('train'))})"))


def show_drift(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A block of figures per pair of tables: a row of all of them would be wider than a terminal."""
    if as_json or not rows:
        show(rows, as_json, rows, title="Drift")
        return
    figures = ("kept", "added", "removed", "changed", "cosine_mean", "cosine_p1", "overlap_at_10", "centroid_shift")
    for row in rows:
        title = f"Drift of {row['modality']}: the present vectors beside earlier ones"
        show(None, False, [row], title=title, columns=figures)
        log.print(f"{row['old']} -> {row['new']}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _is_used(row: dict[str, Any]) -> bool:
    """Whether training takes this table, or no other of its modality is there to be taken."""
    return bool(row["current"] or row["tokens"] or not row["rows"])


def show_results(results: Sequence[QuestionSetResult]) -> None:
    """Per question set: the methods' table, the ablation, and the findings in words."""
    for result in results:
        asked = result.questions
        rows = [
            {
                "method": row.name,
                "HitRate@1": f"{row.hit1:.3f}",
                "95 %": "{:.3f}-{:.3f}".format(*row.hit1_interval),
                "@3": f"{row.hit3:.3f}",
                "@5": f"{row.hit5:.3f}",
                "MRR": f"{row.mrr:.3f}",
                "valid": f"{row.valid_ratio:.2f}",
            }
            for row in result.methods
        ]
        title = f"{asked.name}: {asked.amount} questions of {asked.n_options} options, sha256 {asked.sha256[:12]}"
        show(None, False, rows, title=title)
        ablation = [
            {
                "without": row.without,
                "HitRate@1": f"{row.hit1:.3f}",
                "change": f"{row.delta:+.3f}",
                "95 %": "{:+.3f} to {:+.3f}".format(*row.delta_interval),
            }
            for row in result.ablation
        ]
        if ablation:
            show(None, False, ablation, title="The model without one part")
        _show_findings([*result.findings, *result.worth])


def show_leaderboard(results: Sequence[QuestionSetResult]) -> None:
    """The bench's table, in pieces of as many question sets as fit, and the findings on each family of them."""
    names, table = leaderboard.headings(results), leaderboard.rows(results)
    rows = [
        {
            "method": row.method,
            **{name: f"{row.hit1[name]:.3f}" if name in row.hit1 else "-" for name in names},
            "seconds": f"{row.seconds:.1f}",
            "training": f"{row.training_seconds:,.1f}" if row.training_seconds else "",
        }
        for row in table
    ]
    widest = max(half for row in table for half in row.half.values())
    times = ["seconds", *(["training"] if any(row["training"] for row in rows) else [])]
    longest = min(max(len(row["method"]) for row in rows), out.width // 2)
    title = f"HitRate@1; 95% intervals of up to ±{widest:.3f} stand in the files"
    for piece in columns_in_pieces([*names, *times], out.width - longest - 2):  # 2: the edges
        show(None, False, rows, title=HEADINGS_OF_TIMES.get(tuple(piece), title), columns=["method", *piece])
        title = "HitRate@1 on more questions"
    for name, result in zip(names, results, strict=True):
        out.print(f"[bold]{plain(name)}[/]: {result.questions.amount} questions", highlight=False)
        _show_findings([*result.findings, *result.worth])


def show_full(result: FullCatalogueResult) -> None:
    """The table of full-catalogue ranking, and the findings."""
    held = result.held_out
    rows = [
        {
            "method": row.name,
            **{f"R@{k}": f"{row.figures[f'recall@{k}']:.3f}" for k in (1, 5, 20)},
            "95% of R@20": "{:.3f}-{:.3f}".format(*row.intervals["recall@20"]),
            "R@100": f"{row.figures['recall@100']:.3f}",
            "NDCG@20": f"{row.figures['ndcg@20']:.3f}",
            "MRR": f"{row.figures['mrr']:.3f}",
        }
        for row in result.methods
    ]
    title = (
        f"{held.n_questions:,} held-out items of {held.n_bundles:,} bundles among {held.n_items:,}: Recall, NDCG, MRR"
    )
    show(None, False, rows, title=title)
    _show_findings(result.findings)


def show_slices(result: QuestionSetResult | FullCatalogueResult, ways: Sequence[str], title: str) -> None:
    """The leading methods' main figure by groups of questions: models first, then the best of the others."""
    names_shown = [row.name for row in leading(result.methods)]
    for way in ways:
        rows = []
        groups = result.slices[way]
        for name, group in zip(ends([group.group for group in groups]), groups, strict=True):
            by_name = group.by_name()
            figures = {method: _with_interval(by_name[method]) for method in names_shown}
            rows.append({way: name, "n": f"{group.n:,}{'*' if group.small else ''}", **figures})
        marked = "; * too few to say much" if any(group.small for group in groups) else ""
        show(None, False, rows, title=f"{title} by {way}: {groups[0].methods[0].main}{marked}")


def _with_interval(row: GroupMethod) -> str:
    low, high = row.interval
    return f"{row.value:.3f} ±{(high - low) / 2:.2f}"


def _show_findings(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        out.print(f"- {plain(sentence, 10_000)}", highlight=False, markup=False)
    out.print()
