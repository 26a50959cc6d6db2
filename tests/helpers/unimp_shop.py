"""A small world for the tests of UniMP: items whose words and pictures tell their kind, and users who keep to a rhythm.

Kinds are even and odd; a user who took an even item takes the next even one, so that what comes next is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.catalogue.histories import Histories
from bundlecache.recipes.unimp_recipe import UnimpRecipe
from helpers import train_shop

ITEMS = 24
BASE_WORDS = (
    "Category",
    "Title",
    "Unknown",
    "fine",
    "dull",
    "Next",
    "Query",
    "Item",
    "Stars",
    "Why",
    "Has",
    "From",
    "Select",
)


def save_base(folder: Path, **how: Any) -> Path:
    """A random Llama whose tokenizer has the words of this world."""
    return train_shop.save_base(folder, more=BASE_WORDS, **how)


def catalogue(items: int = ITEMS) -> Catalogue:
    """Items i0, i1, ...: lamps and mugs by turns, in red and blue."""
    titles = [f"{('red', 'blue')[i // 2 % 2]} {('lamp', 'mug')[i % 2]}" for i in range(items)]
    columns = {"category": [("lamp", "mug")[i % 2] for i in range(items)]}
    return Catalogue([f"i{i}" for i in range(items)], titles, columns, Bundles(), Interactions())


def histories(users: int = 60, length: int = 8, items: int = ITEMS, seed: int = 0) -> Histories:
    """Users who take ``length`` items, each the one two further on; even ones are rated 5 and fine, odd ones 2 and dull."""
    rng = np.random.default_rng(seed)
    start = rng.integers(items, size=users)
    item = (start[:, None] + 2 * np.arange(length)) % items
    rating = np.where(item % 2, 2.0, 5.0).astype(np.float32).ravel()
    why = [("fine", "dull")[i % 2] for i in item.ravel()]
    why[::3] = [None] * len(why[::3])
    query = [("lamp", "mug")[i % 2] for i in item.ravel()]
    told = {"rating": rating, "explanation": why, "query": query}
    user = np.repeat(np.arange(users), length)
    return Histories.of([f"u{u}" for u in range(users)], user, item.ravel(), np.arange(users * length), **told)


def recipe(base: Path | str, /, **sections: dict[str, Any]) -> UnimpRecipe:
    """A recipe for the tiny world; keyword arguments are sections that override it."""
    tables: dict[str, dict[str, Any]] = {
        "base": {"model": str(base)},
        "vision": {"encoder": "test:tokens", "latents": 4, "depth": 1, "heads": 2, "head_width": 8},
        "prompt": {"template": "brief", "attributes": ["category", "title"]},
        "data": {"batch": 10, "history": 5, "other_history": 3, "k_core": 0},
        "multitask_stage": {"steps": 4, "evaluate_every": 2, "lr": 1e-2, "warmup": 1},
        "head_stage": {"steps": 4, "evaluate_every": 2, "lr": 1e-2, "warmup": 1, "batch": 16},
    }
    for name, table in sections.items():
        tables[name] = {**tables.get(name, {}), **table}
    return UnimpRecipe.from_dict(tables, name="tiny")
