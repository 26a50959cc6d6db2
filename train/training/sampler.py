"""Training questions: drawn anew at every step, from the seed and the number of the step alone.

They are like the frozen questions in everything but the draw: the wrong options come from the same cells
(seen or unseen in training, popularity, and for ``hard`` category), or are hard in one of the ways of
`hard_negatives`, so that what is learned is what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bundlecache.catalogue import splits
from bundlecache.errors import QuestionsError
from bundlecache.questions import negatives
from bundlecache.questions.hard_negatives import HardNegatives

from ..prompts.builder import NOTHING

if TYPE_CHECKING:
    from bundlecache.catalogue.model import Catalogue
    from bundlecache.questions.user_history import UserHistories
    from bundlecache.recipes.recipe import Data
    from bundlecache.store.store import Matrix

Lengths = Callable[[Sequence[np.ndarray], Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Drawn:
    """b questions: the given items of each, its n options, and which option is right."""

    given: list[np.ndarray]
    options: np.ndarray  # int32 [b, n]
    truth: np.ndarray  # int64 [b]
    taken: list[np.ndarray]  # what each one's user took elsewhere, latest last

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: np.ndarray) -> Drawn:
        """The questions ``rows``."""
        given, taken = ([some[r] for r in rows] for some in (self.given, self.taken))
        return Drawn(given, self.options[rows], self.truth[rows], taken)


class TrainingQuestions:
    """An endless supply of questions about training bundles; ``held_out`` names bundles never to use.

    ``lengths(given, options, taken)`` says how long a prompt is, so that batches hold prompts of like length.
    ``histories`` tell what the users of the bundles took elsewhere.
    ``vectors`` [I, d] are needed for hard negatives when the items have no category, ``matrices`` by name for
    those that are nearest in a modality.

    Raises
    ------
    QuestionsError
        When there is no training bundle, or the catalogue has too few items for a question.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: Data,
        lengths: Lengths,
        seed: int,
        held_out: Sequence[str] = (),
        vectors: np.ndarray | None = None,
        matrices: Mapping[str, Matrix] | None = None,
        histories: UserHistories | None = None,
    ) -> None:
        self.settings, self.seed, self._lengths, self._histories = settings, seed, lengths, histories
        secret = set(held_out)
        rows = [
            b for b in np.flatnonzero(splits.assign(catalogue) == "train") if catalogue.bundles.ids[b] not in secret
        ]
        rows = [b for b in rows if len(catalogue.bundles.items[b]) >= 2]
        self.bundles = [catalogue.bundles.items[b] for b in rows]
        self._ids = [catalogue.bundles.ids[b] for b in rows]
        if not self.bundles:
            raise QuestionsError(
                "The catalogue has no training bundle of two known items.", hint="add rows to bundles.parquet"
            )
        self._pools: list[_Pools | _Hard]
        if settings.negatives in (*negatives.KINDS, "mixed"):
            kinds = negatives.KINDS if settings.negatives == "mixed" else (settings.negatives,)
            self._pools = [_Pools(negatives.cells(catalogue, kind, vectors, 3 * settings.options)) for kind in kinds]
        else:
            hard = HardNegatives(catalogue, settings.negatives, settings.difficulty, matrices, settings.options)
            self._pools = [_Hard(hard, negatives.Elsewhere(self.bundles, catalogue.titles))]
        largest = max(map(len, self.bundles))
        if len(catalogue) < settings.options - 1 + largest:
            raise QuestionsError(
                f"{settings.options} options beside a bundle of {largest} need more than {len(catalogue)} items.",
                hint=f"--set data.options={max(2, len(catalogue) - largest + 1)}",
            )
        self._drawn: tuple[int, list[Drawn]] = (-1, [])

    def batch(self, step: int) -> Drawn:
        """The questions of one optimiser step."""
        number, place = divmod(step, self.settings.bucket)
        if self._drawn[0] != number:
            self._drawn = (number, self._bucket(number))
        return self._drawn[1][place]

    def _bucket(self, number: int) -> list[Drawn]:
        """The batches of ``bucket`` steps: drawn together, sorted by length, dealt out in random order."""
        rng = np.random.default_rng([self.seed, number])
        size, count = self.settings.batch, self.settings.bucket
        drawn = self._draw(rng, self._order(number * size * count, size * count))
        order = np.argsort(self._lengths(drawn.given, list(drawn.options), drawn.taken), kind="stable")
        return [drawn.take(order[k * size : (k + 1) * size]) for k in rng.permutation(count)]

    def _order(self, first: int, count: int) -> np.ndarray:
        """Bundles number ``first`` and on, when every epoch goes through all of them in an order of its own."""
        numbers = np.arange(first, first + count)
        epochs, places = np.divmod(numbers, len(self.bundles))
        order = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            shuffled = np.random.default_rng([self.seed, 1 << 40, int(epoch)]).permutation(len(self.bundles))
            order[epochs == epoch] = shuffled[places[epochs == epoch]]
        return order

    def _draw(self, rng: np.random.Generator, bundles: np.ndarray) -> Drawn:
        n = self.settings.options
        truth = rng.integers(n, size=len(bundles))
        options = np.empty((len(bundles), n), np.int32)
        given = []
        for row, b in enumerate(bundles):
            items = rng.permutation(self.bundles[b])
            rest = items[1:]
            if self.settings.partial == "random":
                rest = rest[: rng.integers(1, len(rest) + 1)]
            given.append(rest)
            pools = self._pools[int(rng.integers(len(self._pools)))]
            options[row] = np.insert(pools.draw(rng, _Case(int(b), items, rest), n - 1), truth[row], items[0])
        taken = [NOTHING] * len(given)
        if self._histories is not None:
            taken = self._histories.besides([self._ids[b] for b in bundles], given, options)
        return Drawn(given, options, truth, taken)


