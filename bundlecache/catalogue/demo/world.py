"""Generates the hidden factors of the demo shop's items, and the gift boxes that people pack by them.

Every item has four hidden factors, each visible in one modality only:

- style: in the title's words;
- colour: in the picture;
- mood: in the sound (half of the categories have sounds);
- community: in who clicked what.

People pack gift boxes of distinct categories whose items agree in these factors. A third of
the items are new arrivals: the training boxes, which are those of earlier users, contain none of them.
The factors can be computed again from the seed and are never stored in the catalogue, so that a model has to
infer them; `oracle_scores` measures how well the true factors answer questions.

Notation: I items, B boxes, q questions, n options.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLES: dict[str, tuple[str, ...]] = {
    "nordic": ("Fjord", "Birch", "Hygge", "Frost"),
    "vintage": ("Antique", "Velvet", "Brass", "Heirloom"),
    "nautical": ("Harbour", "Anchor", "Sailor", "Tide"),
    "woodland": ("Fern", "Moss", "Acorn", "Mushroom"),
    "space": ("Comet", "Orbit", "Lunar", "Rocket"),
    "circus": ("Carnival", "Parade", "Jester", "Trapeze"),
}
"""Style -> the title words that hint at it."""

NEUTRAL_WORDS = ("Classic", "Little", "Handmade", "Favourite", "Everyday", "Cosy")
"""Title words that hint at nothing."""

SOUNDING = ("Bell", "Chime", "Clock", "Drum", "Flute", "Piano", "Rattle", "Xylophone")
SILENT = ("Blanket", "Candle", "Cushion", "Lamp", "Mug", "Notebook", "Poster", "Vase")
CATEGORIES = SOUNDING + SILENT
BRANDS = ("Alder & Co", "Bluebird", "Larkspur", "Marlow", "Pipkin", "Tamsin")
OCCASIONS = (
    "Birthdays",
    "Housewarmings",
    "New Parents",
    "Old Friends",
    "Sick Days",
    "Farewells",
    "Christmas",
    "No Reason",
)
"""Makers of items and names of boxes; drawn at random, they hint at nothing."""

FACTORS = ("style", "colour", "mood", "community")
LEVELS = 6  # of every factor
AGREEMENT = (3.4, 3.4, 4.5, 3.4)  # log-odds that a box prefers an item of its own level, per factor
PER_CATEGORY = 52
MAKERS = {"train": 560, "valid": 90, "test": 175}  # users who pack boxes, of which each packs 2 to 3
SHOPPERS = 500  # users who only click
CLICKS = 16  # of every user, on average
NEW_SHARE = 1 / 3  # of the items
NEW_PULL = 1.0  # log-odds that later users prefer a new arrival


def words() -> list[str]:
    """Every word that a title of the demo catalogue can hold, and what its boxes are called, sorted."""
    styled = [word for group in STYLES.values() for word in group]
    return sorted({*styled, *NEUTRAL_WORDS, *CATEGORIES, "Gift", "Box", "for"})


@dataclass(frozen=True)
class World:
    """One seed's items, boxes and clicks, hidden factors included."""

    item_ids: list[str]  # [I]
    titles: list[str]  # [I]
    category: np.ndarray  # [I] index into CATEGORIES
    factors: np.ndarray  # [I, 4] levels; mood is -1 where the item is silent
    is_new: np.ndarray  # [I] bool
    users: list[str]
    boxes: list[tuple[str, int, str, list[int]]]  # id, maker, split, items
    clicks: list[tuple[int, int, int]]  # user, item, time in seconds since 1970
    community: np.ndarray  # [users] level of the factor community
    popularity: np.ndarray  # [I]


@lru_cache(maxsize=2)
def build(seed: int = 0) -> World:
    """Make the world of a seed; the same on every machine (`RandomState` is frozen by NumPy)."""
    rng = np.random.RandomState(seed)
    category = np.repeat(np.arange(len(CATEGORIES)), PER_CATEGORY)
    count = len(category)
    factors = np.stack([_even(count, rng) for _ in FACTORS], 1)
    factors[category >= len(SOUNDING), FACTORS.index("mood")] = -1
    is_new = rng.permutation(count) < round(NEW_SHARE * count)
    popularity = np.exp(0.4 * rng.standard_normal(count))

    makers = [split for split, number in MAKERS.items() for _ in range(number)]
    users = _ids("u", len(makers) + SHOPPERS, seed)
    community = rng.randint(LEVELS, size=len(users))
    boxes: list[tuple[str, int, str, list[int]]] = []
    box_ids = _ids("box", 3 * len(makers), seed)
    for maker, split in enumerate(makers):
        for _ in range(rng.randint(2, 4)):
            theme = rng.randint(LEVELS, size=len(FACTORS))
            theme[FACTORS.index("community")] = community[maker]
            pull = np.log(popularity) * 0.5
            pull = pull + (np.where(is_new, -np.inf, 0.0) if split == "train" else NEW_PULL * is_new)
            boxes.append((box_ids[len(boxes)], maker, split, _pack(theme, pull, category, factors, rng)))
    clicks = _clicks(community, factors[:, FACTORS.index("community")], popularity, is_new, rng)
    titles = [_title(int(c), int(s), rng) for c, s in zip(category, factors[:, 0], strict=True)]
    return World(_ids("g", count, seed), titles, category, factors, is_new, users, boxes, clicks, community, popularity)


