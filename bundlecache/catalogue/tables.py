"""Reads parquet, CSV and JSONL tables as columns, and their cells as text.

Everything that a file can hold ends as text, or as one sentence: values that Python has no type for (a timestamp in
the year 200,000, an integer of 6,000 digits) are read as the text that the file or Arrow has for them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CatalogueError
from ..text import clean_text, listed, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how a UTF-16 file begins
WHOLE_NUMBER = re.compile(r"-?\d+\.0")
WRITE_AGAIN = "write that file again"
Cells = TypeVar("Cells")


def read_table(path: Path, notes: list[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a parquet, csv or jsonl file, as Python lists.

    Parameters
    ----------
    notes
        Sentences about what was left out or read as text are appended.

    Raises
    ------
    CatalogueError
        When the file cannot be parsed as what its suffix says.
    """
    notes = [] if notes is None else notes
    with parsing(path):
        if path.suffix == ".parquet":
            return clean_names(_parquet(path, notes))
        if path.suffix == ".jsonl":
            rows, header = _json_lines(path), list[str]()
        else:
            rows, header = _csv(path)
    if not all(isinstance(row, dict) for row in rows):
        raise CatalogueError(f"{path} must hold one JSON object a line.", hint=WRITE_AGAIN)
    if too_long := sum(None in row for row in rows):
        notes.append(f"{path.name} has {too_long:,} rows with more cells than its first row; those cells are left out.")
    names = list(dict.fromkeys([*header, *(name for row in rows for name in row if name is not None)]))
    table = {name: [row.get(name) for row in rows] for name in names}
    if path.suffix == ".csv":
        table = {name: _whole_numbers(cells) for name, cells in table.items()}
    return clean_names(table)


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn the errors of parsing ``path`` into one sentence.

    Raises
    ------
    CatalogueError
        When the file cannot be parsed as what its suffix says.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if error.object[:2] in UTF_16 else "LATIN1"
        raise CatalogueError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}).",
            hint=f"iconv -f {encoding} -t UTF-8 {path} > fixed{path.suffix}, then mv fixed{path.suffix} {path}",
        ) from error
    except (ValueError, csv.Error, pa.ArrowException, OSError) as error:
        reason = clean_text(str(error).partition("\n")[0]).rstrip(".")
        raise CatalogueError(f"{path} cannot be read as {path.suffix[1:]}: {reason}.", hint=WRITE_AGAIN) from error


def cell_text(value: object) -> str | None:
    """A cell as text without outer spaces; None for an empty cell and NaN; a float that stands for an id 12 is "12".

    Raises
    ------
    CatalogueError
        For lists within lists that are nested too deeply to be written as text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    try:
        text = str(value).strip()
    except RecursionError as error:
        raise CatalogueError("A cell holds lists that are nested too deeply.", hint="write text or numbers") from error
    if not text.isascii():  # half of a surrogate pair (JSON may hold one) is no text that can be written anywhere
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text or None


def cell_list(cell: Any) -> list[str]:
    """item_ids: a list, or text that is a JSON list or ids separated by spaces, commas or semicolons."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):  # no JSON, an integer of 6,000 digits, 10,000 brackets: ids as they stand
            cell = cell.strip(" []")
    if isinstance(cell, str):
        cell = cell.replace(";", " ").replace(",", " ").split()
    values = cell if isinstance(cell, list | tuple) else [cell]
    return [text for value in values if (text := cell_text(value)) is not None]


def number(text: str | None) -> float | None:
    """A cell as a finite number; None when it is empty or no number.

    >>> number("12.50"), number("1e3"), number("coat"), number("nan"), number("1_000")
    (12.5, 1000.0, None, None, None)
    """
    if not text or "_" in text:  # Python would read 1_000
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def required_column(table: dict[str, list[Any]], source: Path | str, name: str) -> list[Any]:
    """The cells of a column that must be there.

    Raises
    ------
    CatalogueError
        When it is missing; names the columns there are.
    """
    if name in table:
        return table[name]
    only = next(iter(table)) if len(table) == 1 else ""
    joined = any(mark in only for mark in ";\t|")
    raise CatalogueError(
        f"{source} has no column {name!r}; its columns are: {listed(list(table))}.",
        hint="separate its cells by commas" if joined else f"rename a column to {name}",
    )


