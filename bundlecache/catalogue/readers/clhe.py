"""``clhe``: the layout of the POG and Spotify sets of CLHE and Bundle-MLLM, feature files included.

=================================  ==============================================================
``count.json``                     {"#U": users, "#B": bundles, "#I": items}
``item_info.json``                 {"0": {"title": ...}, ...}; Spotify: track_name, artist_name, album_name
``ui_full.txt``                    one user a line: ``user, item, item, ...``
``bi_train.txt``                   one bundle a line: ``bundle, item, item, ...``
``bi_{valid,test}_{input,gt}.txt`` the given and the held-out items of a bundle, in the same form
``content_feature.pt``             [I, d] picture (POG) or sound (Spotify) vectors
``description_feature.pt``         [I, d] text vectors
``item_cf_feature.pt``             [I, d] LightGCN vectors of the user-item graph
``*_LightGCN_bi_feature.pt``       [I, d] LightGCN vectors of the bundle-item graph
``images/ID.jpg``                  pictures, with any suffix
=================================  ==============================================================
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import foreign_tensors
from ...errors import BundlecacheError, CatalogueError, first_line
from .dataset import AUDIO_SUFFIXES, IMAGE_SUFFIXES, Dataset, Vectors
from .text_files import clean

if TYPE_CHECKING:
    from pathlib import Path

TITLES = ("title_en", "title", "name", "track_name")  # the public code of Bundle-MLLM reads title_en
CATEGORIES = ("category", "cate", "cate_name", "category_id", "cate_id", "genre")
MAX_ITEMS_PER_ENTRY = 10  # items that count.json may give for each entry of item_info.json
MAX_DIGITS = 18  # of an id
MEDIA = (("images", "image", IMAGE_SUFFIXES), ("audio", "audio", AUDIO_SUFFIXES))


def read(src: Path) -> Dataset:
    """Read one dataset folder (``pog``, ``pog_dense``, ``spotify``, ...).

    Raises
    ------
    CatalogueError
        When a needed file is missing or cannot be parsed.
    """
    dataset = Dataset()
    info = _json(src / "item_info.json")
    if isinstance(info, list):
        info = {str(i): entry for i, entry in enumerate(info)}
    count = _json(src / "count.json") if (src / "count.json").is_file() else {}
    if not isinstance(info, dict) or not isinstance(count, dict):
        raise CatalogueError(
            f"{src / 'item_info.json'} and count.json must hold one JSON object each.", hint="fetch them again"
        )
    size = count.get("#I", len(info))
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_ITEMS_PER_ENTRY * len(info):
        raise CatalogueError(
            f"{src / 'count.json'} gives {str(size)[:40]} items, {src / 'item_info.json'} has {len(info):,}.",
            hint="fetch both files again",
        )
    if size != len(info):
        dataset.notes.append(f"count.json gives {size:,} items, item_info.json has {len(info):,}.")
    item_ids = [str(i) for i in range(size)]
    known = set(item_ids)
    item_ids += [item_id for item_id in info if item_id not in known]
    dataset.files = {
        "items": src / "item_info.json",
        "bundles": src / "bi_train.txt",
        "interactions": src / "ui_full.txt",
    }
    dataset.items = [_item(item_id, info.get(item_id)) for item_id in item_ids]
    _note_titles(info, dataset.notes)
    _media(src, dataset)
    _bundles(src, dataset)
    _interactions(src, dataset)
    for path in sorted(src.glob("*.pt")):
        if (vectors := _vectors(path, size, dataset.notes)) is not None:
            dataset.vectors.append(vectors)
    return dataset


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise CatalogueError(
            f"{path.parent} holds no {path.name}, so it is no dataset of this layout ({error.strerror}).",
            hint="give the folder with item_info.json and bi_train.txt",
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise CatalogueError(f"{path} is no JSON: {reason}.", hint="fetch that file again") from error


def _title_field(entry: Any) -> str | None:
    """The field of an entry that its title is taken from; None where all are empty."""
    if not isinstance(entry, dict):
        return "title" if entry else None
    return next((name for name in TITLES if entry.get(name)), None)


def _note_titles(info: dict[str, Any], notes: list[str]) -> None:
    taken = Counter(filter(None, map(_title_field, info.values())))
    if taken:
        shown = ", ".join(f"{name!r} ({count:,} items)" for name, count in taken.most_common())
        kept = "; where there is another 'title', it is kept as the column title_original" if taken["title_en"] else ""
        notes.append(f"Titles are taken from {shown} of item_info.json{kept}.")


def _item(item_id: str, entry: Any) -> dict[str, Any]:
    entry = entry if isinstance(entry, dict) else {"title": entry}
    taken = _title_field(entry)
    title = str(entry[taken]) if taken else ""
    if entry.get("artist_name") and taken not in ("title_en", "title"):
        title = f"{title} - {entry['artist_name']}"
    category = next((str(entry[key]) for key in CATEGORIES if entry.get(key) not in (None, "")), None)
    row: dict[str, Any] = {"item_id": item_id, "title": clean(title), "category": category}
    if taken == "title_en" and entry.get("title"):
        row["title_original"] = clean(str(entry["title"]))
    for key, value in entry.items():
        if key not in (*row, *TITLES, "image", "audio") and isinstance(value, str | int | float):
            row[key] = clean(str(value))
    return row


def _media(src: Path, dataset: Dataset) -> None:
    rows = {row["item_id"]: row for row in dataset.items}
    for folder, column, suffixes in MEDIA:
        for path in sorted((src / folder).glob("*")):
            row = rows.get(path.stem)
            if row is not None and path.suffix.lower() in suffixes and path.is_file() and column not in row:
                row[column] = f"{folder}/{path.name}"
                dataset.media.append((path, row[column]))


def _bundles(src: Path, dataset: Dataset) -> None:
    members: dict[str, list[str]] = {}
    split: dict[str, str] = {}
    crossing: set[str] = set()
    parts = (("train", ("bi_train.txt",)), *((p, (f"bi_{p}_input.txt", f"bi_{p}_gt.txt")) for p in ("valid", "test")))
    for part, names in parts:
        for name in names:
            if part != "train" and not (src / name).is_file():
                continue
            for bundle, items in _lists(src / name):
                if split.setdefault(bundle, part) != part:
                    crossing.add(bundle)  # seen in training: asking about it would leak
                    continue
                members.setdefault(bundle, []).extend(items)
    if crossing:
        dataset.notes.append(f"{len(crossing):,} bundles stand in more than one split; the first one counts.")
    dataset.bundles = [
        {
            "bundle_id": bundle,
            "item_ids": list(dict.fromkeys(items)),
            "split": split[bundle],
            "group": f"bundle-{bundle}",
        }
        for bundle, items in members.items()
    ]


def _interactions(src: Path, dataset: Dataset) -> None:
    path = src / "ui_full.txt"
    if not path.is_file():
        return
    pairs = [(user, item) for user, items in _lists(path) for item in items]
    distinct = dict.fromkeys(pairs)
    if len(distinct) < len(pairs):
        dataset.notes.append(
            f"ui_full.txt repeats {len(pairs) - len(distinct):,} of its {len(pairs):,} pairs; each counts once."
        )
    dataset.interactions = [{"user_id": user, "item_id": item, "group": f"user-{user}"} for user, item in distinct]


def _lists(path: Path) -> list[tuple[str, list[str]]]:
    """Lines of numbers: the first is the key, the others its items; commas, tabs and spaces separate."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}).",
            hint=f"give the folder that holds {path.name}",
        ) from error
    out = []
    for number, line in enumerate(lines, 1):
        words = re.split(r"[,\s]+", line.strip(" ,\t\r"))
        if words == [""]:
            continue
        if not all(word.isdecimal() and len(word) <= MAX_DIGITS for word in words):
            raise CatalogueError(
                f"{path}, line {number}, is no list of numbers: {line.strip()[:60]!r}.",
                hint="a line reads: 12, 305, 7, 41",
            )
        out.append((str(int(words[0])), [str(int(word)) for word in words[1:]]))
    return out


