"""A map of the catalogue: items in two dimensions by the vectors of one encoder, coloured by category, for inline SVG."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue.category_paths import PATH_SEPARATOR
from ..errors import BundlecacheError
from ..vector_math import unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix
    from ..workspace import WorkspaceFolder

MAX_POINTS = 1500
MAX_COLOURS = 8
WIDTH, HEIGHT, MARGIN = 640, 420, 12  # user units of the SVG
PREFERRED = ("image", "text", "audio", "graph")
OTHER = "other"


@dataclass(frozen=True)
class Point:
    """An item: its place in user units, the number of its colour, and what stands beside it."""

    x: float
    y: float
    colour: int
    title: str


@dataclass(frozen=True)
class CatalogueMap:
    """Points of items, the categories by colour, the encoder, and the share of variance that both axes hold."""

    points: list[Point]
    categories: list[str]
    spec: str
    n_items: int
    variance: float
    width: int = WIDTH
    height: int = HEIGHT


def catalogue_map(
    workspace: WorkspaceFolder, catalogue: Catalogue, encoders: Sequence[dict[str, Any]]
) -> CatalogueMap | None:
    """The map by the run's vectors of pictures, else texts, sounds, graphs; None where they are not stored any more."""
    from ..store.store import Store

    by_modality = {encoder["modality"]: encoder for encoder in reversed(encoders)}
    encoder = next((by_modality[name] for name in PREFERRED if name in by_modality), None)
    if encoder is None or not workspace.store.is_dir():
        return None
    try:
        matrix = Store(workspace.store).matrix(
            catalogue.item_ids, encoder["modality"], encoder["spec"], encoder["table"]
        )
    except BundlecacheError:
        return None
    return of_matrix(matrix, catalogue)


def of_matrix(matrix: Matrix, catalogue: Catalogue) -> CatalogueMap | None:
    """The two main components of unit vectors, of at most `MAX_POINTS` items; None for fewer than three items."""
    known = np.flatnonzero(matrix.mask)
    if len(known) < 3 or matrix.vectors.ndim != 2:
        return None
    rows = np.sort(np.random.default_rng(0).choice(known, min(MAX_POINTS, len(known)), replace=False))
    places, variance = project(np.asarray(matrix.vectors[rows], np.float64))  # [n, 2]
    labels = [(cell or OTHER).split(PATH_SEPARATOR)[0] for cell in catalogue.column("category").take(rows)]
    most = [name for name, _ in Counter(label for label in labels if label != OTHER).most_common(MAX_COLOURS)]
    points = [
        Point(
            round(x, 1),
            round(y, 1),
            most.index(label) if label in most else MAX_COLOURS,
            title or label,
        )
        for (x, y), label, title in zip(places.tolist(), labels, catalogue.titles.take(rows), strict=True)
    ]
    there = {point.colour for point in points}
    categories = most + ([OTHER] if MAX_COLOURS in there and most else [])
    return CatalogueMap(points, categories, matrix.spec, len(known), variance)


def project(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Places [n, 2] in user units by the two main components of ``vectors`` [n, d], and their share of the variance.

    Signs are fixed, so that the same vectors give the same map.

    >>> places, share = project(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    >>> places.shape, round(share, 3)
    ((4, 2), 1.0)
    """
    unit = unit_rows(vectors, vectors.dtype)
    centred = unit - unit.mean(axis=0)
    _, strength, axes = np.linalg.svd(centred, full_matrices=False)
    axes = np.pad(axes, ((0, max(0, 2 - len(axes))), (0, 0)))[:2]  # [2, d]
    axes = axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    places = centred @ axes.T  # [n, 2]
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    scaled = MARGIN + (places - low) / np.maximum(high - low, 1e-12) * room
    return scaled, float((strength[:2] ** 2).sum() / max((strength**2).sum(), 1e-12))
