"""Text files of other programs: their encoding, the character between their cells, and their rows."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import TYPE_CHECKING

from ...errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DELIMITERS = ",;\t|"
EXCEL_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # Excel writes it above the header row
BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
SAMPLE_BYTES = 4096


def read_text(path: Path, notes: list[str]) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, or else in Windows-1252; ``notes`` says which, unless it is UTF-8.

    Raises
    ------
    CatalogueError
        When the file cannot be read, or holds bytes that are no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CatalogueError(
            f"{path} cannot be read ({error.strerror}).", hint=f"give the folder that holds {path.name}"
        ) from error
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None) or _without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if not encoding.startswith("utf-8"):
            raise CatalogueError(
                f"{path} begins as {encoding.upper()} text, but byte {error.start:,} is none.",
                hint="save it as UTF-8, or export it again",
            ) from error
        encoding = "windows-1252"
        text = data.decode(encoding, "replace").replace("\ufffd", " ")
        notes.append(f"{path.name} is not UTF-8 (byte {error.start}); it was read as Latin-1 (Windows-1252).")
    if "\x00" in text:
        raise CatalogueError(f"{path} holds zero bytes, so it is no text file.", hint="export it again, as UTF-8 text")
    if encoding.startswith(("utf-16", "utf-32")):
        notes.append(f"{path.name} was read as {encoding[:6].upper()}.")
    return text


def _without_mark(data: bytes) -> str:
    """UTF-16 without a byte order mark has a zero in every other byte of plain letters."""
    even, odd = data[0:SAMPLE_BYTES:2], data[1:SAMPLE_BYTES:2]
    if len(data) >= 4 and odd and odd.count(0) > 0.6 * len(odd) and not even.count(0):
        return "utf-16-le"
    if len(data) >= 4 and even and even.count(0) > 0.6 * len(even) and not odd.count(0):
        return "utf-16-be"
    return "utf-8"


def csv_rows(path: Path, notes: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a file of separated cells; empty rows are left out.

    The separator is the one of , ; tab and | that stands most often in the header row, or what Excel's first line
    ``sep=X`` says.

    Raises
    ------
    CatalogueError
        When the file cannot be read, or a quote is never closed.
    """
    text = read_text(path, notes)
    excel = EXCEL_LINE.match(text)
    delimiter = excel.group(1) if excel else ""
    text = text[excel.end() :] if excel else text
    if not delimiter:
        first = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").split("\n", 1)[0])
        delimiter = max(DELIMITERS, key=first.count)
    try:
        # Strict, because a quote that is never closed would swallow the rows behind it.
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except (csv.Error, ValueError, TypeError) as error:
        raise CatalogueError(
            f"{path} cannot be read as rows of cells: {error}.", hint="export it again, as CSV in UTF-8"
        ) from error
    return (rows[0], rows[1:]) if rows else ([], [])


def read_csv(path: Path, columns: Sequence[str], notes: list[str]) -> list[list[str]]:
    """The named columns of a CSV file with a header row, one list per row.

    Raises
    ------
    CatalogueError
        When the file is missing, is no CSV or lacks a column.
    """
    header, rows = csv_rows(path, notes)
    names = [name.strip().casefold() for name in header]
    missing = [name for name in columns if name.casefold() not in names]
    if missing:
        raise CatalogueError(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are: {', '.join(header) or 'none'}.",
            hint=f"the first row must name {', '.join(columns)}",
        )
    at = [names.index(name.casefold()) for name in columns]
    whole = [row for row in rows if len(row) > max(at)]
    if len(whole) < len(rows):
        notes.append(f"{path.name} has {len(rows) - len(whole):,} rows with too few cells; they are left out.")
    return [[row[i].strip() for i in at] for row in whole]


def clean(text: str) -> str:
    """A title in one line: HTML entities read (some sources escape twice), spaces and controls folded.

    >>> clean("Tom &amp;amp; Jerry\\n  mug")
    'Tom & Jerry mug'
    """
    text = html.unescape(html.unescape(text))
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
