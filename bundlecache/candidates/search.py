"""Candidates: which items of the whole catalogue complete a partial bundle.

``candidates/MODALITIES-kN.parquet`` holds one row per bundle: bundle_id, partial list<string>, truth,
candidates list<string>, scores list<float>, rank: the truth's place among all items that may be offered (1 is best),
0 when it has no vector or a filter took it away, -1 when an approximate search did not meet it among the first 100.
Members of the partial bundle are never offered, nor are copies of the truth (the same title, or the same content in
every picture, sound and text searched by): who finds a copy has found nothing wrong. The header counts them, and
names the vectors that the file was made from; it is refused beside others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogue.filters import matching_items
from ..catalogue.splits import hold_out
from ..errors import QuestionsError
from ..files import replacing
from ..store.vectors import checksum
from . import ann
from .index import Index
from .item_vectors import by_name, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ..catalogue.model import Catalogue
    from ..store.store import Matrix
    from ..workspace import WorkspaceFolder

__all__ = ["Candidates", "Index", "complete", "for_bundles", "index_path", "load", "open_index", "path", "recall"]

FORMAT_VERSION = 1
DEPTHS = (1, 5, 10, 20, 50, 100)
SCHEMA = pa.schema(
    {
        "bundle_id": pa.string(),
        "partial": pa.list_(pa.string()),
        "truth": pa.string(),
        "candidates": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "rank": pa.int64(),
    }
)


@dataclass(frozen=True)
class Candidates:
    """The k items nearest to each bundle of a split, one of its members held out; ``header`` says how."""

    table: pa.Table
    header: dict[str, Any]

    def save(self, workspace: WorkspaceFolder) -> Path:
        """Write the file, whole or not at all; gives its path."""
        target = path(
            workspace,
            self.header["modalities"],
            self.header["k"],
            self.header["split"],
            self.header["where"],
            self.header["weights"],
            self.header["metric"],
        )
        meta = {"bundlecache": json.dumps(self.header, sort_keys=True)}
        with replacing(target) as temporary:
            pq.write_table(self.table.replace_schema_metadata(meta), temporary)
        return target

    def summary(self) -> dict[str, Any]:
        """What to print: the set-up, and Recall and MRR over the whole catalogue."""
        keys = ("modalities", "split", "k", "items", "indexed", "copies_excluded")
        return {**{key: self.header[key] for key in keys}, **self.header["metrics"]}


def complete(
    catalogue: Catalogue, matrices: Mapping[str, Matrix] | Sequence[Matrix], partial: np.ndarray, k: int = 10
) -> np.ndarray:
    """The k items nearest to a partial bundle (item indices): int32 [<= k], best first, its members left out.

    One search of everything, exact: nothing is built for it.

    Raises
    ------
    QuestionsError
        When ``partial`` is empty, none of its items has a vector of these modalities, or no other item has.
    """
    if not len(partial):
        raise QuestionsError(
            "No item was given; a bundle starts with at least one.", hint="bundlecache complete ITEM..."
        )
    index = Index.build(matrices, kind="flat", memory=0)
    query = index.query([partial])
    if not query.any():
        given = ", ".join(catalogue.item_ids[i] for i in partial)
        raise QuestionsError(
            f"None of {given} has a vector of {' or '.join(index.modalities)}.",
            hint="bundlecache encode --modality all, which stores what is new",
        )
    items, _ = index.search(query, k, [partial])
    found = items[0][items[0] >= 0]
    if not len(found):
        raise QuestionsError(
            f"No item is left to complete it with: the bundle holds all {len(index.rows):,} that have a vector.",
            hint="give fewer items",
        )
    return found


def for_bundles(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix] | Sequence[Matrix] | Index,
    k: int = 20,
    split: str = "test",
    *,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    where: Sequence[str] = (),
) -> Candidates:
    """The k best items of the whole catalogue for every bundle of a split, one member held out.

    The held-out item is the one that `questions.freeze` asks about with the same seed.

    Parameters
    ----------
    matrices
        Vectors to search by, or an index that is built already (see `open_index`).
    where
        Conditions on item attributes, see `filters`; what fulfils them is searched exactly.

    Raises
    ------
    QuestionsError
        When the split has no bundle of two items.
    CatalogueError
        When no item fulfils ``where``.
    """
    held = hold_out(catalogue, split, seed)
    if not held:
        raise QuestionsError(
            f"The {split!r} split has no bundle of two known items to complete.",
            hint="--split test, valid or train" if len(catalogue.bundles) else "add a bundles table to the workspace",
        )
    among = matching_items(catalogue, where) if where else None
    index = matrices if isinstance(matrices, Index) else Index.build(matrices, weights=weights)
    partials = [partial for _, partial, _ in held]
    truth = np.array([right for _, _, right in held])
    copies = _Copies(catalogue, index)
    twins = [copies.of(right) for right in truth.tolist()]
    excluded = [np.concatenate([partial, twin]) for partial, twin in zip(partials, twins, strict=True)]
    query = index.query(partials)
    whole = index.exact or among is not None
    items, scores = index.search(query, k if whole else max(k, DEPTHS[-1]), excluded, among)
    listed = items == truth[:, None]  # [q, k]
    if whole:
        beyond = index.ranks(query, truth, excluded, among)
        # In the list the place there counts; single precision may see a near tie the other way round.
        beyond = np.where(beyond > 0, np.maximum(beyond, k + 1), 0)
    else:
        beyond = np.where(np.isin(truth, index.rows) & query.any(1), -1, 0)
    rank = np.where(listed.any(1), listed.argmax(1) + 1, beyond)
    items, scores = items[:, :k], scores[:, :k]
    ids = np.array(catalogue.item_ids, object)
    rows = [
        {
            "bundle_id": catalogue.bundles.ids[b],
            "partial": ids[partial].tolist(),
            "truth": ids[right],
            "candidates": ids[items[q][items[q] >= 0]].tolist(),
            "scores": scores[q][items[q] >= 0].tolist(),
            "rank": int(rank[q]),
        }
        for q, (b, partial, right) in enumerate(held)
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    offered = len(index.rows) if among is None else int(among[index.rows].sum())
    header = {
        "format_version": FORMAT_VERSION,
        "modalities": list(index.modalities),
        "weights": index.keys.weights,
        "metric": index.keys.metric,
        "vectors": index.keys.versions,
        "index": index.report,
        "k": k,
        "split": split,
        "seed": seed,
        "where": list(where),
        "items": len(catalogue),
        "indexed": len(index.rows),
        "offered": offered,
        "copies_excluded": sum(map(len, twins)),
        "metrics": recall(table, sorted(depth for depth in {*DEPTHS, k} if depth < offered)),
    }
    return Candidates(table, header)


class _Copies:
    """Items that are a copy of another: of its title, or of its content in every content modality of an index.

    Graph vectors are left out: two items that the same people bought are two items.
    """

    def __init__(self, catalogue: Catalogue, index: Index) -> None:
        content = [part.matrix for part in index.keys.parts if part.matrix.modality != "graph"]
        labels: list[list[Any]] = [[title.casefold() or None for title in catalogue.titles]]
        if content:
            whole = np.zeros(len(catalogue), np.uint64)
            for matrix in content:  # in this order, so that a picture's and a sound's sums are told apart
                whole = whole * np.uint64(0x9E3779B97F4A7C15) + checksum(matrix.vectors) * matrix.mask
            labels.append([value or None for value in whole.tolist()])
        self._labels = labels
        self._alike: list[defaultdict[Any, list[int]]] = [defaultdict(list) for _ in labels]
        for label, alike in zip(labels, self._alike, strict=True):
            for i, value in enumerate(label):
                if value is not None:
                    alike[value].append(i)

    def of(self, item: int) -> np.ndarray:
        """int32: the copies of ``item``, itself left out."""
        found = {i for label, alike in zip(self._labels, self._alike, strict=True) for i in alike.get(label[item], ())}
        return np.array(sorted(found - {item}), np.int32)


def open_index(
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    *,
    kind: str = "auto",
    weights: Mapping[str, float] | None = None,
    metric: str = "cosine",
    memory: int | None = None,
    target: float = ann.TARGET,
    rebuild: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Index, bool]:
    """The index that the workspace keeps for these vectors, or a new one; and whether it was kept.

    Recall is measured with partial training bundles as queries. Kept is what took a measurement to choose: a
    flat index below `ann.BREAK_EVEN` items is made anew in no time.

    Raises
    ------
    QuestionsError
        When the kept one was built from another version of these vectors, or for other items: ``rebuild`` replaces it.
    """
    file = index_path(workspace, matrices, kind=kind, weights=weights, metric=metric, memory=memory, target=target)
    if file.with_suffix(".json").is_file() and not rebuild:
        how: dict[str, Any] = {"weights": weights, "metric": metric, "memory": memory, "device": device}
        return Index.load(file, matrices, catalogue.item_ids, **how), True
    partials = [partial for _, partial, _ in hold_out(catalogue, "train")]
    index = Index.build(
        matrices,
        weights=weights,
        metric=metric,
        kind=kind,
        memory=memory,
        target=target,
        held_out=partials,
        device=device,
        progress=progress,
    )
    if not index.exact or index.report["passed_over"]:
        index.save(file, catalogue.item_ids)
    return index, False


def index_path(
    workspace: WorkspaceFolder,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    *,
    kind: str = "auto",
    weights: Mapping[str, float] | None = None,
    metric: str = "cosine",
    memory: int | None = None,
    target: float = ann.TARGET,
) -> Path:
    """Where the index stands that was asked for like this: ``candidates/indexes/text+image--auto--1f0c2a9b.faiss``."""
    named = by_name(matrices)
    specs = {name: matrix.spec for name, matrix in named.items()}
    asked = json.dumps([specs, dict(weights or {}), metric, memory, target], sort_keys=True)
    name = f"{_plain('+'.join(named))}--{_plain(kind)}--{_short(asked)}.faiss"
    return workspace.candidates / "indexes" / name


def recall(table: pa.Table, depths: Sequence[int] = DEPTHS) -> dict[str, float]:
    """Recall at each depth and MRR over all bundles; a truth without a vector is a miss.

    >>> recall(pa.table({"rank": [1, 3, 0, 40]}), [1, 10])
    {'n': 4, 'unreachable': 1, 'recall@1': 0.25, 'recall@10': 0.5, 'mrr': 0.3396}
    """
    rank = np.array(table.column("rank").to_pylist(), np.int64)
    n = max(len(rank), 1)
    out: dict[str, float] = {"n": len(rank), "unreachable": int((rank == 0).sum())}
    out |= {f"recall@{depth}": round(float(((rank > 0) & (rank <= depth)).sum() / n), 4) for depth in depths}
    return out | {"mrr": round(float((1 / rank[rank > 0]).sum() / n), 4)}


def path(
    workspace: WorkspaceFolder,
    modalities: Sequence[str],
    k: int,
    split: str = "test",
    where: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    metric: str = "cosine",
) -> Path:
    """Where a candidate set stands: ``candidates/text+image-k20.parquet``; what is not the default is in the name."""
    name = f"{_plain('+'.join(modalities))}-k{k}" + ("" if split == "test" else f"-{split}")
    weights = weights or {}
    if metric != "cosine" or len({weights.get(modality, 1.0) for modality in modalities}) > 1:
        name += f"-mix-{_short(json.dumps([weights, metric], sort_keys=True))}"
    return workspace.candidates / (name + (f"-where-{_short(json.dumps(sorted(where)))}" if where else "") + ".parquet")


def _plain(name: str) -> str:
    return re.sub(r"[^\w+.-]", "_", name)


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def load(path: Path, matrices: Mapping[str, Matrix] | Sequence[Matrix]) -> Candidates:
    """Read a candidate set.

    Raises
    ------
    QuestionsError
        When it is missing or damaged, or was made from other vectors than ``matrices``.
    """
    again = f"bundlecache candidates --k {re.split('-(?:mix|where)-', path.stem)[0].split('-k')[-1].split('-')[0]}"
    if not path.is_file():
        raise QuestionsError(f"There is no candidate set {path}.", hint=again)
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[b"bundlecache"])
        made_from = dict(header["vectors"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise QuestionsError(f"{path} is damaged or no candidate set ({reason}).", hint=again) from error
    at_hand = by_name(matrices)
    for modality, version in made_from.items():
        matrix = at_hand.get(modality)
        now = version_of(matrix) if matrix is not None else None
        if now != version:
            is_now = f"now it is {now['table']}, version {now['version']}" if now else "now there is none"
            raise QuestionsError(
                f"{path} was made from the {modality} vectors {version['table']}, version {version['version']}; {is_now}.",
                hint=again,
            )
    return Candidates(table.select(SCHEMA.names), header)
