"""Writes the raw tables of a made catalogue of any size, with popularity as skewed as in a shop.

    python benchmarks/scale_data.py --items 1000000 --out exports/
    bundlecache import tables exports/ --data shop
    python benchmarks/scale_data.py --newer exports/ --out newer/
    bundlecache update newer/ --data shop

A fifth as many bundles as items (2 to 8 items, most of one theme) and five times as many interactions. Popularity is
Zipf-like (exponent 1), titles are made of common words, categories are a tree of two levels. The same size and seed
give the same tables. Newer tables edit 2 of 100 items, add 1 of 100, and hold 99 of 100 of all other rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BUNDLES_PER_ITEM, INTERACTIONS_PER_ITEM = 0.2, 5
ITEMS_PER_THEME = 200
BUNDLE_SIZES = (2, 3, 4, 5, 6, 7, 8)
THEME_SHARE = 0.8  # of a bundle's items that are of its theme
INTERACTIONS_PER_USER = 20
COLOURS = "red blue green black white grey brown pink yellow orange purple silver golden beige navy olive"
MATERIALS = "cotton wool linen leather wooden glass steel paper ceramic bamboo silk velvet rubber copper cork clay"
THINGS = (
    "coat shirt shoe lamp chair table mug plate bowl vase candle clock bag belt scarf glove hat dress skirt "
    "sock blanket pillow frame mirror basket box pen book puzzle kite drum guitar camera lens tripod charger cable speaker"
)


def make(items: int, out: Path, seed: int = 0) -> None:
    """Write ``items.parquet``, ``bundles.parquet`` and ``interactions.parquet`` into ``out``."""
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    number = rng.permutation(items)  # ids tell nothing of the theme
    ids = pa.array(np.char.add("i", number.astype(str)))
    theme = np.arange(items) // ITEMS_PER_THEME  # [I]
    lists = [np.array(each.split()) for each in (COLOURS, MATERIALS, THINGS)]
    words = [each[rng.integers(0, len(each), items)] for each in lists]
    title = words[0]
    for more in (*words[1:], (number % 9973).astype(str)):
        title = np.char.add(np.char.add(title, " "), more)
    category = np.char.add(
        np.char.add("Group", (theme % 20).astype(str)), np.char.add(" > Kind", (theme % 400).astype(str))
    )
    price = rng.integers(100, 10_000, items) / 100
    pq.write_table(
        pa.table({"item_id": ids, "title": title, "category": category, "price": price}), out / "items.parquet"
    )

    popular = rng.permutation(items)  # the item at a rank of popularity
    count = int(items * BUNDLES_PER_ITEM)
    sizes = rng.choice(BUNDLE_SIZES, count)
    starts = np.concatenate([[0], sizes.cumsum()])
    of_theme = rng.integers(0, theme.max() + 1, count)
    lowest = np.repeat(of_theme, sizes) * ITEMS_PER_THEME
    near = lowest + np.floor(_zipf_ranks(rng, len(lowest), ITEMS_PER_THEME)).astype(np.int64)
    chosen = np.where(rng.random(len(lowest)) < THEME_SHARE, near, popular[_zipf_ranks(rng, len(lowest), items)])
    members = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), ids.take(pa.array(np.minimum(chosen, items - 1))))
    maker = rng.integers(0, max(count // 2, 1), count)
    bundles = {"bundle_id": np.char.add("b", np.arange(count).astype(str)), "item_ids": members}
    pq.write_table(pa.table(bundles | {"group": np.char.add("m", maker.astype(str))}), out / "bundles.parquet")

    edges = items * INTERACTIONS_PER_ITEM
    users = max(edges // INTERACTIONS_PER_USER, 1)
    user = _zipf_ranks(rng, edges, users) if users > 1 else np.zeros(edges, np.int64)
    item = ids.take(pa.array(popular[_zipf_ranks(rng, edges, items)]))
    clicks = {
        "user_id": np.char.add("u", user.astype(str)),
        "item_id": item,
        "timestamp": np.sort(rng.integers(1_600_000_000, 1_700_000_000, edges)),
    }
    pq.write_table(pa.table(clicks), out / "interactions.parquet")


def make_newer(raw: Path, out: Path, seed: int = 0) -> None:
    """Write tables into ``out`` that update those in ``raw``."""
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("items", "bundles", "interactions"):
        table = pq.read_table(raw / f"{name}.parquet")
        table = table.filter(pa.array(rng.random(len(table)) < 0.99))
        if name == "items":
            title = table["title"].to_numpy(zero_copy_only=False)
            edited = rng.random(len(table)) < 0.02
            title[edited] = np.char.add(title[edited].astype(str), " new")
            table = table.set_column(table.column_names.index("title"), "title", pa.array(title, pa.string()))
            added = table.slice(0, len(table) // 100)
            ids = np.char.add("n", np.arange(len(added)).astype(str))
            table = pa.concat_tables([table, added.set_column(0, "item_id", pa.array(ids))])
        pq.write_table(table, out / f"{name}.parquet")


def _zipf_ranks(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    """int64 [count] ranks below ``n``; the r-th has a probability of about 1 / (r + 1)."""
    return np.minimum(np.exp(rng.random(count) * np.log(n + 1)).astype(np.int64) - 1, n - 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--newer", type=Path, help="a folder of made tables: write an update of them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.newer:
        make_newer(options.newer, options.out, options.seed)
    else:
        make(options.items, options.out, options.seed)
