"""Pictures and sounds of the demo catalogue, drawn and synthesised from a seeded generator.

A picture shows an object of its category in the hue of its colour level, on a pale background with
small shapes of other hues. The category decides whether a sound is struck, shaken or blown; its mood decides the
frequency band and the rate at which it swells.

Units: pixels, hertz, seconds. Pictures are RGB uint8 [64, 64, 3], sounds float32 [t] in -1..1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import ImageDraw

SIDE = 64  # pixels
DRAWN = 192  # pixels; drawn large, then reduced
RATE = 16_000  # samples a second
LENGTH = 0.6  # seconds
BANDS = (350.0, 620.0, 1_050.0, 1_800.0, 3_000.0, 5_000.0)  # hertz, per mood
SWELLS = (0.0, 11.0, 4.0, 0.0, 7.0, 15.0)  # hertz, per mood

Colour = tuple[int, int, int]
Shape = tuple[str, tuple[float, ...], str]
"""What is drawn (ellipse, box, poly, line), where in hundredths of the side, in which tone (body, dark, light)."""

THINGS: dict[str, tuple[Shape, ...]] = {
    "Bell": (("poly", (50, 18, 66, 32, 72, 66, 80, 74, 20, 74, 28, 66, 34, 32), "body"), ("ellipse", (43, 70, 57, 84), "dark"), ("ellipse", (45, 10, 55, 20), "light")),
    "Chime": (("box", (20, 14, 80, 22), "dark"), ("box", (25, 22, 31, 66), "body"), ("box", (38, 22, 44, 80), "body"), ("box", (51, 22, 57, 88), "body"), ("box", (64, 22, 70, 72), "light")),
    "Clock": (("ellipse", (18, 22, 82, 86), "body"), ("ellipse", (27, 31, 73, 77), "light"), ("line", (50, 54, 50, 37), "dark"), ("line", (50, 54, 63, 60), "dark"), ("ellipse", (18, 12, 36, 28), "dark"), ("ellipse", (64, 12, 82, 28), "dark")),
    "Drum": (("box", (20, 38, 80, 80), "body"), ("ellipse", (20, 68, 80, 92), "body"), ("ellipse", (20, 26, 80, 50), "light"), ("line", (20, 40, 40, 82), "dark"), ("line", (60, 84, 80, 40), "dark")),
    "Flute": (("poly", (12, 76, 78, 12, 88, 22, 22, 86), "body"), ("ellipse", (60, 28, 67, 35), "dark"), ("ellipse", (48, 40, 55, 47), "dark"), ("ellipse", (36, 52, 43, 59), "dark")),
    "Piano": (("poly", (14, 30, 60, 16, 86, 40, 86, 62, 14, 62), "body"), ("box", (14, 62, 86, 74), "light"), ("line", (30, 62, 30, 74), "dark"), ("line", (50, 62, 50, 74), "dark"), ("line", (70, 62, 70, 74), "dark"), ("box", (18, 74, 24, 90), "dark"), ("box", (76, 74, 82, 90), "dark")),
    "Rattle": (("ellipse", (34, 10, 84, 58), "body"), ("ellipse", (46, 22, 72, 46), "light"), ("poly", (40, 48, 48, 56, 24, 88, 14, 80), "dark")),
    "Xylophone": (("box", (16, 24, 28, 84), "body"), ("box", (31, 29, 43, 79), "light"), ("box", (46, 34, 58, 74), "body"), ("box", (61, 39, 73, 69), "light"), ("line", (12, 54, 86, 54), "dark")),
    "Blanket": (("poly", (14, 30, 78, 22, 88, 70, 22, 84), "body"), ("line", (18, 46, 81, 38), "light"), ("line", (20, 64, 84, 54), "dark")),
    "Candle": (("box", (38, 36, 62, 88), "body"), ("box", (38, 36, 62, 44), "light"), ("line", (50, 36, 50, 26), "dark"), ("ellipse", (45, 10, 55, 28), "light")),
    "Cushion": (("poly", (16, 22, 50, 28, 84, 22, 78, 50, 84, 80, 50, 74, 16, 80, 22, 50), "body"), ("ellipse", (44, 45, 56, 57), "dark")),
    "Lamp": (("poly", (36, 14, 64, 14, 80, 52, 20, 52), "body"), ("box", (47, 52, 53, 80), "dark"), ("ellipse", (32, 76, 68, 90), "dark")),
    "Mug": (("ellipse", (56, 36, 88, 72), "dark"), ("ellipse", (64, 44, 80, 64), "light"), ("box", (20, 26, 68, 84), "body"), ("ellipse", (20, 20, 68, 34), "light")),
    "Notebook": (("poly", (22, 14, 80, 18, 78, 86, 20, 82), "body"), ("poly", (22, 14, 32, 15, 30, 83, 20, 82), "dark"), ("box", (42, 32, 68, 44), "light")),
    "Poster": (("box", (20, 8, 80, 92), "light"), ("box", (25, 13, 75, 87), "body"), ("ellipse", (38, 26, 62, 50), "dark"), ("poly", (30, 78, 50, 56, 70, 78), "light")),
    "Vase": (("poly", (40, 12, 60, 12, 56, 30, 76, 58, 64, 90, 36, 90, 24, 58, 44, 30), "body"), ("line", (27, 56, 73, 56), "light"), ("line", (30, 66, 70, 66), "dark")),
}  # fmt: skip


def picture(category: str, hue: float, rng: np.random.RandomState) -> np.ndarray:
    """Draw a thing of `category` in `hue` (0..1); uint8 [64, 64, 3]."""
    from PIL import Image, ImageDraw

    def tint(h: float, saturation: float, value: float) -> Colour:
        red, green, blue = colorsys.hsv_to_rgb(h % 1.0, saturation, value)
        return round(255 * red), round(255 * green), round(255 * blue)

    ground = tint(rng.random_sample(), 0.05 + 0.1 * rng.random_sample(), 0.85 + 0.13 * rng.random_sample())
    image = Image.new("RGB", (DRAWN, DRAWN), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(3, 7)):  # clutter: bits of any hue
        x, y = rng.randint(0, DRAWN, size=2)
        size = int(DRAWN * (0.04 + 0.07 * rng.random_sample()))
        pen.ellipse((x, y, x + size, y + size), fill=tint(rng.random_sample(), 0.3 + 0.4 * rng.random_sample(), 0.85))
    hue += 0.022 * rng.standard_normal()
    saturation, value = 0.5 + 0.4 * rng.random_sample(), 0.6 + 0.35 * rng.random_sample()
    tones = {
        "body": tint(hue, saturation, value),
        "dark": tint(hue, min(1.0, saturation + 0.1), 0.55 * value),
        "light": tint(hue, 0.5 * saturation, min(1.0, value + 0.2)),
    }
    scale = DRAWN / 100 * (0.72 + 0.2 * rng.random_sample())
    shift = (DRAWN - 100 * scale) * rng.random_sample(2)
    for kind, where, tone in THINGS[category]:
        points = [(where[i] * scale + shift[0], where[i + 1] * scale + shift[1]) for i in range(0, len(where), 2)]
        _stroke(pen, kind, points, tones[tone])
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32)
    noisy = small + 6.0 * rng.standard_normal((SIDE, SIDE, 1))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _stroke(pen: ImageDraw.ImageDraw, kind: str, points: list[tuple[float, float]], fill: Colour) -> None:
    if kind == "ellipse":
        pen.ellipse(points, fill=fill)
    elif kind == "box":
        pen.rectangle(points, fill=fill)
    elif kind == "poly":
        pen.polygon(points, fill=fill)
    else:
        pen.line(points, fill=fill, width=DRAWN // 32)


def sound(category: str, mood: int, rng: np.random.RandomState) -> np.ndarray:
    """Play a thing of `category` in the tone of `mood`; float32 [t] at 16 kHz."""
    time = np.arange(int(RATE * LENGTH)) / RATE
    pitch = 2.0 ** rng.random_sample()  # anywhere in an octave
    dry = INSTRUMENTS[category](time, pitch, rng)
    dry = dry / np.abs(dry).max() + 0.02 * rng.standard_normal(len(time))
    spectrum = np.fft.rfft(dry)
    frequency = np.maximum(np.fft.rfftfreq(len(time), 1 / RATE), 1.0)
    centre = BANDS[mood] * 2.0 ** (0.12 * rng.standard_normal())
    rings = 0.12 + np.exp(-0.5 * (np.log2(frequency / centre) / 0.4) ** 2)
    wet = np.fft.irfft(spectrum * rings, len(time))
    wet = wet * (1.0 + 0.7 * np.sin(2 * np.pi * SWELLS[mood] * time + 6.28 * rng.random_sample()))
    wet = wet * np.minimum(1.0, (LENGTH - time) / 0.03)  # no click at the end
    return (0.8 * wet / np.abs(wet).max()).astype(np.float32)


def _together(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Add up what sounds at the same time."""
    return np.sum(list(parts), axis=0)