def required_texts(cells: Sequence[Any], source: Path | str, name: str) -> list[str]:
    """Cells of a column in which none may be empty, as text.

    Raises
    ------
    CatalogueError
        When one is empty; names its row, the first row of data being row 1.
    """
    texts = [cell_text(cell) for cell in cells]
    if None in texts:
        raise CatalogueError(
            f"{source} has an empty {name} in row {texts.index(None) + 1:,}.", hint=f"give every row its {name}"
        )
    return texts  # type: ignore[return-value]


def unique_ids(cells: Sequence[Any], source: Path | str, name: str, kept: str) -> list[str]:
    """The ids of a table, as text: none empty, none twice.

    Parameters
    ----------
    kept
        What a row describes, for the hint: "item", "bundle".

    Raises
    ------
    CatalogueError
        When an id is empty or stands twice; names the rows, and says so where only outer spaces tell the ids apart.
    """
    ids = required_texts(cells, source, name)
    first: dict[str, int] = {}
    twins = [(first[each], row) for row, each in enumerate(ids) if first.setdefault(each, row) != row]
    if twins:
        count = len({ids[row] for _, row in twins})
        a, b = twins[0]
        spaces = str(cells[a]) != str(cells[b]) and {str(cells[a]).strip(), str(cells[b]).strip()} == {ids[a]}
        raise CatalogueError(
            f"{source} names {count:,} {name} twice, for instance {quoted(ids[b])} in rows {a + 1:,} and {b + 1:,}"
            + (", which differ in outer spaces only." if spaces else "."),
            hint=f"keep one row per {kept}",
        )
    return ids


def _parquet(path: Path, notes: list[str]) -> dict[str, list[Any]]:
    table = pq.read_table(path)
    return {
        name: arrow_cells(name, column, path, notes)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def arrow_cells(name: str, column: pa.ChunkedArray | pa.Array, path: Path, notes: list[str]) -> list[Any]:
    """The cells of an Arrow column as Python objects, or as text where Python has no such object, which a note says.

    Raises
    ------
    CatalogueError
        When they cannot be read as text either.
    """
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):  # nanoseconds, or dates, times and durations that Python cannot represent
        kind = clean_text(str(column.type))
    try:
        cells: list[Any] = column.cast(pa.string()).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise CatalogueError(
            f"{path} holds values in the column {quoted(name)} ({kind}) that cannot be read.",
            hint="write that column as text",
        ) from error
    notes.append(f"{path.name} holds values in the column {quoted(name)} ({kind}) that are read as plain text.")
    return cells


def _csv(path: Path) -> tuple[list[Any], list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict, because an unclosed quote would swallow the rows behind it.
        reader = csv.DictReader(io.StringIO(file.read(), newline=""), strict=True)
        return list(reader), list(reader.fieldnames or [])


def _json_lines(path: Path) -> list[Any]:
    """The values of a JSONL file; not by splitlines, which also cuts at characters that may stand in a title."""
    lines = path.read_text("utf-8-sig").split("\n")
    return [json_value(line, row) for row, line in enumerate(lines, 1) if line.strip()]


def json_value(line: str, row: int) -> Any:
    """The value of line number ``row`` of a JSONL file; an integer too long for Python as its digits.

    Raises
    ------
    ValueError
        When it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(line)
    except RecursionError:
        raise ValueError(f"line {row:,} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {row:,} is no JSON ({error.msg})") from None
    except ValueError:  # an integer with more digits than Python converts
        return json.loads(line, parse_int=str)


def _whole_numbers(cells: list[Any]) -> list[Any]:
    """A CSV column of whole numbers that pandas wrote as 1.0, 2.0 because a cell was empty: as 1, 2."""
    if any(cells) and all(not cell or WHOLE_NUMBER.fullmatch(cell) for cell in cells):
        return [cell and cell[:-2] for cell in cells]
    return cells


def clean_names(table: dict[str, Cells]) -> dict[str, Cells]:
    """Column names without control characters and outer spaces, where that keeps them apart."""
    cleaned = [clean_text(name).strip() for name in table]
    if len(set(cleaned)) < len(cleaned):
        return table
    return dict(zip(cleaned, table.values(), strict=True))
