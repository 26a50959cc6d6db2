"""Computes the figures of methods for groups of questions.

Questions are grouped by a property of their truth: its category, the number of items of its bundle, its popularity, and
whether any training bundle contains it. Groups with too few questions are merged into a neighbour (categories into
their parent category); groups that are still too small are marked ``small``.

``slices`` of a results file holds, per way to group, ``[{"group", "n", "small", "methods": [{"name", figures,
interval of the main figure}]}]``, methods best first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..catalogue import splits
from ..catalogue.category_paths import PATH_SEPARATOR
from ..errors import QuestionsError
from .bootstrap import intervals
from .result_rows import Group, GroupMethod, Slices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalogue.catalogue import Catalogue

SMALL = 20  # questions; smaller groups are merged, or marked
COMPARED = 4  # methods side by side in 80 columns
WAYS = ("category", "length", "popularity", "cold")
NAMELESS, REST = "no category", "other"
Groups = dict[str, list[str]]  # way -> names in the order of tables


@dataclass(frozen=True)
class Slicer:
    """Labels questions by properties of their truth in the catalogue; popularity counts training edges only."""

    catalogue: Catalogue

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """[I] training bundles, and training users, that contain each item."""
        both = [splits.training_graph(self.catalogue, graph)[:, 1] for graph in ("bundle-item", "user-item")]
        bundled, bought = (np.bincount(items, minlength=len(self.catalogue)) for items in both)
        return bundled, bought

    def labels(self, truth: np.ndarray, length: np.ndarray) -> tuple[dict[str, np.ndarray], Groups]:
        """The group's number [q] of every question per way, and the groups' names, from items ``truth`` and ``length`` [q].

        ``length`` is the number of items of the bundle, including the truth.
        """
        bundled, bought = self._edges
        column = self.catalogue.column("category")
        found: dict[str, tuple[np.ndarray, list[str]]] = {
            "category": readable_categories([column[i] for i in truth.tolist()]),
            "length": in_order(length, length),
            "popularity": in_order((bundled + bought)[truth], deciles((bundled + bought)[truth])),
            "cold": (np.where(bundled[truth] > 0, 0, 1), ["seen", "cold"]),
        }
        return {way: number for way, (number, _) in found.items()}, {way: names for way, (_, names) in found.items()}

    def slices(
        self,
        truth: np.ndarray,
        length: np.ndarray,
        figures: Mapping[str, Mapping[str, np.ndarray]],
        *,
        main: str,
        unit: np.ndarray | None = None,
        seed: int = 0,
    ) -> Slices:
        """Every method's ``figures`` (method -> figure -> values [q]) per group of every way.

        ``main`` is the figure that gets an interval, over bundles: ``unit`` [q] numbers the questions' bundles.
        """
        numbers, names = self.labels(truth, length)
        unit = np.arange(len(truth)) if unit is None else unit
        out: Slices = {}
        for way in WAYS:
            rows = [(name, np.flatnonzero(numbers[way] == g)) for g, name in enumerate(names[way])]
            out[way] = [_group(name, at, figures, main, unit[at], seed) for name, at in rows if len(at)]
        return out


class Method(Protocol):
    """A row of a table of methods."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102


def leading(methods: Sequence[Method]) -> list[Method]:
    """The methods that are shown by groups: models first, then the best others; ``methods`` are sorted, best first.

    Methods that only rerank the first items of another method are left out.
    """
    rows = [row for row in methods if getattr(row, "first", None) is None]
    return sorted(rows, key=lambda row: row.kind != "model")[:COMPARED]


def ends(names: Sequence[str]) -> list[str]:
    """The last two steps of every path, without the first step where all share it.

    >>> ends(["Shop > Women > Shoes > Pumps", "Shop > Men", "Shop", "other"])
    ['Shoes > Pumps', 'Men', 'Shop', 'other']
    """
    paths = [name.split(PATH_SEPARATOR) for name in names]
    shared = len({path[0] for path in paths if len(path) > 1}) == 1
    return [PATH_SEPARATOR.join((path[1:] if shared and len(path) > 1 else path)[-2:]) for path in paths]


def chosen(ways: Sequence[str]) -> list[str]:
    """The ways to group that a user asked for, without duplicates.

    Raises
    ------
    QuestionsError
        When one of them does not exist.
    """
    for way in ways:
        if way not in WAYS:
            raise QuestionsError(
                f"Questions are not grouped by {way!r}, but by {', '.join(WAYS)}.", hint="--by category"
            )
    return list(dict.fromkeys(ways))


