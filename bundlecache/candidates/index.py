"""A FAISS index over any mix of modalities: exact while that is faster, otherwise approximate with a required recall.

An exact index (``flat``) is FAISS's `IndexFlatIP`, or a scan of the memory-mapped vectors where that does not fit into
the memory allowed. Beyond `ann.MIN_INDEXED_ITEMS` items an approximate structure of `ann` is built, and its search is
widened until recall@20 against an exact search is reached, on queries held out of the catalogue (`recall`).
A structure that is not faster than exact is dropped. What any structure returns is scored again in double precision, so
that equal items get equal scores and ties are broken by the item's index on every machine.

`index_file` keeps an index in a file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError
from ..limits import MAX_K
from . import ann
from .ann import faiss_module
from .index_placement import build_structure, half_of_memory
from .item_vectors import ItemVectors
from .lance_index import MIN_ITEMS
from .recall import TOLERANCE, RecallTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..store.store import Matrix
    from .lance_index import LanceTables

EXTRA_RESULTS = 16  # asked for beyond k, so that a tie rarely needs a second search
TIE = 1e-5  # FAISS's single precision may order what lies closer than this either way
BATCH_QUERIES = 1024  # queries searched at once


@dataclass(frozen=True)
class Index:
    """An index over ``vectors.rows``, the c items that have at least one of the chosen modalities.

    ``structure`` is None where the vectors themselves are scanned. ``effort`` and ``refine`` say how far an approximate one
    looks, see `ann`. ``report`` is for people and files: kind, metric, parameters, recall, speed.
    """

    vectors: ItemVectors
    kind: str
    structure: Any
    effort: int = 0
    refine: int = 1
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        matrices: Mapping[str, Matrix] | Sequence[Matrix],
        *,
        weights: Mapping[str, float] | None = None,
        metric: str = "cosine",
        kind: str = "auto",
        memory: float | None = None,
        target: float = ann.TARGET_RECALL,
        break_even: int | None = None,
        held_out: Sequence[np.ndarray] = (),
        seed: int = 0,
        device: str = "auto",
        progress: Callable[[int, int], None] | None = None,
        folder: Path | None = None,
        tables: LanceTables | None = None,
        rebuild: bool = False,
    ) -> Index:
        """Index every item that has a vector of at least one modality.

        Parameters
        ----------
        matrices, weights, metric
            As in `ItemVectors.of`.
        kind
            ``flat``, ``ivf``, ``hnsw``, ``pq``, ``disk``, or ``auto``: flat below ``break_even`` items (by default
            `ann.MIN_INDEXED_ITEMS`) or where it fits on a GPU, beyond it the first that fits into ``memory`` bytes (by default
            half of this machine's, and all that is free on the GPU), reaches ``target`` and is faster than flat.
        held_out
            Partial bundles (item indices) to measure recall with; single items where there are none.
        device
            Where FAISS computes: ``auto`` (a GPU if it has one), ``cpu``, ``cuda:1``. ``report`` says in one sentence,
            ``remark``, why something is not on the GPU.
        progress
            Called with the number of items added so far, and of all.
        folder
            Where an index of the kind ``disk`` is built; a temporary folder of the system if left out.
        tables, rebuild
            The tables of the vectors: LanceDB's index over them instead of FAISS's; make that index anew.

        Raises
        ------
        BundlecacheError
            As in `ItemVectors.of` and `ann.plan`.
        """
        vectors = ItemVectors.of(matrices, weights=weights, metric=metric)
        gpu = ann.gpu_of(device)
        room = ann.gpu_room(gpu, memory)
        memory = half_of_memory() if memory is None else memory
        break_even = ann.MIN_INDEXED_ITEMS if break_even is None else break_even
        count = len(vectors.rows)
        if tables is not None:
            kinds = [ann.LANCE if count >= MIN_ITEMS else "flat"]
        else:
            kinds = ann.plan(kind, count, vectors.width, memory=memory, room=room, break_even=break_even)
        trial = RecallTrial.draw(vectors, held_out, seed) if kinds[0] != "flat" else None
        passed_over = []
        for name in kinds:
            began = time.perf_counter()
            structure, remark = build_structure(
                name, vectors, memory, gpu, room, seed, progress, folder=folder, tables=tables, rebuild=rebuild
            )
            index = cls(vectors, name, structure)
            if name == "flat" or trial is None:
                if tables is not None:
                    remark = f"LanceDB's index learns from {MIN_ITEMS:,} items or more; of {count:,}, all are searched."
                report = {"recall@20": 1.0, "queries": 0, "reached": True}
                break
            efforts = ann.efforts(name, len(vectors.rows), gpu=ann.lives_on_gpu(structure))
            tuned = trial.tuned(index._found_scores, name, efforts, target)
            index, report = replace(index, effort=tuned.effort, refine=tuned.refine), tuned.report
            if kind != "auto" or tables is not None or (report["reached"] and report["faster"] > 1):
                break
            passed_over.append({"kind": name, **report})
            structure, index = None, replace(index, structure=None)  # the next one needs the memory
        about = index.about() | {"asked": kind, "target": target, **report}
        about |= {"build_seconds": round(time.perf_counter() - began, 2), "passed_over": passed_over, "remark": remark}
        return replace(index, report=about)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of what is mixed."""
        return self.vectors.names

    @property
    def rows(self) -> np.ndarray:
        """int32 [c] the items that are indexed."""
        return self.vectors.rows

    @property
    def exact(self) -> bool:
        """Whether nothing nearer can be missed."""
        return self.kind == "flat"

    @property
    def words(self) -> str:
        """What kind it is and how good, for people."""
        if self.exact:
            dropped = ", ".join(
                f"{row['kind']} with recall@20 {row['recall@20']:.3f}" for row in self.report["passed_over"]
            )
            return "flat, exact" + (f" (no faster at that recall: {dropped})" if dropped else "")
        report = self.report
        return (
            f"{self.kind}, recall@20 {report['recall@20']:.3f} of exact on {report['queries']} held-out queries, "
            f"{report['faster']:.2g}x its speed" + (" on the CPU" if report["device"] == "gpu" else "")
        )

    def query(self, partials: Sequence[np.ndarray]) -> np.ndarray:
        """Queries of partial bundles, float32 [q, D]; see `ItemVectors.query`."""
        return self.vectors.query(partials)

    def search(
        self,
        query: np.ndarray,
        k: int,
        exclude: Sequence[np.ndarray] | None = None,
        among: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of every query, ties by item index.

        Parameters
        ----------
        query
            float32 [q, D], from `query`.
        exclude
            For every query the item indices that may not be returned.
        among
            bool [I], the items that may be returned: these are searched exactly, whatever the index.

        Returns
        -------
        items, scores
            int32 [q, k], -1 where the catalogue has no more; float32 [q, k], -inf there.

        Raises
        ------
        BundlecacheError
            When ``k`` is below 1 or above `MAX_K`.
        """
        check_k(k)
        items = np.full((len(query), k), -1, np.int32)
        scores = np.full((len(query), k), -np.inf, np.float32)
        query = np.ascontiguousarray(query, np.float32)
        banned: Sequence[np.ndarray] = exclude if exclude is not None else [np.zeros(0, np.int32)] * len(query)
        rows = self.rows if among is None else self.rows[among[self.rows]]
        pending = np.flatnonzero(query.any(axis=1))  # a query of nothing is near to nothing
        if not self.exact and among is None:
            pending = self._search_near(query, k, banned, pending, items, scores)
        ask = k + max((len(b) for b in banned), default=0) + EXTRA_RESULTS
        while len(pending) and len(rows):
            ask = min(ask, len(rows))
            again = []
            for start in range(0, len(pending), BATCH_QUERIES):
                part = pending[start : start + BATCH_QUERIES]
                rough, found_items = self._scan(query[part], ask, rows)  # [<= BATCH_QUERIES, ask]
                for q, near, last in zip(part.tolist(), found_items, rough[:, -1], strict=True):
                    found, exact = self._rescore(query[q], near, banned[q])
                    enough = ask == len(rows) or (len(found) >= k and exact[k - 1] > last + TIE)
                    if not enough:  # a tie may go on behind the last one that FAISS gave
                        again.append(q)
                        continue
                    n = min(k, len(found))
                    items[q, :n], scores[q, :n] = found[:n], exact[:n]
            pending = np.array(again, np.int64)
            ask *= 4
        return items, scores

    def _search_near(
        self,
        query: np.ndarray,
        k: int,
        banned: Sequence[np.ndarray],
        pending: np.ndarray,
        items: np.ndarray,
        scores: np.ndarray,
    ) -> np.ndarray:
        """Fill in what the approximate structure finds; the queries it found fewer than k for are left over."""
        left = []
        ask = min((k + max((len(b) for b in banned), default=0)) * self.refine + EXTRA_RESULTS, len(self.rows))
        indexed = np.zeros(len(self.vectors), bool)
        indexed[self.rows] = True
        if ann.lives_on_gpu(self.structure):
            ask = min(ask, ann.GPU_MAX_RESULTS)
        for start in range(0, len(pending), BATCH_QUERIES):
            part = pending[start : start + BATCH_QUERIES]
            position = ann.search(self.structure, self.kind, query[part], ask, self.effort)  # [<= BATCH_QUERIES, ask]
            for q, near in zip(part.tolist(), position, strict=True):
                found, exact = self._rescore(query[q], self.rows[near[near >= 0]], banned[q])
                offered = len(self.rows) - int(indexed[np.unique(banned[q])].sum())
                if len(found) < min(k, offered):
                    left.append(q)
                    continue
                n = min(k, len(found))
                items[q, :n], scores[q, :n] = found[:n], exact[:n]
        return np.array(left, np.int64)

    def _found_scores(self, query: np.ndarray, members: Sequence[np.ndarray], effort: int, refine: int) -> np.ndarray:
        """float32 [q, 20] the scores of what the approximate structure finds beside the members, -inf where too few.

        Too few count as missed here: the exact search that `search` turns to is not the structure's merit.
        """
        items = np.full((len(query), ann.RECALL_DEPTH), -1, np.int32)
        scores = np.full(items.shape, -np.inf, np.float32)
        index = replace(self, effort=effort, refine=refine)
        index._search_near(query, ann.RECALL_DEPTH, members, np.arange(len(query)), items, scores)
        return scores

    def _scan(self, query: np.ndarray, ask: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact search of ``rows``: float32 scores and item indices [q, ask]."""
        too_many = ann.lives_on_gpu(self.structure) and ask > ann.GPU_MAX_RESULTS
        if self.exact and self.structure is not None and len(rows) == len(self.rows) and not too_many:
            rough, position = self.structure.search(query, ask)
            return rough, self.rows[position]
        rough, found, _ = ann.exact(self.vectors.blocks(rows), query, ask)
        return rough, found

    def _rescore(self, query: np.ndarray, found: np.ndarray, banned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = found[~np.isin(found, banned)]
        exact = self.vectors.scores(found, query)
        order = np.lexsort((found, -exact))
        return found[order], exact[order]

    def ranks(
        self,
        query: np.ndarray,
        truth: np.ndarray,
        exclude: Sequence[np.ndarray],
        among: np.ndarray | None = None,
    ) -> np.ndarray:
        """int64 [q] the truth's place among all items (1 is best), 0 where it has no vector or is not ``among`` them.

        ``truth`` int [q]. All vectors are looked at, also by an approximate index. Items as good as the truth (closer than
        single precision tells) count as before it when their index is smaller, as in `search`.
        """
        rows = self.rows if among is None else self.rows[among[self.rows]]
        able = np.zeros(len(self.vectors), bool)
        able[rows] = True
        asked = np.flatnonzero(able[truth] & query.any(axis=1))
        out = np.zeros(len(query), np.int64)
        mine = np.array([self.vectors.scores(truth[q : q + 1], query[q])[0] for q in asked], np.float32)[
            :, None
        ]  # [a, 1]
        ahead = np.zeros(len(asked), np.int64)
        for items, block in self.vectors.blocks(rows):
            for start in range(0, len(asked), 256):
                part = slice(start, start + 256)
                scores = query[asked[part]] @ block.T  # [<= 256, <= BLOCK]
                better = scores > mine[part] + TOLERANCE
                alike = (scores >= mine[part] - TOLERANCE) & (items < truth[asked[part], None])
                ahead[part] += (better | alike).sum(1)
        for a, q in enumerate(asked.tolist()):
            banned = np.unique(exclude[q])
            banned = banned[able[banned]]
            theirs = self.vectors.scores(banned, query[q])
            ahead[a] -= ((theirs > mine[a] + TOLERANCE) | ((theirs >= mine[a] - TOLERANCE) & (banned < truth[q]))).sum()
        out[asked] = 1 + ahead
        return out

    def about(self) -> dict[str, Any]:
        """What an index is, apart from how it was made."""
        scanned = self.exact and self.structure is None
        return {
            "kind": self.kind,
            "metric": self.vectors.metric,
            "modalities": list(self.vectors.names),
            "weights": self.vectors.weights,
            "vectors": self.vectors.versions,
            "items": len(self.vectors),
            "indexed": len(self.rows),
            "dim": self.vectors.width,
            "effort": self.effort,
            "refine": self.refine,
            "device": "gpu" if ann.lives_on_gpu(self.structure) else "cpu",
            "faiss": faiss_module().__version__,
            "size_bytes": 0 if scanned else ann.bytes_needed(self.kind, len(self.rows), self.vectors.width),
        }


def check_k(k: int) -> None:
    """Refuse a number of candidates that no list can have.

    Raises
    ------
    BundlecacheError
        When ``k`` is below 1 or above `MAX_K`.
    """
    if not 1 <= k <= MAX_K:
        given = f"{k:,}" if abs(k) < 10**30 else "a number of more than 30 digits"
        raise BundlecacheError(f"k is {given}; 1 to {MAX_K:,} candidates can be asked for.", hint="--k 20")