def _even(count: int, rng: np.random.RandomState) -> np.ndarray:
    """[count] levels, each equally often."""
    return rng.permutation(np.arange(count) % LEVELS)


def _ids(prefix: str, count: int, seed: int) -> list[str]:
    """Ids without order or meaning."""
    return [prefix + hashlib.blake2b(f"{seed}:{prefix}:{i}".encode(), digest_size=4).hexdigest() for i in range(count)]


def _draw(weight_log: np.ndarray, rng: np.random.RandomState) -> int:
    """Draw one index with probability proportional to exp(weight_log)."""
    return int(np.argmax(weight_log - np.log(-np.log(rng.random_sample(len(weight_log))))))


def _pack(
    theme: np.ndarray, pull: np.ndarray, category: np.ndarray, factors: np.ndarray, rng: np.random.RandomState
) -> list[int]:
    """Pack one box of three to five distinct categories around a theme."""
    weight = pull + (factors == theme) @ np.array(AGREEMENT)  # [I]
    # a silent item neither agrees nor disagrees in mood: without this, boxes would prefer things that sound
    weight = weight + np.where(factors[:, 2] < 0, np.log(np.exp([0, AGREEMENT[2]]) @ [1 - 1 / LEVELS, 1 / LEVELS]), 0)
    items: list[int] = []
    for _ in range(rng.choice([3, 4, 5], p=[0.3, 0.4, 0.3])):
        items.append(_draw(weight, rng))
        weight = np.where(category == category[items[-1]], -np.inf, weight)
    return items


def _clicks(
    community: np.ndarray,
    item_community: np.ndarray,
    popularity: np.ndarray,
    is_new: np.ndarray,
    rng: np.random.RandomState,
) -> list[tuple[int, int, int]]:
    """Every user clicks items of the own community most, popular ones more; new arrivals since last month."""
    day, start = 86_400, 1_735_689_600  # 2025-01-01
    clicks = []
    for user, level in enumerate(community):
        weight = np.log(popularity) + 2.2 * (item_community == level)
        number = rng.randint(CLICKS // 2, 3 * CLICKS // 2 + 1)
        chosen = np.argsort(-(weight - np.log(-np.log(rng.random_sample(len(weight))))))[:number]
        for item in chosen:
            first = 335 if is_new[item] else 0
            clicks.append((user, int(item), start + int(rng.randint(first * day, 365 * day))))
    return clicks


def _title(category: int, style: int, rng: np.random.RandomState) -> str:
    """Two words of the style before the kind of thing; one word in five says nothing, one in twelve misleads."""
    own, names = list(STYLES.values())[style], list(STYLES)
    chosen: list[str] = []
    for word in rng.permutation(len(own))[:2]:
        chance = rng.random_sample()
        if chance < 0.2:
            pool: Sequence[str] = NEUTRAL_WORDS
        elif chance < 0.28:
            pool = STYLES[names[rng.randint(LEVELS)]]
        else:
            pool = (own[word],)
        pool = [w for w in pool if w not in chosen] or NEUTRAL_WORDS
        chosen.append(pool[rng.randint(len(pool))])
    return " ".join([*chosen, CATEGORIES[category]])


def oracle_scores(
    partial: Sequence[Sequence[str]],
    options: Sequence[Sequence[str]],
    factors: Sequence[str] = FACTORS,
    seed: int = 0,
) -> np.ndarray:
    """Score options by the hidden factors: the log-odds that the box's packer would add each.

    Parameters
    ----------
    partial, options
        Item ids, per question.
    factors
        Which factors the oracle may look at.

    Returns
    -------
    scores
        float64 [q, n]; an option whose category the box has already is at -100.
    """
    world = build(seed)
    index = {item_id: i for i, item_id in enumerate(world.item_ids)}
    scores = np.zeros((len(partial), len(options[0]) if len(options) else 0))
    for q, (given_ids, option_ids) in enumerate(zip(partial, options, strict=True)):
        given = [index[i] for i in given_ids]
        asked = [index[i] for i in option_ids]
        for f in (FACTORS.index(name) for name in factors):
            scores[q] += _evidence(world.factors[given, f], world.factors[asked, f], AGREEMENT[f])
        taken = np.isin(world.category[asked], world.category[given])
        scores[q, taken] = -100.0
    return scores


def _evidence(given: np.ndarray, asked: np.ndarray, strength: float) -> np.ndarray:
    """Log-odds of one factor: the theme's level is weighed by the given items, -1 says nothing."""
    posterior = np.exp(strength * np.bincount(given[given >= 0], minlength=LEVELS).astype(float))
    posterior /= posterior.sum()
    gain = np.log1p(posterior * (np.exp(strength) - 1))  # [levels]
    silent = np.log1p((np.exp(strength) - 1) / LEVELS)
    return np.where(asked >= 0, gain[asked], silent)
