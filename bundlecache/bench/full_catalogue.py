"""Full-catalogue ranking: every held-out item among all items of the catalogue, less the partial bundle.

A choice among ten options says which method reads a bundle best; it does not say which one would find the item in
a shop. Here nothing is drawn: the same held-out items that the frozen questions ask about are ranked among
everything, by any `Ranker`, in pieces that fit into memory. A language model answers by letters, so it does not rank
a catalogue: it reranks the first few of a ranker that does (`FirstFew`).

With one right item per question Recall@k is the share of questions whose item stands among the first k. Ties
count by the average over their places; intervals are 95 % bootstraps over bundles. The results are those of `full_results`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..baselines.personal import PersonalRanker
from ..questions.question_file import Questions, assemble
from .bootstrap import intervals
from .full_results import DEPTHS, FIGURES, MAIN, FullCatalogueResult, FullMethodResult, HeldOutInfo
from .held_out_items import MAX_SCORES, HeldOut
from .metrics import Places
from .proposals import rows_of
from .result_rows import Difference

if TYPE_CHECKING:
    from ..baselines.rankers import Kind, Ranker
    from ..catalogue.catalogue import Catalogue
    from .fitting_costs import FittingCosts
    from .proposals import Proposals
    from .slices import Slicer

FEW = 10  # items that a model reranks


@dataclass(frozen=True)
class FirstFew:
    """A model, or a model and a ranker together, puts the ``few`` best items of a ranker into another order.

    What it is shown follows from ``first`` alone; where items tie at the edge, those that stand first in the catalogue
    are shown, which is by lot. An item that is not shown keeps its place. With ``adds`` the scores of both are added up: ``first``
    has compared its few with the whole catalogue, which ``second`` does not see.
    """

    first: Ranker
    second: Ranker
    catalogue: Catalogue
    few: int = FEW
    adds: bool = False

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.second.name}, first {self.few}"

    @property
    def kind(self) -> Kind:
        """That of the model."""
        return self.second.kind

    def places(self, asked: Questions, scores: np.ndarray) -> Places:
        """Where the truths stand after reranking; ``scores`` [q, n] are those of ``first``."""
        few = min(self.few, scores.shape[1])
        shown = np.argsort(-scores, axis=1, kind="stable")[:, :few]  # [q, few]
        there = shown == asked.truth[:, None]
        inside = there.any(axis=1)
        before = Places.of(scores, asked.truth)
        better = np.maximum(before.better, few)  # of those left out: places of a tie that were not shown
        level = before.better + before.level - better
        options = np.take_along_axis(asked.options, shown, axis=1)
        header = {"name": f"first{few}", "split": asked.split, "negatives": self.first.name, "seed": 0}
        again = assemble(self.catalogue, asked.bundle_ids, asked.partial, options, there.argmax(axis=1), header)
        known = np.take_along_axis(scores, shown, axis=1) if self.adds else 0.0
        after = Places.of(self.second.scores(again) + known, again.truth)
        return Places(np.where(inside, after.better, better), np.where(inside, after.level, np.maximum(level, 1)))


def rank(
    rankers: Sequence[Ranker],
    held: HeldOut,
    n_items: int,
    reranked: Sequence[FirstFew] = (),
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
    proposals: Proposals | None = None,
) -> dict[str, tuple[Places, float]]:
    """Name -> the truths' places [q] and the seconds it took, fitting included; of ``reranked`` the second look alone.

    Every item is ranked, or of a large catalogue those that ``proposals`` hold.
    """
    places = {method.name: Places(np.zeros(len(held), np.int64), np.ones(len(held), np.int64)) for method in rankers}
    places |= {method.name: Places(np.zeros(len(held), np.int64), np.ones(len(held), np.int64)) for method in reranked}
    seconds = dict.fromkeys(places, 0.0)
    done, total = 0, len(held) * len(rankers)
    chunks = held.chunks(n_items) if proposals is None else proposals.chunks(held, MAX_SCORES)
    banned = np.array([len(items) for items in held.banned])
    for rows, asked in chunks:
        shown = asked.n_options if proposals is None else proposals.items.shape[1]
        beyond = n_items - banned[rows] - shown  # [c] items that are neither proposed nor excluded
        for ranker in rankers:
            start = time.perf_counter()
            scores = ranker.scores(asked)
            seconds[ranker.name] += time.perf_counter() - start
            others = _others(asked, scores, shown, beyond)
            _put(places[ranker.name], rows, _places(asked, scores, shown, beyond, others, _by_scores))
            for method in reranked:
                if method.first is ranker:
                    start = time.perf_counter()
                    found = _places(asked, scores, shown, beyond, others, method.places)
                    seconds[method.name] += time.perf_counter() - start
                    _put(places[method.name], rows, found)
            done += len(rows)
            progress(done, total, ranker.name)
    return {name: (places[name], seconds[name]) for name in places}


def run(
    rankers: Sequence[Ranker],
    held: HeldOut,
    slicer: Slicer,
    reranked: Sequence[FirstFew] = (),
    *,
    trained_on: int = 0,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
    proposals: Proposals | None = None,
    recall: Mapping[str, float] | None = None,
    costs: FittingCosts | None = None,
    seed: int = 0,
) -> FullCatalogueResult:
    """Rank every held-out item among the whole catalogue by every method.

    Parameters
    ----------
    trained_on
        How many questions were left out of ``held``, see `bundlecache.bench.exclude_seen`.
    progress
        Told how many rankings are done, of how many, and who ranked.
    proposals, recall
        The items that are ranked where the catalogue is too large to be ranked whole; by method, the share of its first
        20 of the whole catalogue that they hold (`Proposals.recall`).
    costs
        Seconds that were spent on fitting before.
    """
    catalogue = slicer.catalogue
    found = rank(rankers, held, len(catalogue), reranked, progress, proposals)
    fitted = {each.name: costs.of(each) for each in rankers} if costs is not None else {}
    kinds = {method.name: method.kind for method in rankers} | {method.name: method.kind for method in reranked}
    under = {each.name: (each.on_top_of, MAIN) for each in rankers if isinstance(each, PersonalRanker)}
    under |= {each.name: (each.first.name, "recall@1") for each in reranked}
    few = {each.name: each.few for each in reranked}
    values = {name: figures(places) for name, (places, _) in found.items()}
    unit = held.unit
    rows = []
    for name, (_, seconds) in found.items():
        sums = np.stack([np.bincount(unit, weights=values[name][figure]) for figure in FIGURES], axis=1)
        ranges = intervals(sums, np.bincount(unit), seed=seed).tolist()  # [figures][2]
        on_top_of, (below, figure) = None, under.get(name, ("", ""))
        if below in found:
            gain = values[name][figure] - values[below][figure]  # [q]
            ((low, high),) = intervals(np.bincount(unit, weights=gain)[:, None], np.bincount(unit), seed=seed).tolist()
            on_top_of = Difference(float(gain.mean()), (low, high), name=below)
        rows.append(
            FullMethodResult(
                name=name,
                kind=kinds[name],
                n=len(held),
                figures={figure: float(values[name][figure].mean()) for figure in FIGURES},
                intervals={figure: (low, high) for figure, (low, high) in zip(FIGURES, ranges, strict=True)},
                seconds=round(seconds + fitted.get(name, 0.0), 4),
                proposed=None if recall is None else recall.get(name),
                first=few.get(name),
                on_top_of=on_top_of,
            )
        )
    rows.sort(key=lambda row: -row.value)
    labels, names = slicer.labels(held.truth, held.length)
    info = HeldOutInfo(
        sets=held.sets,
        sha256=held.sha256,
        n_questions=len(held),
        n_bundles=len(set(held.bundle_ids)),
        n_items=len(catalogue),
        split=held.split,
        cold=float((labels["cold"] == names["cold"].index("cold")).mean()),
        history=max(map(len, held.history), default=0),
        with_history=sum(len(history) > 0 for history in held.history),
        trained_on=trained_on,
        samples=held.samples,
        proposals=None if proposals is None else proposals.info(held),
    )
    slices = slicer.slices(held.truth, held.length, values, main=MAIN, unit=unit, seed=seed)
    return FullCatalogueResult(info, rows, slices)


def figures(places: Places) -> dict[str, np.ndarray]:
    """Every figure of every question, [q] each.

    Second of the catalogue: no hit at 1, a hit at 5 and beyond, NDCG 1 / log2(3), reciprocal rank 1 / 2.

    >>> one = figures(Places(np.array([1]), np.array([1])))
    >>> [round(float(one[name][0]), 3) for name in ("recall@1", "recall@5", "ndcg@20", "mrr")]
    [0.0, 1.0, 0.631, 0.5]
    """
    made = {f"recall@{k}": places.within(k) for k in DEPTHS} | {f"ndcg@{k}": places.ndcg(k) for k in DEPTHS}
    return made | {"mrr": places.reciprocal()}


def _others(asked: Questions, scores: np.ndarray, shown: int, beyond: np.ndarray) -> Places:
    """How many of the ``beyond`` [c] items stand before the truth and level with it, by the options after the first ``shown``."""
    drawn = scores[:, shown:]
    own = np.take_along_axis(scores, np.maximum(asked.truth, 0)[:, None], axis=1)
    each = beyond / max(drawn.shape[1], 1)  # [c] items that one of those drawn stands for
    before, level = (drawn > own).sum(axis=1), (drawn == own).sum(axis=1)
    return Places(np.rint(before * each).astype(np.int64), np.rint(level * each).astype(np.int64))


def _places(
    asked: Questions,
    scores: np.ndarray,
    shown: int,
    beyond: np.ndarray,
    others: Places,
    ranked: Callable[[Questions, np.ndarray], Places],
) -> Places:
    """The truths' places [c]: by ``ranked`` among the first ``shown`` options, and among all ``others`` as estimated.

    A truth that is no option (-1) stands behind those shown, level with the ``beyond`` [c] items. A model puts the first
    few of those shown into another order, so that nothing else comes before a truth among them.
    """
    at = np.flatnonzero(asked.truth >= 0)
    better, level = np.full(len(asked), shown), np.maximum(beyond, 1)
    if len(at):
        part = rows_of(asked, at) if len(at) < len(asked) else asked
        found = ranked(replace(part, options=part.options[:, :shown]), scores[at, :shown])
        behind = ranked is _by_scores or found.better >= FEW
        better[at] = found.better + np.where(behind, others.better[at], 0)
        level[at] = found.level + np.where(behind, others.level[at], 0)
    return Places(better, level)


def _by_scores(asked: Questions, scores: np.ndarray) -> Places:
    return Places.of(scores, asked.truth)


def _put(places: Places, rows: np.ndarray, found: Places) -> None:
    places.better[rows], places.level[rows] = found.better, found.level