def _strike(time: np.ndarray, start: float, pitch: float, partials: tuple[float, ...], decay: float) -> np.ndarray:
    """One strike: partials at multiples of `pitch` that die away with rate `decay` per second."""
    after = np.maximum(time - start, 0.0)
    tone = _together(
        np.sin(2 * np.pi * pitch * p * after) / (1 + 0.25 * k) for k, p in enumerate(partials) if pitch * p < 7_500
    )
    return (time >= start) * np.exp(-decay * after) * np.minimum(1.0, after / 0.003) * tone


HARMONIC = tuple(float(k) for k in range(1, 25))
BELL_LIKE = (1.0, 2.0, 2.4, 3.0, 4.5, 5.33, 6.67, 8.1, 9.8, 11.6, 13.5, 15.6)
BAR_LIKE = (1.0, 2.76, 3.9, 5.4, 7.1, 8.9, 11.2, 13.4)


def _bursts(time: np.ndarray, starts: np.ndarray, decay: float, rng: np.random.RandomState) -> np.ndarray:
    """Short bursts of noise."""
    envelope = _together((time >= s) * np.exp(-decay * np.maximum(time - s, 0.0)) for s in starts)
    return envelope * rng.standard_normal(len(time))


def _flute(time: np.ndarray, pitch: float, rng: np.random.RandomState) -> np.ndarray:
    breath = np.minimum(1.0, time / 0.08)
    tone = _together(
        np.sin(2 * np.pi * 300 * pitch * k * time) / k**0.5 for k in range(1, 20) if 300 * pitch * k < 7_500
    )
    return breath * (tone + 0.8 * rng.standard_normal(len(time)))