def by_category(categories: Sequence[str | None], smallest: int = SMALL) -> tuple[np.ndarray, list[str]]:
    """Groups by category, largest first; one that is too small is merged into its parent category, and finally into ``other``.

    >>> number, names = by_category(["A > x"] * 3 + ["A > y", "A > z", "B", None], smallest=2)
    >>> names, number.tolist()
    (['A > x', 'A', 'other'], [0, 0, 0, 1, 1, 2, 2])
    """
    paths = [tuple((category or NAMELESS).split(PATH_SEPARATOR)) for category in categories]
    for depth in range(max(map(len, paths), default=0), 0, -1):
        times = Counter(paths)
        paths = [path[:-1] if len(path) == depth and times[path] < smallest else path for path in paths]
    labels = [PATH_SEPARATOR.join(path) or REST for path in paths]
    count = Counter(labels)
    names = sorted(count, key=lambda name: (name in (REST, NAMELESS), -count[name], name))
    return np.array([names.index(label) for label in labels], np.int64), names


def readable_categories(categories: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
    """`by_category` with the largest minimum size (20, 10 or 5) that leaves at most half of the questions in ``other``.

    >>> number, names = readable_categories(["A"] * 21 + [f"B{k}" for k in range(8) for _ in range(9)])
    >>> names[:2], "other" in names
    (['A', 'B0'], False)
    """
    number, names = by_category(categories)
    for smallest in (10, 5):
        rest = names.index(REST) if REST in names else -1
        if (number == rest).mean() <= 0.5:
            break
        number, names = by_category(categories, smallest)
    return number, names


def deciles(values: np.ndarray) -> np.ndarray:
    """[q] 0..9: tenths of the questions by ``values``; equal values share one tenth, that of their middle.

    >>> deciles(np.array([0, 0, 0, 0, 1, 2, 3, 4, 5, 6])).tolist()
    [2, 2, 2, 2, 4, 5, 6, 7, 8, 9]
    """
    levels, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2  # [levels]
    return np.minimum(middle * 10 // max(len(values), 1), 9).astype(np.int64)[place] if len(levels) else place


def in_order(values: np.ndarray, cut: np.ndarray, smallest: int = SMALL) -> tuple[np.ndarray, list[str]]:
    """Groups of equal ``cut`` [q], lowest first, named by the ``values`` [q] in them; small groups are merged into a neighbour.

    >>> length = np.array([2, 2, 2, 3, 3, 4, 7])
    >>> number, names = in_order(length, length, smallest=2)
    >>> names, number.tolist()
    (['2', '3', '4-7'], [0, 0, 0, 1, 1, 2, 2])
    """
    count = Counter(cut.tolist())
    pieces: list[list[int]] = []  # from the top down
    for level in sorted(count, reverse=True):
        full = pieces and sum(count[each] for each in pieces[-1]) >= smallest
        if not pieces or full or count[level] >= smallest:
            pieces.append([])
        pieces[-1].append(level)
    for at in range(len(pieces) - 1, -1, -1):
        if len(pieces) > 1 and sum(count[each] for each in pieces[at]) < smallest:
            few = pieces.pop(at)
            pieces[max(at - 1, 0)] += few
    number, names = np.zeros(len(values), np.int64), []
    for g, levels in enumerate(reversed(pieces)):
        inside = np.isin(cut, levels)
        number[inside] = g
        low, high = int(values[inside].min()), int(values[inside].max())
        names.append(f"{low}" if low == high else f"{low}-{high}")
    return number, names


def _group(
    name: str, at: np.ndarray, figures: Mapping[str, Mapping[str, np.ndarray]], main: str, unit: np.ndarray, seed: int
) -> Group:
    """One group's row: every method's means over the questions ``at``, the interval of the main one over bundles."""
    _, bundle = np.unique(unit, return_inverse=True)
    sums = [np.bincount(bundle, weights=values[main][at]) for values in figures.values()]
    ranges = intervals(np.stack(sums, axis=1), np.bincount(bundle), seed=seed)  # [methods, 2]
    methods = [
        GroupMethod(
            method,
            {figure: round(float(of[at].mean()), 6) for figure, of in values.items()},
            main,
            (round(low, 6), round(high, 6)),
        )
        for (method, values), (low, high) in zip(figures.items(), ranges.tolist(), strict=True)
    ]
    methods.sort(key=lambda row: -row.value)
    return Group(name, len(at), len(at) < SMALL, methods)
