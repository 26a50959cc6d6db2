"""Numbers, prices and dates as people and shop systems write them, read a column at a time.

A column is read as a whole, because one cell alone may mean two things: ``1,299`` is a price of four digits or of one,
``03/04/2025`` is in March or in April. What the other cells of the column show decides; a note says what stays open.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .cells import SPACES, blocks, by_unique, codes, first_rows, is_text, naive, taken, values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .cells import Column

SYMBOLS = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY", "₹": "INR", "₩": "KRW", "₽": "RUB", "zł": "PLN", "kr": "kr"}
CODES = [
    "EUR",
    "USD",
    "GBP",
    "JPY",
    "CHF",
    "SEK",
    "NOK",
    "DKK",
    "PLN",
    "CZK",
    "HUF",
    "INR",
    "CNY",
    "AUD",
    "CAD",
    "NZD",
    "BRL",
    "MXN",
    "TRY",
    "RUB",
    "KRW",
    "ZAR",
    "SGD",
    "HKD",
]
CURRENCY = re.compile("|".join([*map(re.escape, SYMBOLS), *(rf"\b{code}\b" for code in CODES)]), re.IGNORECASE)
NUMBER = re.compile(r"[+-]?\d[\d.,]*|[+-]?[.,]\d+")
NOTHING = frozenset(("", "-", "--", "n/a", "na", "nan", "null", "none", "?"))
NUMBER_COLUMNS = frozenset(
    [
        "price",
        "unitprice",
        "listprice",
        "saleprice",
        "oldprice",
        "compareatprice",
        "msrp",
        "cost",
        "amount",
        "preis",
        "rating",
        "stars",
        "score",
        "weight",
        "stock",
        "quantity",
        "inventory",
        "discount",
    ]
)
PLAIN_NUMBER = r"^-?[0-9]+(\.[0-9]+)?$"
SAMPLE_CELLS = 200  # that show whether a column holds prices
MAX_PRICE_CHARS = 24
DATE_ORDERS = ("auto", "day-first", "month-first")
NUMERIC_DATE = re.compile(r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})\b[T ,]*(.*)", re.DOTALL)
CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(am|pm)?\s*(z|utc|[+-]\d{2}:?\d{2})?", re.IGNORECASE)
ISO_DATE = r"^[12][0-9]{3}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}Z?)?$"
EPOCH_DIGITS = r"^[0-9]{9,14}$"
EPOCH_SECONDS = (10**8, 10**11)  # 1973 to 5138; below are years and small counts
EPOCH_MILLISECONDS = (10**11, 10**14)
EPOCH = datetime(1970, 1, 1)
MAX_SHOWN = 40


@dataclass(frozen=True)
class Numbers:
    """A column of numbers: ``values`` with None for empty cells, and the sentence that is to be said of it."""

    values: Column
    note: str = ""


def looks_numeric(name: str, cells: Column) -> bool:
    """Whether a column is one of amounts: by its name, or because most of its cells name a currency."""
    if not isinstance(cells, list) and not is_text(cells):
        return False
    texts = (cell for part in blocks(cells) for cell in part if isinstance(cell, str) and cell.strip())
    if re.sub(r"[\W_]+", "", name).casefold() in NUMBER_COLUMNS:
        return next(texts, None) is not None
    sample = list(islice(texts, SAMPLE_CELLS))
    priced = sum(
        bool(CURRENCY.search(text)) and bool(re.search(r"\d", text)) and len(text) < MAX_PRICE_CHARS for text in sample
    )
    return bool(sample) and priced > 0.8 * len(sample)


def read_numbers(name: str, cells: Column) -> Numbers | None:
    """A column of numbers or prices; None where more than a fifth of its cells are no number.

    >>> read_numbers("price", ["€3.50", "$1,299.00", "", "12"]).values
    [3.5, 1299.0, None, 12.0]
    >>> read_numbers("price", ["3,50 EUR", "1.299,00 EUR"]).values
    [3.5, 1299.0]
    """
    if not is_text(cells):
        return _read_texts(name, values(cells)) if isinstance(cells, list) else _arrow_numbers(name, cells)
    trimmed = pc.utf8_trim(cells, SPACES)
    trimmed = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    if trimmed.null_count < len(trimmed) and pc.all(pc.match_substring_regex(trimmed, PLAIN_NUMBER)).as_py():
        found = trimmed.cast(pa.float64())
        if pc.all(pc.is_finite(found)).as_py():
            return Numbers(found)
    rows, different = codes(trimmed)
    present = rows[rows >= 0]
    first = first_rows(np.where(rows < 0, len(different), rows), len(different) + 1)
    read = _read_texts(
        name, different.to_pylist(), np.bincount(present, minlength=len(different)).tolist(), first.tolist()
    )
    return read and Numbers(taken(pa.chunked_array([pa.array(read.values, pa.float64())]), rows), read.note)


def _arrow_numbers(name: str, cells: pa.ChunkedArray) -> Numbers | None:
    """Integers and floats as floats; NaN is an empty cell."""
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        return _read_texts(name, values(cells))
    found = cells.cast(pa.float64(), safe=False)
    found = pc.if_else(pc.is_nan(found), pa.scalar(None, pa.float64()), found)
    if found.null_count == len(found):
        return None
    return Numbers(found) if pc.all(pc.is_finite(found)).as_py() else _read_texts(name, values(cells))


def _read_texts(
    name: str, cells: Sequence[Any], counts: Sequence[int] | None = None, first: Sequence[int] | None = None
) -> Numbers | None:
    """Numbers of cells; ``counts`` says in how many rows each stands, ``first`` in which row first."""
    texts = [None if cell is None else str(cell).strip() for cell in cells]
    counts, first = counts or [1] * len(texts), first or range(len(texts))
    plain = [text and _plain(text) for text in texts]
    decimal = _decimal_mark([text for text in plain if text])
    found: list[float | None] = []
    odd: list[int] = []
    for number, text in enumerate(plain):
        value = None if text is None or text.casefold() in NOTHING else _number(text, decimal)
        if value is None and text is not None and text.casefold() not in NOTHING:
            odd.append(number)
        found.append(value)
    filled = sum(count for text, count in zip(plain, counts, strict=True) if text and text.casefold() not in NOTHING)
    odd_rows = sum(counts[number] for number in odd)
    if not filled or odd_rows > 0.2 * filled:
        return None
    notes = []
    if odd:
        notes.append(
            f"{name}: {odd_rows:,} of {filled:,} cells are no number, for instance {str(texts[odd[0]])[:MAX_SHOWN]!r} in row "
            f"{first[odd[0]] + 1:,}; they are left empty"
        )
    if len(currencies := _currencies(texts, counts)) > 1:
        shown = ", ".join(f"{code} in {count:,} rows" for code, count in currencies.most_common())
        notes.append(f"{name}: several currencies ({shown}) stand as plain numbers, nothing is converted")
    return Numbers(found, "; ".join(notes))


def _plain(text: str) -> str:
    """Without currency, spaces and the Swiss apostrophe."""
    return re.sub(r"[\s'’_]|,[-–—]+$|\.[-–—]+$", "", CURRENCY.sub("", text))


def _currencies(texts: Sequence[str | None], counts: Sequence[int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for text, count in zip(texts, counts, strict=True):
        if text and (mark := CURRENCY.search(text)):
            word = mark.group()
            found[SYMBOLS.get(word.casefold(), word.upper())] += count
    return found


def _decimal_mark(texts: Sequence[str]) -> str:
    """The decimal mark of a column: the last of two different marks, else a comma that parts no group of three."""
    for text in texts:
        comma, point = text.rfind(","), text.rfind(".")
        if comma >= 0 and point >= 0:
            return "," if comma > point else "."
    with_comma = [text for text in texts if "," in text]
    grouped = all(re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", text) for text in with_comma)
    return (
        ","
        if with_comma and not grouped and not any("." in text for text in texts)
        else (
            ","
            if with_comma
            and not grouped
            and all(re.fullmatch(r"[+-]?\d{1,3}(\.\d{3})*(,\d+)?", text) for text in texts)
            else "."
        )
    )


def _number(text: str, decimal: str) -> float | None:
    other = "." if decimal == "," else ","
    if not NUMBER.fullmatch(text) or text.count(decimal) > 1:
        try:
            value = float(text) if re.fullmatch(r"[+-]?\d+(\.\d+)?e[+-]?\d{1,3}", text, re.IGNORECASE) else math.nan
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    value = float(text.replace(other, "").replace(decimal, "."))
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Dates:
    """A column of dates: naive UTC, None for empty cells, and the sentence that is to be said of it."""

    values: Column
    note: str = ""


def read_dates(name: str, cells: Column, order: str = "auto") -> Dates | None:
    """A column of dates: ISO, 31.12.2025, 12/31/2025, seconds or milliseconds since 1970; None if one is none of these.

    >>> [str(value) for value in read_dates("date", ["31.12.2025 18:30", "01.02.2025"]).values]
    ['2025-12-31 18:30:00', '2025-02-01 00:00:00']
    >>> [str(value) for value in read_dates("date", ["12/31/2025", 1735689600]).values]
    ['2025-12-31 00:00:00', '2025-01-01 00:00:00']
    """
    if not isinstance(cells, list):
        if (found := _arrow_dates(cells)) is not None:
            return Dates(found)
        cells = values(cells) if pa.types.is_nested(cells.type) else cells
    different = cells if isinstance(cells, list) else pa.chunked_array([codes(cells)[1]])
    day_first, note = _day_first(name, different, order)
    try:
        if isinstance(cells, list):
            return Dates([_date(cell, day_first) for cell in cells], note)
        return Dates(by_unique(cells, lambda cell: _date(cell, day_first), pa.timestamp("us")), note)
    except (ValueError, OverflowError, AttributeError, TypeError):
        return None


def _arrow_dates(cells: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Dates of cells that need no look at each: times, whole numbers since 1970, ISO without a time zone or with Z."""
    kind = cells.type
    if cells.null_count == len(cells):
        return pa.chunked_array([pa.nulls(len(cells), pa.timestamp("us"))])
    if pa.types.is_timestamp(kind):
        return naive(cells)
    if pa.types.is_string(kind):
        trimmed = pc.utf8_trim(cells, SPACES)
        if pc.all(pc.match_substring_regex(trimmed, EPOCH_DIGITS)).as_py():
            return _arrow_dates(trimmed.cast(pa.int64()))
        try:
            if pc.all(pc.match_substring_regex(trimmed, ISO_DATE)).as_py():
                return pc.utf8_rtrim(trimmed, "Z").cast(pa.timestamp("us"))
        except pa.ArrowException:  # the 31st of February
            return None
    if pa.types.is_integer(kind):
        least, most = pc.min(cells).as_py(), pc.max(cells).as_py()
        for (low, high), factor in ((EPOCH_SECONDS, 10**6), (EPOCH_MILLISECONDS, 10**3)):
            if low <= least and most < high:
                return pc.multiply(cells, factor).cast(pa.timestamp("us"))
    return None


