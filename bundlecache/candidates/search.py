"""Searches the whole catalogue for the items that complete a partial bundle.

Members of the partial bundle are never returned, nor are copies of the truth (the same title, or the same content in every
picture, sound and text searched by), because a copy is not a wrong answer. The header of the candidate set counts them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..catalogue.columns import Strings
from ..catalogue.filters import matching_items
from ..catalogue.splits import hold_out
from ..errors import CatalogueError, Command, QuestionsError
from ..store.table_schema import checksum
from ..text import listed
from .candidate_file import DEPTHS, FORMAT_VERSION, SCHEMA, Candidates, recall_and_mrr
from .index import Index, check_k
from .item_vectors import BLOCK_ITEMS, by_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix

_kept: list[Any] = []  # the matrices and the index of the last `complete`
_lock = threading.Lock()


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
    (found,) = complete_many(catalogue, matrices, [partial], k, allowed=allowed)
    if not len(found):
        raise why_nothing(catalogue, matrices, partial, allowed=allowed)
    return found


def complete_many(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix] | Sequence[Matrix] | Index,
    partials: Sequence[np.ndarray],
    k: int = 10,
    *,
    allowed: np.ndarray | None = None,
) -> list[np.ndarray]:
    """What `complete` finds for each partial bundle, in one search; nothing where that would be an error.

    ``matrices`` may be an index that was built already.
    """
    check_k(k)
    index = matrices if isinstance(matrices, Index) else _scanned(matrices)
    items, _ = index.search(index.query(partials), min(k, len(catalogue)), partials, allowed)
    return [row[row >= 0] for row in items]


def why_nothing(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix] | Sequence[Matrix] | Index,
    partial: np.ndarray,
    *,
    allowed: np.ndarray | None = None,
) -> QuestionsError:
    """Why a partial bundle for which nothing was found has no candidates."""
    if not len(partial):
        return QuestionsError(
            "No item was given; a bundle starts with at least one.", hint=Command("complete", "ITEM...")
        )
    index = matrices if isinstance(matrices, Index) else _scanned(matrices)
    if not index.query([partial]).any():
        given = listed([catalogue.item_ids[i] for i in partial])
        return QuestionsError(
            f"None of {given} has a vector of {' or '.join(index.modalities)}.",
            hint=[Command("encode", "--modality", "all"), "stores what is new"],
        )
    able = index.rows if allowed is None else index.rows[allowed[index.rows]]
    return QuestionsError(
        f"No item is left to complete it with: the bundle holds all {len(able):,} that have a vector"
        + ("." if allowed is None else " and may be offered."),
        hint="give fewer items" if allowed is None else "give a wider --where, or fewer --exclude",
    )


def _scanned(matrices: Mapping[str, Matrix] | Sequence[Matrix]) -> Index:
    """The vectors as an index that is scanned; it is kept for the next bundle, because all vectors are read for it."""
    named = by_name(matrices)
    with _lock:
        if not _kept or _kept[0].keys() != named.keys() or any(_kept[0][name] is not named[name] for name in named):
            _kept[:] = [named, Index.build(named, kind="flat", memory=0)]
        return _kept[1]


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
    twins = _copies(catalogue, index, truth)
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
    table = pa.table(
        {
            "bundle_id": catalogue.bundles.ids.take([b for b, _, _ in held]).arrow,
            "partial": _id_lists(catalogue, partials),
            "truth": catalogue.item_ids.take(truth).arrow,
            "candidates": _id_lists(catalogue, [row[row >= 0] for row in items]),
            "scores": _lists([row[near >= 0] for row, near in zip(scores, items, strict=True)]),
            "rank": rank,
        }
    ).cast(SCHEMA)
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


def _id_lists(catalogue: Catalogue, lists: Sequence[np.ndarray]) -> pa.LargeListArray:
    """Lists of item indices as lists of ids."""
    whole = _lists(lists)
    return pa.LargeListArray.from_arrays(whole.offsets, catalogue.item_ids.take(whole.values.to_numpy()).arrow)


def _lists(lists: Sequence[np.ndarray]) -> pa.LargeListArray:
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in lists])]).astype(np.int64)
    return pa.LargeListArray.from_arrays(offsets, np.concatenate(lists))


def _copies(catalogue: Catalogue, index: Index, asked: np.ndarray) -> list[np.ndarray]:
    """For every item of ``asked``, int32 the items that are a copy of it, itself left out.

    A copy has the same title, or the same content in every content modality of the index. Graph vectors are left out:
    two items that the same people bought are two items.
    """
    content = [part.matrix for part in index.vectors.parts if part.matrix.modality != "graph"]
    titles = _folded(catalogue.titles).codes()[0] + 1  # 0: none
    alike = [_alike(titles, asked)]
    if content:
        whole = np.zeros(len(catalogue), np.uint64)
        for low in range(0, len(whole), BLOCK_ITEMS):
            block = slice(low, low + BLOCK_ITEMS)
            for matrix in content:  # in this order, so that a picture's and a sound's sums are told apart
                sums = checksum(matrix.vectors[block]) * matrix.mask[block]
                whole[block] = whole[block] * np.uint64(0x9E3779B97F4A7C15) + sums
        alike.append(_alike(whole, asked))
    return [
        np.setdiff1d(np.concatenate(found), [item]).astype(np.int32)
        for item, *found in zip(asked.tolist(), *alike, strict=True)
    ]


def _alike(labels: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
    """For every item of ``asked``, the items with its label (integers [I], 0 is none)."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    first, last = (np.searchsorted(ordered, labels[asked], side) for side in ("left", "right"))
    last = np.where(labels[asked] == 0, first, last)
    return [order[low:high] for low, high in zip(first.tolist(), last.tolist(), strict=True)]


def _folded(titles: Strings[Any]) -> Strings[Any]:
    """Titles without case, None where there is none; those beyond ASCII by `str.casefold`."""
    plain = pc.utf8_lower(titles.arrow)
    beyond = pc.invert(pc.fill_null(pc.string_is_ascii(titles.arrow), True))
    folded = [text.casefold() for text in titles.arrow.filter(beyond).to_pylist()]
    whole = pc.replace_with_mask(plain, beyond, pa.array(folded, pa.large_string()))
    return Strings(pc.if_else(pc.equal(pc.binary_length(whole), 0), None, whole))
