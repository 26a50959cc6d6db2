"""Changes a catalogue by the rows of another source: adds, edits and, when asked, removes items, bundles, interactions.

Rows are matched by id: item_id, bundle_id, and for interactions user_id, item_id and timestamp (the same row twice
counts twice). A column that the source lacks keeps its cells; a table without rows in the source stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CatalogueError, counted
from ..rows import Result, Rows
from ..workspace import TABLES, WorkspaceFolder
from . import splits, table_transaction
from .catalogue import Catalogue
from .kept_splits import KeptBundle, KeptSplits
from .merging import merge
from .readers import cells, writing
from .readers.dataset import Dataset
from .readers.import_progress import Stages
from .readers.load_table import load
from .tables import read_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from .readers.cells import Column


@dataclass(frozen=True)
class TableChanges:
    """Rows of one table: how many the update added, changed, removed and left as they were."""

    table: str
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0


@dataclass(frozen=True, repr=False)
class UpdateSummary(Result):
    """What an update did, or with ``dry_run`` would do. ``media`` counts the pictures and sounds that were copied."""

    tables: list[TableChanges]
    removed_items: list[str]
    removed_bundles: list[str]
    media: int = 0
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)

    def _frame(self) -> Any:
        """A row per table."""
        return Rows(self.tables).to_dicts()

    @property
    def changes(self) -> int:
        """Rows that were added, changed or removed, of all tables."""
        return sum(table.added + table.changed + table.removed for table in self.tables)


def update(
    workspace: WorkspaceFolder,
    dataset: Dataset,
    *,
    remove_missing: bool = False,
    dry_run: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
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
    progress
        Is called with the name of a stage, the rows done, and the rows in all (0 where unknown).

    Raises
    ------
    CatalogueError
        When the workspace holds no catalogue, or would hold none that can be read.
    BundlecacheError
        When the folder cannot be written.
    """
    stages = Stages(progress)
    stages.begin("reading the catalogue")
    before = Catalogue.read(workspace)
    merged, changes = Dataset(), []
    removed: dict[str, list[str]] = {}
    for table in TABLES:
        new, old = dataset.table(table), _columns(workspace, table)
        stages.begin(f"comparing {table}", len(new))
        made = merge(table, old, new, dataset.absent.get(table, {}), remove_missing=remove_missing)
        setattr(merged, table, made.rows)
        changes.append(TableChanges(table, made.added, made.changed, len(made.removed), made.unchanged))
        if table != "interactions":
            removed[table] = _removed_ids(old, writing.ID_COLUMNS[table][0], made.removed)
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
        after = _write(merged, WorkspaceFolder(stage), workspace, stages)
        if placed := _fill_splits(before, after, merged):
            after = _write(merged, WorkspaceFolder(stage), workspace, stages)
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


def _write(merged: Dataset, stage: WorkspaceFolder, workspace: WorkspaceFolder, stages: Stages) -> Catalogue:
    """Write the tables, and read them back as a catalogue, which checks them."""
    writing.write(merged, stage, 0, {}, stages)
    stages.begin("checking")
    for table in TABLES:
        if not len(merged.table(table)) and workspace.table(table) is None:
            (stage.root / f"{table}.parquet").unlink()
    return Catalogue.read(stage, workspace.catalogue_cache)


def _columns(workspace: WorkspaceFolder, table: str) -> dict[str, Column]:
    """The columns of a table of the workspace as they are kept; of CSV and JSONL files read as any command reads them."""
    path = workspace.table(table)
    if path is None:
        return {}
    if path.suffix == ".parquet":
        return load(path, []).columns
    return {name: cells.of_values(column) for name, column in read_table(path).items()}


def _removed_ids(old: Mapping[str, Column], column: str, rows: np.ndarray) -> list[str]:
    if not len(rows):
        return []
    ids: list[str] = cells.id_texts(cells.taken_cells(old[column], rows)).to_pylist()
    return ids


def _uses_splits(workspace: WorkspaceFolder) -> bool:
    """Whether anything was made from the splits as they are: frozen questions or a finished run."""
    return any(workspace.questions.glob("*.parquet")) or any(workspace.run_names(None))


def _fill_splits(before: Catalogue, after: Catalogue, merged: Dataset) -> list[str]:
    """Place new bundles of ``merged`` where the table has a split column and the source has none; the sentences to tell.

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
    rows = merged.table("bundles")
    parts = cells.id_texts(rows["split"])
    unplaced = pc.equal(parts, "")
    fill = [split_of.get(name, "train") for name in rows["bundle_id"].filter(unplaced).to_pylist()]
    filled = pc.replace_with_mask(parts.combine_chunks(), unplaced.combine_chunks(), pa.array(fill, pa.string()))
    merged.replace_column("bundles", "split", pa.chunked_array([filled]))
    return placement.sentences()
