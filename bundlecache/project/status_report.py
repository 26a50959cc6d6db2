"""Say what a workspace holds: its catalogue, stored vectors, failed items and runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..rows import Result, Rows, frame_of
from .graph_check import of_other_edges
from .stale import Stale, stale

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from .session import Session


@dataclass(frozen=True, repr=False)
class Status(Result):
    """What a workspace holds: counts of the catalogue, coverage per stored table, names of finished runs.

    ``other_edges`` names the encoders whose graph vectors were learned from other edges or items than training may see today,
    ``stale`` the question sets, candidate sets and runs that do not fit the vectors and bundles of today.
    """

    catalogue: dict[str, int]
    store: list[dict[str, Any]]
    runs: list[str]
    other_edges: list[str]
    stale: list[Stale]

    def _frame(self) -> Any:
        """A row per stored table."""
        return self.store

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "catalogue": self.catalogue,
            "store": self.store,
            "runs": self.runs,
            "other_edges": self.other_edges,
            "stale": [each.to_dict() for each in self.stale],
        }


@dataclass(frozen=True, repr=False)
class Vectors(Result):
    """Vectors [I, d] (token features: [I, t, d]) of the items ``ids`` [I], zero where ``mask`` [I] is False.

    ``vectors`` is memory-mapped and read-only.
    """

    ids: Sequence[str]
    vectors: np.ndarray
    mask: np.ndarray
    modality: str
    encoder: str

    def _frame(self) -> Any:
        """A row per item that has a vector, a column per number; the index holds the items' ids."""
        return frame_of(self.vectors, self.mask, self.ids)


def status(session: Session) -> Status:
    """Counts of the catalogue, coverage per modality and encoder, and the runs."""
    from ..catalogue import splits
    from ..catalogue.catalogue import SPLITS
    from ..encode.changed_texts import changed_texts
    from ..store.coverage import coverage

    catalogue = session.catalogue
    parts = splits.assign(catalogue)
    counts = {
        "items": len(catalogue),
        "bundles": len(catalogue.bundles),
        **{part: int((parts == part).sum()) for part in SPLITS},
        "interactions": len(catalogue.interactions),
        "users": len(catalogue.interactions.users),
    }
    tables = coverage(session.store, catalogue)
    current = {row["table"]: row for row in tables if row["current"]}
    used = [info for info in session.store.tables() if info.table in current]
    for info in used:
        current[info.table]["changed"] = changed_texts(session.store, info, catalogue, session.folder)
    return Status(counts, tables, runs(session), of_other_edges(session, used), stale(session))


def errors(session: Session) -> Rows[dict[str, Any]]:
    """The items that failed: table, item_id, stage, reason, content_hash, modality."""
    from ..store.failures import ABSENT

    store = session.store
    return Rows(
        {"table": info.table, **row, "modality": info.modality}
        for info in store.tables()
        for row in store.errors(info.table).to_pylist()
        if row["stage"] != ABSENT
    )


def vectors(session: Session, modality: str, encoder: str | None = None) -> Vectors:
    """The stored vectors of all items, in the order of ``catalogue.item_ids``.

    Raises
    ------
    StoreError
        When there are none.
    """
    ids = session.catalogue.item_ids
    matrix = session.store.matrix(ids, modality, encoder)
    return Vectors(ids, matrix.vectors, matrix.mask, matrix.modality, matrix.spec)


def runs(session: Session) -> list[str]:
    """Names of the finished runs."""
    return sorted(session.folder.run_names(None))


def title(session: Session, item_id: str) -> str:
    """The title of an item, or its id where it has none.

    Raises
    ------
    CatalogueError
        When there is no such item.
    """
    return session.catalogue.titles[int(session.catalogue.indices([item_id])[0])] or item_id
