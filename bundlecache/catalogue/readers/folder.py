"""``folder``: a folder of pictures and sounds is a catalogue.

Every file is an item: its id is the path without the suffix, its category the folder it lies in, its title
the file's name, or the folder's where the name says nothing (a UUID, ``IMG_0123``). A picture and a sound
of one name are one item with both. Two pictures of one name keep their suffixes and are two items.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ...errors import CatalogueError
from .dataset import AUDIO_SUFFIXES, IMAGE_SUFFIXES, Dataset
from .text_files import clean

SAYS_NOTHING = frozenset(("img", "dsc", "dscn", "image", "photo", "pic", "picture", "file", "scan", "untitled", "copy"))


def read(src: Path) -> Dataset:
    """Read all pictures and sounds below ``src``; hidden files and folders are passed over.

    So are links that lead out of ``src``: a folder from elsewhere must not pull in other files of this machine.

    Raises
    ------
    CatalogueError
        When there is no picture and no sound.
    """
    dataset = Dataset()
    files: dict[str, dict[str, list[Path]]] = {}
    skipped = strays = 0
    inside = src.resolve()
    for path in _walk(src):
        kind = _kind(path)
        if kind is None or not _is_text(path.name):
            skipped += 1
            continue
        if not path.is_file() or (path.is_symlink() and not path.resolve().is_relative_to(inside)):
            strays += 1
            continue
        stem = path.relative_to(src).with_suffix("").as_posix()
        files.setdefault(stem, {"image": [], "audio": []})[kind].append(path)
    for stem, kinds in files.items():
        if max(map(len, kinds.values())) == 1:
            dataset.items.append(_item(stem, {kind: paths[0] for kind, paths in kinds.items() if paths}, src, dataset))
            continue
        for kind, paths in kinds.items():
            for path in paths:
                dataset.items.append(_item(path.relative_to(src).as_posix(), {kind: path}, src, dataset))
    if not dataset.items:
        raise CatalogueError(
            f"{src} holds no picture and no sound.",
            hint=f"allowed are {' '.join(sorted(IMAGE_SUFFIXES | AUDIO_SUFFIXES))}",
        )
    if skipped:
        dataset.notes.append(f"{skipped:,} files of {src.name} are neither picture nor sound; they are left out.")
    if strays:
        dataset.notes.append(f"{strays:,} links and pipes of {src.name} lead to no file in it; they are left out.")
    return dataset


def title_of(relative: str) -> str:
    """A title from a path without suffix.

    >>> title_of("shoes/red_running-shoe"), title_of("t-shirt/153a69c6-4c18-49c0-a3d5-8af2ce547fa7")
    ('red running shoe', 't-shirt')
    >>> title_of("001 - Dog bark/1-100032-A"), title_of("IMG_0123")
    ('Dog bark', 'IMG_0123')
    """
    *folders, name = relative.split("/")
    words = re.findall(r"[^\W\d_]{3,}", name)
    is_hash = re.fullmatch(r"[0-9a-fA-F-]{16,}", name) and any(map(str.isdigit, name))
    if words and not is_hash and not all(word.lower() in SAYS_NOTHING for word in words):
        return clean(re.sub(r"[_\-.+]+", " ", name))
    return _class_name(folders[-1]) if folders else clean(name)


def _class_name(folder: str) -> str:
    """The folder's name without the number that only sorts it."""
    return clean(re.sub(r"^\d+\s*[-_.]\s*", "", folder).replace("_", " ")) or folder


def _item(item_id: str, files: dict[str, Path], src: Path, dataset: Dataset) -> dict[str, Any]:
    some = next(iter(files.values())).relative_to(src)
    row: dict[str, Any] = {
        "item_id": item_id,
        "title": title_of(some.with_suffix("").as_posix()),
        "category": _class_name(some.parent.name) if len(some.parts) > 1 else None,
        "image": None,
        "audio": None,
    }
    for kind, path in files.items():
        row[kind] = f"{'images' if kind == 'image' else 'audio'}/{path.relative_to(src).as_posix()}"
        dataset.media.append((path, row[kind]))
    return row


def _walk(src: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(src):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    return found


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else "audio" if suffix in AUDIO_SUFFIXES else None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no text in any encoding the system knows
        return False
    return True
