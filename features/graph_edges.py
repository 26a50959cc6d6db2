"""Whether stored graph vectors were learned from the edges that training may see today, told without learning anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundlecache.encoder_spec import EncoderSpec

from . import registry
from .derived import axes_file
from .derived_spec import Derivation
from .graph_encoder import fingerprint_now
from .stored_vectors import stored_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.store.store import Matrix, Store, TableInfo

KINDS = ("lightgcn", "als", "bpr")  # whose fingerprint is of the edges, see `graph_encoder`


def of_other_edges(
    tables: Iterable[Matrix | TableInfo], catalogue: Catalogue, store: Store, workspace: Path
) -> list[str]:
    """The encoders of those graph vectors that would be learned from other edges, items or settings now, each once.

    Imported vectors and those of other packages' encoders say nothing of their edges, and are not among them.
    """
    known: dict[str, str | None] = {}  # encoder -> its fingerprint now
    found = []
    for table in tables:
        if table.modality != "graph":
            continue
        if table.spec not in known:
            known[table.spec] = _fingerprint_now(table.spec, catalogue, store, workspace)
        if known[table.spec] not in (None, table.fingerprint):
            found.append(table.spec)
    return list(dict.fromkeys(found))


def _fingerprint_now(spec: str, catalogue: Catalogue, store: Store, workspace: Path) -> str | None:
    """The fingerprint of an encoder over the graph of today; "" where there is no such graph, None where it is not known."""
    if (how := Derivation.parse(spec)) is None:
        parsed = EncoderSpec.parse(spec)
        return fingerprint_now(catalogue, parsed) if parsed.kind in KINDS else None
    before, parent = _fingerprint_now(how.parent, catalogue, store, workspace), stored_table(store, "graph", how.parent)
    if before is None or parent is None:
        return None
    if before != parent.fingerprint or (how.kind == "pca" and not axes_file(how, parent, store).is_file()):
        return ""
    return registry.load(spec, modality="graph", catalogue=catalogue, device="cpu", workspace=workspace).fingerprint
