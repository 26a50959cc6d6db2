"""Vectors that other programs made, as :meth:`Store.write` takes them.

=====================================  ==================================================================
``FILE.parquet``                       ``item_id`` and one column of lists of numbers, or several of plain numbers
``FILE.npy``, ``FILE.pt``              [n, d] or [n, t, d], and the ids in a file of their own, one a line
folder: ``vectors.npy``, ``ids.txt``   what ``bundlecache export --format npy`` writes; ``mask.npy`` counts
folder: ``img_emb/``, ``metadata/``    what clip-retrieval writes; ``text_emb/`` for texts
=====================================  ==================================================================

Ids may be left out where the catalogue's are 0, 1, 2, ... and there are as many rows, as in the feature files
of CLHE and Bundle-MLLM. Nothing that a file names is ever run: no pickle, no object arrays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogue.columns import Strings
from ..errors import StoreError, counted, first_line
from ..files import is_regular, user_path
from ..foreign_tensors import read_array, read_tensor
from ..names import check_name
from .table_schema import IMPORTED, Identity
from .text_columns import is_among, repeated, take, text_column

if TYPE_CHECKING:
    from collections.abc import Container

    from ..catalogue.catalogue import Catalogue
    from .text_columns import Texts

ID_COLUMNS = ("item_id", "id", "asin")
VECTOR_COLUMNS = ("vector", "embedding", "emb", "features")
MIN_NUMBERS = 2  # columns of plain numbers that make a vector: one would be any count or price
FORMS = "a .parquet, .npy or .pt file, an export folder or a clip-retrieval folder"


@dataclass(frozen=True)
class Imported:
    """Vectors [n, d] or [n, t, d] of ``item_ids``; ``given`` rows were read, ``unknown`` are of no item here."""

    identity: Identity
    item_ids: Strings[str]
    vectors: np.ndarray
    given: int
    unknown: int


def read(source: Path, catalogue: Catalogue, modality: str, name: str, ids: Path | None = None) -> Imported:
    """Read vectors and keep those of the catalogue's items. ``ids`` names their item ids, one a line.

    Raises
    ------
    StoreError
        When the layout is none of the above, shapes or ids do not fit, or an id stands twice.
    """
    check_name(name, "encoder", hint="--name mine makes the encoder import:mine")
    source, ids = user_path(source, "The source of vectors"), user_path(ids, "The file of ids") if ids else None
    if not source.exists():
        raise StoreError(f"There is no {source}.", hint=f"give {FORMS}")
    given_ids, vectors = _read(source, catalogue, modality, ids)
    item_ids = Strings(given_ids)
    if not (np.issubdtype(vectors.dtype, np.floating) and vectors.ndim in (2, 3) and 0 not in vectors.shape[1:]):
        raise StoreError(
            f"{source} holds {vectors.dtype} of shape {list(vectors.shape)}; needed are floating-point numbers of the "
            "shape [items, width], or [items, tokens, width].",
            hint="save it again with a row per item: numpy.save(path, vectors.astype('float32'))",
        )
    if len(item_ids) != len(vectors):
        raise StoreError(
            f"{source} holds {counted(len(vectors), 'vector')}, against {counted(len(item_ids), 'item id')}.",
            hint="give the ids of these very rows: --ids FILE, one a line",
        )
    if doubled := repeated(item_ids):
        distinct = len(item_ids.arrow.unique())
        raise StoreError(
            f"{source} has {len(item_ids):,} rows of {counted(distinct, 'item')}; the first that stands twice is {doubled[0]!r}.",
            hint="leave one row an item",
        )
    if not item_ids:
        raise StoreError(f"{source} holds no vector.", hint="give a file with a row per item")
    keep = np.flatnonzero(is_among(item_ids, catalogue.item_ids))
    if not len(keep):
        raise StoreError(
            f"None of the ids of {source} ({len(item_ids):,}) is an item of the catalogue; they read "
            f"{', '.join(map(repr, item_ids[:3]))}, the catalogue's {', '.join(map(repr, catalogue.item_ids[:3]))}.",
            hint="--ids FILE, with the catalogue's ids, one a line",
        )
    tokens, dim = vectors.shape[1:] if vectors.ndim == 3 else (0, vectors.shape[1])
    dtype = "float16" if vectors.dtype == np.float16 else "float32"
    cause = (IMPORTED, dtype, int(dim), int(tokens))
    return Imported(
        identity=Identity(modality, f"import:{name}", _fingerprint(source, ids), *cause),
        item_ids=Strings(take(item_ids.arrow, keep)),
        vectors=vectors if len(keep) == len(vectors) else vectors[keep],
        given=len(item_ids),
        unknown=len(item_ids) - len(keep),
    )


def _read(source: Path, catalogue: Catalogue, modality: str, ids: Path | None) -> tuple[Texts, np.ndarray]:
    if source.suffix == ".parquet" and source.is_file():
        return _parquet(source)
    if source.suffix == ".npy" and source.is_file():
        vectors = _npy(source)
        return _ids(source, ids or _beside(source), len(vectors), catalogue), vectors
    if source.suffix in (".pt", ".pth") and source.is_file():
        vectors = _tensor(source)
        return _ids(source, ids, len(vectors), catalogue), vectors
    if (source / "vectors.npy").is_file():
        vectors = _npy(source / "vectors.npy")
        item_ids = _ids(source, ids or source / "ids.txt", len(vectors), catalogue)
        if (source / "mask.npy").is_file() and len(item_ids) == len(vectors):
            mask = _npy(source / "mask.npy")
            if mask.shape != (len(vectors),):
                raise StoreError(
                    f"{source} holds {counted(len(vectors), 'vector')}, but its mask.npy has the shape {list(mask.shape)}.",
                    hint="a mask says of each row, in one number, whether it is a vector",
                )
            rows = np.flatnonzero(mask)
            return take(text_column(item_ids), rows), vectors[rows]
        return item_ids, vectors
    if any((source / folder).is_dir() for folder in ("img_emb", "text_emb")):
        return _clip_retrieval(source, catalogue, modality)
    raise StoreError(f"{source} is nothing that vectors can be read from.", hint=f"give {FORMS}")


def _parquet(path: Path) -> tuple[Texts, np.ndarray]:
    table = _load_parquet(path)
    key = next((name for name in ID_COLUMNS if name in table.column_names), None)
    lists = [field.name for field in table.schema if pa.types.is_list(field.type) or _is_fixed(field.type)]
    lists += [field.name for field in table.schema if pa.types.is_large_list(field.type)]
    named = next((name for name in VECTOR_COLUMNS if name in lists), lists[0] if len(lists) == 1 else None)
    numbers = [name for name in table.column_names if name != key and _is_number(table.schema.field(name).type)]
    if key is None or (named is None and (lists or len(numbers) < MIN_NUMBERS)):
        raise StoreError(
            f"{path} has the columns {', '.join(table.column_names)}; needed are item_id and a vector column of "
            f"lists of numbers, or at least {MIN_NUMBERS} columns of numbers.",
            hint="name them item_id and vector",
        )
    keys = table[key]
    plain = pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type)
    item_ids = text_column(keys if plain and not keys.null_count else [str(value) for value in keys.to_pylist()])
    if named is None:
        return item_ids, _standardised(table.select(numbers))
    column = table[named].combine_chunks()
    if column.null_count:  # flattening would shift every row behind a null
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        column, item_ids = column.take(pa.array(there)), take(item_ids, there)
    if not len(column):
        return item_ids, np.zeros((0, 1), np.float32)
    lengths = column.value_lengths().unique().to_pylist() if not _is_fixed(column.type) else [column.type.list_size]
    values = column.flatten()  # honours the offset of a slice, and there is no null any more
    if len(lengths) > 1 or not pa.types.is_floating(values.type):
        raise StoreError(
            f"The column {named} of {path} holds lists of {values.type} of the lengths "
            f"{', '.join(map(str, sorted(lengths)[:5]))}; needed are floating-point numbers, one length for all.",
            hint=f"write {named} as lists of float32 of one length",
        )
    flat = values.to_numpy(zero_copy_only=False)  # a null number becomes NaN, and its row an error
    return item_ids, flat.reshape(len(column), lengths[0])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _standardised(table: pa.Table) -> np.ndarray:
    """float32 [n, d]: columns of numbers side by side, each with mean 0 and deviation 1, so that none decides by its unit.

    A row with a number missing is NaN there, and becomes an error.

    >>> _standardised(pa.table({"tempo": [100.0, 140.0], "mode": [0, 0]})).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    rows = np.stack([column.to_numpy().astype(np.float64) for column in table.columns], axis=1)
    spread = np.nanstd(rows, axis=0)
    return ((rows - np.nanmean(rows, axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))


def _load_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} is no Parquet file that can be read: {first_line(error)}.") from error


