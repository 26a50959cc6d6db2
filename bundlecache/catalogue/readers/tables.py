"""``tables``: a shop's own exports, or tables that have the catalogue's names already.

``SRC`` is a folder of CSV, TSV, JSON or Parquet files, or the items table alone. Which file is which, and which column
is what, is said by a `TablesRequest`, by exact names, or guessed where a name is unambiguous; a note says what was
guessed. Orders may be long (a row per item) or wide (a row per order with ``item_ids``). Pictures and sounds that the
items name relative to their table are copied along; web addresses are fetched on request only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import CatalogueError, Command, counted
from . import cell_values, cells, order_rows
from .column_names import OPTION_NAMES, ColumnMap, Resolved, closest_column, likely_columns, parse_maps, resolve
from .dataset import Dataset, as_table
from .import_progress import Stages
from .load_table import Table, load
from .table_files import choose_files

if TYPE_CHECKING:
    from .cells import Column

REQUIRED = {"items": ("item_id",), "bundles": ("bundle_id", "item_id"), "interactions": ("user_id", "item_id")}
MEDIA = {"image": "images", "audio": "audio"}
MIN_KNOWN_SHARE = 0.5  # of the item ids of the orders that must be items, for two guessed columns to belong together
MAX_NAMED = 12
PROBED_ITEMS = 10_000  # of the orders, among which a known item is looked for before all are


@dataclass(frozen=True)
class TablesRequest:
    """How a folder of exports is to be read; what is left out is guessed.

    ``items``, ``orders`` and ``events`` are files in the source folder (or anywhere). ``maps`` holds mappings such as
    ``item_id=product_id,title=name`` or ``orders.item_id=sku``. ``dates`` is auto, day-first or month-first.
    """

    items: Path | None = None
    orders: Path | None = None
    events: Path | None = None
    maps: tuple[str, ...] = ()
    dates: str = "auto"
    fetch: bool = False  # download the pictures that are web addresses; see `fetch_media`


def read(src: Path, request: TablesRequest | None = None, stages: Stages | None = None) -> Dataset:
    """Read the tables of a folder, or one items table.

    Raises
    ------
    CatalogueError
        When there are no items, a table cannot be parsed, columns are missing (all of them in one message), or no item
        of the orders is an item of the catalogue.
    """
    request, stages = request or TablesRequest(), stages or Stages()
    if request.dates not in cell_values.DATE_ORDERS:
        raise CatalogueError(
            f"--dates is {request.dates!r}; allowed are {', '.join(cell_values.DATE_ORDERS)}.", hint="--dates day-first"
        )
    dataset = Dataset()
    given = {"items": request.items, "bundles": request.orders, "interactions": request.events}
    dataset.files = choose_files(src, given, dataset.notes)
    maps = parse_maps(request.maps)
    loaded: dict[Path, Table] = {}
    for path in dataset.files.values():
        if path not in loaded:
            loaded[path] = load(path, dataset.notes, stages.begin(f"reading {path.name}"))
    tables = {table: loaded[path] for table, path in dataset.files.items()}
    resolved = {table: resolve(table, tables[table].path.name, list(tables[table].columns), maps) for table in tables}
    _choose_item_ids(tables, resolved)
    _check_columns(src, request, tables, resolved, [map_.text for map_ in maps if not _heeded(map_, resolved, tables)])
    for table, columns in resolved.items():
        if note := columns.note(tables[table].path.name):
            dataset.notes.append(note)
        dataset.mapping[table] = dict(columns.columns)
    stages.begin("finding columns")
    one_file = tables.get("bundles") is tables["items"]
    dataset.items = as_table("items", _items(tables["items"], resolved["items"], dataset, one_file=one_file))
    if "bundles" in tables:
        stages.begin("reading orders")
        orders = order_rows.bundles(tables["bundles"], resolved["bundles"], dataset.notes, request.dates)
        dataset.bundles = as_table("bundles", orders)
    if "interactions" in tables:
        stages.begin("reading events")
        events = _interactions(tables["interactions"], resolved["interactions"], dataset, request.dates)
        dataset.interactions = as_table("interactions", events)
    _check_known(tables, dataset)
    _media(tables["items"].path.parent, dataset)
    return dataset


def _choose_item_ids(tables: dict[str, Table], resolved: dict[str, Resolved]) -> None:
    """Of several likely id columns, those whose ids stand in both tables belong together (``id`` or ``sku``?)."""
    for other in ("bundles", "interactions"):
        if other not in tables:
            continue
        pairs = []
        for left in _id_candidates("items", tables, resolved):
            known = tables["items"].ids(left).combine_chunks()
            for right in _id_candidates(other, tables, resolved):
                ids = pc.unique(tables[other].ids(right))
                ids = ids.filter(pc.not_equal(ids, ""))
                shared = pc.sum(pc.is_in(ids, known)).as_py() or 0
                pairs.append((shared / max(1, len(ids)), left, right))
        if not pairs:
            continue
        best = max(share for share, _, _ in pairs)
        share, left, right = next(pair for pair in pairs if pair[0] > best - 0.05)  # the likeliest names of the best
        if share < MIN_KNOWN_SHARE:
            continue
        for table, column in (("items", left), (other, right)):
            found = resolved[table]
            if found.columns.get("item_id") != column:
                found.columns["item_id"] = column
                found.open.pop("item_id", None)
                if "item_id" not in found.guessed:
                    found.guessed.insert(0, "item_id")


def _id_candidates(table: str, tables: dict[str, Table], resolved: dict[str, Resolved]) -> list[str]:
    found = resolved[table]
    if "item_id" in found.columns and "item_id" not in found.guessed:
        return [found.columns["item_id"]]
    if "item_ids" in found.columns and "item_id" not in found.open:
        return []
    taken = {column for target, column in found.columns.items() if target != "item_id"}
    header = [name for name in tables[table].columns if name not in taken]
    return [name for level in likely_columns(table, "item_id", header) for name in level]


def _heeded(map_: Any, resolved: dict[str, Resolved], tables: dict[str, Table]) -> bool:
    """Whether some table has the mapping's column; a mapping to nothing (``title=``) needs none."""
    if map_.table is not None:
        return map_.table in tables
    return not map_.column or any(map_.column in found.columns.values() for found in resolved.values())


