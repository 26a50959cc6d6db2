"""Samples training questions: new ones at every step, determined by the seed and the number of the step.

They have the distribution of the frozen questions: the wrong options come from the same strata (seen or unseen in
training, popularity, and for ``hard`` also category) or from one of the kinds of hard negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundlecache.catalogue import splits
from bundlecache.errors import QuestionsError
from bundlecache.questions import negatives
from bundlecache.questions.hard_negatives import HardNegatives
from bundlecache.questions.right_answers import RightAnswers

from ..prompts.builder import NO_ITEMS
from .contrastive import Pairs
from .epochs import EpochOrder

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.catalogue.columns import Strings
    from bundlecache.questions.user_history import UserHistories
    from bundlecache.recipes.settings import Data
    from bundlecache.store.store import Matrix

Lengths = Callable[[Sequence[np.ndarray], Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Drawn:
    """b training questions; fields as in `bundlecache.questions.question_file.Questions`."""

    partial: list[np.ndarray]
    options: np.ndarray  # int32 [b, n]
    truth: np.ndarray  # int64 [b]
    history: list[np.ndarray]  # items that the bundle's user took elsewhere, latest last
    bundle: np.ndarray  # int64 [b]: the row of the training bundle in the catalogue's

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: np.ndarray) -> Drawn:
        """The questions ``rows``."""
        partial, history = ([some[r] for r in rows] for some in (self.partial, self.history))
        return Drawn(partial, self.options[rows], self.truth[rows], history, self.bundle[rows])


class QuestionSampler:
    """Samples batches of questions about training bundles without end.

    ``lengths(partial, options, history)`` gives the tokens of each prompt, so that a batch holds prompts of similar
    length. ``held_out`` are the ids of bundles never to use. ``histories`` adds the users' histories to the questions.
    ``vectors`` [I, d] are needed for hard negatives when the items have no category, ``matrices`` (by name) for
    negatives that are nearest in a modality. ``steps`` are those of the stage, over a share of which ``data.curriculum``
    makes questions harder.

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
        steps: int = 0,
    ) -> None:
        self.settings, self.seed, self._lengths, self._histories = settings, seed, lengths, histories
        self._catalogue = catalogue
        bundles = catalogue.bundles
        usable = (splits.assign(catalogue) == "train") & ~is_in(bundles.ids, held_out) & (bundles.items.lengths >= 2)
        rows = np.flatnonzero(usable)
        self.bundles, self._rows = bundles.items.take(rows), rows
        self._ids = bundles.ids.take(rows)
        if not len(self.bundles):
            raise QuestionsError(
                "The catalogue has no training bundle of two known items.", hint="add rows to bundles.parquet"
            )
        self._pools: list[_Pools | _Hard]
        if settings.negatives in (*negatives.KINDS, "mixed"):
            kinds = negatives.KINDS if settings.negatives == "mixed" else (settings.negatives,)
            self._pools = [_Pools(negatives.stratify(catalogue, kind, vectors, 3 * settings.options)) for kind in kinds]
        else:
            hard = HardNegatives(catalogue, settings.negatives, settings.difficulty, matrices, settings.options)
            self._pools = [_Hard(hard, RightAnswers(self.bundles, catalogue.titles))]
        self._easy_steps = settings.curriculum * steps  # until all questions have the wrong options of `negatives`
        self._easy: _Pools | None = None
        if self._easy_steps:
            self._easy = _Pools(negatives.stratify(catalogue, "random", None, 3 * settings.options))
        largest = int(self.bundles.lengths.max())
        if len(catalogue) < settings.options - 1 + largest:
            raise QuestionsError(
                f"{settings.options} options beside a bundle of {largest} need more than {len(catalogue)} items.",
                hint=f"--set data.options={max(2, len(catalogue) - largest + 1)}",
            )
        self._drawn: tuple[int, list[Drawn]] = (-1, [])
        self._order = EpochOrder(len(self.bundles), seed)

    def batch(self, step: int) -> Drawn:
        """The questions of one optimiser step."""
        number, place = divmod(step, self.settings.bucket)
        if self._drawn[0] != number:
            self._drawn = (number, self._bucket(number))
        return self._drawn[1][place]

    def pairs(self, kind: str) -> Pairs:
        """Items that are alike, of one kind of ``contrastive_pairs``; of bundles, those that questions are drawn from."""
        return Pairs.of(kind, self._catalogue, self.bundles)

    def _bucket(self, number: int) -> list[Drawn]:
        """The batches of ``bucket`` steps: drawn together, sorted by prompt length, returned in random order."""
        rng = np.random.default_rng([self.seed, number])
        size, count = self.settings.batch, self.settings.bucket
        easy = max(0.0, 1 - number * count / self._easy_steps) if self._easy_steps else 0.0
        drawn = self._draw(rng, self._order.take(number * size * count, size * count), easy)
        order = np.argsort(self._lengths(drawn.partial, list(drawn.options), drawn.history), kind="stable")
        return [drawn.take(order[k * size : (k + 1) * size]) for k in rng.permutation(count)]

    def _draw(self, rng: np.random.Generator, bundles: np.ndarray, easy: float) -> Drawn:
        """A question about each of ``bundles``; a share ``easy`` of them has random wrong options."""
        n = self.settings.options
        truth = rng.integers(n, size=len(bundles))
        options = np.empty((len(bundles), n), np.int32)
        partial = []
        for row, b in enumerate(bundles):
            items = rng.permutation(self.bundles[b])
            rest = items[1:]
            if self.settings.partial == "random":
                rest = rest[: rng.integers(1, len(rest) + 1)]
            partial.append(rest)
            pools: _Pools | _Hard | None = self._easy if easy and rng.random() < easy else None
            if pools is None:
                pools = self._pools[int(rng.integers(len(self._pools)))]
            options[row] = np.insert(pools.draw(rng, _Case(int(b), items, rest), n - 1), truth[row], items[0])
        history = [NO_ITEMS] * len(partial)
        if self._histories is not None:
            history = self._histories.besides([self._ids[b] for b in bundles], partial, options)
        return Drawn(partial, options, truth, history, self._rows[bundles])