def _npy(path: Path) -> np.ndarray:
    return np.atleast_1d(read_array(path))


def _tensor(path: Path) -> np.ndarray:
    import torch

    tensor = read_tensor(path)
    if not tensor.is_floating_point():
        raise StoreError(
            f"{path} holds a tensor of {tensor.dtype}; needed are floating-point numbers.",
            hint="save it again with torch.save(tensor.float(), path)",
        )
    array = np.atleast_1d((tensor if tensor.dtype in (torch.float16, torch.float32) else tensor.float()).numpy())
    return array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array  # [I, 1, d] happens


def _beside(path: Path) -> Path | None:
    """``ids.txt`` or ``NAME.ids.txt`` in the folder of ``NAME.npy``."""
    return next((p for p in (path.with_suffix(".ids.txt"), path.with_name("ids.txt")) if p.is_file()), None)


def _ids(source: Path, ids: Path | None, rows: int, catalogue: Catalogue) -> Texts:
    if ids is None:
        numbers = pa.array(np.arange(rows)).cast(pa.large_string())
        if len(catalogue) == rows and is_among(numbers, catalogue.item_ids).all():
            return numbers
        raise StoreError(
            f"{source} does not say which items its {rows:,} rows are, and the catalogue's ids are not 0 to {rows - 1:,}.",
            hint="--ids FILE, one item id a line, in the order of the rows",
        )
    if ids.suffix == ".npy":
        array = read_array(ids)
        if array.ndim != 1 or array.dtype.kind not in "iuUS":
            raise StoreError(
                f"The ids {ids} are {array.dtype} of the shape {list(array.shape)}; needed is one column of texts or integers.",
                hint="--ids FILE, one item id a line",
            )
        if len(array) != rows:
            return [""] * len(array)  # the caller says that there are too many or too few
        return [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in array.tolist()
        ]
    try:
        if ids.exists() and not is_regular(ids):  # reading a pipe would wait for ever
            raise OSError("it is no regular file")
        text = ids.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise StoreError(f"The ids {ids} cannot be read: {reason}.", hint="--ids FILE, one item id a line") from error
    return text.removesuffix("\n").split("\n") if text else []


