"""How much of a catalogue the store covers, per table: the rows of ``bundlecache status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ..encoder_spec import EncoderSpec
from ..modalities import MODALITIES
from .failures import ABSENT
from .table_schema import IMPORTED
from .text_columns import is_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalogue.catalogue import Catalogue
    from .store import Store, TableInfo

NOT_STORED: dict[str, Any] = {
    "spec": None,
    "table": None,
    "dim": 0,
    "tokens": 0,
    "dtype": None,
    "size_bytes": 0,
    "version": 0,
}


def coverage(store: Store, catalogue: Catalogue) -> list[dict[str, Any]]:
    """One row per table, and one per modality that the catalogue has and the store lacks.

    rows + missing + failed + absent = items. ``missing`` items wait for ``bundlecache encode``, ``absent``
    ones have nothing to encode.
    """
    receipts = {receipt["table"]: receipt for receipt in store.receipts()}
    infos = store.tables()
    current = {info.table for chosen in current_tables(infos).values() for info in chosen}
    rows = [
        {
            **_table(store, info, catalogue, receipts.get(info.table, {})),
            "current": info.table in current,
        }
        for info in infos
    ]
    for modality in MODALITIES:
        if any(info.modality == modality for info in infos):
            continue
        if waiting := int(catalogue.has_source(modality).sum()):
            absent = len(catalogue) - waiting
            counts = {"rows": 0, "missing": waiting, "failed": 0, "absent": absent}
            rows.append({"modality": modality, **NOT_STORED, **counts, "current": False, "updated": None})
    return rows


def current_tables(infos: Sequence[TableInfo]) -> dict[str, list[TableInfo]]:
    """Modality -> its current tables, of all (the newest of a modality first): those of the encoder that ran last.

    They are several where that encoder read several choices of columns: the newest table of each.
    """
    found: dict[str, list[TableInfo]] = {}
    for info in infos:
        if info.rows and not info.tokens:
            chosen = found.setdefault(info.modality, [info])
            alike = EncoderSpec.parse(info.spec).without_columns == EncoderSpec.parse(chosen[0].spec).without_columns
            if alike and all(info.spec != other.spec for other in chosen):
                chosen.append(info)
    return found


def encoders_in_use(store: Store) -> dict[str, list[TableInfo]]:
    """Modality -> the tables whose encoders a plain ``encode`` repeats, the current one last.

    They are those of the encoder that ran last, one for each choice of columns; running them in this order leaves
    the same table the current one. ``info.spec``, ``info.dtype`` and ``info.preprocess`` say how. Modalities whose
    vectors were imported have an empty list: no encoder can make these again, and another one must not replace them.
    """
    return {
        modality: [info for info in reversed(infos) if info.preprocess != IMPORTED]
        for modality, infos in current_tables(store.tables()).items()
    }


def _table(store: Store, info: TableInfo, catalogue: Catalogue, receipt: dict[str, Any]) -> dict[str, Any]:
    source = catalogue.has_source(info.modality, EncoderSpec.parse(info.spec).columns)  # [I]
    row = is_among(catalogue.item_ids, store.live_ids(info))  # [I]
    errors = store.errors(info.table)
    failed = errors.filter(pc.field("stage") != ABSENT)["item_id"]
    unlearnt = errors.filter(pc.field("stage") == ABSENT)["item_id"]
    bad = is_among(catalogue.item_ids, failed) & ~row  # [I]
    source = source & ~is_among(catalogue.item_ids, unlearnt)
    waiting = int((source & ~row & ~bad).sum())
    absent = int((~source & ~row & ~bad).sum())
    if info.modality == "graph":
        # Only the encoder knows which items have a training edge; its last run counted those without.
        moved = min(waiting, max(0, receipt.get("absent", 0) - absent))
        waiting, absent = waiting - moved, absent + moved
    counts = {"rows": int(row.sum()), "missing": waiting, "failed": int(bad.sum()), "absent": absent}
    names = ("spec", "table", "dim", "tokens", "dtype", "size_bytes", "version")
    return {
        "modality": info.modality,
        **{name: getattr(info, name) for name in names},
        **counts,
        "updated": info.updated,
    }
