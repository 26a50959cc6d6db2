"""Checks questions against a catalogue: each one alone, against the bundle it names, and against the others.

Questions that were drawn here lie within their bundle by construction; imported ones are compared with it, and with
the bundles that training sees. Whole columns are checked at once; a question that may be wrong is then looked at by
itself, to say what is wrong with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogue import splits
from ..catalogue.columns import Lists
from ..item_sets import item_hashes, set_hashes
from ..sorted_arrays import among
from ..text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..catalogue.catalogue import Catalogue
    from .question_rows import Located, QuestionRows

MALFORMED = "malformed"
"""The kind of a fault that a change of the catalogue cannot cause."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a question: its kind, for counts, and a clause for a sentence."""

    kind: str
    clause: str


def faults(
    rows: QuestionRows, located: Located, split: str, catalogue: Catalogue, *, imported: bool
) -> list[Fault | None]:
    """The first fault of every question, None where there is none.

    Parameters
    ----------
    located
        Where the ids of the questions are in the catalogue (`QuestionRows.locate`).
    split
        The split that all bundles must have.
    imported
        Whether the questions come from elsewhere: their items must then lie within the bundle they name, their wrong
        options outside it; no training bundle may hold the same items, and no two may ask the same.
    """
    found: list[Fault | None] = [None] * len(rows)
    n_options = most_options(located)
    split_of = splits.assign(catalogue)
    suspect = _form_suspects(rows, located, n_options, len(catalogue))
    suspect |= (located.bundle < 0) | (_at(split_of, located.bundle) != split)
    for r in np.flatnonzero(suspect).tolist():
        row, b = rows.row(r), int(located.bundle[r])
        part = str(split_of[b]) if b >= 0 else None
        found[r] = form_fault(row, n_options, catalogue) or _bundle_fault(row["bundle_id"], part, split)
    if imported:
        fine = np.array([fault is None for fault in found], bool)
        comparison = _Comparison(catalogue)
        kept = np.flatnonzero(fine)
        for r in kept[comparison.suspects(rows.truth[kept], located.take(kept))].tolist():
            found[r] = comparison.fault(rows.row(r), int(located.bundle[r]))
    return found


def most_options(located: Located) -> int:
    """The number of options that most questions have; of several such numbers, the one that comes first."""
    sizes, first, counts = np.unique(located.options.lengths, return_index=True, return_counts=True)
    return int(sizes[np.lexsort((first, -counts))[0]]) if len(sizes) else 0


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


def counts(found: Iterable[Fault | None]) -> dict[str, int]:
    """The number of faults of each kind, the most frequent first."""
    return dict(Counter(fault.kind for fault in found if fault).most_common())


def in_words(kinds: dict[str, int]) -> str:
    """Counts of faults for a sentence.

    >>> in_words({"of unknown items": 2, "repeated": 1})
    '2 of unknown items, 1 repeated'
    """
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def _bundle_fault(bundle_id: str, part: str | None, split: str) -> Fault | None:
    bundle = quoted(bundle_id)
    if part is None:
        return Fault("of unknown bundles", f"bundle {bundle} is not in the catalogue")
    if part != split:
        return Fault(f"of {part} bundles", f"bundle {bundle} is a {part} bundle in this catalogue, not {split}")
    return None


