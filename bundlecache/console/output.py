"""What people see in a terminal: tables, progress bars, and one way to print the same as JSON.

Tables and JSON go to standard output, progress and remarks to standard error, so that output can be piped.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..bench.slices import ends, leading
from ..report import leaderboard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")  # would steer the terminal
LONGEST = 300  # characters of a cell
out = Console(emoji=False)  # ":bell:" in a title stays as it is
log = Console(stderr=True, emoji=False)


class TwoLines(Progress):
    """A row of columns, and below it a line of text (the field ``below``), so that 80 columns are enough."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then what stands below it."""
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields["below"]:
                yield Text(f"  {task.fields['below']}", style="dim", no_wrap=True, overflow="ellipsis")


class Bar:
    """A progress bar on standard error; it shows itself only where somebody can see it. Remarks are always shown."""

    def __init__(self, name: str) -> None:
        columns = (
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        self.bar = TwoLines(*columns, console=log, transient=True, disable=not log.is_terminal)
        self.task = self.bar.add_task(name, total=None, note="", below="")
        self.spent = ""  # where the time of a run goes, once that is known
        self._said = ""

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def encoding(self, p: Any) -> None:
        """Show how far `encode.run` is, and where its time goes."""
        note = "looking"
        if p.stage == "encode":
            note, self.spent = f"{p.items_per_second:,.0f}/s", f"{p.items_per_second:,.0f}/s: {p.spent}"
        self.bar.update(self.task, completed=p.done, total=p.total, note=note, below=p.spent if self.spent else "")
        if p.note != self._said:
            self._said = p.note
            log.print(f"[yellow]{escape(p.note)}[/]", highlight=False, soft_wrap=True)

    def training(self, p: Any) -> None:
        """Show how far a stage of training is."""
        note = f"loss {p.loss:.3f}" + ("" if p.hit1 is None else f"  valid HitRate@1 {p.hit1:.3f}")
        self.bar.update(self.task, description=p.stage, completed=p.step, total=p.steps, note=note)

    def step(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        self.bar.update(self.task, completed=done, total=total)


def show_results(result: dict[str, Any]) -> None:
    """The methods' table of one question set, the ablation, and the verdict in words."""
    asked = result["questions"]
    rows = [
        {
            "method": row["name"],
            "HitRate@1": f"{row['hit@1']:.3f}",
            "95 %": f"{row['hit@1_interval'][0]:.3f}-{row['hit@1_interval'][1]:.3f}",
            "@3": f"{row['hit@3']:.3f}",
            "@5": f"{row['hit@5']:.3f}",
            "MRR": f"{row['mrr']:.3f}",
            "valid": f"{row['valid_ratio']:.2f}",
        }
        for row in result["methods"]
    ]
    title = f"{asked['name']}: {asked['n_questions']:,} questions of {asked['n_options']} options, sha256 {asked['sha256'][:12]}"
    show(None, False, rows, title=title)
    ablation = [
        {
            "without": row["without"],
            "HitRate@1": f"{row['hit@1']:.3f}",
            "change": f"{row['delta']:+.3f}",
            "95 %": f"{row['delta_interval'][0]:+.3f} to {row['delta_interval'][1]:+.3f}",
        }
        for row in result["ablation"]
    ]
    if ablation:
        show(None, False, ablation, title="The model without one part")
    _say(result)


def show_leaderboard(results: list[dict[str, Any]]) -> None:
    """The bench's table, in pieces of as many question sets as fit, and the verdict on each family of them."""
    names, table = leaderboard.headings(results), leaderboard.rows(results)
    rows = [
        {
            "method": row["method"],
            **{name: f"{row[name]:.3f}" if name in row else "-" for name in names},
            "seconds": f"{row['seconds']:.1f}",
            "training": f"{row['training_seconds']:,.0f}" if row["training_seconds"] else "",
        }
        for row in table
    ]
    widest = max(row[f"{name} ±"] for row in table for name in names if name in row)
    title = f"HitRate@1; 95% intervals of up to ±{widest:.3f} stand in the files"
    columns = [*names, "seconds", *(["training"] if any(row["training"] for row in rows) else [])]
    longest = min(max(len(row["method"]) for row in rows), out.width // 2)
    for piece in in_pieces(columns, out.width - longest):
        show(None, False, rows, title=title, columns=["method", *piece])
        title = "HitRate@1 on more questions"
    for name, result in zip(names, results, strict=True):
        out.print(f"[bold]{escape(plain(name))}[/]: {result['questions']['n_questions']:,} questions", highlight=False)
        _say(result)


def in_pieces(columns: Sequence[str], room: int) -> list[list[str]]:
    """Headings in as many rows as it takes to give each its width and two spaces; one that is too long stands alone.

    >>> in_pieces(["random10", "hard10", "nearest:image10", "seconds"], 30)
    [['random10', 'hard10'], ['nearest:image10', 'seconds']]
    """
    pieces: list[list[str]] = [[]]
    for column in columns:
        if pieces[-1] and sum(len(each) + 2 for each in [*pieces[-1], column]) > room:
            pieces.append([])
        pieces[-1].append(column)
    return pieces


def show_full(result: dict[str, Any]) -> None:
    """The table of full-catalogue ranking, and what it says."""
    held = result["held_out"]
    rows = [
        {
            "method": row["name"],
            **{f"R@{k}": f"{row[f'recall@{k}']:.3f}" for k in (1, 5, 20)},
            "95% of R@20": "{:.3f}-{:.3f}".format(*row["recall@20_interval"]),
            "R@100": f"{row['recall@100']:.3f}",
            "NDCG@20": f"{row['ndcg@20']:.3f}",
            "MRR": f"{row['mrr']:.3f}",
        }
        for row in result["methods"]
    ]
    title = f"{held['n_questions']:,} held-out items of {held['n_bundles']:,} bundles among {held['n_items']:,}: Recall, NDCG, MRR"
    show(None, False, rows, title=title)
    _say(result)


def show_slices(result: dict[str, Any], ways: Sequence[str], main: str, title: str) -> None:
    """The leading methods' main figure by groups of questions: models first, then the best of the others."""
    methods = leading(result)
    for way in ways:
        rows = []
        names = ends([group["group"] for group in result["slices"][way]])
        for name, group in zip(names, result["slices"][way], strict=True):
            of = {row["name"]: row for row in group["methods"]}
            cells = {row["name"]: _spread(of[row["name"]], main) for row in methods}
            rows.append(
                {
                    way: name,
                    "n": f"{group['n']:,}{'*' if group['small'] else ''}",
                    **cells,
                }
            )
        marked = "; * too few to say much" if any(group["small"] for group in result["slices"][way]) else ""
        show(None, False, rows, title=f"{title} by {way}: {main}{marked}")


def _spread(row: dict[str, Any], figure: str) -> str:
    low, high = row[f"{figure}_interval"]
    return f"{row[figure]:.3f} ±{(high - low) / 2:.2f}"


def _say(result: dict[str, Any]) -> None:
    for sentence in [*result["verdict"], *result.get("worth", ())]:
        out.print(f"- {escape(sentence)}", highlight=False)
    out.print()


def show(
    data: Any, as_json: bool, rows: Sequence[dict[str, Any]], title: str = "", columns: Sequence[str] = ()
) -> None:
    """Print ``data`` as JSON, or ``rows`` as a table of ``columns`` (all when none is named); one row stands upright."""
    if as_json:
        out.print_json(json.dumps(_finite(data), default=str))
        return
    if not rows:
        out.print(f"{plain(title)}: nothing" if title else "Nothing.", markup=False, soft_wrap=True, highlight=False)
        return
    names = list(columns or rows[0])
    upright = len(rows) == 1
    if title:
        out.print(f"[bold]{escape(plain(title))}[/]", soft_wrap=True, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_header=not upright, pad_edge=False, collapse_padding=True)
    if upright:
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        for name in names:
            table.add_row(name, escape(_cell(rows[0].get(name), name)))
    else:
        for name in names:
            number = isinstance(rows[0].get(name), int | float)
            heading = name.removesuffix("_bytes")
            table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number)
        for row in rows:
            table.add_row(*(escape(_cell(row.get(name), name)) for name in names))
    out.print(table)


def _finite(data: Any) -> Any:
    """Data with null for what is no finite number: JSON has no word for it."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _cell(value: Any, name: str = "") -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return decimal(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value)) or "-"
    return plain(str(value))


def plain(text: str) -> str:
    """Text from a catalogue as a terminal can show it: no control characters, and not by the page.

    >>> plain("red\x1b[31m\\ndress")
    'red [31m dress'
    """
    text = CONTROL.sub(" ", text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
