"""Measure how far vectors have moved: between two versions of a table, or from one encoder to another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..errors import Command, StoreError
from ..names import tag_name
from ..vector_math import unit_rows
from .guards import opening
from .maintenance import tags
from .table_schema import BATCH_ROWS, Identity, as_numpy, vector_checksums
from .text_columns import is_among, places, take, text_column

if TYPE_CHECKING:
    from .store import Store, TableInfo
    from .text_columns import Texts

NEIGHBOURS = 10
POOL = 50_000  # items among which neighbours are looked for, at most
PERCENTILES = (1, 10, 50)


@dataclass(frozen=True)
class Drift:
    """Two sets of vectors of one modality, item by item. What cannot be said is None.

    Attributes
    ----------
    old, new
        Table and version, as ``TABLE@VERSION``.
    kept, added, removed, changed
        Items with the same vector in both, only in the new, only in the old (also because they left the catalogue),
        with another vector.
    cosine_mean, cosine_p1, cosine_p10, cosine_p50
        Of the old and the new vector of changed items; None between encoders of different width.
    overlap_at_10
        The part of an item's 10 nearest items (by cosine, among the items of both) that stayed the same: the
        mean over a sample. 1 means that nobody who looks at neighbours sees a change.
    centroid_shift
        How far the mean of all vectors moved, over the mean length of the old ones.
    """

    modality: str
    old: str
    new: str
    kept: int
    added: int
    removed: int
    changed: int
    cosine_mean: float | None
    cosine_p1: float | None
    cosine_p10: float | None
    cosine_p50: float | None
    overlap_at_10: float | None
    centroid_shift: float | None

    def to_dict(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self)


class Snapshot(NamedTuple):
    """The live rows of one version of a table: vectors [n, d] (the mean of an item's tokens) and checksums [n]."""

    name: str
    item_ids: pa.Array
    sums: np.ndarray
    vectors: np.ndarray


def compare(modality: str, old: Snapshot, new: Snapshot, *, sample: int = 1000, seed: int = 0) -> Drift:
    """Compare two snapshots; neighbours are looked up for ``sample`` items."""
    rows = places(new.item_ids, among=old.item_ids)  # [new]
    a, b = rows[rows >= 0], np.flatnonzero(rows >= 0)  # rows of the items of both
    same_kind = old.vectors.shape[1:] == new.vectors.shape[1:]
    moved = old.sums[a] != new.sums[b]  # [both]
    cosines = _cosines(old.vectors, a[moved], new.vectors, b[moved]) if same_kind else np.zeros(0)  # [changed]
    pool = np.random.default_rng(seed).permutation(len(a))[:POOL]
    p1, p10, p50 = (float(value) for value in np.percentile(cosines, PERCENTILES)) if len(cosines) else (None,) * 3
    return Drift(
        modality=modality,
        old=old.name,
        new=new.name,
        kept=int((~moved).sum()),
        added=len(new.item_ids) - len(a),
        removed=len(old.item_ids) - len(a),
        changed=int(moved.sum()),
        cosine_mean=float(cosines.mean()) if len(cosines) else None,
        cosine_p1=p1,
        cosine_p10=p10,
        cosine_p50=p50,
        overlap_at_10=_overlap(old.vectors[a[pool]], new.vectors[b[pool]], sample),
        centroid_shift=_shift(old.vectors, new.vectors) if same_kind else None,
    )


def snapshot(
    store: Store, info: TableInfo, version: int | str | None = None, item_ids: Texts | None = None
) -> Snapshot:
    """The rows of a table now, or at a version or tag; of ``item_ids`` only, if they are given.

    A table keeps the rows of items that have left the catalogue: with the catalogue's ids they count as removed.

    Raises
    ------
    StoreError
        When that version is no more.
    """
    try:
        dataset = store.dataset(info, version)
    except (ValueError, OSError, OverflowError) as error:
        kept = list(tags(store, info))
        raise StoreError(
            f"{info.table} has no version {version!r} any more, or never had; the tags that keep one are: "
            f"{', '.join(kept) or 'none'}.",
            hint=Command("drift", "--from", kept[-1]) if kept else Command("drift"),
        ) from error
    identity = Identity.read(dataset.schema)
    assert identity is not None  # noqa: S101 - it is one of store.tables()
    found = [text_column([])]
    sums, vectors = [np.zeros(0, np.uint64)], [np.zeros((0, identity.dim), identity.dtype)]
    with opening(dataset.uri):
        columns = ["item_id", "content_hash", "checksum", "vector"]
        for batch in dataset.to_batches(columns=columns, filter="live", batch_size=identity.batch_rows):
            found.append(text_column(batch["item_id"]))
            sums.append(vector_checksums(batch, dataset.schema))
            rows = as_numpy(batch["vector"]).reshape(len(batch), -1, identity.dim)  # [n, t or 1, d]
            vectors.append(
                rows.mean(axis=1, dtype=np.float32).astype(identity.dtype) if identity.tokens else rows[:, 0]
            )
    name, every_sum, every_row = f"{info.table}@{dataset.version}", np.concatenate(sums), np.concatenate(vectors)
    ids = pa.concat_arrays(found)
    if item_ids is not None and not (kept_rows := is_among(ids, item_ids)).all():
        return Snapshot(name, take(ids, np.flatnonzero(kept_rows)), every_sum[kept_rows], every_row[kept_rows])
    return Snapshot(name, ids, every_sum, every_row)


def find(store: Store, info: TableInfo, start: str | None) -> Snapshot:
    """What ``info`` is compared with: a tag (``run-`` may be left out), a version, a table or an encoder.

    Where ``start`` is None: the version that the last run was trained on, else the oldest one that is there,
    else the encoder before.

    Raises
    ------
    StoreError
        When there is no such thing, or nothing to compare with.
    """
    known = tags(store, info)
    others = [other for other in store.tables() if other.modality == info.modality and other.table != info.table]
    others = [other for other in others if other.rows]
    if start is None:
        versions = sorted({*known.values(), *(entry["version"] for entry in store.dataset(info).versions())})
        older = [version for version in [*known.values()][::-1] + versions if version < info.version]
        filled = [snap for version in older if len((snap := snapshot(store, info, version)).item_ids)]
        if filled:
            return filled[0]
        for other in others:
            for version in [*tags(store, other).values()][::-1]:
                return snapshot(store, other, version)
        if others:
            return snapshot(store, others[0])
        raise StoreError(
            f"There is one version of {info.table}, so there is nothing to compare it with.",
            hint="training keeps the version it reads; or encode with another --encoder",
        )
    for other in others:
        if start in (other.table, other.spec):
            return snapshot(store, other)
    wanted = (start, tag_name(start))
    name = next((name for name in wanted if name in known), None)
    if name is None:  # vectors of another table: the encoder was replaced, or the graph was learned again
        for other in others:
            if tagged := next((tag for tag in wanted if tag in tags(store, other)), None):
                return snapshot(store, other, tagged)
    if name is None and not start.isdecimal():
        choices = [*known, *(other.spec for other in others)]
        raise StoreError(
            f"{start!r} is no tag of {info.table}, no version and no other encoder of {info.modality}; "
            f"there are: {', '.join(choices) or 'none'}.",
            hint=Command("drift", "--from", choices[0]) if choices else None,
        )
    return snapshot(store, info, name or int(start))


def _cosines(old: np.ndarray, a: np.ndarray, new: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of rows ``a`` of one and ``b`` of the other matrix, float32 [len(a)]."""
    parts = [np.zeros(0, np.float32)]
    for low in range(0, len(a), BATCH_ROWS):
        left, right = unit_rows(old[a[low : low + BATCH_ROWS]]), unit_rows(new[b[low : low + BATCH_ROWS]])
        parts.append(np.einsum("nd,nd->n", left, right))
    return np.concatenate(parts)


def _shift(old: np.ndarray, new: np.ndarray) -> float | None:
    if not len(old) or not len(new):
        return None
    length = float(np.linalg.norm(old.astype(np.float32), axis=1).mean())
    moved = new.mean(axis=0, dtype=np.float64) - old.mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(moved)) / max(length, 1e-12)


def _overlap(old: np.ndarray, new: np.ndarray, sample: int) -> float | None:
    """The mean part of the nearest neighbours that the first ``sample`` rows of two matrices [n, .] share."""
    k = min(NEIGHBOURS, len(old) - 1)
    if k < 1:
        return None
    one, other = _nearest(unit_rows(old), sample, k), _nearest(unit_rows(new), sample, k)  # [s, k]
    shared = [len(set(x) & set(y)) for x, y in zip(one.tolist(), other.tolist(), strict=True)]
    return float(np.mean(shared)) / k


def _nearest(unit: np.ndarray, sample: int, k: int, block: int = 256) -> np.ndarray:
    found = []
    for low in range(0, min(sample, len(unit)), block):
        part = np.arange(low, min(low + block, sample, len(unit)))
        scores = unit[part] @ unit.T  # [block, n]
        scores[part - low, part] = -np.inf
        found.append(np.argpartition(-scores, k - 1, axis=1)[:, :k])
    return np.concatenate(found)