def _check_columns(
    src: Path, request: TablesRequest, tables: dict[str, Table], resolved: dict[str, Resolved], unheeded: list[str]
) -> None:
    """All that is missing or ambiguous, in one message."""
    problems = [f"no table has the column of {text!r}" for text in unheeded]
    proposals: list[str] = []
    for table, found in resolved.items():
        file, header = tables[table].path.name, list(tables[table].columns)
        problems += found.problems
        required = [name for name in REQUIRED[table] if not (name == "item_id" and "item_ids" in found.columns)]
        if table == "items" and not {"image", "audio"} & found.columns.keys():
            required.append("title")
        missing = []
        for target in required:
            if target in found.columns or target in found.emptied:
                continue
            if target in found.open:
                problems.append(f"{file}: {target} may be {' or '.join(map(repr, found.open[target]))}")
                proposals.append(f"{OPTION_NAMES[table]}.{target}={found.open[target][0]}")
                continue
            missing.append(target)
        proposed = _proposals(missing, tables, resolved, table)
        proposals += [f"{OPTION_NAMES[table]}.{target}={proposed[target]}" for target in missing]
        if missing:
            shown = ", ".join(header[:MAX_NAMED]) + (", ..." if len(header) > MAX_NAMED else "")
            problems.append(f"{file} has no column {', '.join(map(repr, missing))}; its columns are: {shown or 'none'}")
    if problems:
        said = ". ".join(problems)
        kept = [map_ for map_ in parse_maps(request.maps) if map_.text not in unheeded and f"({map_.text})" not in said]
        raise CatalogueError(f"{said}.", hint=_again(src, request, kept, proposals))