def _form_suspects(rows: QuestionRows, located: Located, n_options: int, n_items: int) -> np.ndarray:
    """Bool [q], whether a question may have a fault of its form: all that have one are among them."""
    given, shown = located.partial, located.options
    suspect = (shown.lengths != n_options) | (n_options < 2) | (given.lengths == 0)
    suspect |= (rows.truth < 0) | (rows.truth >= n_options)
    for lists in (given, shown):
        suspect[lists.rows[lists.values < 0]] = True
    keys = np.concatenate([lists.rows * np.int64(n_items + 1) + lists.values + 1 for lists in (given, shown)])
    keys.sort()
    suspect[keys[1:][keys[1:] == keys[:-1]] // (n_items + 1)] = True  # an item that stands twice in a question
    return suspect


class _Comparison:
    """Compares questions with the bundles of a catalogue, and each with the earlier ones."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._asked: dict[tuple[int, frozenset[int], int], int] = {}
        self._count = 0

    @cached_property
    def _trained(self) -> tuple[np.ndarray, np.ndarray]:
        """The training bundles and the hashes of their sets of items, in the order of the hashes."""
        numbers = np.flatnonzero(splits.assign(self._catalogue) == "train")
        hashes = set_hashes(self._catalogue.bundles.items.take(numbers))
        order = np.argsort(hashes, kind="stable")
        return numbers[order], hashes[order]

    def suspects(self, truth: np.ndarray, located: Located) -> np.ndarray:
        """Bool [q], whether a question that is valid by itself may have a fault: all that have one are among them."""
        shown, given = located.options, located.partial
        right = shown.values[shown.offsets[:-1] + truth]  # [q]
        size = np.int64(len(self._catalogue) + 1)
        bundle = self._catalogue.bundles.items.take(located.bundle)
        inside = np.sort(bundle.rows * size + bundle.values)
        outside = given.rows[~among(given.rows * size + given.values, inside)]
        right_ones = among(shown.rows * size + shown.values, inside)
        right_ones[shown.offsets[:-1] + truth] ^= True  # now: a wrong option inside, or the truth outside
        suspect = np.zeros(len(truth), bool)
        suspect[outside] = True
        suspect[shown.rows[right_ones]] = True
        partial_hash = set_hashes(given)
        _, trained = self._trained
        suspect |= among(set_hashes(bundle), trained)
        suspect |= among(partial_hash + item_hashes(right), trained)
        asked = np.stack([located.bundle.astype(np.uint64), partial_hash, right.astype(np.uint64)], axis=1)
        _, which, counts = np.unique(asked, axis=0, return_inverse=True, return_counts=True)
        return suspect | (counts[which.reshape(-1)] > 1)

    def fault(self, row: dict[str, Any], b: int) -> Fault | None:
        """The fault of a question about bundle number ``b`` that is valid by itself."""
        self._count += 1
        index = self._catalogue.index
        bundle, given, shown = row["bundle_id"], row["partial"], row["options"]
        right, whole = shown[row["truth"]], frozenset(self._catalogue.bundles.items[b].tolist())
        for item in given:
            if index[item] not in whole:
                clause = f"item {quoted(item)} of its partial bundle is not in bundle {quoted(bundle)}"
                return Fault("with items of other bundles", clause)
        if index[right] not in whole:
            clause = f"its right answer {quoted(right)} is not in bundle {quoted(bundle)}"
            return Fault("with items of other bundles", clause)
        for item in shown:
            if item != right and index[item] in whole:
                clause = f"its wrong option {quoted(item)} is in bundle {quoted(bundle)} too, so it would be right"
                return Fault("with several right answers", clause)
        for items in (whole, frozenset(index[item] for item in (*given, right))):
            trained = self._training_bundle_of(items)
            if trained is not None:
                clause = f"its items are those of the training bundle {quoted(self._catalogue.bundles.ids[trained])}"
                return Fault("with the items of training bundles", clause)
        asked = (b, frozenset(index[item] for item in given), index[right])
        before = self._asked.setdefault(asked, self._count)
        if before != self._count:
            return Fault("repeated", f"it asks the same as another question about bundle {quoted(bundle)}")
        return None

    def _training_bundle_of(self, items: frozenset[int]) -> int | None:
        """The last training bundle with exactly these items."""
        numbers, hashes = self._trained
        wanted = set_hashes(Lists([np.fromiter(items, np.int32, len(items))]))[0]
        first, last = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
        for b in sorted(numbers[first:last].tolist(), reverse=True):
            if items == set(self._catalogue.bundles.items[b].tolist()):
                return int(b)
        return None


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values at these places, or any value where a place is -1."""
    return values[places] if len(values) else np.full(len(places), "", values.dtype)
