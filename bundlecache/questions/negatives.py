"""Chooses the wrong options of a question.

Everything that tells the truth from the options, and is not what is asked, is a way to cheat. So the items are cut into
fixed strata, and all options of a question come from the stratum of its truth: within a stratum items are exchangeable,
and neither "the popular one", nor "the one that no bundle has had", nor "the one in the middle of the others" is right
more often than chance. Negatives around the truth (its nearest neighbours, say) would not have that property.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue import splits
from ..catalogue.category_paths import PATH_SEPARATOR
from ..errors import Command, QuestionsError
from ..vector_math import unit_rows

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from ..catalogue.catalogue import Catalogue

KINDS = ("random", "hard")


@dataclass(frozen=True)
class Strata:
    """The stratum of every item, and the inputs that it depends on.

    ``number`` int64 [I]; ``seen`` bool [I], stands in a training bundle; ``popularity`` int64 [I], edges in training.
    """

    number: np.ndarray
    seen: np.ndarray
    popularity: np.ndarray


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
    if kind == "hard" and vectors is None and not any(categories):
        raise QuestionsError(
            "Hard negatives need a category column in the items table, or vectors to find near items.",
            hint=Command("encode", "--modality", "text"),
        )
    bundled = np.bincount(splits.training_graph(catalogue, "bundle-item")[:, 1], minlength=len(catalogue))
    bought = np.bincount(splits.training_graph(catalogue, "user-item")[:, 1], minlength=len(catalogue))
    popularity = bundled + bought
    level = np.floor(4 * np.log2(1 + popularity) + 1e-9).astype(np.int64)  # log2(8) is 3 on every machine
    seen = bundled > 0
    number = np.zeros(len(catalogue), np.int64)
    count = 0
    for part in (np.flatnonzero(seen), np.flatnonzero(~seen)):
        if kind == "random":
            groups = [part]
        elif any(categories):
            groups = _by_category(part, categories, minimum)
        else:
            assert vectors is not None  # noqa: S101
            groups = _by_cluster(part, vectors, minimum)
        for group in groups:
            for members in _by_level(group, level, minimum):
                number[members] = count
                count += 1
    return Strata(number, seen, popularity)


class OtherAnswers:
    """Items that would also be right: with the truth's title, or in another of ``bundles`` that contains the partial bundle."""

    def __init__(self, bundles: Sequence[np.ndarray], titles: Sequence[str]) -> None:
        self._bundles = bundles
        self._titles = [title.casefold() for title in titles]
        self._of: defaultdict[int, set[int]] = defaultdict(set)
        self._titled: defaultdict[str, set[int]] = defaultdict(set)
        for b, items in enumerate(self._bundles):
            for i in items.tolist():
                self._of[i].add(b)
        for i, title in enumerate(self._titles):
            self._titled[title].add(i)

    def of(self, b: int, partial: np.ndarray, truth: int) -> set[int]:
        """The items that are excluded as wrong options of bundle number ``b``, from which ``truth`` is held out."""
        others = set.intersection(*(self._of[i] for i in partial.tolist())) - {b}
        together = {i for other in others for i in self._bundles[other].tolist()}
        same = self._titled[self._titles[truth]] if self._titles[truth] else set()
        return together | same


def shuffled(rng: random.Random | np.random.Generator, pool: Sequence[int] | np.ndarray) -> Iterator[int]:
    """The members of ``pool`` in random order, drawn one by one, so that drawing a few of many is cheap.

    Only ``rng.random()`` is asked: Python promises that it stays the same in every version.
    """
    moved: dict[int, int] = {}
    for left in range(len(pool), 0, -1):
        j = int(rng.random() * left)
        yield int(pool[moved.get(j, j)])
        moved[j] = moved.get(left - 1, left - 1)


def _by_level(items: np.ndarray, level: np.ndarray, minimum: int) -> list[np.ndarray]:
    """Cut by popularity, from the top down; a piece smaller than ``minimum`` is merged into the next lower one."""
    pieces: list[np.ndarray] = []
    open_piece: list[np.ndarray] = []
    for value in sorted(set(level[items].tolist()), reverse=True):
        open_piece.append(items[level[items] == value])
        if sum(map(len, open_piece)) >= minimum:
            pieces.append(np.concatenate(open_piece))
            open_piece = []
    if open_piece:
        last = [pieces.pop()] if pieces else []
        pieces.append(np.concatenate(last + open_piece))
    return pieces


def _by_category(items: np.ndarray, categories: Sequence[str | None], minimum: int) -> list[np.ndarray]:
    """Cut by category; one smaller than ``minimum`` is merged into the remaining items of its parent category.

    The catalogue alone decides, so that its questions are the same whatever has been encoded.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for i in items.tolist():
        groups.setdefault(tuple((categories[i] or "").split(PATH_SEPARATOR)), []).append(i)
    for depth in range(max(map(len, groups), default=0), 0, -1):
        for path in sorted(path for path in groups if len(path) == depth and len(groups[path]) < minimum):
            groups.setdefault(path[:-1], []).extend(groups.pop(path))
    rest = groups.get((), [])
    if 0 < len(rest) < minimum and len(groups) > 1:
        del groups[()]
        groups[max(sorted(groups), key=lambda path: len(groups[path]))].extend(rest)
    return [np.array(sorted(groups[path])) for path in sorted(groups)]


def _by_cluster(items: np.ndarray, vectors: np.ndarray, minimum: int) -> list[np.ndarray]:
    """Cut by spherical k-means; items without a vector, and clusters that are too small, are merged into the nearest large one."""
    from ..candidates.ann import faiss_module

    if len(items) < 2 * minimum:
        return [items]
    unit = unit_rows(vectors[items])
    count = len(items) // (2 * minimum)
    faiss = faiss_module()
    means = faiss.Kmeans(
        unit.shape[1], count, niter=15, seed=1, spherical=True, min_points_per_centroid=1, max_points_per_centroid=10**9
    )
    means.train(np.ascontiguousarray(unit))
    sizes = np.bincount(_nearest(unit, means.centroids), minlength=count)
    large = np.flatnonzero(sizes >= minimum)
    if not len(large):
        return [items]
    home = large[_nearest(unit, means.centroids[large])]
    return [items[home == c] for c in large]


def _nearest(unit: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """int64 [items] the nearest centroid of each item, computed in blocks of at most a gigabyte."""
    step = max(1, 2**28 // len(centroids))
    parts = [(unit[start : start + step] @ centroids.T).argmax(1) for start in range(0, len(unit), step)]
    return np.concatenate(parts)
