"""Draws frozen multiple-choice questions: a partial bundle, n options, one of which is the held-out item.

Questions are drawn once with a seed and saved (`sets`, `file`); methods are compared on the same questions. How wrong
options are chosen stands in `negatives` and `hard_negatives`.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue import splits
from ..catalogue.catalogue import SPLITS
from ..catalogue.columns import Lists
from ..errors import Command, QuestionsError
from ..limits import MAX_OPTIONS
from ..sorted_arrays import places_by_value
from .hard_negatives import HardNegatives, label
from .negatives import KINDS, Strata, shuffled, stratify
from .question_file import FORMAT_VERSION, PARTS_VERSION, assemble
from .right_answers import RightAnswer, RightAnswers

QUESTIONS_PER_STEP = 500  # between two calls of ``progress``

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix
    from .question_file import Questions


def name_of(split: str, negatives: str, n_options: int, seed: int = 0, difficulty: float = 1.0) -> str:
    """``test-random10``; a seed other than 0 is part of the name, so that draws do not overwrite each other.

    >>> name_of("test", "nearest:image", 10, difficulty=0.5)
    'test-nearest_image@50-10'
    """
    kind = negatives if negatives in KINDS else label(negatives, difficulty) + "-"
    return f"{split}-{kind}{n_options}" + (f"-seed{seed}" if seed else "")


def freeze(
    catalogue: Catalogue,
    *,
    split: str,
    n_options: int = 10,
    negatives: str = "random",
    seed: int = 0,
    vectors: np.ndarray | None = None,
    difficulty: float = 1.0,
    matrices: Mapping[str, Matrix] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Questions:
    """Draw one question from every bundle of a split.

    The same catalogue, seed and arguments give the same SHA-256 on every machine (for ``hard`` by
    ``vectors``, as far as these are the same). Where a stratum is too small (`negatives.stratify`), options
    come from the items that are as seen or unseen in training as the truth, then from all; how many did
    stands in the header as ``filled``, and how often the most popular option is right as ``popularity_hit@1``:
    where a few items make up most bundles, no choice of options hides them.

    Parameters
    ----------
    vectors
        [I, d], rows of zeros are missing; used by ``hard`` to find near items.
    difficulty, matrices
        Of the kinds of `hard_negatives`: how hard, and the stored vectors by name for ``nearest``.
    progress
        Is told how many questions are drawn, every few hundred.

    Raises
    ------
    QuestionsError
        When the split has no bundle of two items, or the catalogue too few items for ``n_options``.
    """
    if split not in SPLITS:
        raise QuestionsError(f"There is no split {split!r}; there are train, valid and test.", hint="--split test")
    if not 2 <= n_options <= MAX_OPTIONS:
        given = f"{n_options:,}" if abs(n_options) < 10**30 else "a number of more than 30 digits"
        raise QuestionsError(
            f"The number of options is {given}; a question has 2 to {MAX_OPTIONS:,}.",
            hint=Command("questions", "--options", 10),
        )
    harder = None if negatives in KINDS else HardNegatives(catalogue, negatives, difficulty, matrices, n_options)
    strata = harder.strata if harder else stratify(catalogue, negatives, vectors, n_options + 4)
    named = label(negatives, difficulty) if harder else negatives
    held = splits.hold_out(catalogue, split, seed)
    if not held:
        raise QuestionsError(
            f"The {split} split has no bundle of two known items to ask about; the catalogue has {len(catalogue.bundles):,} bundles.",
            hint="a catalogue needs a few dozen bundles, of several groups: add rows to the bundles table, or mend its split column",
        )
    bundle_ids = catalogue.bundles.ids.take([b for b, _, _ in held]).arrow.to_pylist()
    positions = _positions(bundle_ids, n_options, seed)
    partials, truths = Lists([partial for _, partial, _ in held]), np.array([truth for _, _, truth in held])
    draw = _Draw(catalogue, strata, harder, n_options, partials, truths)
    options = np.zeros((len(held), n_options), np.int32)
    filled = 0
    for done, row in enumerate(draw.order()):
        rng = random.Random(f"{seed}/{named}{n_options}/{bundle_ids[row]}")
        drawn, extra = draw.wrong(rng, row)
        drawn.insert(int(positions[row]), int(truths[row]))
        options[row] = drawn
        filled += extra
        if progress is not None and done % QUESTIONS_PER_STEP == 0:
            progress(done)
    return assemble(
        catalogue,
        bundle_ids,
        [partial for _, partial, _ in held],
        options,
        positions,
        {
            "format_version": PARTS_VERSION if strata.in_parts else FORMAT_VERSION,
            "name": name_of(split, negatives, n_options, seed, difficulty),
            "split": split,
            "negatives": negatives,
            **({"difficulty": difficulty, "vectors": harder.vectors} if harder else {}),
            "seed": seed,
            "passed_over": int((splits.assign(catalogue) == split).sum()) - len(held),
            "filled": filled,
            "popularity_hit@1": _right_by(strata.popularity, options, positions),
            "matched_on": "in training bundles or not, popularity"
            + (", category or nearness" if negatives == "hard" else ""),
        },
    )


class _Draw:
    """Draws the wrong options of questions, each from at most a few items of its strata.

    ``partials`` and ``truths`` [q] are the partial bundles of the questions and their held-out items.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        strata: Strata,
        harder: HardNegatives | None,
        n_options: int,
        partials: Lists,
        truths: np.ndarray,
    ) -> None:
        self._strata, self._harder, self._need = strata, harder, n_options - 1
        self._partials, self._truths = partials, truths
        members, ends = places_by_value(strata.number)
        self._members = Lists.of(ends, members)
        self._alike = {value: np.flatnonzero(strata.seen == value) for value in (True, False)}
        self._everything = range(len(catalogue))
        right: RightAnswers | None = catalogue.memory.get("right answers")
        if right is None:
            right = catalogue.memory["right answers"] = RightAnswers(catalogue.bundles.items, catalogue.titles)
        self._right = right
        self._others_right = right.any_beside(partials, truths)

    def order(self) -> Sequence[int]:
        """The order in which questions are drawn: those of a pool together, so that what it needs is computed once."""
        if self._harder is None:
            return range(len(self._truths))
        order: list[int] = np.argsort(self._harder.pools.number[self._truths], kind="stable").tolist()
        return order

    def wrong(self, rng: random.Random, row: int) -> tuple[list[int], int]:
        """The wrong options of a question in random order, and how many of them are from outside of its stratum."""
        partial, truth = self._partials[row], int(self._truths[row])
        number, seen = int(self._strata.number[truth]), bool(self._strata.seen[truth])
        tiers: list[Sequence[int] | np.ndarray] = [self._members[number], self._alike[seen], self._everything]
        bundle = {*partial.tolist(), truth}
        others = bool(self._others_right[row])
        if self._harder:
            right = self._right.of(partial, truth) if others else np.append(partial, truth)
            tiers.insert(0, self._harder.pick(rng, partial, truth, self._need, right))
        taken = _Taken(bundle, self._right.test(partial, truth)) if others else bundle
        return _draw(rng, tiers, self._need, taken)


