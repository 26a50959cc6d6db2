"""What people of the demo shop thought of what they clicked: ratings, explanations and search queries, and their oracle.

Everybody likes three of the six styles and three of the six colours. Both decide the rating, the colour most, which only the
picture shows, beside the user's leniency and the item's quality. An explanation names both causes. A query names the category and often a colour, which no title
holds, or a word of the style. All of it is drawn from a random stream of its own, so the rest of the shop stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .world import CATEGORIES, FACTORS, LEVELS, STYLES, build

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = ("red", "yellow", "green", "turquoise", "blue", "pink")
"""What people call the levels of the factor colour."""
STREAM = 12  # beside the seed: of everything that is drawn here
LIKED = 3  # of the levels of style, and of those of colour
STYLE_STARS, COLOUR_STARS = 0.5, 1.3  # that a liked one adds and another one takes away
LENIENCY_SPREAD, QUALITY_SPREAD, NOISE_SPREAD = 0.4, 0.3, 0.5  # standard deviations, in stars
EXPLAINED_SHARE = 0.6  # of the clicks
COLOUR_QUERIES, STYLE_QUERIES = 0.4, 0.4  # shares; the others name the category alone
PRAISES = {
    True: ("I love the {} look", "This {} style is just mine"),
    False: ("The {} look is not for me", "Too {} for my taste"),
}
COLOUR_PRAISES = {True: "and the {} is lovely.", False: "and I do not care for {}."}
CLICKS_PULL = 2.2  # log-odds that a user clicks an item of the own community, as in `world`
YEAR_DAYS, NEW_DAYS = 365, 30  # over which clicks on other items and on new arrivals are spread
NEW_SINCE = 1_735_689_600 + (YEAR_DAYS - NEW_DAYS) * 86_400  # seconds since 1970


@dataclass(frozen=True)
class Reviews:
    """The ratings, explanations and queries of all clicks of a world, in the order of its clicks."""

    rating: list[float]  # whole stars, 1 to 5
    explanation: list[str | None]
    query: list[str]
    mean: np.ndarray  # [users, I] stars before the noise; hidden, as what follows
    likes_style: np.ndarray  # [users, levels] bool
    likes_colour: np.ndarray  # [users, levels] bool


@lru_cache(maxsize=2)
def review(seed: int = 0) -> Reviews:
    """Draw what the users of a seed's world thought; the same on every machine."""
    world, rng = build(seed), np.random.RandomState([seed, STREAM])
    style, colour = (world.factors[:, FACTORS.index(name)] for name in ("style", "colour"))  # [I]
    users = len(world.users)
    likes_style, likes_colour = (
        np.argsort(rng.random_sample((users, LEVELS)), axis=1).argsort(axis=1) < LIKED for _ in range(2)
    )  # [users, levels]
    leniency, quality = (
        rng.standard_normal(n) * s for n, s in ((users, LENIENCY_SPREAD), (len(style), QUALITY_SPREAD))
    )
    taste = STYLE_STARS * _signs(likes_style[:, style]) + COLOUR_STARS * _signs(likes_colour[:, colour])  # [users, I]
    mean = 3 + leniency[:, None] + quality + taste
    rating: list[float] = []
    explanation: list[str | None] = []
    query: list[str] = []
    for user, item, _ in world.clicks:
        noise, told, wording, kind, word = rng.standard_normal(), *rng.random_sample(4)
        rating.append(float(np.clip(np.rint(mean[user, item] + NOISE_SPREAD * noise), 1, 5)))
        causes = bool(likes_style[user, style[item]]), bool(likes_colour[user, colour[item]])
        text = _explanation(style[item], colour[item], *causes, wording=int(wording * 2))
        explanation.append(text if told < EXPLAINED_SHARE else None)
        query.append(_query(world.category[item], style[item], colour[item], kind, word))
    return Reviews(rating, explanation, query, mean, likes_style, likes_colour)


def _signs(likes: np.ndarray) -> np.ndarray:
    return np.where(likes, 1.0, -1.0)


def _explanation(style: int, colour: int, likes_style: bool, likes_colour: bool, wording: int = 0) -> str:
    first = PRAISES[likes_style][wording].format(list(STYLES)[style])
    return f"{first} {COLOUR_PRAISES[likes_colour].format(COLOURS[colour])}"


def _query(category: int, style: int, colour: int, kind: float, word: float) -> str:
    name = CATEGORIES[category].lower()
    if kind < COLOUR_QUERIES:
        return f"{COLOURS[colour]} {name}"
    if kind < COLOUR_QUERIES + STYLE_QUERIES:
        words = list(STYLES.values())[style]
        return f"{words[int(word * len(words))].lower()} {name}"
    return name


