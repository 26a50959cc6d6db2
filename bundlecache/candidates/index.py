"""A FAISS index over any mix of modalities: exact until exact stops being faster, then as near to it as asked.

An exact index (``flat``) is FAISS's `IndexFlatIP`, or a scan of the memory-mapped vectors where that does not
fit into the memory allowed. Beyond `ann.BREAK_EVEN` items an approximate structure of `ann` is built, and its
search looks further and further until recall@20 against an exact search is reached, on queries held out of
the catalogue; that recall is measured again on queries that had no part in it, and stands in ``report``. One that
is not faster than exact is dropped. What any structure returns is scored again in double precision, so that
equal items get equal scores and ties fall by the item's index on every machine.

An approximate index can be kept in a file (`save`), with a header that names the vectors and items it was built from;
`load` refuses it beside others. An exact one needs no file: it is the vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, QuestionsError
from ..files import replacing, write_text
from . import ann
from .ann import faiss_module
from .item_vectors import Keys, by_name, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..store.store import Matrix

__all__ = ["Index", "by_name", "faiss_module", "version_of"]

FORMAT_VERSION = 1
SLACK = 16  # asked for beyond k, so that a tie rarely needs a second search
TINY = 1e-6  # two scores in single precision that differ by less are taken as equal
TIE = 1e-5  # FAISS's single precision may order what lies closer than this either way
HELD_OUT = 256  # queries the effort is chosen on, and as many again on which recall is reported
BATCH = 1024  # queries searched at once


@dataclass(frozen=True)
class Index:
    """An index over ``keys.rows``, the c items that have at least one of the chosen modalities.

    ``structure`` is None where exact keys are scanned. ``effort`` and ``refine`` say how far an approximate one
    looks, see `ann`. ``report`` is for people and files: kind, metric, parameters, recall, speed.
    """

    keys: Keys
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
        zscore: bool = False,
        metric: str = "cosine",
        kind: str = "auto",
        memory: float | None = None,
        target: float = ann.TARGET,
        break_even: int | None = None,
        held_out: Sequence[np.ndarray] = (),
        seed: int = 0,
        device: str = "auto",
        progress: Callable[[int, int], None] | None = None,
    ) -> Index:
        """Index every item that has a vector of at least one modality.

        Parameters
        ----------
        matrices, weights, zscore, metric
            As in `Keys.of`.
        kind
            ``flat``, ``ivf``, ``hnsw``, ``pq``, or ``auto``: flat below ``break_even`` items (by default
            `ann.BREAK_EVEN`) or where it fits on a GPU, beyond it the first that fits into ``memory`` bytes (by default
            half of this machine's, and all that is free on the GPU), reaches ``target`` and is faster than flat.
        held_out
            Partial bundles (item indices) to measure recall with; single items where there are none.
        device
            Where FAISS computes: ``auto`` (a GPU if it has one), ``cpu``, ``cuda:1``. ``report`` says in one sentence,
            ``remark``, why something is not on the GPU.
        progress
            Called with the number of items added so far, and of all.

        Raises
        ------
        BundlecacheError
            As in `Keys.of` and `ann.plan`.
        """
        keys = Keys.of(matrices, weights=weights, zscore=zscore, metric=metric)
        gpu = ann.gpu_of(device)
        room = ann.gpu_room(gpu, memory)
        memory = _half_of_memory() if memory is None else memory
        break_even = ann.BREAK_EVEN if break_even is None else break_even
        kinds = ann.plan(kind, len(keys.rows), keys.width, memory=memory, room=room, break_even=break_even)
        trial = _Trial.draw(keys, held_out, seed) if kinds[0] != "flat" else None
        passed_over = []
        for name in kinds:
            began = time.perf_counter()
            structure, remark = _built(name, keys, memory, gpu, room, seed, progress)
            index = cls(keys, name, structure)
            if name == "flat" or trial is None:
                report = {"recall@20": 1.0, "queries": 0, "reached": True}
                break
            index, report = trial.tuned(index, target)
            if kind != "auto" or (report["reached"] and report["faster"] > 1):
                break
            passed_over.append({"kind": name, **report})
            structure, index = None, replace(index, structure=None)  # the next one needs the memory
        about = index._about() | {"asked": kind, "target": target, **report}
        about |= {"build_seconds": round(time.perf_counter() - began, 2), "passed_over": passed_over, "remark": remark}
        return replace(index, report=about)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of what is mixed."""
        return self.keys.names

    @property
    def rows(self) -> np.ndarray:
        """int32 [c] the items that are indexed."""
        return self.keys.rows

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
        """Queries of partial bundles, float32 [q, D]; see `Keys.query`."""
        return self.keys.query(partials)

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
            When ``k`` is below 1.
        """
        if k < 1:
            raise BundlecacheError(f"k is {k}; at least 1 candidate must be asked for.", hint="--k 20")
        items = np.full((len(query), k), -1, np.int32)
        scores = np.full((len(query), k), -np.inf, np.float32)
        query = np.ascontiguousarray(query, np.float32)
        banned: Sequence[np.ndarray] = exclude if exclude is not None else [np.zeros(0, np.int32)] * len(query)
        rows = self.rows if among is None else self.rows[among[self.rows]]
        pending = np.flatnonzero(query.any(axis=1))  # a query of nothing is near to nothing
        if not self.exact and among is None:
            pending = self._search_near(query, k, banned, pending, items, scores)
        ask = k + max((len(b) for b in banned), default=0) + SLACK
        while len(pending) and len(rows):
            ask = min(ask, len(rows))
            again = []
            for start in range(0, len(pending), BATCH):
                part = pending[start : start + BATCH]
                rough, found_items = self._scan(query[part], ask, rows)  # [<= BATCH, ask]
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
        ask = min((k + max((len(b) for b in banned), default=0)) * self.refine + SLACK, len(self.rows))
        indexed = np.zeros(len(self.keys), bool)
        indexed[self.rows] = True
        if ann.lives_on_gpu(self.structure):
            ask = min(ask, ann.GPU_MOST)
        for start in range(0, len(pending), BATCH):
            part = pending[start : start + BATCH]
            position = ann.search(self.structure, self.kind, query[part], ask, self.effort)  # [<= BATCH, ask]
            for q, near in zip(part.tolist(), position, strict=True):
                found, exact = self._rescore(query[q], self.rows[near[near >= 0]], banned[q])
                offered = len(self.rows) - int(indexed[np.unique(banned[q])].sum())
                if len(found) < min(k, offered):
                    left.append(q)
                    continue
                n = min(k, len(found))
                items[q, :n], scores[q, :n] = found[:n], exact[:n]
        return np.array(left, np.int64)

    def _scan(self, query: np.ndarray, ask: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact search of ``rows``: float32 scores and item indices [q, ask]."""
        too_many = ann.lives_on_gpu(self.structure) and ask > ann.GPU_MOST
        if self.exact and self.structure is not None and len(rows) == len(self.rows) and not too_many:
            rough, position = self.structure.search(query, ask)
            return rough, self.rows[position]
        rough, found, _ = ann.exact(self.keys.blocks(rows), query, ask)
        return rough, found

    def _rescore(self, query: np.ndarray, found: np.ndarray, banned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = found[~np.isin(found, banned)]
        exact = self.keys.scores(found, query)
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

        ``truth`` int [q]. All keys are looked at, also by an approximate index. Items as good as the truth (closer than
        single precision tells) count as before it when their index is smaller, as in `search`.
        """
        rows = self.rows if among is None else self.rows[among[self.rows]]
        able = np.zeros(len(self.keys), bool)
        able[rows] = True
        asked = np.flatnonzero(able[truth] & query.any(axis=1))
        out = np.zeros(len(query), np.int64)
        mine = np.array([self.keys.scores(truth[q : q + 1], query[q])[0] for q in asked], np.float32)[:, None]  # [a, 1]
        ahead = np.zeros(len(asked), np.int64)
        for items, block in self.keys.blocks(rows):
            for start in range(0, len(asked), 256):
                part = slice(start, start + 256)
                scores = query[asked[part]] @ block.T  # [<= 256, <= BLOCK]
                better = scores > mine[part] + TINY
                alike = (scores >= mine[part] - TINY) & (items < truth[asked[part], None])
                ahead[part] += (better | alike).sum(1)
        for a, q in enumerate(asked.tolist()):
            banned = np.unique(exclude[q])
            banned = banned[able[banned]]
            theirs = self.keys.scores(banned, query[q])
            ahead[a] -= ((theirs > mine[a] + TINY) | ((theirs >= mine[a] - TINY) & (banned < truth[q]))).sum()
        out[asked] = 1 + ahead
        return out

    def _about(self) -> dict[str, Any]:
        """What an index is, apart from how it was made."""
        scanned = self.exact and self.structure is None
        return {
            "kind": self.kind,
            "metric": self.keys.metric,
            "modalities": list(self.keys.names),
            "weights": self.keys.weights,
            "vectors": self.keys.versions,
            "items": len(self.keys),
            "indexed": len(self.rows),
            "dim": self.keys.width,
            "effort": self.effort,
            "refine": self.refine,
            "device": "gpu" if ann.lives_on_gpu(self.structure) else "cpu",
            "faiss": faiss_module().__version__,
            "size_bytes": 0 if scanned else ann.bytes_needed(self.kind, len(self.rows), self.keys.width),
        }

    def save(self, path: Path, item_ids: Sequence[str]) -> None:
        """Write ``path`` (FAISS's own format, none for a flat index) and its header beside it, which comes last."""
        header = path.with_suffix(".json")
        stored = 0
        if not self.exact:
            with replacing(path) as temporary:
                header.unlink(missing_ok=True)  # its presence means complete
                _write(self.structure, temporary)
            stored = path.stat().st_size
        about = {"format_version": FORMAT_VERSION, "ids": _ids_of(item_ids), "file_bytes": stored, **self.report}
        write_text(header, json.dumps(about, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(
        cls,
        path: Path,
        matrices: Mapping[str, Matrix] | Sequence[Matrix],
        item_ids: Sequence[str],
        *,
        weights: Mapping[str, float] | None = None,
        metric: str = "cosine",
        memory: float | None = None,
        device: str = "auto",
    ) -> Index:
        """An index from its file, over the very vectors and items that it was built from.

        A flat one that does not fit into ``memory`` bytes (by default half of this machine's) is scanned; ``device``
        as in `build`.

        Raises
        ------
        QuestionsError
            When the file is missing, damaged, or was built from other vectors, items or weights than these.
        """
        again = "add --rebuild to bundlecache candidates"
        try:
            header = json.loads(path.with_suffix(".json").read_text("utf-8"))
            known = header["format_version"] == FORMAT_VERSION and header["kind"] in ann.KINDS
            made_from, effort, refine = dict(header["vectors"]), int(header["effort"]), int(header["refine"])
        except FileNotFoundError as error:
            raise QuestionsError(f"There is no index {path}.", hint="bundlecache candidates") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise QuestionsError(
                f"{path.with_suffix('.json')} is damaged or no header of an index.", hint=again
            ) from error
        if not known:
            raise QuestionsError(f"{path} has another format than {FORMAT_VERSION}.", hint=again)
        at_hand = {name: version_of(matrix) for name, matrix in by_name(matrices).items()}
        for name, version in made_from.items():
            if (now := at_hand.get(name)) != version:
                is_now = f"now it is {now['table']}, version {now['version']}" if now else "now there is none"
                raise QuestionsError(
                    f"The index {path} was built from the {name} vectors {version['table']}, version {version['version']}; {is_now}.",
                    hint=again,
                )
        if header.get("ids") != _ids_of(item_ids):
            raise QuestionsError(
                f"The index {path} was built for another list of items than this catalogue's.", hint=again
            )
        keys = Keys.of(matrices, weights=weights, metric=metric)
        if (list(keys.names), keys.weights, keys.metric) != (header["modalities"], header["weights"], header["metric"]):
            raise QuestionsError(f"The index {path} was built with other weights or another metric.", hint=again)
        gpu = ann.gpu_of(device)
        room = ann.gpu_room(gpu, memory)
        memory = _half_of_memory() if memory is None else memory
        if header["kind"] == "flat":
            structure, remark = _built("flat", keys, memory, gpu, room)
            return cls(keys, "flat", structure)._reported(header, remark)
        try:
            if path.stat().st_size != header["file_bytes"]:
                raise RuntimeError("its size is not what the header says")
            structure = faiss_module().read_index(str(path))
            if structure.ntotal != len(keys.rows):
                raise RuntimeError("its number of vectors is not what the catalogue has")
        except (OSError, RuntimeError, MemoryError) as error:
            reason = str(error).splitlines()[0][:120]
            raise QuestionsError(f"The index {path} is damaged ({reason}).", hint=again) from error
        index = cls(keys, header["kind"], structure, effort, refine)
        if gpu is None:
            return index._reported(header, "")
        why = ann.why_no_gpu(index.kind, len(keys.rows), keys.width, room)
        if effort > ann.GPU_MOST and not why:
            why = f"it looks into {effort:,} cells, a GPU into {ann.GPU_MOST:,} at most"
        if not why:
            try:
                return replace(index, structure=ann.to_gpu(structure, gpu))._reported(header, "")
            except RuntimeError as error:
                why = _of_faiss(error)
        return index._reported(header, _on_the_cpu(index.kind, why))

    def _reported(self, header: Mapping[str, Any], remark: str) -> Index:
        """With the report of the index that was kept, and where it stands now."""
        now = self._about()
        return replace(
            self, report={**header, "device": now["device"], "size_bytes": now["size_bytes"], "remark": remark}
        )


@dataclass(frozen=True)
class _Trial:
    """Two sets of queries with their exact answers: one to choose the effort on, one to report recall on."""

    query: np.ndarray  # float32 [q, D]
    members: list[np.ndarray]  # what a query was made of: it may not find itself
    worst: np.ndarray  # float32 [q] the score of the 20th in truth
    exact_seconds: float  # of one query

    @classmethod
    def draw(cls, keys: Keys, held_out: Sequence[np.ndarray], seed: int) -> _Trial:
        rng = np.random.default_rng([seed, 20])
        if len(held_out) >= HELD_OUT // 2:
            picks = rng.permutation(len(held_out))[: 2 * HELD_OUT]
            drawn = cls._of(keys, [np.asarray(held_out[p]) for p in picks])
            if len(drawn.query) >= HELD_OUT // 2:
                return drawn
        return cls._of(keys, list(rng.permutation(keys.rows)[: 2 * HELD_OUT, None]))

    @classmethod
    def _of(cls, keys: Keys, members: list[np.ndarray]) -> _Trial:
        """Queries of these partial bundles; those without a vector, or with less than 20 other items, are left out."""
        query = keys.query(members)
        ask = ann.DEPTH + max(map(len, members))
        scores, found, seconds = ann.exact(keys.blocks(), query, ask)
        others = [row[~np.isin(near, own)] for row, near, own in zip(scores, found, members, strict=True)]
        fit = [q for q in np.flatnonzero(query.any(1)).tolist() if len(others[q]) >= ann.DEPTH]
        worst = np.array([others[q][ann.DEPTH - 1] for q in fit], np.float32)
        return cls(query[fit], [members[q] for q in fit], worst, seconds / len(query))

    def tuned(self, index: Index, target: float) -> tuple[Index, dict[str, Any]]:
        """The index with the least effort that reaches ``target``, and what was measured."""
        half = len(self.query) // 2
        choosing, reporting = slice(0, half), slice(half, None)

        def cautious(effort: int, refine: int) -> float:
            """Recall, less its standard error: the other half of the queries shall reach the target too."""
            each, _ = self._recall(replace(index, effort=effort, refine=refine), choosing)
            return float(each.mean() - each.std() / np.sqrt(len(each)))

        ladder = ann.efforts(index.kind, len(index.rows), gpu=ann.lives_on_gpu(index.structure))
        least, refine = ann.tune(cautious, index.kind, ladder, target)
        for effort in [step for step in ladder if step >= least]:
            index = replace(index, effort=effort, refine=refine)
            each, seconds = self._recall(index, reporting)
            if each.mean() >= target:
                break
        return index, {
            "recall@20": round(float(each.mean()), 4),
            "queries": len(each),
            "reached": bool(each.mean() >= target),
            "faster": round(self.exact_seconds * len(each) / seconds, 2),
        }

    def _recall(self, index: Index, part: slice) -> tuple[np.ndarray, float]:
        """float64 [q] share of the 20 found that are as near as the exact 20, and the seconds of all searches."""
        query, members = self.query[part], self.members[part]
        items = np.full((len(query), ann.DEPTH), -1, np.int32)
        scores = np.full(items.shape, -np.inf, np.float32)
        began = time.perf_counter()
        # What it finds too few for counts as missed here: the exact search that `search` turns to is not its merit.
        index._search_near(query, ann.DEPTH, members, np.arange(len(query)), items, scores)
        seconds = time.perf_counter() - began
        return (scores >= self.worst[part, None] - TINY).mean(1), seconds


def _write(structure: Any, path: Path) -> None:
    try:
        faiss_module().write_index(ann.off_gpu(structure), str(path))
    except (
        RuntimeError
    ) as error:  # FAISS's word for a disk that refuses: "... write error in FILE: 3 != 8 (No space left)"
        reason = re.search(r"\(([^()]+)\)\s*$", str(error))
        raise OSError(reason[1] if reason else str(error)) from error


def _built(
    kind: str,
    keys: Keys,
    memory: float,
    gpu: int | None,
    room: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, str]:
    """A structure where it fits, on the GPU or off it, None for a flat one that fits nowhere; why not on the GPU."""
    remark = ""
    if gpu is not None:
        why = ann.why_no_gpu(kind, len(keys.rows), keys.width, room)
        if not why:
            try:
                return ann.build(kind, keys, seed=seed, gpu=gpu, progress=progress), ""
            except RuntimeError as error:  # somebody else took the memory meanwhile
                why = _of_faiss(error)
        remark = _on_the_cpu(kind, why)
    if kind == "flat" and ann.bytes_needed(kind, len(keys.rows), keys.width) > memory:
        return None, remark
    return ann.build(kind, keys, seed=seed, progress=progress), remark


def _on_the_cpu(kind: str, why: str) -> str:
    return f"The index {kind} is searched on the CPU: {why}."


def _of_faiss(error: RuntimeError) -> str:
    """What FAISS says of a GPU, without its own file names."""
    return "FAISS says " + str(error).strip().splitlines()[-1].rpartition("failed: ")[2][:120].rstrip(".")


def _ids_of(item_ids: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(item_ids).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _half_of_memory() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    except (AttributeError, ValueError, OSError):
        return 8e9
