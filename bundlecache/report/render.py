"""Fills the templates of pages: their filters, the geometry of bars, and the file that is written.

A page makes no network request (its content policy forbids any). The templates escape all texts of users.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from ..files import write_text


def percent(rate: float | None, digits: int = 1) -> str:
    """0.532 -> ``53.2%``."""
    return "–" if rate is None else f"{rate * 100:.{digits}f}%"


def signed(rate: float) -> str:
    """A difference in points: 0.1 -> ``+10.0``; a true minus sign."""
    return f"{rate * 100:+.1f}".replace("-", "\u2212")


def seconds(value: float | None) -> str:
    """A duration as short as it can be said."""
    if value is None:
        return "–"
    if value >= 90:
        return f"{value / 60:.1f}\u202fmin"
    if value >= 0.01:
        return f"{value:.1f}\u202fs" if value >= 1 else f"{value:.2f}\u202fs"
    return "<0.01\u202fs"


def render(template: str, values: dict[str, Any], path: Path) -> Path:
    """Write a page of this package; a value that the template asks for and that is not there is an error."""
    import jinja2

    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters.update(percent=percent, signed=signed, seconds=seconds)
    html = page.get_template(template).render(values)
    write_text(path, html)
    return path


def now() -> str:
    """The time that stands on a page."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def axis_end(tops: Sequence[float]) -> float:
    """The round number above all rates ``tops``, 1 at most.

    >>> axis_end([0.1, 0.43]), axis_end([0.99])
    (0.5, 1.0)
    """
    return min(1.0, (int(max(tops) * 10) + 1) / 10)


def bar(value: float, interval: Sequence[float], end: float) -> dict[str, float]:
    """A bar and its whiskers on an axis from 0 to ``end``, in percent of the axis."""
    at = partial(round, ndigits=2)
    return {"value": at(value / end * 100), "low": at(interval[0] / end * 100), "high": at(interval[1] / end * 100)}
