"""A small world for the tests of UniMP: items whose words and pictures tell their kind, and users who keep to a rhythm.

Kinds are even and odd; a user who took an even item takes the next even one, so that what comes next is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.catalogue.histories import Histories
from bundlecache.questions.task_file import TaskName, TaskQuestions, digest
from bundlecache.questions.task_split import training_rows
from bundlecache.questions.tasks import freeze
from bundlecache.recipes.unimp_recipe import UnimpRecipe
from bundlecache.store.store import Matrix
from bundlecache.train.unimp.training import TrainingData
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
        "vision": {
            "encoder": "test:tokens",
            "latents": 4,
            "depth": 1,
            "heads": 2,
            "head_width": 8,
            "similar_ratings": True,
        },
        "prompt": {"template": "brief", "attributes": ["category", "title"]},
        "data": {"batch": 10, "history": 5, "other_history": 3, "k_core": 0},
        "multitask_stage": {"steps": 4, "evaluate_every": 2, "lr": 1e-2, "warmup": 1},
        "head_stage": {"steps": 4, "evaluate_every": 2, "lr": 1e-2, "warmup": 1, "batch": 16},
    }
    for name, table in sections.items():
        tables[name] = {**tables.get(name, {}), **table}
    return UnimpRecipe.from_dict(tables, name="tiny")


def pictures(items: int = ITEMS) -> Matrix:
    """Token features [I, 4, 6]: the first number tells the kind of an item; every seventh item has no picture."""
    rng = np.random.default_rng(1)
    tokens = rng.normal(0, 0.3, (items, 4, 6))
    tokens[:, :, 0] += np.where(np.arange(items) % 2, 1.5, -1.5)[:, None]
    there = np.arange(items) % 7 > 0
    tokens[~there] = 0
    return Matrix("image", "test:tokens", "image--test", "f" * 64, 1, tokens.astype(np.float16), there)


def content(items: int = ITEMS) -> Matrix:
    """Vectors [I, 5] that tell the kinds apart, for semantic ids; every ninth item has none."""
    vectors = np.random.default_rng(3).normal(0, 0.5, (items, 5))
    vectors[:, 0] += np.where(np.arange(items) % 2, 1.5, -1.5)
    there = np.arange(items) % 9 > 0
    vectors[~there] = 0
    return Matrix("text", "test:words", "text--test", "e" * 64, 1, vectors.astype(np.float16), there)


def codes(most: int = 8, patches: int = 6, items: int = ITEMS) -> Matrix:
    """Picture codes [I, 6, 1] from 1 to ``most``, of all items but the fourth."""
    drawn = np.random.default_rng(0).integers(1, most, (items, patches, 1))
    drawn[0] = most
    there = np.arange(items) != 3
    drawn[~there] = 0
    return Matrix("image", "vqgan:test", "image--vq", "f" * 64, 1, drawn.astype(np.float32), there)


def with_codes(made: TrainingData) -> TrainingData:
    """The same with picture codes, and validation questions of ``draw`` made of those of ``search``."""
    drawn, asked = codes(), made.valid["search"]
    asked = dataclasses.replace(asked.take(np.flatnonzero(drawn.mask[asked.target])), task="draw")
    return dataclasses.replace(made, drawn=drawn, valid={**made.valid, "draw": asked})


def data(
    cat: Catalogue | None = None,
    tasks: Sequence[TaskName] = ("recommend", "preference"),
    *,
    semantic: bool = False,
) -> TrainingData:
    """What a training reads of this world, with the questions of ``tasks``; ``semantic``: with vectors for such ids."""
    cat, told = cat or catalogue(), histories()
    asked = {task: frozen(told, cat, task) for task in dict.fromkeys(("recommend", *tasks))}
    seen = told.take(training_rows(told, asked["recommend"]))
    valid = {task: asked[task].part(test=False) for task in tasks}
    return TrainingData(cat, seen, valid, pictures(len(cat)), [content(len(cat))] if semantic else [])


def frozen(told: Histories, cat: Catalogue, task: TaskName) -> TaskQuestions:
    """The questions of a task with their hash, as if they came from a file."""
    asked = freeze(told, cat, task, "leave_last_out", k_core=0)
    return dataclasses.replace(asked, header=asked.header | {"sha256": digest(asked.table(cat.item_ids))})
