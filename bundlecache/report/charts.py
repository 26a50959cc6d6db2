"""Geometry of small line charts; the report's template draws them as inline SVG in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

WIDTH, HEIGHT = 640, 230  # user units of the SVG, which scales with the page
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 26, 28  # room for labels
MAX_POINTS = 300  # per line; more than a screen can show


@dataclass(frozen=True)
class Line:
    """One line: x and y of its points, and the style class it is drawn in."""

    x: Sequence[float]
    y: Sequence[float]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in user units, and what stands there."""

    at: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A chart ready to be drawn: everything in user units."""

    title: str
    paths: list[tuple[str, str]]  # (style, points)
    dots: list[tuple[float, float, float]]  # (x, y, radius)
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Tick]  # vertical lines, where a stage begins
    whiskers: list[tuple[float, float, float]] = field(default_factory=list)  # (x, y of the low end, y of the high end)
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = field(default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))


def draw(
    title: str,
    lines: Sequence[Line],
    marks: Sequence[tuple[float, str]] = (),
    *,
    percent: bool = False,
    floor: float | None = None,
) -> Drawing | None:
    """Place lines in a frame, or None when there is no finite point; ``floor`` pulls the y axis down to it."""
    lines = [clean for line in lines if (clean := _finite(line)).x]
    if not lines:
        return None
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y] + ([] if floor is None else [floor])
    y_values = ticks(min(ys), max(ys), 5)
    x_low, x_high = min(0.0, *xs), max(xs)
    y_low, y_high = min(y_values[0], *ys), max(y_values[-1], *ys)

    def place_x(x: float) -> float:
        return round(LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM), 1)

    return Drawing(
        title=title,
        paths=[
            (line.style, " ".join(f"{place_x(x)},{place_y(y)}" for x, y in zip(line.x, line.y, strict=True)))
            for line in map(_thinned, lines)
        ],
        dots=[
            (place_x(x), place_y(y), 3.5) for line in lines if line.dots for x, y in zip(line.x, line.y, strict=True)
        ],
        x_ticks=[Tick(place_x(x), f"{x:,.0f}") for x in ticks(x_low, x_high, 6) if x <= x_high and x == round(x)],
        y_ticks=[Tick(place_y(y), f"{round(y * 100, 2):g}%" if percent else f"{y:g}") for y in y_values],
        marks=[Tick(place_x(x), label) for x, label in marks],
    )


def diagram(confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[int]) -> Drawing | None:
    """How often answers were right (y) that were given with a confidence (x), a dot per bin, larger for more answers.

    Whiskers are 95 % Wilson intervals; on the dashed diagonal stands who is right as often as he is sure.
    """
    drawn = draw(
        "How sure, and how often right",
        [Line([0, 1], [0, 1], "chance"), Line(confidence, accuracy, "none", dots=True)],
        percent=True,
        floor=0.0,
    )
    if drawn is None:
        return None
    top, bottom = drawn.frame[1], drawn.frame[3]

    def place_y(rate: float) -> float:
        return round(bottom - rate * (bottom - top), 1)

    ends = [wilson(rate, n) for rate, n in zip(accuracy, count, strict=True)]
    return replace(
        drawn,
        dots=[
            (x, y, round(3 + 7 * math.sqrt(n / max(count)), 1)) for (x, y, _), n in zip(drawn.dots, count, strict=True)
        ],
        whiskers=[(x, place_y(low), place_y(high)) for (x, _, _), (low, high) in zip(drawn.dots, ends, strict=True)],
        x_ticks=[Tick(round(LEFT + x * (WIDTH - LEFT - RIGHT), 1), f"{x * 100:.0f}%") for x in ticks(0, 1, 5)],
    )


def curves(
    title: str, depths: Sequence[int], lines: Sequence[tuple[Sequence[float], str]], *, percent: bool = False
) -> Drawing | None:
    """Figures over ``depths`` such as 1, 5, 10, 20, 50, 100, equally far apart; ``lines`` are (figures, style)."""
    places = range(len(depths))
    drawn = draw(title, [Line(places, values, style) for values, style in lines], percent=percent, floor=0.0)
    if drawn is None:
        return None
    step = (WIDTH - LEFT - RIGHT) / max(len(depths) - 1, 1)
    return replace(drawn, x_ticks=[Tick(round(LEFT + x * step, 1), str(depths[x])) for x in places])


def wilson(rate: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a rate that was seen in ``n`` answers; it stays within 0..1 and has a width at 0 and 1.

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    middle, spread = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers that enclose low..high.

    >>> ticks(0.07, 0.52, 5)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    >>> ticks(3, 3, 5)
    [3.0, 3.2]
    """
    span = (high - low) or 1.0
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean over the last ``window`` values.

    >>> smooth([1, 3, 5, 7], 2)
    [1.0, 2.0, 4.0, 6.0]
    """
    out, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        out.append(total / min(i + 1, window))
    return out


def _finite(line: Line) -> Line:
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Line([x for x, _ in kept], [y for _, y in kept], line.style, line.dots)


def _thinned(line: Line) -> Line:
    every = max(1, math.ceil(len(line.x) / MAX_POINTS))
    keep = [i for i in range(len(line.x)) if i % every == 0 or i == len(line.x) - 1]
    return Line([line.x[i] for i in keep], [line.y[i] for i in keep], line.style, line.dots)
