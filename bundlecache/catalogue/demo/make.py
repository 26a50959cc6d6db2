"""The demo catalogue: a gift shop that the project generates, small enough to ship in `data/`.

`make` writes the three tables and the media of a workspace. `world` describes the hidden
factors and why a model needs all four modalities; data/README.md gives the figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...rows import Result
from . import media
from . import world as factory
from .reviews import review
from .sessions import sessions
from .world import CATEGORIES, FACTORS, LEVELS, oracle_scores

__all__ = ["DemoSummary", "make", "oracle_scores", "tables"]

PRICES = dict(zip(CATEGORIES, (14, 22, 28, 39, 18, 59, 9, 34, 45, 12, 24, 52, 11, 8, 15, 31), strict=True))  # in euro


@dataclass(frozen=True, repr=False)
class DemoSummary(Result):
    """What `make` wrote."""

    items: int
    sounds: int
    new_arrivals: int  # items that stand in no training bundle
    bundles: int
    users: int
    interactions: int
    size_bytes: int  # tables and media together
    seconds: float


def tables(seed: int = 0) -> dict[str, dict[str, list]]:
    """Return the columns of items, bundles and interactions; the same for the same seed."""
    world = factory.build(seed)
    rng = np.random.RandomState(seed + 1)
    items: dict[str, list] = {name: [] for name in ("item_id", "title", "image", "audio", "category", "brand", "price")}
    for i, item_id in enumerate(world.item_ids):
        category = CATEGORIES[world.category[i]]
        items["item_id"].append(item_id)
        items["title"].append(world.titles[i])
        items["image"].append(f"images/{item_id}.jpg")
        items["audio"].append(f"audio/{item_id}.flac" if world.factors[i, FACTORS.index("mood")] >= 0 else None)
        items["category"].append(category)
        items["brand"].append(factory.BRANDS[rng.randint(len(factory.BRANDS))])
        items["price"].append(round(PRICES[category] * float(np.exp(0.2 * rng.standard_normal())), 2))
    boxes = sorted(world.boxes)
    bundles: dict[str, list] = {
        "bundle_id": [box_id for box_id, *_ in boxes],
        "item_ids": [[world.item_ids[i] for i in content] for *_, content in boxes],
        "group": [world.users[maker] for _, maker, *_ in boxes],
        "split": [split for _, _, split, _ in boxes],
        "name": ["Gift Box for " + factory.OCCASIONS[rng.randint(len(factory.OCCASIONS))] for _ in boxes],
    }
    told = review(seed)
    style, colour = (world.factors[:, FACTORS.index(name)] for name in ("style", "colour"))
    session = sessions(world.clicks, world.category, style, colour, seed)
    clicks = sorted(
        (when, world.users[user], world.item_ids[item], k) for k, (user, item, when) in enumerate(world.clicks)
    )
    interactions: dict[str, list] = {
        "user_id": [user for _, user, *_ in clicks],
        "item_id": [item for _, _, item, _ in clicks],
        "timestamp": [when for when, *_ in clicks],
        "rating": [told.rating[k] for *_, k in clicks],
        "explanation": [told.explanation[k] for *_, k in clicks],
        "query": [told.query[k] for *_, k in clicks],
        "session": [session[k] for *_, k in clicks],
    }
    order = np.argsort(items["item_id"], kind="stable")
    items = {name: [column[i] for i in order] for name, column in items.items()}
    return {"items": items, "bundles": bundles, "interactions": interactions}


def make(workspace_root: Path, seed: int = 0) -> DemoSummary:
    """Write the demo catalogue of `seed` into a folder, over whatever catalogue stands there.

    Raises
    ------
    OSError
        When the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile
    from PIL import Image

    started = time.perf_counter()
    root = Path(workspace_root)
    for folder in (root / "images", root / "audio"):
        folder.mkdir(parents=True, exist_ok=True)
    world = factory.build(seed)
    written: list[Path] = []
    for i, item_id in enumerate(world.item_ids):
        rng = np.random.RandomState([seed, i])
        category = CATEGORIES[world.category[i]]
        hue = world.factors[i, FACTORS.index("colour")] / LEVELS
        written.append(root / "images" / f"{item_id}.jpg")
        Image.fromarray(media.picture(category, hue, rng)).save(written[-1], quality=80)
        mood = int(world.factors[i, FACTORS.index("mood")])
        if mood >= 0:
            written.append(root / "audio" / f"{item_id}.flac")
            wave = media.sound(category, mood, rng)
            coarse = np.rint(wave * 127).astype(np.int16) * 256  # eight bits are enough, and a third of the size
            soundfile.write(written[-1], coarse, media.RATE, subtype="PCM_16")
    columns = tables(seed)
    for name, table in columns.items():
        written.append(root / f"{name}.parquet")
        pq.write_table(pa.table(table), written[-1], compression="zstd")
    return DemoSummary(
        items=len(world.item_ids),
        sounds=int((world.factors[:, FACTORS.index("mood")] >= 0).sum()),
        new_arrivals=int(world.is_new.sum()),
        bundles=len(world.boxes),
        users=len({user for user, *_ in world.clicks}),
        interactions=len(world.clicks),
        size_bytes=sum(path.stat().st_size for path in written),
        seconds=time.perf_counter() - started,
    )
