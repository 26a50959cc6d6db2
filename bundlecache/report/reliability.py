"""How reliable a figure is: accuracy by groups of questions, and calibration.

A breakdown splits the questions into groups by a property that does not depend on the model, and tests whether
the groups differ by more than chance: a permutation test assigns the hits to groups of the same sizes at random, and
``p`` is the share of permutations that are at least as uneven as the observed groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..bench.bootstrap import bootstrap
from ..bench.slices import Slicer
from .model_answers import letter

if TYPE_CHECKING:
    from ..bench.results import QuestionSetResult
    from ..catalogue.catalogue import Catalogue
    from .model_answers import Answered

DRAWS = 4_000
LEVEL = 0.01  # several breakdowns are tested at once
SHOWN = 12  # groups of one way
POSITION = "position"
SAID = {  # way to group: title, and what it tells
    POSITION: ("By where the right option stood", "A model that prefers a letter, and does not read, shows here."),
    "length": (
        "By how many items the bundle has",
        "The right one among them. The more of a bundle is seen, the easier it should be.",
    ),
    "popularity": (
        "By how popular the right item is",
        "In how many training bundles and with how many training users it stands.",
    ),
    "cold": (
        "By whether the right item was seen in a bundle",
        "A cold item stands in no training bundle: only what it is like, and who took it, can tell.",
    ),
    "category": ("By category of the right item", "Most frequent first."),
}

SHUFFLED = "Options stood in {orders} orders before the model, so this says nothing of a preference for a letter."


def breakdowns(
    answered: Answered, catalogue: Catalogue, orders: int = 1, *, by_letter: bool = True
) -> list[dict[str, Any]]:
    """Groups of questions with their HitRate@1, one entry per way to group; ways with a single group are left out.

    ``orders`` is in how many orders of its options a question was asked: after several, its place in the file is none
    that the model has seen. A model that does not answer ``by_letter`` sees no place, and none is shown.
    ``group`` [q] numbers the ``rows``; it is -1 for a question whose right item left the catalogue.
    """
    found = []
    for way, title, note, group, names in _ways(answered, catalogue):
        if way == POSITION and not by_letter:
            continue
        if way == POSITION and orders > 1:
            title, note = "By where the right option stands in the file", SHUFFLED.format(orders=orders)
        there = [g for g in range(len(names)) if (group == g).any()]
        if len(there) > 1:
            rows = [{"name": names[g], "place": g, **rate(answered.right[group == g])} for g in there]
            known = group >= 0
            found.append(
                {"way": way, "title": title, "note": note, "rows": rows, "group": group}
                | judged(answered.right[known], group[known])
            )
    return found


def rate(right: np.ndarray) -> dict[str, Any]:
    """HitRate@1 of some questions, its interval and their number."""
    return {"n": len(right), "hit@1": float(right.mean()), "hit@1_interval": list(bootstrap(right))}


def judged(right: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """``p`` of the differences among groups, and what it says in words."""
    p = uneven(right, group)
    said = f"p\u202f{'<' if p < 0.001 else '='}\u202f{max(p, 0.001):.3f}"
    if p < LEVEL:
        return {"p": p, "differs": True, "said": f"The groups differ by more than chance would make them ({said})."}
    return {"p": p, "differs": False, "said": f"The groups do not differ by more than chance would make them ({said})."}


def uneven(right: np.ndarray, group: np.ndarray, seed: int = 0) -> float:
    """How often hits that are dealt out by lot fall into the groups as unevenly as ``right`` [q] does.

    >>> group = np.repeat([0, 1], 50)
    >>> uneven(np.repeat([1, 0], 50), group) < 0.001
    True
    >>> uneven(np.tile([1, 0], 50), group)
    1.0
    """
    size = np.bincount(group)
    size, hit = size[size > 0], np.bincount(group, weights=right)[size > 0].astype(np.int64)
    dealt = np.random.default_rng(seed).multivariate_hypergeometric(size, int(hit.sum()), size=DRAWS)
    seen = (hit**2 / size).sum()
    return float((1 + ((dealt**2 / size).sum(axis=1) >= seen * (1 - 1e-12)).sum()) / (1 + DRAWS))


def trust(calibration: dict[str, Any]) -> dict[str, Any]:
    """The calibration of a results file with what it says in words."""
    count = np.array(calibration["count"])
    sure = float((count * calibration["confidence"]).sum() / count.sum())
    right = float((count * calibration["accuracy"]).sum() / count.sum())
    gap = sure - right
    told = "as sure as it is right" if abs(gap) < 0.02 else "too sure of itself" if gap > 0 else "too modest"
    return {**calibration, "sure": sure, "right": right, "gap": gap, "told": told}


def rivals(ways: list[dict[str, Any]], results: QuestionSetResult) -> None:
    """Put beside every row of ``ways`` the best method of the results that is no model; their names in ``rivals``."""
    kinds = {row.name: row.kind for row in results.methods}
    for way in ways:
        slices = {group.group: group.methods for group in results.slices.get(way["way"], [])}
        for row in way["rows"]:
            others = [m for m in slices.get(row["name"], []) if kinds.get(m.name) not in ("model", "chance")]
            row["rival"] = max(others, key=lambda method: method.value, default=None)
        way["rivals"] = sorted({row["rival"].name for row in way["rows"] if row["rival"]})


def _ways(answered: Answered, catalogue: Catalogue) -> list[tuple[str, str, str, np.ndarray, list[str]]]:
    """(key, title, note, group of every question, names of the groups)."""
    truth = np.array([catalogue.index.get(item_id, -1) for item_id in answered.truth_ids()], np.int64)
    length = np.array([len(given) + 1 for given in answered.partial], np.int64)
    known = truth >= 0
    numbers, names = Slicer(catalogue).labels(truth[known], length[known]) if known.any() else ({}, {})
    ways = [(POSITION, answered.truth, [letter(k) for k in range(answered.probabilities.shape[1])])]
    for way in numbers:
        group = np.full(len(truth), -1)
        group[known] = numbers[way]
        ways.append((way, *_folded(group, names[way])))
    return [(way, *SAID[way], group, labels) for way, group, labels in ways]


def _folded(group: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """No more than ``SHOWN`` groups: the last of them holds the rest."""
    if len(names) <= SHOWN:
        return group, names
    return np.minimum(group, SHOWN - 1), [*names[: SHOWN - 1], "all others"]
