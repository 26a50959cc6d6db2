"""The dataset formats by name, and the import of one into a workspace.

A format is a function ``read(src: Path) -> Dataset``. Ours are in ``BUILT_IN``; another package adds one by an entry
point, without a change here::

    [project.entry-points."bundlecache.readers"]
    myformat = "mypackage.myformat:read"
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...errors import CatalogueError, Command
from ...files import user_path
from ...rows import Result
from . import amazon, bundlerec, cells, clhe, fetch_media, folder, tables, writing
from .dataset import Dataset, Vectors
from .import_progress import Stages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ...workspace import WorkspaceFolder

__all__ = ["Dataset", "ImportSummary", "TablePreview", "Vectors", "describe", "names", "read"]

ENTRY_POINT_GROUP = "bundlecache.readers"
BUILT_IN: dict[str, Callable[[Path], Dataset]] = {
    "amazon": amazon.read,
    "bundlerec": bundlerec.read,
    "clhe": clhe.read,
    "folder": folder.read,
    "tables": tables.read,
}
DESCRIPTIONS = {
    "amazon": "Amazon reviews of 2014, 2018 or 2023 with their metadata, one JSON object a line, .gz too",
    "bundlerec": "the CSV files of BundleRec (Sun et al., SIGIR 2022)",
    "clhe": "the POG and Spotify files of CLHE and Bundle-MLLM, vectors included",
    "folder": "a folder of pictures and sounds, each file an item",
    "tables": "a shop's exports: CSV, TSV, JSON or Parquet, with --map for other column names",
}
TITLED_BY = {
    "amazon": "put meta_NAME.json, whose objects have asin and title, beside the reviews",
    "bundlerec": "fill the column titles of item_titles.csv",
    "clhe": f"give the items in item_info.json one of the fields {', '.join(clhe.TITLES)}",
    "folder": "give the files names that have words in them",
    "tables": "name the column of the titles (--map items.title=COLUMN)",
}
"""What to change so that items have titles, by format."""
UNTITLED_WARNING = (
    "WARNING: no item has a title, so text vectors and prompts have nothing to read; {} and import again, or train "
    "without titles (train --set prompt.without_titles=true)."
)
RECORD = "import.json"
PREVIEW_ROWS = 3
MAX_SHOWN = 80


@dataclass(frozen=True)
class TablePreview:
    """What was understood of one table: its file, the meaning of its columns, and its first rows."""

    table: str
    file: str
    columns: dict[str, str]  # new name -> name in the file
    rows: int
    first: list[dict[str, Any]]


@dataclass(frozen=True, repr=False)
class ImportSummary(Result):
    """What an import wrote, or would write where ``dry_run``; ``vectors`` came with the data, to be put into the store.

    ``untitled`` counts the items without a title.
    """

    format: str
    source: str
    items: int
    bundles: int
    interactions: int
    media: int
    vectors: list[Vectors] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    untitled: int = 0
    dry_run: bool = False
    preview: list[TablePreview] = field(default_factory=list)
    fetched: fetch_media.FetchReceipt | None = None

    def to_dict(self) -> dict[str, Any]:
        """For printing: the vectors as modality, spec, rows and width; no preview and no receipt where there is none."""
        made = {name: value for name, value in vars(self).items() if name not in ("vectors", "preview", "fetched")}
        made["vectors"] = [
            {"modality": v.modality, "spec": v.spec, "rows": len(v.item_ids), "dim": v.dim} for v in self.vectors
        ]
        if self.preview:
            made["preview"] = [asdict(table) for table in self.preview]
        if self.fetched:
            made["fetched"] = asdict(self.fetched)
        return made


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in BUILT_IN}


def names() -> list[str]:
    """The names of all formats, those of other installed packages included; nothing is imported for it."""
    return [*BUILT_IN, *sorted(_plugins())]


def forget_plugins() -> None:
    """Look for the readers of other packages again, for a process that installed one."""
    _plugins.cache_clear()


def describe() -> dict[str, str]:
    """A phrase for each format; for one of another package, the first line of its function's docstring."""
    found = dict(DESCRIPTIONS)
    for name in sorted(_plugins()):
        try:
            text = (_plugin(name).__doc__ or "").strip().split("\n")[0].rstrip(".")
        except CatalogueError as error:
            text = error.message
        found[name] = text or f"a format of {_plugins()[name].value.partition(':')[0]}"
    return found


def _plugin(name: str) -> Callable[[Path], Dataset]:
    point = _plugins()[name]
    try:
        reader = point.load()
    except Exception as error:
        raise CatalogueError(
            f"The reader {name!r} of {point.value} cannot be loaded: {type(error).__name__}: {error}.",
            hint=f"mend that package, or use one of {', '.join(BUILT_IN)}",
        ) from error
    if not callable(reader):
        raise CatalogueError(f"The reader {name!r} of {point.value} is no function.", hint="it must be read(src)")
    made: Callable[[Path], Dataset] = reader
    return made


