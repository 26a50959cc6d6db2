"""Chooses the wrong options of a question.

Everything that tells the truth from the options, and is not what is asked, is a way to cheat. So the items are cut into
fixed strata, and all options of a question come from the stratum of its truth: within a stratum items are exchangeable,
and neither "the popular one", nor "the one that no bundle has had", nor "the one in the middle of the others" is right
more often than chance. Negatives around the truth (its nearest neighbours, say) would not have that property.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue import splits
from ..catalogue.category_paths import PATH_SEPARATOR
from ..errors import Command, QuestionsError
from .clusters import MAX_DIRECT_ITEMS, cluster

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..catalogue.columns import Strings

KINDS = ("random", "hard")


@dataclass(frozen=True)
class Strata:
    """The stratum of every item, and the inputs that it depends on.

    ``number`` int64 [I], from 0 on; ``seen`` bool [I], stands in a training bundle; ``popularity`` int64 [I], edges in
    training. ``in_parts`` says that the clusters of so many items were found part by part (`clusters`).
    """

    number: np.ndarray
    seen: np.ndarray
    popularity: np.ndarray
    in_parts: bool = False


def stratify(catalogue: Catalogue, kind: str, vectors: np.ndarray | None, minimum: int) -> Strata:
    """Cut the items into strata of at least ``minimum`` items, as far as the catalogue allows.

    Both kinds separate items that stand in training bundles from those that do not, and items of
    different popularity (training bundles and training users, in steps of a fifth). ``hard`` cuts each part
    by category, small categories joined along their path; without a category column, by clusters of
    ``vectors`` ([I, d], zero rows are missing).

    Raises
    ------
    QuestionsError
        For another ``kind``, or ``hard`` without categories and without vectors.
    """
    if kind not in KINDS:
        raise QuestionsError(
            f"There are no negatives {kind!r}; there are {' and '.join(KINDS)}.", hint=f"--negatives {KINDS[0]}"
        )
    categories = catalogue.column("category")
    if kind == "hard" and vectors is None and not categories.any():
        raise QuestionsError(
            "Hard negatives need a category column in the items table, or vectors to find near items.",
            hint=Command("encode", "--modality", "text"),
        )
    bundled, bought = training_popularity(catalogue)
    popularity = bundled + bought
    level = np.floor(4 * np.log2(1 + popularity) + 1e-9).astype(np.int64)  # log2(8) is 3 on every machine
    seen = bundled > 0
    number = np.zeros(len(catalogue), np.int64)
    count, in_parts = 0, False
    for part in (np.flatnonzero(seen), np.flatnonzero(~seen)):
        group = np.zeros(len(part), np.int64)
        if kind == "hard" and categories.any():
            group = _by_category(categories.take(part), minimum)
        elif kind == "hard":
            assert vectors is not None  # noqa: S101
            group, in_parts = cluster(part, vectors, minimum), in_parts or len(part) > MAX_DIRECT_ITEMS
        number[part] = count + _by_level(group, level[part], minimum)
        count = int(number[part].max(initial=count - 1)) + 1
    return Strata(number, seen, popularity, in_parts)


def training_popularity(catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
    """int64 [I] twice: the training bundles that hold each item, and the users whom training sees with it."""
    known: tuple[np.ndarray, np.ndarray] | None = catalogue.memory.get("training popularity")
    if known is None:
        graphs = (splits.training_graph(catalogue, graph)[:, 1] for graph in ("bundle-item", "user-item"))
        bundled, bought = (np.bincount(items, minlength=len(catalogue)) for items in graphs)
        known = catalogue.memory["training popularity"] = (bundled, bought)
    return known


def shuffled(rng: random.Random | np.random.Generator, pool: Sequence[int] | np.ndarray) -> Iterator[int]:
    """The members of ``pool`` in random order, drawn one by one, so that drawing a few of many is cheap.

    Only ``rng.random()`` is asked: Python promises that it stays the same in every version.
    """
    moved: dict[int, int] = {}
    for left in range(len(pool), 0, -1):
        j = int(rng.random() * left)
        yield int(pool[moved.get(j, j)])
        moved[j] = moved.get(left - 1, left - 1)


def _by_level(group: np.ndarray, level: np.ndarray, minimum: int) -> np.ndarray:
    """int64 [n] the number of each item's piece: groups in order, cut by popularity from the top down.

    A piece smaller than ``minimum`` is merged into the next lower one of its group, the last into the one above it.
    """
    order = np.lexsort((-level, group))
    group, level = group[order], level[order]
    first = np.flatnonzero(np.r_[True, (np.diff(group) != 0) | (np.diff(level) != 0)][: len(order)])
    sizes = np.diff(np.r_[first, len(order)])
    numbers = np.zeros(len(first), np.int64)
    number = held = began = 0  # of the open piece: its number, items, and first run of equal level
    whole = False  # whether its group has a piece already
    groups = group[first].tolist()
    for run, size in enumerate(sizes.tolist()):
        if run and groups[run] != groups[run - 1]:
            if held and whole:
                numbers[began:run] = number - 1
            number += bool(held and not whole)
            held, began, whole = 0, run, False
        numbers[run] = number
        held += size
        if held >= minimum:
            number, held, began, whole = number + 1, 0, run + 1, True
    if held and whole:
        numbers[began:] = number - 1
    pieces = np.empty(len(order), np.int64)
    pieces[order] = np.repeat(numbers, sizes)
    return pieces


def _by_category(categories: Strings[str | None], minimum: int) -> np.ndarray:
    """int64 [n] the group of each item: its category; one smaller than ``minimum`` is merged into its parent's remaining items.

    The catalogue alone decides, so that its questions are the same whatever has been encoded.
    """
    codes, names = categories.codes()
    codes = np.where(codes < 0, len(names), codes)  # no category is one, too
    sizes = np.bincount(codes, minlength=len(names) + 1).tolist()
    groups: dict[tuple[str, ...], list[int]] = {}  # path -> codes
    for code, name in enumerate([*names, ""]):
        groups.setdefault(tuple(name.split(PATH_SEPARATOR)), []).append(code)

    def size(path: tuple[str, ...]) -> int:
        return sum(sizes[code] for code in groups[path])

    groups = {path: members for path, members in groups.items() if size(path)}
    for depth in range(max(map(len, groups), default=0), 0, -1):
        for path in sorted(path for path in groups if len(path) == depth and size(path) < minimum):
            groups.setdefault(path[:-1], []).extend(groups.pop(path))
    if () in groups and size(()) < minimum and len(groups) > 1:
        rest = groups.pop(())
        groups[max(sorted(groups), key=size)].extend(rest)
    number = np.zeros(len(names) + 1, np.int64)
    for place, path in enumerate(sorted(groups)):
        number[groups[path]] = place
    return number[codes]