def _drum(time: np.ndarray, pitch: float, rng: np.random.RandomState) -> np.ndarray:
    skin = _together(_strike(time, s, 90 * pitch, BAR_LIKE, 14) for s in (0.0, 0.23, 0.46))
    return skin + 0.8 * _bursts(time, np.array([0.0, 0.23, 0.46]), 16, rng)


INSTRUMENTS: dict[str, Callable[[np.ndarray, float, np.random.RandomState], np.ndarray]] = {
    "Bell": lambda t, p, _: _strike(t, 0.0, 330 * p, BELL_LIKE, 4),
    "Chime": lambda t, p, r: _together(_strike(t, s, 300 * p * 2 ** r.random_sample(), BELL_LIKE, 7) for s in (0.0, 0.12, 0.3, 0.45)),
    "Clock": lambda t, p, _: _together(_strike(t, s, 420 * p, BELL_LIKE, 25) for s in np.arange(0, LENGTH, 0.07)),
    "Drum": _drum,
    "Flute": _flute,
    "Piano": lambda t, p, _: _together(_strike(t, s, 220 * p * m, HARMONIC, 6) for s, m in ((0.0, 1.0), (0.18, 1.25), (0.36, 1.5))),
    "Rattle": lambda t, _, r: _bursts(t, np.sort(r.random_sample(9)) * LENGTH, 40, r),
    "Xylophone": lambda t, p, _: _together(_strike(t, s, 260 * p * m, BAR_LIKE, 18) for s, m in ((0.0, 1.0), (0.14, 1.33), (0.28, 1.5), (0.42, 2.0))),
}  # fmt: skip
"""Category -> what it plays, given time [t], pitch (1..2) and the generator; only sounding categories."""