def read(
    format: str,  # noqa: A002
    src: Path,
    workspace: WorkspaceFolder,
    *,
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    request: tables.TablesRequest | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ImportSummary:
    """Import a dataset into a workspace: write its tables, copy its pictures and sounds.

    Rows are put in an order that a hash of the seed and their ids gives: in public data the order of rows
    tells which items belong together. Everything is checked before anything is written.

    Parameters
    ----------
    dry_run
        Write nothing; the summary's ``preview`` shows what was understood, with three rows of each table.
    request
        For the format ``tables``: which files, which columns, whether to fetch pictures.
    progress
        Is called with the name of a stage, the rows done, and the rows in all (0 where unknown).

    Raises
    ------
    CatalogueError
        For an unknown format, a source that is missing or damaged, ids that stand twice, or a workspace
        that holds another catalogue while ``overwrite`` is off.
    """
    _check_format(format, src, request)
    _check_paths(src, workspace)
    record = {"format": format, "source": str(src.resolve()), "seed": seed}
    if not dry_run:
        _check_other_catalogue(workspace, record, overwrite)
    stages = Stages(progress)
    dataset = _read(format, src, request, stages)
    stages.begin("checking")
    untitled = writing.check(dataset, src)
    if untitled == len(dataset.items):
        change = TITLED_BY.get(format, f"let the reader {format} give each item a title")
        dataset.notes.insert(0, UNTITLED_WARNING.format(change))
    preview = _preview(dataset, src) if dry_run else []
    copied, receipt = len(dataset.media), None
    if not dry_run:
        if request is not None and request.fetch:
            receipt = _fetch(dataset, workspace.root)
        stages.begin("copying pictures and sounds", len(dataset.media))
        copied = writing.copy_media(dataset, workspace)
        writing.write(dataset, workspace, seed, {RECORD: json.dumps(record, indent=1) + "\n"}, stages)
    return ImportSummary(
        format=format,
        source=str(src),
        items=len(dataset.items),
        bundles=len(dataset.bundles),
        interactions=len(dataset.interactions),
        media=copied,
        vectors=dataset.vectors,
        notes=dataset.notes,
        untitled=untitled,
        dry_run=dry_run,
        preview=preview,
        fetched=receipt,
    )


def read_dataset(
    format_: str,
    src: Path,
    request: tables.TablesRequest | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """The rows of a source, checked as those of an import are, for a catalogue that is changed by them.

    Raises
    ------
    CatalogueError
        For an unknown format, or a source that is missing or damaged.
    """
    _check_format(format_, src, request)
    dataset = _read(format_, src, request, Stages(progress))
    writing.check(dataset, src)
    return dataset


def _read(format_: str, src: Path, request: tables.TablesRequest | None, stages: Stages) -> Dataset:
    if format_ == "tables":
        return tables.read(src, request, stages)
    stages.begin(f"reading {src.name}")
    dataset = BUILT_IN[format_](src) if format_ in BUILT_IN else _plugin(format_)(src)
    if not isinstance(dataset, Dataset):
        raise CatalogueError(
            f"The reader {format_!r} gave back {type(dataset).__name__}, not a Dataset.",
            hint="return bundlecache.catalogue.readers.dataset.Dataset",
        )
    return dataset


def _fetch(dataset: Dataset, root: Path) -> fetch_media.FetchReceipt:
    """Download the pictures that the items name by web address; see `fetch_media.fetch_images`."""
    items = dataset.table("items")
    if "image" not in items.column_names or not cells.is_text(items["image"]):
        return fetch_media.fetch_images([], root)
    rows, different = cells.codes(items["image"])
    images = [{"image": uri} for uri in different.to_pylist()]
    receipt = fetch_media.fetch_images(images, root)
    fetched = pa.chunked_array([pa.array([image["image"] for image in images], pa.string())])
    dataset.replace_column("items", "image", cells.taken(fetched, rows))
    return receipt


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= MAX_SHOWN else "SRC"


def _check_format(format_: str, src: Path, request: tables.TablesRequest | None) -> None:
    if format_ not in names():
        raise CatalogueError(
            f"There is no format {format_[:MAX_SHOWN]!r}; there are {', '.join(names())}.",
            hint=Command("import", "tables", _shown(src)),
        )
    if request is not None and format_ != "tables":
        raise CatalogueError(
            f"Files and mappings are named for the format tables only, not for {format_}.",
            hint=Command("import", "tables", _shown(src)),
        )


def _check_paths(src: Path, workspace: WorkspaceFolder) -> None:
    user_path(src, "The source")
    user_path(workspace.root, "The workspace")
    if not src.exists():
        raise CatalogueError(f"There is no {src}.", hint="give a folder that exists")
    if workspace.root.resolve().is_relative_to(src.resolve()):
        raise CatalogueError(
            f"The workspace {workspace.root} lies inside the source {src}.",
            hint="choose another folder with --data DIR",
        )


def _check_other_catalogue(workspace: WorkspaceFolder, record: dict[str, Any], overwrite: bool) -> None:
    """An import may replace what it wrote itself, and nothing else unless told to."""
    if overwrite or workspace.table("items") is None:
        return
    try:
        held = json.loads((workspace.root / RECORD).read_text("utf-8"))
        same = (held.get("format"), held.get("source")) == (record["format"], record["source"])
    except (OSError, ValueError, AttributeError, RecursionError):
        same = False
    if not same:
        raise CatalogueError(
            f"{workspace.root} holds another catalogue already.",
            hint="choose an empty folder with --data DIR, or pass --overwrite to replace its three tables",
        )


def _preview(dataset: Dataset, src: Path) -> list[TablePreview]:
    return [
        TablePreview(
            table,
            dataset.files.get(table, src).name,
            dataset.mapping.get(table, {}),
            len(rows),
            [{name: cell for name, cell in row.items() if cell is not None} for row in rows[:PREVIEW_ROWS].to_pylist()],
        )
        for table in ("items", "bundles", "interactions")
        if len(rows := dataset.table(table))
    ]
