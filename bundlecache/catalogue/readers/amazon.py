"""``amazon``: the Amazon reviews layout, 5-core reviews and metadata as JSON Lines, plain or ``.gz``.

=====================================  ===================================================================
``reviews_*_5.json``, ``*_5.json``     2014 and 2018: reviewerID, asin, overall, reviewText, summary, unixReviewTime
``meta_*.json``                        asin, title, brand, price, categories (2014) or category (2018), description
``*.jsonl`` beside ``meta_*.jsonl``    2023: user_id, parent_asin, rating, text, title, timestamp (milliseconds)
``images/ASIN.jpg``                    pictures by asin, with any suffix
=====================================  ===================================================================

Metadata of 2014 are Python literals, not JSON; they are read as literals, and nothing in them is run. Several domains may lie in one
folder. Items are those that have a review; without metadata they have no title. Pictures are taken from the folder and never
fetched here: the addresses stand in the column image_url.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
from typing import TYPE_CHECKING, Any

from ...errors import CatalogueError, counted
from ..category_paths import PATH_SEPARATOR
from .dataset import IMAGE_SUFFIXES, Dataset
from .text_files import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = {  # of a field: in 2014 and 2018, in 2023
    "user_id": ("reviewerID", "user_id"),
    "item_id": ("asin", "parent_asin"),
    "rating": ("overall", "rating"),
    "explanation": ("reviewText", "text"),
    "summary": ("summary", "title"),
    "timestamp": ("unixReviewTime", "timestamp"),
}
FILE = re.compile(r".+\.jsonl?(\.gz)?", re.IGNORECASE)
META = re.compile(r"meta[_-]", re.IGNORECASE)
PRICE = re.compile(r"\d+(?:[.,]\d+)*")
MILLISECONDS = 10**11  # times above are in milliseconds
MAX_BROKEN = 0.01  # of the lines of a file
MAX_TEXT = 2_000  # characters of a description


def read(src: Path) -> Dataset:
    """Read a folder of reviews and metadata.

    Raises
    ------
    CatalogueError
        When there are no reviews, or a file cannot be read.
    """
    files = sorted(path for path in src.iterdir() if FILE.fullmatch(path.name)) if src.is_dir() else []
    metas = [path for path in files if META.match(path.name)]
    reviews = [path for path in files if path not in metas]
    if not reviews:
        raise CatalogueError(
            f"{src} holds no reviews (NAME_5.json.gz or NAME.jsonl.gz).",
            hint="give the folder with the 5-core reviews and meta_NAME.json.gz beside them",
        )
    dataset = Dataset(files={"items": (metas or reviews)[0], "interactions": reviews[0]})
    several = len(reviews) > 1
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for path in reviews:
        for entry in _entries(path, dataset.notes):
            row = _review(entry, path, several)
            there = rows.setdefault((row["user_id"], row["item_id"]), row)
            if (row["timestamp"] or 0) < (there["timestamp"] or 0):  # of several reviews of an item, the first
                rows[row["user_id"], row["item_id"]] = row
    dataset.interactions = list(rows.values())
    items: dict[str, dict[str, Any]] = {item: {"item_id": item, "title": ""} for _, item in rows}
    for path in metas:
        for entry in _entries(path, dataset.notes):
            item_id = str(entry.get("parent_asin") or entry.get("asin") or "").strip()
            if item_id in items:
                items[item_id] |= _item(entry)
    untitled = sum(not row["title"] for row in items.values())
    if untitled:
        dataset.notes.append(f"{untitled:,} of {len(items):,} reviewed items have no title in the metadata.")
    for path in sorted((src / "images").glob("*")):
        if path.stem in items and path.suffix.lower() in IMAGE_SUFFIXES and "image" not in items[path.stem]:
            items[path.stem]["image"] = f"images/{path.name}"
            dataset.media.append((path, f"images/{path.name}"))
    dataset.items = list(items.values())
    return dataset


def _review(entry: dict[str, Any], path: Path, several: bool) -> dict[str, Any]:
    found = {
        name: next((entry[key] for key in keys if entry.get(key) is not None), None) for name, keys in NAMES.items()
    }
    for name in ("user_id", "item_id"):
        if found[name] is None:
            raise CatalogueError(
                f"{path} has a review without {NAMES[name][0]}.",
                hint="give the 5-core reviews, not ratings or metadata",
            )
    user = str(found["user_id"]).strip()
    time = found["timestamp"]
    if isinstance(time, int | float) and time > MILLISECONDS:
        time = time / 1000
    domain = re.sub(r"^reviews_|(_5)?\.jsonl?(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    return {
        "user_id": f"{user}_{domain}" if several else user,  # one person in two domains is two users, as in UniMP
        "item_id": str(found["item_id"]).strip(),
        "timestamp": None if time is None else int(time),
        "rating": None if found["rating"] is None else float(found["rating"]),
        "explanation": clean(str(found["explanation"] or "")) or None,
        "summary": clean(str(found["summary"] or "")) or None,
    }


def _item(entry: dict[str, Any]) -> dict[str, Any]:
    steps = entry.get("categories") or entry.get("category") or []
    path = steps[0] if steps and isinstance(steps[0], list) else steps
    price = PRICE.search(str(entry.get("price") or ""))
    images = entry.get("imUrl") or next(iter(entry.get("imageURLHighRes") or entry.get("imageURL") or []), None)
    description = entry.get("description") or ""
    text = " ".join(map(str, description)) if isinstance(description, list) else str(description)
    return {
        "title": clean(str(entry.get("title") or "")),
        "category": PATH_SEPARATOR.join(clean(str(step)) for step in path)
        if isinstance(path, list)
        else clean(str(path)),
        "brand": clean(str(entry.get("brand") or entry.get("store") or "")) or None,
        "price": float(price.group().replace(",", "")) if price else None,
        "description": clean(text)[:MAX_TEXT] or None,
        "image_url": images if isinstance(images, str) else None,
    }


def _entries(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a line; a few broken lines are left out, and said.

    Raises
    ------
    CatalogueError
        When the file cannot be read, or more than one line in a hundred is none.
    """
    broken = count = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                if not line.strip():
                    continue
                count += 1
                entry = _parsed(line)
                if entry is None:
                    broken += 1
                else:
                    yield entry
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or not UTF-8"
        raise CatalogueError(f"{path} cannot be read: {reason}.", hint="fetch that file again") from error
    if broken > MAX_BROKEN * count:
        raise CatalogueError(
            f"{path} holds {counted(broken, 'line')} of {count:,} that are no JSON object.",
            hint="fetch that file again",
        )
    if broken:
        notes.append(f"{path.name}: {counted(broken, 'line')} of {count:,} are no JSON object and are left out.")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        try:
            entry = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return entry if isinstance(entry, dict) else None
