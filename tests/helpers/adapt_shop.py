"""A shop whose pictures and titles say the same: 96 things of 12 colours and 8 shapes, each named once."""

from __future__ import annotations

import colorsys
from pathlib import Path

COLOURS = ("red", "rust", "gold", "olive", "lime", "green", "jade", "cyan", "azure", "blue", "plum", "pink")
SHAPES = ("plate", "square", "stripe", "pole", "corner", "frame", "cross", "dots")


def make_adapt_shop(root: Path) -> Path:
    """Write the workspace ``root``: items alone."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    y, x = np.mgrid[:32, :32]
    masks = {
        "plate": (y - 16) ** 2 + (x - 16) ** 2 < 150,
        "square": (abs(y - 16) < 9) & (abs(x - 16) < 9),
        "stripe": y % 8 < 4,
        "pole": x % 8 < 4,
        "corner": x + y < 28,
        "frame": (abs(y - 16) > 10) | (abs(x - 16) > 10),
        "cross": (abs(y - 16) < 4) | (abs(x - 16) < 4),
        "dots": (y % 8 < 4) & (x % 8 < 4),
    }
    for c, colour in enumerate(COLOURS):
        hue = np.array(colorsys.hsv_to_rgb(c / len(COLOURS), 0.9, 0.9)) * 255
        for shape in SHAPES:
            pixels = np.where(masks[shape][..., None], hue, 235) + rng.normal(0, 8, (32, 32, 3))
            name = f"{colour}-{shape}"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
            rows.append({"item_id": name, "title": f"{colour} {shape}", "image": f"images/{name}.png"})
    pq.write_table(pa.Table.from_pylist(rows), root / "items.parquet")
    return root
