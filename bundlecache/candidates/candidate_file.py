"""The file of a candidate set: the k items nearest to each bundle of a split, and how they were searched.

``candidates/MODALITIES-kN.parquet`` holds one row per bundle: bundle_id, partial list<string>, truth, candidates
list<string>, scores list<float>, rank: the truth's place among all items that may be offered (1 is best), 0 when it has no
vector or a filter excluded it, -1 when an approximate search did not return it among the first 100. The header, JSON in the
schema's metadata, names the vectors that the file was made from; the file is rejected if the current vectors are others.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import Command, QuestionsError, first_line
from ..files import replacing
from .index_file import plain, safe_name, short_hash
from .item_vectors import by_name, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..store.store import Matrix
    from ..workspace import WorkspaceFolder

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


def recall_and_mrr(table: pa.Table, depths: Sequence[int] = DEPTHS) -> dict[str, float]:
    """Recall at each depth and MRR over all bundles; a truth without a vector is a miss.

    >>> recall_and_mrr(pa.table({"rank": [1, 3, 0, 40]}), [1, 10])
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
    """The file of a candidate set: ``candidates/text+image-k20.parquet``; what is not the default is in the name."""
    name = f"{plain('+'.join(modalities))}-k{k}" + ("" if split == "test" else f"-{split}")
    weights = weights or {}
    if metric != "cosine" or len({weights.get(modality, 1.0) for modality in modalities}) > 1:
        name += f"-mix-{short_hash(json.dumps([weights, metric], sort_keys=True))}"
    name += f"-where-{short_hash(json.dumps(sorted(where)))}" if where else ""
    return workspace.candidates / f"{safe_name(name)}.parquet"


def header(path: Path) -> dict[str, Any]:
    """What a file says of how it was made; {} where it is damaged, which `load` says."""
    try:
        found = json.loads((pq.read_schema(path).metadata or {})[b"bundlecache"])
        sound = all(isinstance(made["table"], str) for made in found["vectors"].values())
        return found if sound and isinstance(found["modalities"], list) and isinstance(found["k"], int) else {}
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def load(path: Path, matrices: Mapping[str, Matrix] | Sequence[Matrix]) -> Candidates:
    """Read a candidate set.

    Raises
    ------
    QuestionsError
        When it is missing or damaged, or was made from other vectors than ``matrices``.
    """
    k = re.split("-(?:mix|where)-", path.stem)[0].rpartition("-k")[2].partition("-")[0]
    again = Command("candidates", "--k", k if k.isdecimal() else 20)
    if not path.is_file():
        raise QuestionsError(f"There is no candidate set {path}.", hint=again)
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[b"bundlecache"])
        table = table.select(SCHEMA.names).cast(SCHEMA)
        made_from = {
            name: (dict(version), version["table"], version["version"]) for name, version in header["vectors"].items()
        }
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise QuestionsError(f"{path} is damaged or no candidate set ({first_line(error)}).", hint=again) from error
    at_hand = by_name(matrices)
    for modality, (version, name, number) in made_from.items():
        matrix = at_hand.get(modality)
        now = version_of(matrix) if matrix is not None else None
        if now != version:
            is_now = f"now it is {now['table']}, version {now['version']}" if now else "now there is none"
            raise QuestionsError(
                f"{path} was made from the {modality} vectors {name}, version {number}; {is_now}.",
                hint=again,
            )
    return Candidates(table, header)