def _proposals(
    missing: list[str], tables: dict[str, Table], resolved: dict[str, Resolved], table: str
) -> dict[str, str]:
    """A column for each target that nothing was found for, COLUMN where none is likely: by its contents, else by its name."""
    free = [name for name in tables[table].columns if name not in resolved[table].columns.values()]
    found = {}
    for target in sorted(missing, key=lambda name: name != "item_id"):  # which contents tell best
        proposal = _by_content(target, tables, resolved, table, free) or closest_column(table, target, free)
        if proposal is None and target in ("bundle_id", "user_id") and len(free) == 1:
            proposal = free[0]
        found[target] = proposal or "COLUMN"
        free = [name for name in free if name != proposal]
    return found


def _by_content(
    target: str, tables: dict[str, Table], resolved: dict[str, Resolved], table: str, free: list[str]
) -> str | None:
    """The column of orders or events that holds ids of items, or users that the orders name too."""
    other, column = {"item_id": ("items", "item_id"), "user_id": ("bundles", "group")}.get(target, ("", ""))
    if other in ("", table) or other not in tables or column not in resolved[other].columns:
        return None
    known = pc.unique(tables[other].ids(resolved[other].columns[column]).combine_chunks())
    shares = {}
    for name in free:
        ids = pc.unique(tables[table].ids(name))
        ids = ids.filter(pc.not_equal(ids, ""))
        shares[name] = (pc.sum(pc.is_in(ids, known)).as_py() or 0) / max(1, len(ids))
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best is not None and shares[best] >= MIN_KNOWN_SHARE else None


def _again(src: Path, request: TablesRequest, maps: list[ColumnMap], proposals: list[str]) -> Command | str:
    """The command to type: what was typed, with the mappings that are of use and the proposed ones."""
    if not proposals:
        return "mend --map and try again"
    words: list[object] = []
    for option, file in (("--items", request.items), ("--orders", request.orders), ("--events", request.events)):
        words += [option, file] if file else []
    words += ["--dates", request.dates] if request.dates != "auto" else []
    mapped = {text.partition("=")[0] for text in proposals}
    kept = [map_.text for map_ in maps if map_.text.partition("=")[0] not in mapped]
    return Command("import", "tables", src, *words, "--map", ",".join([*kept, *proposals]))


def _items(table: Table, found: Resolved, dataset: Dataset, *, one_file: bool) -> dict[str, Column]:
    """The columns of the items under their new names, amounts as numbers; other columns stay attributes."""
    renamed = {column: target for target, column in found.columns.items()}
    columns: dict[str, Column] = {}
    for name, column in table.columns.items():
        if one_file and name not in renamed:
            continue  # columns of an order's row, such as its quantity, are none of the item
        target = renamed.get(name, name)
        if target in columns or (target in found.columns and name not in renamed):
            target = f"{name} (original)"
        if target not in ("item_id", "title", *MEDIA) and cell_values.looks_numeric(name, column):
            numbers = cell_values.read_numbers(name, column)
            if numbers is None:
                dataset.notes.append(f"{table.path.name}: {name} holds cells that are no numbers; it stays text.")
            else:
                column = numbers.values
                if numbers.note:
                    dataset.notes.append(f"{table.path.name}: {numbers.note}.")
        columns[target] = column
    return _distinct_items(columns, table, found, dataset) if one_file else columns


def _distinct_items(columns: dict[str, Column], table: Table, found: Resolved, dataset: Dataset) -> dict[str, Column]:
    """One row per item of a file that holds items and orders; the first row that has a title counts."""
    ids = table.ids(found.columns["item_id"])
    there = np.flatnonzero(pc.not_equal(ids, "").to_numpy())
    number, names = cells.codes(cells.taken(ids, there))
    first = cells.first_rows(number, len(names))  # into there
    if "title" in columns:
        titled = np.flatnonzero(_truthy(columns["title"])[there])
        at = cells.first_rows(number[titled], len(names))
        first = np.where(at < len(titled), np.append(titled, 0)[at], first)
    dataset.notes.append(
        f"{table.path.name} holds items and orders: the first row of each of {len(names):,} items counts."
    )
    return {name: cells.taken_cells(column, there[first]) for name, column in columns.items()}


def _truthy(column: Column) -> np.ndarray:
    """[n] bool, whether a cell says anything: text that is not empty, a number other than 0."""
    if cells.is_text(column):
        return pc.fill_null(pc.not_equal(column, ""), False).to_numpy()
    return np.array([bool(cell) for cell in cells.values(column)], bool)


