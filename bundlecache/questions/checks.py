"""Checks questions against a catalogue: each one alone, against the bundle it names, and against the others.

A question is a row ``{"bundle_id", "partial", "options", "truth"}`` with ids. Questions that were drawn here lie within
their bundle by construction; imported ones are compared with it, and with the bundles that training sees.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..catalogue import splits
from ..text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..catalogue.catalogue import Catalogue

MALFORMED = "malformed"
"""The kind of a fault that a change of the catalogue cannot cause."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a question: its kind, for counts, and a clause for a sentence."""

    kind: str
    clause: str


def faults(rows: Sequence[dict[str, Any]], split: str, catalogue: Catalogue, *, imported: bool) -> list[Fault | None]:
    """The first fault of every question, None where there is none.

    Parameters
    ----------
    split
        The split that all bundles must have.
    imported
        Whether the questions come from elsewhere: their items must then lie within the bundle they name, their wrong
        options outside it; no training bundle may hold the same items, and no two may ask the same.
    """
    n_options = Counter(len(row["options"]) for row in rows).most_common(1)[0][0] if rows else 0
    split_of = splits_of(catalogue, [row["bundle_id"] for row in rows])
    comparison = _Comparison(catalogue) if imported else None
    found: list[Fault | None] = []
    for row in rows:
        fault = form_fault(row, n_options, catalogue) or _bundle_fault(row, split_of, split)
        if fault is None and comparison is not None:
            fault = comparison.fault(row)
        found.append(fault)
    return found


def form_fault(row: dict[str, Any], n_options: int, catalogue: Catalogue) -> Fault | None:
    """The fault of one question, checked by itself."""
    shown, given, truth = row["options"], row["partial"], row["truth"]
    clause = None
    if len(shown) != n_options or len(shown) < 2:
        clause = f"it has {len(shown)} options, the others have {n_options}"
    elif len(set(shown)) < len(shown):
        clause = f"option {quoted(Counter(shown).most_common(1)[0][0])} stands there twice"
    elif not isinstance(truth, int) or isinstance(truth, bool) or not 0 <= truth < n_options:
        clause = f"the truth {quoted(truth)[1:-1]} is none of its {n_options} options"
    elif not given:
        clause = "its partial bundle is empty"
    elif len(set(given)) < len(given):
        clause = f"item {quoted(Counter(given).most_common(1)[0][0])} stands twice in its partial bundle"
    elif both := [item for item in shown if item in set(given)]:
        clause = f"option {quoted(both[0])} stands in the partial bundle"
    if clause:
        return Fault(MALFORMED, clause)
    if unknown := [item for item in (*given, *shown) if item not in catalogue.index]:
        return Fault("of unknown items", f"item {quoted(unknown[0])} is not in the catalogue")
    return None


def splits_of(catalogue: Catalogue, bundle_ids: Iterable[str]) -> dict[str, str]:
    """The split of each of these bundles that is in the catalogue."""
    of = dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))
    return {bundle_id: of[bundle_id] for bundle_id in bundle_ids if bundle_id in of}


def counts(found: Iterable[Fault | None]) -> dict[str, int]:
    """The number of faults of each kind, the most frequent first."""
    return dict(Counter(fault.kind for fault in found if fault).most_common())


def in_words(kinds: dict[str, int]) -> str:
    """Counts of faults for a sentence.

    >>> in_words({"of unknown items": 2, "repeated": 1})
    '2 of unknown items, 1 repeated'
    """
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def _bundle_fault(row: dict[str, Any], split_of: dict[str, str], split: str) -> Fault | None:
    bundle = quoted(row["bundle_id"])
    part = split_of.get(row["bundle_id"])
    if part is None:
        return Fault("of unknown bundles", f"bundle {bundle} is not in the catalogue")
    if part != split:
        return Fault(f"of {part} bundles", f"bundle {bundle} is a {part} bundle in this catalogue, not {split}")
    return None


class _Comparison:
    """Compares questions with the bundles of a catalogue, and each with the earlier ones."""

    def __init__(self, catalogue: Catalogue) -> None:
        bundles = catalogue.bundles
        self._index = catalogue.index
        self._items = {name: frozenset(items.tolist()) for name, items in zip(bundles.ids, bundles.items, strict=True)}
        self._trained = {
            self._items[name]: name
            for name, part in zip(bundles.ids, splits.assign(catalogue).tolist(), strict=True)
            if part == "train"
        }
        self._asked: dict[tuple[str, frozenset[str], str], int] = {}
        self._count = 0

    def fault(self, row: dict[str, Any]) -> Fault | None:
        """The fault of a question that is valid by itself."""
        self._count += 1
        bundle, given, shown = row["bundle_id"], row["partial"], row["options"]
        right, whole = shown[row["truth"]], self._items[bundle]
        for item in given:
            if self._index[item] not in whole:
                clause = f"item {quoted(item)} of its partial bundle is not in bundle {quoted(bundle)}"
                return Fault("with items of other bundles", clause)
        if self._index[right] not in whole:
            clause = f"its right answer {quoted(right)} is not in bundle {quoted(bundle)}"
            return Fault("with items of other bundles", clause)
        for item in shown:
            if item != right and self._index[item] in whole:
                clause = f"its wrong option {quoted(item)} is in bundle {quoted(bundle)} too, so it would be right"
                return Fault("with several right answers", clause)
        for items in (whole, frozenset(self._index[item] for item in (*given, right))):
            if items in self._trained:
                clause = f"its items are those of the training bundle {quoted(self._trained[items])}"
                return Fault("with the items of training bundles", clause)
        asked = (bundle, frozenset(given), right)
        before = self._asked.setdefault(asked, self._count)
        if before != self._count:
            return Fault("repeated", f"it asks the same as another question about bundle {quoted(bundle)}")
        return None
