"""Text files of other programs: their encoding, the character between their cells, and their rows.

Files are read in blocks: first once to find the encoding, which any byte may decide, then once to read the rows.
"""

from __future__ import annotations

import codecs
import csv
import html
import re
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from ...errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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
BLOCK_BYTES = 1 << 22
BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class TextFile:
    """A text file whose encoding is known; ``repaired``: bytes that are no text become spaces."""

    path: Path
    encoding: str
    repaired: bool = False

    def lines(self, newline: str | None = "", skipped: int = 0) -> Iterator[str]:
        """Its lines with their ends, from the character ``skipped`` on; ``newline`` as `open` takes it."""
        with self.path.open(
            encoding=self.encoding, errors="replace" if self.repaired else "strict", newline=newline
        ) as file:
            file.read(skipped)
            yield from (line.replace("\ufffd", " ") for line in file) if self.repaired else file


def text_file(path: Path, notes: list[str]) -> TextFile:
    """The encoding of a text file: UTF-8, UTF-16 or UTF-32, or else Windows-1252; ``notes`` says which, unless it is UTF-8.

    Raises
    ------
    CatalogueError
        When the file cannot be read, or holds bytes that are no text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(SAMPLE_BYTES)
        marked = next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), None)
        found = TextFile(path, marked or _without_mark(head))
        zeros = False
        try:
            zeros = _has_zeros(found)
        except UnicodeDecodeError as error:
            start = _first_bad_byte(path, found.encoding)
            if not found.encoding.startswith("utf-8"):
                raise CatalogueError(
                    f"{path} begins as {found.encoding.upper()} text, but byte {start:,} is none.",
                    hint="save it as UTF-8, or export it again",
                ) from error
            found = TextFile(path, "windows-1252", repaired=True)
            notes.append(f"{path.name} is not UTF-8 (byte {start}); it was read as Latin-1 (Windows-1252).")
            zeros = _has_zeros(found)
    except OSError as error:
        raise CatalogueError(
            f"{path} cannot be read ({error.strerror}).", hint=f"give the folder that holds {path.name}"
        ) from error
    if zeros:
        raise CatalogueError(f"{path} holds zero bytes, so it is no text file.", hint="export it again, as UTF-8 text")
    if found.encoding.startswith(("utf-16", "utf-32")):
        notes.append(f"{path.name} was read as {found.encoding[:6].upper()}.")
    return found


def _has_zeros(file: TextFile) -> bool:
    """Whether zeros stand in its text; decodes all of it."""
    decoder = codecs.getincrementaldecoder(file.encoding)("replace" if file.repaired else "strict")
    zeros = False
    with file.path.open("rb") as data:
        while block := data.read(BLOCK_BYTES):
            zeros |= "\x00" in decoder.decode(block)
    return "\x00" in decoder.decode(b"", True) or zeros


def _first_bad_byte(path: Path, encoding: str) -> int:
    """Where the first byte stands that is no text; a byte order mark of UTF-8 does not count."""
    try:
        path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        return error.start
    return 0


def read_text(path: Path, notes: list[str]) -> str:
    """The whole text of a file; see `text_file`.

    Raises
    ------
    CatalogueError
        When the file cannot be read, or holds bytes that are no text.
    """
    return "".join(text_file(path, notes).lines())


def _without_mark(data: bytes) -> str:
    """UTF-16 without a byte order mark has a zero in every other byte of plain letters."""
    even, odd = data[0:SAMPLE_BYTES:2], data[1:SAMPLE_BYTES:2]
    if len(data) >= 4 and odd and odd.count(0) > 0.6 * len(odd) and not even.count(0):
        return "utf-16-le"
    if len(data) >= 4 and even and even.count(0) > 0.6 * len(even) and not odd.count(0):
        return "utf-16-be"
    return "utf-8"


def csv_blocks(path: Path, notes: list[str]) -> Iterator[list[list[str]]]:
    """The rows of a file of separated cells, ``BLOCK_ROWS`` at a time, the header row first; empty rows are left out.

    The separator is the one of , ; tab and | that stands most often in the header row, or what Excel's first line
    ``sep=X`` says.

    Raises
    ------
    CatalogueError
        When the file cannot be read, or a quote is never closed.
    """
    file = text_file(path, notes)
    excel = EXCEL_LINE.match(next(file.lines("\n"), ""))
    skipped = excel.end() if excel else 0
    delimiter = excel.group(1) if excel else ""
    if not delimiter:
        heads = (line.lstrip("\r\n") for line in file.lines("\n", skipped))
        first = re.sub(r'"[^"]*"', "", next(filter(None, heads), ""))
        delimiter = max(DELIMITERS, key=first.count)
    try:
        # Strict, because a quote that is never closed would swallow the rows behind it.
        rows = filter(None, csv.reader(file.lines("", skipped), delimiter=delimiter, strict=True))
        while block := list(islice(rows, BLOCK_ROWS)):
            yield block
    except (csv.Error, ValueError, TypeError) as error:
        raise CatalogueError(
            f"{path} cannot be read as rows of cells: {error}.", hint="export it again, as CSV in UTF-8"
        ) from error


def read_csv(path: Path, columns: Sequence[str], notes: list[str]) -> list[list[str]]:
    """The named columns of a CSV file with a header row, one list per row.

    Raises
    ------
    CatalogueError
        When the file is missing, is no CSV or lacks a column.
    """
    header, *rows = list(chain.from_iterable(csv_blocks(path, notes))) or [[]]
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