class _Taken:
    """The items of a bundle, and those that would be right instead of its truth."""

    __slots__ = ("_bundle", "_right")

    def __init__(self, bundle: set[int], right: RightAnswer) -> None:
        self._bundle, self._right = bundle, right

    def __contains__(self, item: object) -> bool:
        return item in self._bundle or item in self._right


def _right_by(score: np.ndarray, options: np.ndarray, truth: np.ndarray) -> float:
    """How often the option with the highest ``score`` [I] is the truth; a tie counts by its share."""
    shown = score[options]  # [q, n]
    best = shown == shown.max(axis=1, keepdims=True)
    return round(float((best[np.arange(len(truth)), truth] / best.sum(axis=1)).mean()), 4)


def _positions(bundle_ids: list[str], n_options: int, seed: int) -> np.ndarray:
    """[q] the position of the truth: every position equally often, in an order independent of the bundles."""
    key = [hashlib.blake2b(f"{seed}/position/{bundle_id}".encode()).digest() for bundle_id in bundle_ids]
    positions = np.zeros(len(bundle_ids), np.int64)
    for rank, row in enumerate(sorted(range(len(key)), key=key.__getitem__)):
        positions[row] = rank % n_options
    return positions


def _draw(
    rng: random.Random, tiers: Iterable[Sequence[int] | np.ndarray], need: int, given: Container[object]
) -> tuple[list[int], int]:
    """``need`` distinct items outside ``given``, from the first tiers first; and how many came from later tiers."""
    drawn: list[int] = []
    taken: set[int] = set()
    from_first = None
    for pool in tiers:
        for i in shuffled(rng, pool):
            if len(drawn) == need:
                break
            if i not in taken and i not in given:
                drawn.append(i)
                taken.add(i)
        from_first = len(drawn) if from_first is None else from_first
    if len(drawn) < need:
        raise QuestionsError(
            f"A question with {need + 1} options needs {need} wrong items, but the catalogue offers {len(drawn)} for one of its bundles.",
            hint=Command("questions", "--options", max(len(drawn) + 1, 2)),
        )
    extra = need - (from_first or 0)
    if extra:  # mix in the later tiers' items, which would otherwise be last
        drawn = list(shuffled(rng, drawn))
    return drawn, extra