def _clip_retrieval(source: Path, catalogue: Catalogue, modality: str) -> tuple[list[str], np.ndarray]:
    """``img_emb/img_emb_K.npy`` and ``metadata/metadata_K.parquet``, part by part.

    The item of a row is named by a column ``item_id``, else by ``image_path``: it is the item's own path in the
    catalogue, or its file name, with or without the ending, is the item's id.
    """
    kind = "text_emb" if modality == "text" else "img_emb"
    parts = sorted((source / kind).glob(f"{kind}_*.npy"), key=lambda path: (len(path.name), path.name))
    if not parts:
        raise StoreError(f"{source} holds no {kind}/{kind}_0.npy, so there is nothing of {modality} in it.")
    known = catalogue.index
    images = [(cell, item) for cell, item in zip(catalogue.column("image"), catalogue.item_ids, strict=True) if cell]
    by_path = dict(images)
    item_ids: list[str] = []
    arrays: list[np.ndarray] = []
    for part in parts:
        vectors = _npy(part)
        about = _load_parquet(source / "metadata" / part.name.replace(kind, "metadata").replace(".npy", ".parquet"))
        column = next((name for name in ("item_id", "image_path") if name in about.column_names), None)
        if column is None:
            raise StoreError(
                f"The metadata of {part} has the columns {', '.join(about.column_names)}; needed is image_path or item_id."
            )
        names = [str(value) for value in about[column].to_pylist()]
        if len(names) != len(vectors) or vectors.shape[1:] != (arrays or [vectors])[0].shape[1:]:
            raise StoreError(
                f"{part} has the shape {list(vectors.shape)}, its metadata {len(names):,} rows"
                + (f", and {parts[0].name} the shape {list(arrays[0].shape)}." if arrays else "."),
                hint="each part needs a row of metadata a vector, and all parts one width: let clip-retrieval write it again",
            )
        arrays.append(vectors)
        item_ids += names if column == "item_id" else [_item_of(name, by_path, known) for name in names]
    return item_ids, np.concatenate(arrays)


def _item_of(path: str, by_path: dict[str, str], known: Container[str]) -> str:
    if path in by_path:
        return by_path[path]
    pure = PurePosixPath(path.replace("\\", "/"))
    return next((name for name in (pure.name, pure.stem) if name in known), path)


def _fingerprint(source: Path, ids: Path | None) -> str:
    """SHA-256 over all files that were read."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    digest = hashlib.sha256()
    for file in [*files, *([ids] if ids else [])]:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