def is_in(texts: Strings[str], known: Sequence[str]) -> np.ndarray:
    """Bool [n]: which of ``texts`` stand in ``known``."""
    return np.asarray(pc.is_in(texts.arrow, value_set=pa.array(known, pa.large_string())))


class _Case(NamedTuple):
    """One question to draw wrong options for: the bundle's index, its items with the truth first, and the partial bundle."""

    number: int
    bundle: np.ndarray
    partial: np.ndarray


class _Pools:
    """Draws wrong options from the truth's stratum; when it is too small, from items with the same seen flag, then from all."""

    def __init__(self, strata: negatives.Strata) -> None:
        cell, seen = strata.number, strata.seen
        order = np.argsort(cell, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) > 0])
        self._members = dict(zip(cell[order][starts].tolist(), np.split(order, starts[1:]), strict=True))
        self._cell, self._seen = cell, seen
        self._alike = {value: np.flatnonzero(seen == value) for value in (True, False)}
        self._all = np.arange(len(cell))

    def draw(self, rng: np.random.Generator, case: _Case, count: int, excluded: Set[int] = frozenset()) -> np.ndarray:
        """``count`` distinct items that are neither in the bundle nor ``excluded``."""
        bundle = case.bundle
        drawn: list[int] = []
        excluded = set(bundle.tolist()) | excluded
        for pool in (self._members[int(self._cell[bundle[0]])], self._alike[bool(self._seen[bundle[0]])], self._all):
            picks = rng.choice(len(pool), min(len(pool), count + len(excluded)), replace=False)
            for item in pool[picks].tolist():
                if item not in excluded and len(drawn) < count:
                    drawn.append(item)
                    excluded.add(item)
            if len(drawn) == count:
                break
        return rng.permutation(drawn)


class _Hard:
    """Draws hard wrong options; when there are too few, the rest comes from the truth's stratum.

    Items that are a right answer to the same partial bundle in another training bundle are excluded.
    """

    def __init__(self, hard: HardNegatives, elsewhere: RightAnswers) -> None:
        self._hard, self._elsewhere, self._rest = hard, elsewhere, _Pools(hard.strata)

    def draw(self, rng: np.random.Generator, case: _Case, count: int) -> np.ndarray:
        """See `_Pools.draw`."""
        truth = int(case.bundle[0])
        right = self._elsewhere.of(case.partial, truth)  # the bundle's items among them
        drawn = self._hard.pick(rng, case.partial, truth, count, right)
        if len(drawn) < count:
            for banned in (set(right.tolist()), set[int]()):  # in a small catalogue every item may be excluded
                missing, known = count - len(drawn), set(drawn.tolist())
                drawn = np.concatenate([drawn, self._rest.draw(rng, case, missing, known | banned)])
            drawn = rng.permutation(drawn)
        return drawn.astype(np.int64)