class _Case(NamedTuple):
    """A bundle by its number, its items with the truth in front, and those that are given."""

    number: int
    bundle: np.ndarray
    given: np.ndarray


class _Pools:
    """Items to draw wrong options from: first those of the truth's cell, then those as seen as it, then all."""

    def __init__(self, cells: negatives.Cells) -> None:
        cell, seen = cells.cell, cells.seen
        order = np.argsort(cell, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) > 0])
        self._members = dict(zip(cell[order][starts].tolist(), np.split(order, starts[1:]), strict=True))
        self._cell, self._seen = cell, seen
        self._alike = {value: np.flatnonzero(seen == value) for value in (True, False)}
        self._all = np.arange(len(cell))

    def draw(self, rng: np.random.Generator, case: _Case, count: int, taken: Set[int] = frozenset()) -> np.ndarray:
        """``count`` distinct items that are neither in the bundle nor ``taken``."""
        bundle = case.bundle
        drawn: list[int] = []
        taken = set(bundle.tolist()) | taken
        for pool in (self._members[int(self._cell[bundle[0]])], self._alike[bool(self._seen[bundle[0]])], self._all):
            picks = rng.choice(len(pool), min(len(pool), count + len(taken)), replace=False)
            for item in pool[picks].tolist():
                if item not in taken and len(drawn) < count:
                    drawn.append(item)
                    taken.add(item)
            if len(drawn) == count:
                break
        return rng.permutation(drawn)


class _Hard:
    """Hard options as far as there are any, then those of the truth's cell; what training bundles call right is none."""

    def __init__(self, hard: HardNegatives, elsewhere: negatives.Elsewhere) -> None:
        self._hard, self._elsewhere, self._rest = hard, elsewhere, _Pools(hard.cells)

    def draw(self, rng: np.random.Generator, case: _Case, count: int) -> np.ndarray:
        """See `_Pools.draw`."""
        truth = int(case.bundle[0])
        taken = set(case.bundle.tolist()) | self._elsewhere.rivals(case.number, case.given, truth)
        drawn = self._hard.pick(rng, case.given, truth, count, taken)
        if len(drawn) < count:
            for kept_out in (taken, set[int]()):  # a small catalogue may be all rivals
                missing, known = count - len(drawn), set(drawn.tolist())
                drawn = np.concatenate([drawn, self._rest.draw(rng, case, missing, known | kept_out)])
            drawn = rng.permutation(drawn)
        return drawn.astype(np.int64)