def _vectors(path: Path, size: int, notes: list[str]) -> Vectors | None:
    """The vectors of one feature file, or None (with a note) where it holds none of this dataset."""
    modality = _modality(path)
    if modality is None:
        notes.append(f"{path.name} is no feature file that is known here; it is left out.")
        return None
    try:
        tensor = foreign_tensors.read_tensor(path)
    except BundlecacheError as error:
        raise CatalogueError(error.message, hint=["move it away to import the rest, or", error.hint or ""]) from error
    if not tensor.is_floating_point():
        notes.append(f"{path.name} holds no tensor of floating-point numbers; it is left out.")
        return None
    vectors = tensor.float().numpy()
    vectors = vectors.reshape(len(vectors), -1) if vectors.ndim > 1 else vectors  # [I, 1, d] happens
    if vectors.ndim != 2 or len(vectors) != size:
        notes.append(f"{path.name} has the shape {list(tensor.shape)}, not [{size}, d]; it is left out.")
        return None
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Vectors(modality, f"clhe:{path.name}", sha256, [str(i) for i in range(size)], np.ascontiguousarray(vectors))


def _modality(path: Path) -> str | None:
    name = path.name.lower()
    if name == "content_feature.pt":
        return "audio" if "spotify" in path.resolve().parent.name.lower() else "image"
    if name == "description_feature.pt":
        return "text"
    if name == "item_cf_feature.pt" or "lightgcn" in name:
        return "graph"
    return None