def _interactions(table: Table, found: Resolved, dataset: Dataset, dates: str) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    exact = set(table.columns) == set(found.columns.values())
    users, items = table.ids(found.columns["user_id"]), table.ids(found.columns["item_id"])
    for target, name in found.columns.items():
        column = table.columns[name]
        if target in ("user_id", "item_id"):
            column = users if target == "user_id" else items
        elif target == "timestamp":
            column = order_rows.dates_of(table.path.name, name, column, dates, dataset.notes)
        elif target == "rating" and (numbers := cell_values.read_numbers(name, column)) is not None:
            column = numbers.values
        columns[target] = column
    unused = [name for name in table.columns if name not in found.columns.values()]
    if unused and not exact:
        dataset.notes.append(f"{table.path.name}: columns that are not used: {', '.join(unused[:MAX_NAMED])}.")
    whole = pc.and_(pc.not_equal(users, ""), pc.not_equal(items, "")).to_numpy()
    if not whole.all():
        dataset.notes.append(f"{table.path.name}: {int((~whole).sum()):,} rows without user or item are left out.")
        columns = {name: cells.taken_cells(column, np.flatnonzero(whole)) for name, column in columns.items()}
    return columns


def _check_known(tables: dict[str, Table], dataset: Dataset) -> None:
    """Orders of which no item is known were mapped to the wrong column."""
    known = cells.id_texts(dataset.table("items")["item_id"]).combine_chunks()
    for table, column in (("bundles", "item_ids"), ("interactions", "item_id")):
        rows = dataset.table(table)
        if column not in rows.column_names:
            continue
        named = rows[column]
        if pa.types.is_list(named.type):
            named = pa.chunked_array([chunk.flatten() for chunk in named.chunks], pa.string())
        if not len(named) or pc.any(pc.is_in(named[:PROBED_ITEMS], known)).as_py():
            continue
        ids = pc.unique(named)
        ids = ids.filter(pc.not_equal(ids, ""))
        if not len(ids) or pc.any(pc.is_in(ids, known)).as_py():
            continue
        file = tables[table].path.name
        example = known[0].as_py() if len(known) else ""
        raise CatalogueError(
            f"No item of {file} (such as {ids[0].as_py()[:40]!r}) is an item of {tables['items'].path.name} (such as "
            f"{example[:40]!r}), so their columns do not belong together.",
            hint=f"--map items.item_id=COLUMN,{OPTION_NAMES[table]}.item_id=COLUMN names the two columns",
        )


def _media(folder: Path, dataset: Dataset) -> None:
    """Put the files that items name into ``dataset.media``; a table from elsewhere must not pull in others of this machine."""
    missing = 0
    inside = folder.resolve()
    for column, target in MEDIA.items():
        items = dataset.table("items")
        if column not in items.column_names or not cells.is_text(items[column]):
            continue
        rows, different = cells.codes(items[column])
        counts = np.bincount(rows[rows >= 0], minlength=len(different)).tolist()
        uris = different.to_pylist()
        for at, uri in enumerate(uris):
            if not uri or "://" in uri:
                continue
            path = _file_inside(folder, inside, uri)
            if path is None:
                missing += counts[at]
                continue
            relative = path.relative_to(inside).as_posix()
            uris[at] = relative if relative.startswith(f"{target}/") else f"{target}/{relative}"
            dataset.media += [(path, uris[at])] * counts[at]
        dataset.replace_column("items", column, cells.taken(pa.chunked_array([pa.array(uris, pa.string())]), rows))
    if missing:
        dataset.notes.append(
            f"{counted(missing, 'picture or sound', 'pictures or sounds')} that items name are not in {folder.name};"
            " encoding will report them."
        )


def _file_inside(folder: Path, inside: Path, uri: str) -> Path | None:
    """The file that a cell names, where there is one below ``inside``."""
    try:
        path = (folder / uri).resolve()
        return path if path.is_file() and path.is_relative_to(inside) else None
    except (OSError, ValueError, RuntimeError):
        return None
