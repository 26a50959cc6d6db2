"""Print tables, JSON and plain text: tables and JSON to standard output, all else to standard error.

Output can be piped, and nothing that comes from a catalogue can steer the terminal.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from ..text import clean_text

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CELL_CHARACTERS = 300

out = Console(emoji=False)  # ":bell:" in a title stays as it is
log = Console(stderr=True, emoji=False)


def plain(text: str, max_characters: int = MAX_CELL_CHARACTERS) -> str:
    """Text from a catalogue as a terminal can show it: without control characters, and cut where it is long.

    >>> plain("red\x1b[31m\\ndress")
    'red [31m dress'
    """
    text = clean_text(text)
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def say(text: str) -> None:
    """Print lines of text to standard output."""
    for line in text.split("\n"):
        out.print(escape(plain(line, 10_000)), soft_wrap=True, highlight=False)


def show(
    data: Any, as_json: bool, rows: Sequence[dict[str, Any]], title: str = "", columns: Sequence[str] = ()
) -> None:
    """Print ``data`` as JSON, or ``rows`` as a table of ``columns`` (all of them by default); one row stands upright."""
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
            heading = escape(plain(name.removesuffix("_bytes")))
            table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number)
        for row in rows:
            table.add_row(*(escape(_cell(row.get(name), name)) for name in names))
    out.print(table)


def columns_in_pieces(columns: Sequence[str], room: int) -> list[list[str]]:
    """Headings in as many rows as it takes to give each its width and two spaces; one that is too long stands alone.

    >>> columns_in_pieces(["random10", "hard10", "nearest:image10", "seconds"], 30)
    [['random10', 'hard10'], ['nearest:image10', 'seconds']]
    """
    pieces: list[list[str]] = [[]]
    for column in columns:
        if pieces[-1] and sum(len(each) + 2 for each in [*pieces[-1], column]) > room:
            pieces.append([])
        pieces[-1].append(column)
    return pieces


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
