"""``bundlerec``: the CSV layout of BundleRec (Sun et al., SIGIR 2022), bundles that people marked in sessions.

Needs ``item_titles.csv`` and ``bundle_item.csv``; uses ``item_categories.csv``, ``bundle_intent.csv``,
``user_bundle.csv``, ``session_bundle.csv``, ``user_session.csv`` and ``user_item.csv`` where they are.
Several bundles come from one session, and ``user_item.csv`` is the union of the users' bundles: so every
bundle and every user carries the group that users, sessions and bundles form together, and a split never
cuts through one. Where frozen questions lie beside the data, their split is taken over.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ...errors import CatalogueError, Command
from ..category_paths import PATH_SEPARATOR
from .dataset import Dataset
from .groups import ConnectedGroups
from .text_files import clean, read_csv

if TYPE_CHECKING:
    from pathlib import Path

LINKS = (
    ("user_bundle.csv", "user", "bundle"),
    ("session_bundle.csv", "session", "bundle"),
    ("user_session.csv", "user", "session"),
)


def read(src: Path) -> Dataset:
    """Read one domain folder (``clothing``, ``electronic``, ``food``).

    Raises
    ------
    CatalogueError
        When a needed file is missing or cannot be parsed.
    """
    if not (src / "item_titles.csv").is_file():
        domains = sorted(path.parent.name for path in src.glob("*/item_titles.csv"))
        inside = f"; its folders {', '.join(domains)} do" if domains else ""
        raise CatalogueError(
            f"{src} holds no item_titles.csv, so it is no BundleRec domain{inside}.",
            hint=Command("import", "bundlerec", src / domains[0]) if domains else "give a folder such as electronic/",
        )
    dataset = Dataset()
    groups = ConnectedGroups()
    for name, left, right in LINKS:
        if (src / name).is_file():
            for a, b in read_csv(src / name, [f"{left} ID", f"{right} ID"], dataset.notes):
                groups.join((left, a), (right, b))
    dataset.items = _items(src, dataset.notes)
    dataset.bundles = _bundles(src, groups, dataset.notes)
    dataset.interactions = _interactions(src, groups, dataset.notes)
    return dataset


def categories(cell: str) -> list[list[str]]:
    """The paths of a category cell; a comma with a space after it belongs to a name.

    >>> categories("[[Electronics,Batteries, Chargers & Accessories],[Phones,Cases]]")
    [['Electronics', 'Batteries, Chargers & Accessories'], ['Phones', 'Cases']]
    """
    paths = re.split(r"\]\s*,\s*\[", cell.strip().strip("[]"))
    split = ([clean(step) for step in re.split(r",(?!\s)", path)] for path in paths)
    return [kept for path in split if (kept := [step for step in path if step])]


def _items(src: Path, notes: list[str]) -> list[dict[str, Any]]:
    items: dict[str, dict[str, Any]] = {}
    for item_id, title in read_csv(src / "item_titles.csv", ["item ID", "titles"], notes):
        items.setdefault(item_id, {"item_id": item_id, "title": clean(title), "category": None, "categories": None})
    uncategorised = len(items)
    if (src / "item_categories.csv").is_file():
        for item_id, cell in read_csv(src / "item_categories.csv", ["item ID", "categories"], notes):
            paths = categories(cell)
            if item_id in items and paths:
                # The longest path says most; the other ones are shop windows ("Luxury Brands").
                items[item_id]["category"] = PATH_SEPARATOR.join(sorted(paths, key=len)[-1])
                items[item_id]["categories"] = "; ".join(dict.fromkeys(step for path in paths for step in path))
        uncategorised = sum(item["category"] is None for item in items.values())
    if uncategorised:
        notes.append(f"{uncategorised:,} of {len(items):,} items have no category.")
    return list(items.values())


def _bundles(src: Path, groups: ConnectedGroups, notes: list[str]) -> list[dict[str, Any]]:
    members: dict[str, list[str]] = {}
    for bundle_id, item_id in read_csv(src / "bundle_item.csv", ["bundle ID", "item ID"], notes):
        members.setdefault(bundle_id, []).append(item_id)
    intents: dict[str, str] = {}
    if (src / "bundle_intent.csv").is_file():
        intents = {
            bundle_id: clean(text)
            for bundle_id, text in read_csv(src / "bundle_intent.csv", ["bundle ID", "intent"], notes)
        }
    split = _frozen_split(src, list(members), groups, notes)
    return [
        {
            "bundle_id": bundle_id,
            "item_ids": item_ids,
            "split": split.get(bundle_id),
            "group": _name(groups, ("bundle", bundle_id)),
            "name": intents.get(bundle_id),  # shown to people; it names the answer's kind, so no prompt may hold it
        }
        for bundle_id, item_ids in members.items()
    ]


def _interactions(src: Path, groups: ConnectedGroups, notes: list[str]) -> list[dict[str, Any]]:
    path = src / "user_item.csv"
    if not path.is_file():
        return []
    return [
        {"user_id": user_id, "item_id": item_id, "timestamp": time, "group": _name(groups, ("user", user_id))}
        for user_id, item_id, time in read_csv(path, ["user ID", "item ID", "timestamp"], notes)
    ]


def _name(groups: ConnectedGroups, member: tuple[str, str]) -> str:
    return "-".join(groups.name(member))  # type: ignore[arg-type]


def _frozen_split(src: Path, bundle_ids: list[str], groups: ConnectedGroups, notes: list[str]) -> dict[str, str]:
    """The split that frozen questions beside the data imply, whole groups at a time; empty when there are none."""
    part_of: dict[object, str] = {}
    asked = 0
    home = src.resolve()
    for folder in (home / "questions", home.parent / "questions"):
        for part in ("valid", "test"):
            for file in sorted(folder.glob(f"{home.name}_{part}_seed*.jsonl")):
                for bundle_id in _asked(file):
                    asked += 1
                    group = groups.name(("bundle", bundle_id))
                    if part_of.setdefault(group, part) != part:
                        raise CatalogueError(
                            f"{file} asks about bundle {bundle_id} of a group whose other bundles are {part_of[group]} ones.",
                            hint="move the questions folder away to split by group instead",
                        )
    if not asked:
        return {}
    split = {bundle_id: part_of.get(groups.name(("bundle", bundle_id)), "train") for bundle_id in bundle_ids}
    notes.append("The split is that of the frozen questions beside the data, whole groups at a time.")
    return split


def _asked(file: Path) -> list[str]:
    try:
        return [str(json.loads(line)["bundle"]) for line in file.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogueError(
            f"{file} is no question file ({type(error).__name__}).", hint="move it away to split by group instead"
        ) from error
