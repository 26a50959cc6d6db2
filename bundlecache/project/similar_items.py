"""Similar items: the items of a catalogue that are nearest to one of them, by any stored vectors."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import QuestionsError
from ..rows import Rows
from .candidate_search import searched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..candidates.index import Index
    from ..store.store import Matrix
    from .session import Session

KEPT_INDEXES = 4  # of a session; another one takes the place of the one that was not used for longest


@dataclass(frozen=True)
class SimilarItem:
    """An item that is similar to the one that was asked about; ``similarity`` is the cosine, 1 for equal vectors."""

    rank: int
    item_id: str
    title: str
    similarity: float


def similar(
    session: Session,
    item: str,
    k: int = 10,
    *,
    modality: str | Sequence[str] = (),
    encoder: str | Sequence[str] = (),
    run: str | None = None,
    where: Sequence[str] = (),
    device: str = "auto",
) -> Rows[SimilarItem]:
    """The k items nearest to an item of the catalogue, best first.

    Parameters
    ----------
    modality, encoder, run
        Which vectors say what is similar: those of these modalities (all stored ones if left out: the mean of their
        cosines), of these encoders, or the fused tokens of a run.
    where
        Conditions that similar items fulfil, ``"price<50"``.
    device
        Where the model of ``run`` computes.

    Raises
    ------
    BundlecacheError
        When the item is unknown or has no such vector, what is searched is not stored, or ``k`` is out of range.
    """
    from ..candidates import similar as search
    from ..candidates.index import check_k
    from ..catalogue.filters import matching_items

    check_k(k)
    catalogue = session.catalogue
    (asked,) = catalogue.indices([item]).tolist()
    allowed = matching_items(catalogue, where) if where else None
    modalities = [modality] if isinstance(modality, str) else modality
    encoders = [encoder] if isinstance(encoder, str) else encoder
    index = _index(session, searched(session, modalities, encoders, run, device, verb="similar"))
    items, scores = search.most_similar(catalogue, index, asked, k, allowed=allowed)
    return Rows(
        SimilarItem(rank, catalogue.item_ids[i], catalogue.titles[i], round(score, 4))
        for rank, (i, score) in enumerate(zip(items.tolist(), scores.tolist(), strict=True), start=1)
    )


def _index(session: Session, matrices: Mapping[str, Matrix]) -> Index:
    """The index of these vectors, kept for the next item: all vectors are read to make it."""
    from ..candidates.item_vectors import version_of

    key = repr([(name, version_of(matrix)) for name, matrix in matrices.items()])
    kept = session.similar_indexes
    found = kept.pop(key, None)
    if found is None:
        found = _opened(session, matrices)
    kept[key] = found
    while len(kept) > KEPT_INDEXES:
        kept.pop(next(iter(kept)), None)
    return found


def _opened(session: Session, matrices: Mapping[str, Matrix]) -> Index:
    """The index that `candidates` keeps of these vectors, where there are many items and it is up to date; else a scan.

    To build one for a single item would take longer than to scan.
    """
    from ..candidates import ann
    from ..candidates.index import Index
    from ..candidates.index_file import index_path, load

    path = index_path(session.folder, matrices)
    if len(session.catalogue) >= ann.MIN_INDEXED_ITEMS and path.with_suffix(".json").is_file():
        with suppress(QuestionsError):
            return load(path, matrices, session.catalogue.item_ids, device="cpu")
    return Index.build(matrices, kind="flat", memory=0)
