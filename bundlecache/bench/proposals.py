"""The items that methods rank where a catalogue is too large for each of them to rank it whole: proposals.

Up to `MAX_RANKED_WHOLE` items every method ranks the whole catalogue. Beyond, each question has `PROPOSED` items: neighbours
of the partial bundle by item-kNN, the most popular items, and, for the most part, the nearest items by an index over all
stored vectors (`bundlecache.candidates.index`). Every method ranks these exactly, by its own scores. How many of all other
items it puts before the held-out one is estimated by `SAMPLED` of them, drawn by lot: without that, a method that tells few
items apart, such as one of categories, would look far too good. A held-out item that is not proposed stands behind all
proposals, level with everything else that is not proposed.

What that costs is measured: how many held-out items are proposed, and, on a few questions that are ranked whole, how much
of each method's first 20 is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..baselines.graphs import item_knn, popular
from ..baselines.rankers import SimilarityRanker
from ..candidates import ann
from ..questions.question_file import Questions

if TYPE_CHECKING:
    from ..baselines.rankers import Ranker
    from ..baselines.sources import Sources
    from ..candidates.index import Index
    from .held_out_items import HeldOut

MAX_RANKED_WHOLE = ann.MIN_INDEXED_ITEMS  # items of a catalogue up to which an exact ranking is about as fast
PROPOSED = 1_000  # items per question
SAMPLED = 1_000  # items per question that are drawn by lot from those that are not proposed
NEIGHBOURS, POPULAR = 200, 100  # of these by each item-kNN, and by popularity
BLOCK_QUESTIONS = 1_024  # questions whose items are proposed at once
CHECKED = 16  # questions that are ranked whole, to measure what is not proposed
DEPTH = 20  # of the recall that is measured
SEED = 0  # of the lot
MAX_CHECKED_SCORES = 2**24  # computed at once for them, [questions, items]


@dataclass(frozen=True)
class ProposalInfo:
    """How items were proposed: how many per question, the share of held-out items among them, and the index in words.

    ``index_recall`` is the index's own recall@20 against an exact search; ``checked`` questions were ranked whole.
    """

    n_items: int
    found: float
    index: str
    index_recall: float
    checked: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ProposalInfo:
        """From the JSON of result files."""
        return cls(**row)


@dataclass(frozen=True)
class Proposals:
    """``items`` int32 [q, n], ascending and distinct, the proposals of every held-out item's question, among I items.

    ``others`` int32 [q, s] were drawn by lot from the items that are neither proposed nor excluded.
    """

    items: np.ndarray
    others: np.ndarray
    n_items: int
    index: str
    index_recall: float

    def info(self, held: HeldOut) -> ProposalInfo:
        """What result files say of them."""
        found = (self.items == held.truth[:, None]).any(axis=1).mean()
        checked = min(CHECKED, len(held))
        return ProposalInfo(self.items.shape[1], float(found), self.index, self.index_recall, checked)

    @property
    def width(self) -> int:
        """The options of a question: its proposals, and the items that were drawn by lot."""
        return self.items.shape[1] + self.others.shape[1]

    def chunks(self, held: HeldOut, max_scores: int) -> Iterator[tuple[np.ndarray, Questions]]:
        """(rows [c], those questions with their proposals, then the others, as options).

        The truth is -1 where it is not proposed.
        """
        size = max(1, max_scores // self.width)
        for low in range(0, len(held), size):
            rows = np.arange(low, min(low + size, len(held)))
            options = np.hstack([self.items[rows], self.others[rows]])
            there = self.items[rows] == held.truth[rows, None]
            asked = Questions(
                name="full",
                split=held.split,
                negatives="proposed",
                seed=0,
                bundle_ids=[held.bundle_ids[row] for row in rows.tolist()],
                partial=[held.partial[row] for row in rows.tolist()],
                options=options,
                truth=np.where(there.any(axis=1), there.argmax(axis=1), -1),
                sha256=f"{held.sha256}/proposed/{low}+{len(rows)}",
                header={},
            )
            yield rows, asked

    def recall(
        self,
        rankers: Sequence[Ranker],
        held: HeldOut,
        progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
    ) -> dict[str, float]:
        """Name -> the share of each method's first 20 of the whole catalogue that is proposed, on `CHECKED` questions.

        An item with the score of the 20th is as good as the 20th, so that ties do not count as missed.
        """
        done = 0
        rows = np.unique(np.linspace(0, len(held) - 1, CHECKED).astype(np.int64))
        few = held.take(rows)
        shares: dict[str, list[float]] = {ranker.name: [] for ranker in rankers}
        for part, asked in few.chunks(self.n_items, MAX_CHECKED_SCORES):
            for ranker in rankers:
                scores = ranker.scores(asked)  # [c, I less the partial bundle]
                depth = min(DEPTH, scores.shape[1])
                last = np.partition(scores, -depth, axis=1)[:, -depth]  # [c] the score of the 20th
                for line, row in enumerate(rows[part].tolist()):
                    proposed = np.isin(asked.options[line], self.items[row], assume_unique=True)
                    shares[ranker.name].append(min(depth, int((scores[line, proposed] >= last[line]).sum())) / depth)
                done += len(part)
                progress(done, len(rows) * len(rankers), ranker.name)
        return {name: float(np.mean(each)) for name, each in shares.items()}


def propose(
    index: Index,
    sources: Sources,
    held: HeldOut,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Proposals:
    """The proposals of every question: neighbours by item-kNN, popular items, and the nearest items by ``index``."""
    count = len(sources.catalogue)
    longest = max(map(len, held.banned))
    size = min(PROPOSED, count - longest)
    popularity = popular(sources) if sources.graphs else np.zeros(count)
    known = [ranker for ranker in sources.rankers(item_knn) if isinstance(ranker, SimilarityRanker)]
    fallback = _first(popularity, size + longest)  # most popular first
    items = np.zeros((len(held), size), np.int32)
    others = np.zeros((len(held), min(SAMPLED, count - longest - size)), np.int32)
    rng = np.random.default_rng(SEED)
    for low in range(0, len(held), BLOCK_QUESTIONS):
        block = slice(low, low + BLOCK_QUESTIONS)
        partial, banned = held.partial[block], held.banned[block]
        near, _ = index.search(index.query(partial), size, banned)  # [<= BLOCK_QUESTIONS, size]
        by_knn = [_neighbours(ranker, partial) for ranker in known]
        for row, mine in enumerate(banned):
            lists = [
                *(each[row] for each in by_knn),
                fallback[: POPULAR + longest],
                near[row][near[row] >= 0],
                fallback,
            ]
            items[low + row] = np.sort(_distinct(np.concatenate(lists), mine, size))
            others[low + row] = _by_lot(rng, count, np.concatenate([items[low + row], mine]), others.shape[1])
        progress(min(low + BLOCK_QUESTIONS, len(held)), len(held))
    return Proposals(items, others, count, index.words, float(index.report["recall@20"]))


def _first(score: np.ndarray, count: int) -> np.ndarray:
    """int32: the items with the highest ``score`` [I], best first, ties by index."""
    count = min(count, len(score))
    best = np.flatnonzero(score >= np.partition(score, -count)[-count])
    return best[np.argsort(-score[best], kind="stable")][:count].astype(np.int32)


def _neighbours(ranker: SimilarityRanker, partial: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For every partial bundle the items most similar to its members, best first, at most `NEIGHBOURS`."""
    near = ranker.near(partial)  # sparse [c, I]
    ends = near.indptr.tolist()
    found = []
    for low, high in itertools.pairwise(ends):
        order = np.argsort(-near.data[low:high], kind="stable")[:NEIGHBOURS]
        found.append(near.indices[low:high][order].astype(np.int32))
    return found


