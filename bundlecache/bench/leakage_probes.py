"""Leakage probes: rankers that answer by a shortcut, to show where scores can be reached without understanding bundles.

A probe ranks options by a property that should not help: how often an option occurs, the length of its title, the
position of its row or id, its similarity to the other options, or the positions of other truths. On valid questions
each of them is right as often as guessing. A probe whose interval lies above chance is named in the findings; the
intervals are widened for the number of probes (Bonferroni), so that all together give a false alarm once in twenty times.

Two more are controls. *Label shuffle*: the best method against permuted truths; it succeeds only if the scoring is
wrong. *Leaking graph*: co-occurrence that includes the held-out bundles and users, which shows how high a leak would
score; stored graph vectors that come close to it, or that cover items without a training edge, were trained on
held-out edges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

from ..baselines.rankers import ItemScoreRanker, Kind, Ranker, SparseFeatureRanker
from ..vector_math import unit_rows
from .bootstrap import bootstrap
from .metrics import hits
from .result_rows import ProbeResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..baselines.registry import Sources
    from ..catalogue.catalogue import Catalogue
    from ..questions.question_file import Questions
    from ..store.store import Matrix

LEAK = "leaking graph"
SHUFFLE = "label shuffle"
BLOCK = 16_384  # vectors per block
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Probe:
    """A ranker that should score at chance, and a description of it; ``suspects`` are methods that it may show to leak."""

    ranker: Ranker
    words: str
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuestionProbe:
    """Ranks the options of one question by a function of partial int32 [k] and options int32 [n]."""

    name: str
    score: Callable[[np.ndarray, np.ndarray], np.ndarray]
    kind: Kind = "probe"

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] the function's values."""
        return np.array([self.score(p, o) for p, o in zip(questions.partial, questions.options, strict=True)], float)


@dataclass(frozen=True)
class PositionProbe:
    """Ranks options by how often the truth has their position in the other half of the questions."""

    name: str = "position"
    kind: Kind = "probe"

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] counts; questions with an even index are answered from those with an odd index, and vice versa."""
        half = np.arange(len(questions)) % 2
        counts = np.stack([np.bincount(questions.truth[half != h], minlength=questions.n_options) for h in (0, 1)])
        return counts[half].astype(float)


def all_probes(sources: Sources) -> list[Probe]:
    """Every probe whose inputs exist."""
    return list(_all(sources))


def _all(sources: Sources) -> Iterator[Probe]:
    from ..baselines.graphs import lightgcn, popular

    catalogue = sources.catalogue
    if sources.graphs:
        seen = popular(sources)
        yield Probe(ItemScoreRanker("most popular", "probe", lambda: seen), "picking the most popular option")
        yield Probe(
            ItemScoreRanker("least popular", "probe", lambda: -seen),
            "picking the option least seen in training, or never",
        )
    length = np.asarray(pc.utf8_length(catalogue.titles.arrow), float)
    if length.any():
        yield Probe(ItemScoreRanker("longest title", "probe", lambda: length), "picking the longest title")
        yield Probe(ItemScoreRanker("shortest title", "probe", lambda: -length), "picking the shortest title")
    middle = partial(_alike, _content(sources))  # rows are read on demand
    yield Probe(QuestionProbe("medoid", lambda _, o: middle(o)), "picking the option most like the other options")
    yield Probe(
        QuestionProbe("odd one out", lambda _, o: -middle(o)), "picking the option least like the other options"
    )
    yield Probe(
        QuestionProbe("row order", partial(_nearest, np.arange(len(catalogue)))),
        "picking the option whose row in the catalogue's index is nearest to the partial bundle's",
    )
    yield Probe(
        QuestionProbe("id proximity", partial(_nearest, id_order(catalogue.item_ids))),
        "picking the option whose id is nearest to the partial bundle's",
    )
    yield Probe(PositionProbe(), "picking the position at which the truth stood most often in other questions")
    if (everything := _every_edge(catalogue)).nnz:
        suspects = tuple(ranker.name for ranker in sources.rankers(lightgcn))
        leaking = SparseFeatureRanker(LEAK, "probe", lambda: csr_array(everything.T))
        yield Probe(leaking, "a graph that holds the held-out edges", suspects)


def run(
    probes: Sequence[Probe], questions: Questions, scores: Sequence[np.ndarray], names: Sequence[str], *, seed: int = 0
) -> list[tuple[str, str, np.ndarray]]:
    """(name, words, hits [q]) of every probe, including label shuffle.

    ``scores`` are those of the methods ``names`` on these questions, each [q, n].
    """
    found = [(p.ranker.name, p.words, hits(p.ranker.scores(questions), questions.truth)) for p in probes]
    if len(scores):
        best = max(range(len(scores)), key=lambda m: hits(scores[m], questions.truth).mean())
        dealt = np.random.default_rng(seed).permutation(questions.truth)
        found.append((SHUFFLE, f"{names[best]} against shuffled answers", hits(scores[best], dealt)))
    return found


def row(name: str, words: str, right: np.ndarray, n_options: int, count: int, *, seed: int = 0) -> ProbeResult:
    """A probe's figures; ``right`` [q] hits, ``count`` how many probes are run together."""
    low, high = bootstrap(right, seed=seed, level=1 - 0.05 / count)
    return ProbeResult(name, words, float(right.mean()), (low, high), name != LEAK and low > 1 / n_options)


