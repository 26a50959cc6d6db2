"""How far a figure can be trusted: where a model is right and where not, and whether it knows.

A breakdown splits the questions into groups by something that is known without the model, and asks whether
the groups differ by more than lot would make them differ: the hits are dealt out to groups of the same sizes
again and again (a permutation test), and ``p`` is how often that looks as uneven as what was seen.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import splits
from ..metrics import bootstrap
from ..negatives import PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalogue import Catalogue
    from .answered import Answered

DRAWS = 4_000
LEVEL = 0.01  # several breakdowns are tested at once
SMALLEST = 12  # questions a group needs; smaller ones join their neighbour
CATEGORIES = 8


def breakdowns(answered: Answered, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Groups of questions with their HitRate@1, one entry per way to group; ways with a single group are left out."""
    found = []
    for title, note, label in _ways(answered, catalogue):
        if len(set(label)) > 1:
            right, group, names = answered.right, *_numbered(label)
            rows = [{"name": name, **rate(right[group == g])} for g, name in enumerate(names)]
            found.append({"title": title, "note": note, "rows": rows, "group": group, **judged(right, group)})
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


def _ways(answered: Answered, catalogue: Catalogue) -> list[tuple[str, str, list[tuple[int, str]]]]:
    """(title, note, label of every question) with labels (place, name), so that they have an order."""
    index = catalogue.index
    truth = [index.get(item_id, -1) for item_id in answered.truth_ids()]
    bundled = _times(splits.training_graph(catalogue, "bundle-item"), len(catalogue))
    bought = _times(splits.training_graph(catalogue, "user-item"), len(catalogue))
    letters = [(int(t), chr(65 + t) if t < 26 else str(t + 1)) for t in answered.truth]
    bundles = [(0, "in training bundles") if i >= 0 and bundled[i] else (1, "in none: cold") for i in truth]
    return [
        (
            "By where the right option stood",
            "A model that prefers a letter, and does not read, shows here.",
            letters,
        ),
        (
            "By how many items were given",
            "The more of a bundle is seen, the easier it should be.",
            _ranges([len(given) for given in answered.partial], "item", steps=5),
        ),
        (
            "By how popular the right item is",
            "How often training saw it, in bundles and with users.",
            _ranges([int(bundled[i] + bought[i]) if i >= 0 else 0 for i in truth], "time", steps=4),
        ),
        (
            "By whether the right item was seen in a bundle",
            "A cold item stands in no training bundle: only what it is like can tell.",
            bundles,
        ),
        (
            "By category of the right item",
            f"The {CATEGORIES - 1} most frequent ones.",
            _categories(truth, catalogue),
        ),
    ]


def _times(edges: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(edges[:, 1], minlength=n)


def _ranges(values: Sequence[int], unit: str, steps: int) -> list[tuple[int, str]]:
    """Labels such as ``2 to 4 items``: about ``steps`` ranges of equally many questions; zero stands alone.

    >>> [name for _, name in _ranges([0] * 12 + [1] * 12 + [2] * 12, "time", 3)][::12]
    ['never', '1 time', '2 times']
    """
    counts = np.asarray(values)
    positive = np.sort(counts[counts > 0])
    parts = max(1, min(steps, len(positive) // SMALLEST))
    starts = {int(positive[len(positive) * k // parts]) for k in range(parts)} if len(positive) else set()
    place = np.searchsorted(sorted(starts), counts, side="right")  # 0: never
    inside = [counts[place == k] for k in range(len(starts) + 1)]
    names = [_range(int(each.min()), int(each.max()), unit) if len(each) else "" for each in inside]
    return [(int(k), names[k]) for k in place]


def _range(low: int, high: int, unit: str) -> str:
    if high == 0:
        return "never"
    return f"{low:,}{f' to {high:,}' if low < high else ''} {unit}{'' if high == 1 else 's'}"


def _categories(truth: Sequence[int], catalogue: Catalogue) -> list[tuple[int, str]]:
    """Labels by the first step of the category; rare ones together."""
    column = catalogue.column("category")
    names = [(column[i] if i >= 0 else None) or "" for i in truth]
    tops = {name.split(PATH)[0] for name in names}
    if len(tops) < 3:  # one root for all: a step further down
        labels = [PATH.join(name.split(PATH)[:2]) for name in names]
    else:
        labels = [name.split(PATH)[0] for name in names]
    often = [name for name, n in Counter(labels).most_common() if name and n >= SMALLEST]
    kept = often if len(set(labels)) <= CATEGORIES and len(often) == len(set(labels)) else often[: CATEGORIES - 1]
    place = {name: k for k, name in enumerate(kept)}
    if not kept:
        return [(0, "")] * len(labels)
    return [(place[name], name) if name in place else (len(kept), "all others") for name in labels]


def _numbered(labels: Sequence[tuple[int, str]]) -> tuple[np.ndarray, list[str]]:
    """Group numbers [q] without gaps, and the groups' names in their order."""
    order = sorted(set(labels))
    place = {label: k for k, label in enumerate(order)}
    return np.array([place[label] for label in labels]), [name for _, name in order]
