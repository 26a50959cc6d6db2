"""Searches the whole catalogue for the items that complete a partial bundle.

Members of the partial bundle are never returned, nor are copies of the truth (the same title, or the same content in every
picture, sound and text searched by), because a copy is not a wrong answer. The header of the candidate set counts them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..catalogue.filters import matching_items
from ..catalogue.splits import hold_out
from ..errors import CatalogueError, Command, QuestionsError
from ..store.table_schema import checksum
from ..text import listed
from .candidate_file import DEPTHS, FORMAT_VERSION, SCHEMA, Candidates, recall_and_mrr
from .index import Index, check_k

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix


def complete(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    partial: np.ndarray,
    k: int = 10,
    *,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """The k items nearest to a partial bundle (item indices): int32 [<= k], best first, its members left out.

    One search of everything, exact: nothing is built for it.

    Parameters
    ----------
    allowed
        bool [I], the items that may be offered; see `allowed_items`.

    Raises
    ------
    QuestionsError
        When ``partial`` is empty, none of its items has a vector of these modalities, or no item is left to offer.
    """
    if not len(partial):
        raise QuestionsError(
            "No item was given; a bundle starts with at least one.", hint=Command("complete", "ITEM...")
        )
    check_k(k)
    index = Index.build(matrices, kind="flat", memory=0)
    query = index.query([partial])
    if not query.any():
        given = listed([catalogue.item_ids[i] for i in partial])
        raise QuestionsError(
            f"None of {given} has a vector of {' or '.join(index.modalities)}.",
            hint=[Command("encode", "--modality", "all"), "stores what is new"],
        )
    items, _ = index.search(query, min(k, len(catalogue)), [partial], allowed)
    found = items[0][items[0] >= 0]
    if not len(found):
        able = index.rows if allowed is None else index.rows[allowed[index.rows]]
        raise QuestionsError(
            f"No item is left to complete it with: the bundle holds all {len(able):,} that have a vector"
            + ("." if allowed is None else " and may be offered."),
            hint="give fewer items" if allowed is None else "give a wider --where, or fewer --exclude",
        )
    return found


def allowed_items(catalogue: Catalogue, where: Sequence[str] = (), exclude: Sequence[str] = ()) -> np.ndarray:
    """Bool [I], the items that match all conditions ``where`` and are not among the ids ``exclude``; its sum is their number.

    Raises
    ------
    CatalogueError
        When a condition cannot be parsed, an id is unknown, or no item is left.
    """
    allowed = matching_items(catalogue, where) if where else np.ones(len(catalogue), bool)
    allowed[catalogue.indices(list(exclude))] = False
    if not allowed.any():
        raise CatalogueError(
            "No item is left to offer: --exclude names all that --where allows.", hint="give a wider --where"
        )
    return allowed


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
    check_k(k)
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
    width = min(k if whole else max(k, DEPTHS[-1]), len(catalogue))
    items, scores = index.search(query, width, excluded, among)
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
        "weights": index.vectors.weights,
        "metric": index.vectors.metric,
        "vectors": index.vectors.versions,
        "index": index.report,
        "k": k,
        "split": split,
        "seed": seed,
        "where": list(where),
        "items": len(catalogue),
        "indexed": len(index.rows),
        "offered": offered,
        "copies_excluded": sum(map(len, twins)),
        "metrics": recall_and_mrr(table, sorted(depth for depth in {*DEPTHS, k} if depth < offered)),
    }
    return Candidates(table, header)


class _Copies:
    """Items that are a copy of another: of its title, or of its content in every content modality of an index.

    Graph vectors are left out: two items that the same people bought are two items.
    """

    def __init__(self, catalogue: Catalogue, index: Index) -> None:
        content = [part.matrix for part in index.vectors.parts if part.matrix.modality != "graph"]
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
