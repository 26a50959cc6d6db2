"""Changes a catalogue by the rows of another source: adds, edits and, when asked, removes items, bundles, interactions.

Rows are matched by id: item_id, bundle_id, and for interactions user_id, item_id and timestamp (the same row twice
counts twice). A column that the source lacks keeps its cells; a table without rows in the source stays as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import CatalogueError, counted
from ..workspace import TABLES, WorkspaceFolder
from . import splits, table_transaction
from .catalogue import Catalogue
from .kept_splits import KeptBundle, KeptSplits
from .readers import writing
from .readers.dataset import Dataset
from .tables import cell_list, cell_text, number, read_table

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

Row = dict[str, Any]


@dataclass(frozen=True)
class TableChanges:
    """Rows of one table: how many the update added, changed, removed and left as they were."""

    table: str
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0


@dataclass(frozen=True)
class UpdateSummary:
    """What an update did, or with ``dry_run`` would do. ``media`` counts the pictures and sounds that were copied."""

    tables: list[TableChanges]
    removed_items: list[str]
    removed_bundles: list[str]
    media: int = 0
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """Rows that were added, changed or removed, of all tables."""
        return sum(table.added + table.changed + table.removed for table in self.tables)


def update(
    workspace: WorkspaceFolder, dataset: Dataset, *, remove_missing: bool = False, dry_run: bool = False
) -> UpdateSummary:
    """Merge the rows of ``dataset`` into the tables of a workspace: all of them, or none when something is wrong.

    The new tables are written beside the old ones, read and checked as a catalogue, and then put in place together;
    a killed update leaves the old tables, or is completed by the next command. Bundles that had a split keep it.

    Parameters
    ----------
    dataset
        What a reader gave, checked by `readers.writing.check`.
    remove_missing
        Remove the rows that the source does not have, of the tables that it has rows of.
    dry_run
        Count only.

    Raises
    ------
    CatalogueError
        When the workspace holds no catalogue, or would hold none that can be read.
    BundlecacheError
        When the folder cannot be written.
    """
    before = Catalogue.read(workspace)
    merged, changes, removed = Dataset(), [], {}
    for table in TABLES:
        rows, counts, lost = _merge(table, _rows(workspace, table), dataset.rows(table), remove_missing)
        getattr(merged, table).extend(rows)
        changes.append(counts)
        removed[table] = lost
    notes = list(dataset.notes)
    summary = UpdateSummary(changes, removed["items"], removed["bundles"], 0, dry_run, notes)
    if dry_run:
        return summary
    if not summary.changes:
        return UpdateSummary(changes, [], [], writing.copy_media(dataset, workspace), dry_run, notes)
    if _uses_splits(workspace):
        splits.keep(workspace, before)
    stage = table_transaction.stage(workspace.root)
    try:
        after = _write(merged, WorkspaceFolder(stage), workspace)
        if placed := _fill_splits(before, after, merged.bundles):
            after = _write(merged, WorkspaceFolder(stage), workspace)
            notes += placed
        after = replace(after, kept_splits=KeptSplits.read(workspace.kept_splits))
        media = writing.copy_media(dataset, workspace)
    except BaseException:
        table_transaction.discard(workspace.root)
        raise
    table_transaction.commit(workspace.root)
    notes += after.notes
    if workspace.kept_splits.is_file() and (placement := splits.keep(workspace, after)):
        notes += placement.sentences()
    return UpdateSummary(changes, removed["items"], removed["bundles"], media, dry_run, notes)


def _write(merged: Dataset, stage: WorkspaceFolder, workspace: WorkspaceFolder) -> Catalogue:
    """Write the tables, and read them back as a catalogue, which checks them."""
    writing.write(merged, stage, 0, {})
    for table in TABLES:
        if not merged.rows(table) and workspace.table(table) is None:
            (stage.root / f"{table}.parquet").unlink()
    return Catalogue.read(stage, workspace.catalogue_cache)


def _rows(workspace: WorkspaceFolder, table: str) -> list[Row]:
    path = workspace.table(table)
    columns = read_table(path) if path else {}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _merge(
    table: str, old: Sequence[Row], new: Sequence[Row], remove_missing: bool
) -> tuple[list[Row], TableChanges, list[str]]:
    """The rows after the update in the order of ``old``, new ones last; the counts; the ids of removed rows."""
    incoming = dict(zip(_keys(table, new), new, strict=True))
    count: Counter[str] = Counter()
    rows: list[Row] = []
    removed: list[str] = []
    for key, row in zip(_keys(table, old), old, strict=True):
        edit = incoming.pop(key, None)
        if edit is None and remove_missing and new:
            removed.append(str(key[0]))
            continue
        changed = edit is not None and any(not _same(name, row.get(name), cell) for name, cell in edit.items())
        count["changed" if changed else "unchanged"] += 1
        rows.append(row | edit if changed and edit else row)
    rows += incoming.values()
    counts = TableChanges(table, len(incoming), count["changed"], len(removed), count["unchanged"])
    return rows, counts, removed


def _keys(table: str, rows: Sequence[Row]) -> list[tuple[Hashable, ...]]:
    """What a row is matched by; of equal interactions the first matches the first, the second the second."""
    names = (*writing.ID_COLUMNS[table], *(("timestamp",) if table == "interactions" else ()))
    seen: Counter[tuple[Hashable, ...]] = Counter()
    keys: list[tuple[Hashable, ...]] = []
    for row in rows:
        key = tuple(cell_text(row.get(name)) for name in names)
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _same(name: str, old: Any, new: Any) -> bool:
    """Whether two cells say the same; 9.50 and 9.5 do."""
    if name == "item_ids":
        return cell_list(old) == cell_list(new)
    was, now = cell_text(old), cell_text(new)
    return was == now or (number(was) is not None and number(was) == number(now))


def _uses_splits(workspace: WorkspaceFolder) -> bool:
    """Whether anything was made from the splits as they are: frozen questions or a finished run."""
    return any(workspace.questions.glob("*.parquet")) or any(workspace.run_names())


def _fill_splits(before: Catalogue, after: Catalogue, rows: list[Row]) -> list[str]:
    """Place new ``rows`` of the bundles table where it has a split column and the source has none; the sentences to tell.

    Raises
    ------
    CatalogueError
        When the source has such a column and the catalogue has none.
    """
    bundles = after.bundles
    given = sum(part is not None for part in bundles.split)
    if given in (0, len(bundles)):
        return []
    if not any(before.bundles.split):
        raise CatalogueError(
            f"The update gives {counted(given, 'bundle')} a split, but the bundles of this catalogue have none.",
            hint="leave the column split out of the update: new bundles are placed beside the others",
        )
    kept = {
        name: KeptBundle(part, group, tuple(sorted(after.item_ids[i] for i in items.tolist())))
        for name, part, group, items in zip(bundles.ids, bundles.split, bundles.group, bundles.items, strict=True)
        if part is not None
    }
    without = bundles.with_split(None)
    placement = splits.place(replace(after, bundles=without, kept_splits=KeptSplits(kept)))
    if placement is None:
        return []
    split_of = dict(zip(bundles.ids, placement.split.tolist(), strict=True))
    for row in rows:
        if cell_text(row.get("split")) is None:
            row["split"] = split_of.get(str(cell_text(row["bundle_id"])), "train")
    return placement.sentences()
