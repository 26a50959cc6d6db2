"""Make a workspace: import a public data layout or plain tables, or write the demo catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..console.reporter import DEFAULT_DATA, Reporter
from ..errors import BundlecacheError, Command, counted
from ..text import listed
from ..workspace import WorkspaceFolder
from .workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalogue.demo.make import DemoSummary
    from ..catalogue.readers.dataset import Vectors
    from ..catalogue.readers.registry import ImportSummary
    from ..catalogue.readers.tables import TablesRequest
    from ..catalogue.update import UpdateSummary
    from ..encode.run import Receipt


def import_data(
    layout: str,
    source: Path | str,
    data: Path | str = DEFAULT_DATA,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    tables: TablesRequest | None = None,
    quiet: bool = False,
) -> tuple[Workspace | None, ImportSummary]:
    """Import ``source`` into the workspace ``data``: tables, media, and vectors that came with it.

    Parameters
    ----------
    dry_run
        Write nothing, and give no workspace; the summary's ``preview`` shows what was understood.
    tables
        For the layout "tables": which file is which table, which column is what, whether to fetch pictures.

    Raises
    ------
    BundlecacheError
        For an unknown layout, a source that is missing or damaged, or a workspace that holds another catalogue.
    """
    from ..catalogue.readers import registry

    folder, say = WorkspaceFolder(data), Reporter(data, quiet=quiet)  # type: ignore[arg-type]
    with say.bar("import") as bar:
        summary = registry.read(
            layout, Path(source), folder, overwrite=overwrite, dry_run=dry_run, request=tables, progress=bar.stage
        )
    for note in summary.notes:
        say.note(f"note: {note}")
    if dry_run:
        return None, summary
    shop = Workspace(data, quiet=quiet)
    _store(shop, summary.vectors)
    return shop, summary


def update_data(
    source: Path | str,
    data: Path | str = DEFAULT_DATA,
    *,
    layout: str = "tables",
    remove_missing: bool = False,
    dry_run: bool = False,
    encode: bool = True,
    tables: TablesRequest | None = None,
    quiet: bool = False,
) -> tuple[UpdateSummary, list[Receipt]]:
    """Change the catalogue of a workspace by the rows of ``source``: add, edit and, when asked, remove; then encode.

    Bundles keep the split that they have. New and edited items are encoded by the encoders that the store has.

    Parameters
    ----------
    remove_missing
        Remove the rows that the source does not have, of the tables that it has.
    dry_run
        Count only.

    Raises
    ------
    BundlecacheError
        When the source is missing or damaged, or the changed catalogue could not be read; nothing is changed then.
    """
    from ..catalogue.readers import registry
    from ..catalogue.update import update

    folder, say = WorkspaceFolder(data), Reporter(data, quiet=quiet)  # type: ignore[arg-type]
    with say.bar("update") as bar:
        dataset = registry.read_dataset(layout, Path(source), tables, bar.stage)
        summary = update(folder, dataset, remove_missing=remove_missing, dry_run=dry_run, progress=bar.stage)
    for note in summary.notes:
        say.note(f"note: {note}")
    for what, ids in (("items", summary.removed_items), ("bundles", summary.removed_bundles)):
        if ids:
            say.note(f"removed {counted(len(ids), what[:-1])}: {listed(ids, 5)}")
    if dry_run or not encode:
        return summary, []
    shop = Workspace(data, quiet=quiet)
    return summary, [receipt for modality in shop.store.modalities() for receipt in shop.encode(modality)]


def _store(shop: Workspace, vectors: Sequence[Vectors]) -> None:
    """Put vectors that came with a data set into the store."""
    from ..store.import_vectors import IMPORTED
    from ..store.table_schema import Identity

    for found in vectors:
        identity = Identity(found.modality, found.spec, found.fingerprint, IMPORTED, "float32", found.dim)
        info = shop.store.write(identity, found.item_ids, found.vectors)
        shop.say.note(f"{found.modality}: {counted(info.rows, 'vector')} of {found.spec}")


def make_demo(root: Path | str, seed: int = 0, *, overwrite: bool = False) -> DemoSummary:
    """Write the demo catalogue, a gift shop generated from a seed, into a folder.

    Raises
    ------
    BundlecacheError
        When the folder holds a catalogue and ``overwrite`` is off, or cannot be written.
    """
    from ..catalogue.demo import make

    root = Path(root)
    if not str(root).strip() or str(root) == ".":
        raise BundlecacheError(
            f"{str(root)!r} names no folder for the demo catalogue.", hint=Command("demo", "--make-data", "shop")
        )
    if WorkspaceFolder(root).table("items") is not None and not overwrite:
        raise BundlecacheError(
            f"{root} holds a catalogue already.", hint="choose an empty folder, or add --overwrite to replace it"
        )
    try:
        return make.make(root, seed)
    except OSError as error:
        raise BundlecacheError(
            f"{root} cannot be made or written: {error.strerror or error}.", hint="choose another folder"
        ) from error
