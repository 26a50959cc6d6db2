"""A handful of test questions to look at: what was given, the options, what the model thought, the truth.

The questions are drawn by lot from the hits and from the misses, half of each where there are enough, with
a seed that comes from the questions' own SHA-256: nobody picks the pretty ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import bench
from ..errors import BundlecacheError, MediaError
from . import thumbnails

if TYPE_CHECKING:
    from pathlib import Path

    from ..catalogue import Catalogue
    from ..workspace import Workspace

SHOWN = 8
SOUND_BUDGET = 1_500_000  # characters of all sounds on a page


@dataclass
class Media:
    """Pictures and sounds of items as ``data:`` addresses, each read once."""

    workspace: Workspace
    catalogue: Catalogue
    sounds: dict[str, str] = field(default_factory=dict)  # element id -> address
    _items: dict[str, dict[str, Any]] = field(default_factory=dict)

    def item(self, item_id: str) -> dict[str, Any]:
        """Title, picture, sound and category of an item; ``picture`` is None, and ``why`` says why, without one."""
        if item_id not in self._items:
            self._items[item_id] = self._read(item_id)
        return self._items[item_id]

    def _read(self, item_id: str) -> dict[str, Any]:
        i = self.catalogue.index.get(item_id)
        if i is None:
            return {
                "title": item_id,
                "category": "no longer in the catalogue",
                "picture": None,
                "why": "gone",
                "sound": None,
            }
        picture, why = None, "no picture"
        if uri := self.catalogue.column("image")[i]:
            try:
                picture = thumbnails.picture(self.workspace.media(uri))
            except MediaError:
                why = "unreadable"
        return {
            "title": self.catalogue.titles[i] or item_id,
            "category": self.catalogue.column("category")[i],
            "picture": picture,
            "why": why,
            "sound": self._sound(i),
        }

    def _sound(self, i: int) -> str | None:
        uri = self.catalogue.column("audio")[i]
        if not uri or sum(map(len, self.sounds.values())) > SOUND_BUDGET:
            return None
        try:
            address = thumbnails.sound(self.workspace.media(uri))
        except MediaError:
            return None
        key = f"sound-{len(self.sounds)}"
        self.sounds[key] = address
        return key


def gallery(workspace: Workspace, run: Path, catalogue: Catalogue, results: dict[str, Any]) -> dict[str, Any] | None:
    """The cards of some questions, with their media; None when the model's answers are not there.

    Raises
    ------
    CheckpointError
        When the answers are damaged or belong to other questions than the results.
    """
    name, sha256 = results["questions"]["name"], results["questions"]["sha256"]
    table = bench.load_answers(run, name)
    if table is None or not len(table):
        return None
    if (table.schema.metadata or {}).get(b"sha256", b"").decode() != sha256:
        raise BundlecacheError(f"{name}.parquet of {run.name} answers other questions.", hint="bundlecache evaluate")
    media = Media(workspace, catalogue)
    cards = [_card(row, media) for row in table.take(_drawn(table, sha256)).to_pylist()]
    return {
        "cards": cards,
        "sounds": media.sounds,
        "pictures": any(catalogue.column("image")),
        "questions": name,
    }


def _drawn(table: Any, sha256: str) -> list[int]:
    """Row numbers: hits and misses by turns, so that both are met early."""
    rng = random.Random(sha256)
    right = [
        valid and predicted == truth
        for valid, predicted, truth in zip(
            *(table.column(c).to_pylist() for c in ("valid", "predicted", "truth")), strict=True
        )
    ]
    hits = [q for q, ok in enumerate(right) if ok]
    misses = [q for q, ok in enumerate(right) if not ok]
    rng.shuffle(hits)
    rng.shuffle(misses)
    of_hits = min(len(hits), max(SHOWN // 2, SHOWN - len(misses)))
    hits, misses = hits[:of_hits], misses[: SHOWN - of_hits]
    turns = [q for pair in zip(hits, misses, strict=False) for q in pair]
    return turns + hits[len(misses) :] + misses[len(hits) :]


def _card(row: dict[str, Any], media: Media) -> dict[str, Any]:
    options = []
    for k, (item_id, probability) in enumerate(zip(row["options"], row["probabilities"], strict=True)):
        options.append(
            {
                **media.item(item_id),
                "letter": chr(ord("A") + k) if k < 26 else str(k + 1),
                "probability": probability,
                "truth": k == row["truth"],
                "chosen": k == row["predicted"],
            }
        )
    return {
        "bundle_id": row["bundle_id"],
        "given": [media.item(item_id) for item_id in row["partial"]],
        "options": options,
        "valid": row["valid"],
        "hit": row["valid"] and row["predicted"] == row["truth"],
    }
