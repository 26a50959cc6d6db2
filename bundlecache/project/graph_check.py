"""Says that stored graph vectors were learned from other edges than those that training may see today.

When bundles change their split, edges of what is a validation or test bundle today stay in the vectors until they are
learned again, and figures of a model that reads them are too high.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..store.store import Matrix, TableInfo
    from .session import Session


def of_other_edges(session: Session, tables: Iterable[Matrix | TableInfo]) -> list[str]:
    """The encoders of those graph vectors that would be learned from other edges, items or settings now."""
    from ..features import graph_edges

    graphs = [table for table in tables if table.modality == "graph"]
    if not graphs:
        return []
    return graph_edges.of_other_edges(graphs, session.catalogue, session.store, session.folder.root)


def warn_of_other_edges(session: Session, tables: Iterable[Matrix | TableInfo], consequence: str) -> None:
    """A sentence and the command that mends it, for each encoder whose graph vectors are of other edges.

    ``consequence`` is what follows from it where they are used, and until when.
    """
    for spec in of_other_edges(session, tables):
        newest = next(info for info in session.store.tables() if info.spec == spec and info.rows)
        learned_again = not of_other_edges(session, [newest])
        session.say.warn(
            f"Graph vectors of {spec} are out of date:",
            "they were learned from other edges or items than training may see today; with edges of held-out bundles among"
            f" them, {consequence}",
            Command("train") if learned_again else Command("encode", "--modality", "graph", "--encoder", spec),
        )
