"""Candidates: which items of the whole catalogue complete a partial bundle.

``candidates/MODALITIES-kN.parquet`` holds one row per bundle: bundle_id, partial list<string>, truth,
candidates list<string>, scores list<float>, rank (the truth's place among all items, 1 is best, 0 when it
has no vector). Its header names the vectors it was made from, and it is refused beside others.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .atomic import replacing
from .errors import QuestionsError
from .index import Index, by_name, version_of
from .questions import hold_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .catalogue import Catalogue
    from .store import Matrix
    from .workspace import Workspace

__all__ = ["Candidates", "Index", "complete", "for_bundles", "load", "path", "recall"]

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

    def save(self, workspace: Workspace) -> Path:
        """Write the file, whole or not at all; gives its path."""
        target = path(workspace, self.header["modalities"], self.header["k"], self.header["split"])
        meta = {"bundlecache": json.dumps(self.header, sort_keys=True)}
        with replacing(target) as temporary:
            pq.write_table(self.table.replace_schema_metadata(meta), temporary)
        return target

    def summary(self) -> dict[str, Any]:
        """What to print: the set-up, and Recall and MRR over the whole catalogue."""
        keys = ("modalities", "split", "k", "items", "indexed")
        return {**{key: self.header[key] for key in keys}, **self.header["metrics"]}


def complete(
    catalogue: Catalogue, matrices: Mapping[str, Matrix] | Sequence[Matrix], partial: np.ndarray, k: int = 10
) -> np.ndarray:
    """The k items nearest to a partial bundle (item indices): int32 [<= k], best first, its members left out.

    Raises
    ------
    QuestionsError
        When ``partial`` is empty, none of its items has a vector of these modalities, or no other item has.
    """
    if not len(partial):
        raise QuestionsError(
            "No item was given; a bundle starts with at least one.", hint="bundlecache complete ITEM..."
        )
    index = Index.build(matrices)
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
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    k: int = 20,
    split: str = "test",
    *,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
) -> Candidates:
    """The k best items of the whole catalogue for every bundle of a split, one member held out.

    The held-out item is the one that `questions.freeze` asks about with the same seed.

    Raises
    ------
    QuestionsError
        When the split has no bundle of two items.
    """
    held = hold_out(catalogue, split, seed)
    if not held:
        raise QuestionsError(
            f"The {split!r} split has no bundle of two known items to complete.",
            hint="--split test, valid or train" if len(catalogue.bundles) else "add a bundles table to the workspace",
        )
    index = Index.build(matrices, weights=weights)
    partials = [partial for _, partial, _ in held]
    truth = np.array([right for _, _, right in held])
    query = index.query(partials)
    items, scores = index.search(query, k, partials)
    listed = items == truth[:, None]  # [q, k]
    beyond = index.ranks(query, truth, partials)
    # In the list the place there counts; single precision may see a near tie the other way round.
    rank = np.where(listed.any(1), listed.argmax(1) + 1, np.where(beyond > 0, np.maximum(beyond, k + 1), 0))
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
    header = {
        "format_version": FORMAT_VERSION,
        "modalities": list(index.modalities),
        "weights": dict(zip(index.modalities, index.weights, strict=True)),
        "vectors": index.versions,
        "index": "IndexFlatIP",
        "k": k,
        "split": split,
        "seed": seed,
        "items": len(catalogue),
        "indexed": len(index.rows),
        "metrics": recall(table, sorted({*DEPTHS, k})),
    }
    return Candidates(table, header)


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


def path(workspace: Workspace, modalities: Sequence[str], k: int, split: str = "test") -> Path:
    """Where a candidate set stands: ``candidates/text+image-k20.parquet``; another split than test is named."""
    chosen = re.sub(r"[^\w+.-]", "_", "+".join(modalities))
    return workspace.candidates / f"{chosen}-k{k}{'' if split == 'test' else '-' + split}.parquet"


def load(path: Path, matrices: Mapping[str, Matrix] | Sequence[Matrix]) -> Candidates:
    """Read a candidate set.

    Raises
    ------
    QuestionsError
        When it is missing or damaged, or was made from other vectors than ``matrices``.
    """
    again = f"bundlecache candidates --k {path.stem.split('-k')[-1].split('-')[0]}"
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
