"""How much of a catalogue the store covers, per table: the rows of ``bundlecache status``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ..encoder_spec import EncoderSpec
from ..modalities import MODALITIES
from .failures import ABSENT
from .table_schema import IMPORTED
from .text_columns import is_among

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

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


@dataclass(frozen=True)
class InUse:
    """The tables of a modality whose encoders a plain ``encode`` repeats, the current one last in ``last_pass``.

    ``last_pass`` holds those of the encoders that ran together last, and one for each choice of columns; ``others``
    those that were ``named`` besides. Repeating the others before the last pass leaves the same table the current one.
    ``info.spec``, ``info.dtype`` and ``info.preprocess`` say how.
    """

    last_pass: list[TableInfo]
    others: list[TableInfo]


def encoders_in_use(store: Store, named: Collection[str] = ()) -> dict[str, InUse]:
    """Modality -> the encoders that a plain ``encode`` repeats; ``named`` are specs that a run reads.

    Modalities whose current vectors were imported have none: no encoder can make these again, and another one must
    not replace them.
    """
    infos = store.tables()
    together = {receipt["table"]: receipt.get("together") for receipt in store.receipts()}
    found = {}
    for modality, current in current_tables(infos).items():
        if current[0].preprocess == IMPORTED:
            found[modality] = InUse([], [])
            continue
        ran = together.get(current[0].table)
        specs = {info.spec for info in current} | set(filter(_is_text, ran if isinstance(ran, list) else ()))
        last_pass, others = dict[str, "TableInfo"](), dict[str, "TableInfo"]()
        for info in infos:  # the newest of a spec first
            if info.modality == modality and info.rows and info.preprocess != IMPORTED:
                if info.spec in specs:
                    last_pass.setdefault(info.spec, info)
                elif info.spec in named:
                    others.setdefault(info.spec, info)
        found[modality] = InUse(list(reversed(last_pass.values())), list(reversed(others.values())))
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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
