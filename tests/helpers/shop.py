"""The small shop that most tests share; its answers are known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def make_shop(folder: Path) -> Path:
    """24 items in 4 categories with small pictures (all but two) and sounds (every second), 30 bundles, 20 users.

    Even items bundle and are clicked only with even ones, odd with odd.
    """
    import soundfile
    from PIL import Image

    root = folder / "shop"
    (root / "images").mkdir(parents=True)
    (root / "audio").mkdir()
    rng = np.random.default_rng(0)
    kinds = ["lamp", "bell", "mug", "chime"]
    rows = []
    for i in range(24):
        image = audio = None
        if i not in (5, 6):
            colour = (200, 40, 40) if i % 2 == 0 else (40, 40, 200)
            pixels = np.clip(np.array(colour) + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            image = f"images/{i}.png"
            Image.fromarray(pixels).save(root / image)
        if i % 2 == 0:
            t = np.arange(8000) / 16000
            audio = f"audio/{i}.wav"
            soundfile.write(root / audio, 0.5 * np.sin(2 * np.pi * (220 + 10 * i) * t), 16000)
        rows.append(
            {
                "item_id": f"item-{i:02d}",
                "title": f"{'warm' if i % 2 == 0 else 'cold'} {kinds[i % 4]} {i}",
                "category": kinds[i % 4],
                "image": image,
                "audio": audio,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), root / "items.parquet")
    bundles = []
    for b in range(30):
        members = rng.choice(12, size=int(rng.integers(3, 6)), replace=False) * 2 + b % 2
        bundles.append(
            {"bundle_id": f"bundle-{b}", "item_ids": [f"item-{i:02d}" for i in members], "group": f"user-{b % 15}"}
        )
    pq.write_table(pa.Table.from_pylist(bundles), root / "bundles.parquet")
    clicks = [
        {"user_id": f"user-{u}", "item_id": f"item-{i:02d}"}
        for u in range(20)
        for i in rng.choice(12, 6, replace=False) * 2 + u % 2
    ]
    pq.write_table(pa.Table.from_pylist(clicks), root / "interactions.parquet")
    return root