def oracle_recommendations(user_ids: Sequence[str], times: Sequence[float], seed: int = 0) -> np.ndarray:
    """Log-odds float64 [q, I] that each user clicks each item of `world` at a time, by the hidden communities."""
    world = build(seed)
    number = {user: k for k, user in enumerate(world.users)}
    match = (
        world.community[[number[user] for user in user_ids]][:, None] == world.factors[:, FACTORS.index("community")]
    )
    scores = np.log(world.popularity) + CLICKS_PULL * match  # [q, I]
    late = np.asarray(times) >= NEW_SINCE
    new = np.where(late, math.log(YEAR_DAYS / NEW_DAYS), -np.inf)
    return np.where(world.is_new, scores + new[:, None], scores)


def oracle_likes(user_ids: Sequence[str], stars: float = 4, seed: int = 0, *, picture: bool = True) -> np.ndarray:
    """Log-probability float64 [q, I] that each user gives each item so many stars; to be added to `oracle_recommendations`.

    Without the ``picture`` the oracle knows all but the colour.
    """
    world = build(seed)
    number = {user: k for k, user in enumerate(world.users)}
    above = sum(_above(mean, stars) for mean in _means([number[user] for user in user_ids], seed, picture))
    return np.log(np.maximum(above, 1e-12))


def _means(users: Sequence[int], seed: int, picture: bool) -> list[np.ndarray]:
    """Stars before the noise [users, I]; where the colour is unknown, those of a liked and of another one, equally likely."""
    known = review(seed)
    mean = known.mean[users]
    if picture:
        return [mean]
    colour = build(seed).factors[:, FACTORS.index("colour")]
    rest = mean - COLOUR_STARS * _signs(known.likes_colour[users][:, colour])
    return [rest - COLOUR_STARS, rest + COLOUR_STARS]


def _above(mean: np.ndarray, stars: float | np.ndarray) -> np.ndarray:
    """The probability that a rating is at least so many whole stars."""
    made: np.ndarray = np.vectorize(math.erfc)((stars - 0.5 - mean) / NOISE_SPREAD / math.sqrt(2)) / 2
    return made


def oracle_searches(queries: Sequence[str], seed: int = 0, *, picture: bool = True) -> np.ndarray:
    """Log-probability float64 [q, I] of each query for each item; to be added to `oracle_recommendations`.

    Without the ``picture`` a word for a colour says nothing.
    """
    world = build(seed)
    style, colour = (world.factors[:, FACTORS.index(name)] for name in ("style", "colour"))
    style_of = {word.lower(): k for k, words in enumerate(STYLES.values()) for word in words}
    scores = np.full((len(queries), len(style)), -np.inf)
    for row, query in zip(scores, queries, strict=True):
        *hint, name = query.split()
        fits = np.array([category.lower() for category in CATEGORIES])[world.category] == name
        if hint and (picture or hint[0] not in COLOURS):
            fits &= colour == COLOURS.index(hint[0]) if hint[0] in COLOURS else style == style_of[hint[0]]
        row[fits] = 0.0
    return scores


def oracle_ratings(
    user_ids: Sequence[str], item_ids: Sequence[str], seed: int = 0, *, picture: bool = True
) -> np.ndarray:
    """The expected stars float64 [q] of each user for each item, by the hidden tastes: all but the noise.

    Without the ``picture`` the oracle knows all but the colour.
    """
    world = build(seed)
    user = [world.users.index(each) for each in user_ids]
    item = [world.item_ids.index(each) for each in item_ids]
    means = [mean[np.arange(len(item)), item] for mean in _means(user, seed, picture)]  # each [q]
    expected = [1 + _above(mean[:, None], np.arange(2, 6)).sum(axis=1) for mean in means]
    return np.mean(expected, axis=0)


def oracle_explanations(user_ids: Sequence[str], item_ids: Sequence[str], seed: int = 0) -> list[str]:
    """The explanation that each user would give of each item, in the first of its two equally likely wordings."""
    world, known = build(seed), review(seed)
    texts = []
    for user_id, item_id in zip(user_ids, item_ids, strict=True):
        user, item = world.users.index(user_id), world.item_ids.index(item_id)
        style, colour = (int(world.factors[item, FACTORS.index(name)]) for name in ("style", "colour"))
        likes = bool(known.likes_style[user, style]), bool(known.likes_colour[user, colour])
        texts.append(_explanation(style, colour, *likes))
    return texts