def _day_first(name: str, cells: Column, order: str) -> tuple[bool, str]:
    """Whether 03/04/2025 is in April, which all cells together decide, and the sentence where they leave it open."""
    if order != "auto":
        return order == "day-first", ""
    first = second = 0
    example: re.Match[str] | None = None
    for part in blocks(cells):
        for cell in part:
            match = NUMERIC_DATE.fullmatch(cell.strip()) if isinstance(cell, str) else None
            if match and len(match.group(1)) <= 2:
                example = example or match
                first, second = max(first, int(match.group(1))), max(second, int(match.group(3)))
    if example is None:
        return False, ""
    dotted = example.group(2) == "."
    note = (
        f"{name}: dates such as {example.group()[:MAX_SHOWN]!r} are read month first; nothing in the column shows "
        "which is the day (--dates day-first says it otherwise)"
    )
    return first > 12 or (second <= 12 and dotted), note if max(first, second) <= 12 and not dotted else ""


def _date(cell: Any, day_first: bool) -> datetime | None:
    if cell is None or (isinstance(cell, str) and cell.strip().casefold() in NOTHING):
        return None
    if isinstance(cell, datetime):
        return _naive(cell)
    if isinstance(cell, date):
        return datetime(cell.year, cell.month, cell.day)
    if isinstance(cell, int | float) or re.fullmatch(r"\d{9,14}(\.\d+)?", cell.strip()):
        return _epoch(float(cell))
    if (match := NUMERIC_DATE.fullmatch(cell.strip())) is None:
        return _naive(datetime.fromisoformat(cell.strip().replace("Z", "+00:00")))
    a, _, b, c, rest = match.groups()
    year, month, day = (a, b, c) if len(a) > 2 else (c, b, a) if day_first else (c, a, b)
    years = int(year) + (0 if len(year) > 2 else 2000 if int(year) < 70 else 1900)
    whole = datetime(years, int(month), int(day))
    return whole + _clock(rest) if rest.strip() else whole


def _clock(text: str) -> timedelta:
    match = CLOCK.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    hour, minute, second, half, zone = match.groups()
    hours = int(hour) % 12 + (12 if half.casefold() == "pm" else 0) if half else int(hour)
    if hours > 23 or int(minute) > 59 or int(second or 0) > 60:
        raise ValueError(text)
    shift = timedelta()
    if zone and zone[0] in "+-":
        shift = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:])) * (1 if zone[0] == "+" else -1)
    return timedelta(hours=hours, minutes=int(minute), seconds=int(second or 0)) - shift


def _epoch(number: float) -> datetime:
    if EPOCH_SECONDS[0] <= number < EPOCH_SECONDS[1]:
        return EPOCH + timedelta(seconds=number)
    if EPOCH_MILLISECONDS[0] <= number < EPOCH_MILLISECONDS[1]:
        return EPOCH + timedelta(milliseconds=number)
    raise ValueError(number)


def _naive(value: datetime) -> datetime:
    return value.astimezone(timezone.utc).replace(tzinfo=None) if value.tzinfo else value