def _distinct(items: np.ndarray, banned: np.ndarray, size: int) -> np.ndarray:
    """The first ``size`` distinct of ``items`` that are not ``banned``.

    >>> _distinct(np.array([4, 2, 4, 7, 1, 9]), np.array([7]), 3).tolist()
    [4, 2, 1]
    """
    items = items[~np.isin(items, banned)]
    _, first = np.unique(items, return_index=True)
    return items[np.sort(first)[:size]]


def _by_lot(rng: np.random.Generator, count: int, left_out: np.ndarray, size: int) -> np.ndarray:
    """``size`` distinct items of ``count`` that are not ``left_out``, in the order of the lot."""
    few = 4 * (size + len(left_out))
    drawn = rng.permutation(count) if count <= few else rng.integers(count, size=few)
    return _distinct(drawn.astype(np.int32), left_out, size)


def rows_of(questions: Questions, rows: np.ndarray) -> Questions:
    """These rows of questions, under a hash of their own."""
    return replace(
        questions,
        bundle_ids=[questions.bundle_ids[row] for row in rows.tolist()],
        partial=[questions.partial[row] for row in rows.tolist()],
        options=questions.options[rows],
        truth=questions.truth[rows],
        sha256=f"{questions.sha256}/rows {rows.tolist()}",
    )