def graph_leaks(sources: Sources) -> list[str]:
    """One sentence per stored graph table that has vectors of items without a training edge."""
    reached = np.zeros(len(sources.catalogue), bool)
    for graph in sources.graphs.values():
        reached |= np.asarray(graph.sum(axis=0)).ravel() > 0
    out = []
    for matrix in sources.of(graph=True):
        strangers = np.flatnonzero(matrix.mask & ~reached)
        parts = (strangers[start : start + BLOCK] for start in range(0, len(strangers), BLOCK))
        if beyond := sum(int(np.any(matrix.vectors[part] != 0, axis=1).sum()) for part in parts):
            out.append(
                f"The graph vectors {matrix.spec} know {beyond:,} items that no training bundle and no training user holds: "
                "they were learned from held-out edges, and what they answer is a leak."
            )
    return out


def id_order(item_ids: Sequence[str]) -> np.ndarray:
    """[I] the rank of each id, numbers in it read as numbers.

    >>> id_order(["i10", "i9", "i100", "i", "i9b", "j1"]).tolist()
    [3, 1, 4, 0, 2, 5]
    """
    keys = pa.array((DIGITS.sub(_by_length, item_id) for item_id in item_ids), pa.string())
    rank = np.empty(len(keys), np.int64)
    rank[np.asarray(pc.array_sort_indices(keys))] = np.arange(len(keys))  # by bytes, which is by code points
    return rank


def _by_length(digits: re.Match[str]) -> str:
    """A key for sorting a number: a character before all others, how many digits it has, and the digits."""
    return f"\0{chr(len(digits[0]))}{digits[0]}"


def _nearest(place: np.ndarray, given: np.ndarray, options: np.ndarray) -> np.ndarray:
    if not len(given):
        return np.zeros(len(options))
    return -np.abs(place[options][:, None] - place[given][None]).min(axis=1).astype(float)


def _alike(units: Callable[[np.ndarray], np.ndarray | csr_array], options: np.ndarray) -> np.ndarray:
    """[n] the summed similarity of each option to the others, by the unit rows [n, d] of their items."""
    shown = units(options)
    product = shown @ shown.T
    likeness = product.toarray() if isinstance(product, csr_array) else np.asarray(product, np.float64)
    return np.round(likeness.sum(axis=1) - likeness.diagonal(), 6)


def _content(sources: Sources) -> Callable[[np.ndarray], np.ndarray | csr_array]:
    """Unit rows [n, d] of items, for the similarity of options: the first stored content modality, otherwise TF-IDF of titles."""
    from ..baselines.content import WORD, title_features

    for matrix in sources.of(graph=False):
        return partial(_units, matrix)
    if any(WORD.search(title) for title in sources.catalogue.titles):
        return lambda items: title_features(sources)[items]
    return lambda items: np.zeros((len(items), 1), np.float32)


def _units(matrix: Matrix, items: np.ndarray) -> np.ndarray:
    """float32 [n, d]; rows of zeros where there is no vector."""
    return unit_rows(np.where(matrix.mask[items, None], matrix.vectors[items], 0))


def _every_edge(catalogue: Catalogue) -> csr_array:
    """[baskets, I] of all bundles and all users, held out or not."""
    bundles, interactions = catalogue.bundles, catalogue.interactions
    row = np.concatenate([bundles.items.rows, len(bundles) + interactions.user]).astype(np.int64)
    column = np.concatenate([bundles.items.values, interactions.item]).astype(np.int64)
    shape = (len(bundles) + len(interactions.users), len(catalogue))
    return csr_array((np.ones(len(row), np.float32), (row, column)), shape=shape)
