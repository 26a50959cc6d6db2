"""A few test questions as examples: the partial bundle, the options, the model's probabilities, and the truth.

Some are drawn at random from the hits and the misses, half of each where there are enough, with a seed derived from
the questions' SHA-256, so that the choice is reproducible. Others are extremes: the hits and the misses with the
highest probability, and the questions with the smallest margin.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import MediaError
from . import thumbnails
from .model_answers import letter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bench.completion_examples import CompletionExample
    from ..bench.results import QuestionSetResult
    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder
    from .model_answers import Answered

SHOWN = 6  # drawn by lot
EACH = 4  # of every other kind
SOUND_BUDGET = 1_500_000  # characters of all sounds on a page


@dataclass
class Media:
    """Pictures and sounds of items as ``data:`` addresses, each read once."""

    workspace: WorkspaceFolder
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


def by_kind(media: Media, answered: Answered, results: QuestionSetResult) -> dict[str, Any]:
    """Cards of some questions by kind, with their media; no question stands twice."""
    kinds = [
        {"key": key, "title": title, "note": note, "cards": [{**card(answered, q, media), "kind": key} for q in rows]}
        for key, title, note, rows in _chosen(answered, results.questions.sha256)
        if rows
    ]
    return {
        "kinds": kinds,
        "pictures": media.catalogue.column("image").any(),
        "questions": results.questions.name,
    }


def card(answered: Answered, q: int, media: Media) -> dict[str, Any]:
    """Question ``q``: what was given, the options with their probabilities, the truth and the choice."""
    valid, truth, predicted = bool(answered.valid[q]), int(answered.truth[q]), int(answered.predicted[q])
    return {
        "bundle_id": answered.bundle_ids[q],
        "given": [media.item(item_id) for item_id in answered.partial[q]],
        "options": [
            {
                **media.item(item_id),
                "letter": letter(k),
                "probability": float(answered.probabilities[q, k]),
                "truth": k == truth,
                "chosen": k == predicted,
            }
            for k, item_id in enumerate(answered.options[q])
        ],
        "valid": valid,
        "hit": bool(answered.right[q]),
        "prompt": answered.prompts[q] if answered.prompts else None,
    }


def completion_cards(media: Media, examples: Sequence[CompletionExample]) -> list[dict[str, Any]]:
    """Free completions as cards: the items that complete a bundle best, and the one that was taken out of it."""
    return [
        {
            "kind": "completion",
            "given": [media.item(item_id) for item_id in example.partial],
            "options": [
                {
                    **media.item(item_id),
                    "letter": str(place),
                    "probability": probability,
                    "truth": item_id == example.held_out,
                    "chosen": False,
                }
                for place, (item_id, probability) in enumerate(
                    zip(example.items, example.probabilities, strict=True), start=1
                )
            ],
            "valid": True,
            "hit": example.held_out in example.items,
            "held_out": media.item(example.held_out),
        }
        for example in examples
        if example.items
    ]


def _chosen(answered: Answered, sha256: str) -> list[tuple[str, str, str, list[int]]]:
    """(key, title, note, question numbers) of each kind; equals stand in the order of a lot."""
    lot = list(range(len(answered)))
    random.Random(sha256).shuffle(lot)
    taken = _drawn(answered, lot)
    free = [q for q in lot if q not in set(taken)]
    hits = sorted((q for q in free if answered.right[q]), key=lambda q: -answered.sure[q])[:EACH]
    misses = sorted((q for q in free if not answered.right[q] and answered.valid[q]), key=lambda q: -answered.sure[q])
    misses = misses[:EACH]
    rest = [q for q in free if q not in {*hits, *misses} and answered.valid[q]]
    unsure = sorted(rest, key=lambda q: answered.lead[q])[:EACH]
    return [
        (
            "lot",
            "Drawn by lot",
            "Hits and misses by turns: the share of hits here says nothing, the table above does.",
            taken,
        ),
        ("hits", "Surest hits", "Right, with the highest probability.", hits),
        (
            "misses",
            "Surest misses",
            "Wrong, and sure of it: where the model is led astray, or the bundle surprises.",
            misses,
        ),
        ("unsure", "Unsure", "The first two options are nearly as likely.", unsure),
    ]


def _drawn(answered: Answered, lot: Sequence[int]) -> list[int]:
    """Hits and misses by turns, so that both are met early, half of each where there are enough."""
    hits = [q for q in lot if answered.right[q]]
    misses = [q for q in lot if not answered.right[q]]
    of_hits = min(len(hits), max(SHOWN // 2, SHOWN - len(misses)))
    hits, misses = hits[:of_hits], misses[: SHOWN - of_hits]
    turns = [q for pair in zip(hits, misses, strict=False) for q in pair]
    return turns + hits[len(misses) :] + misses[len(hits) :]
