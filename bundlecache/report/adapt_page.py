"""The HTML page about an adaptation: the verdict, curves, retrieval examples before and after with pictures, and maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MediaError
from ..store.store import Matrix
from ..vector_math import unit_rows
from . import catalogue_map, thumbnails
from .charts import Drawing, Line, draw
from .render import now, render

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder

EXAMPLES = 8  # titles that are looked for
SHOWN = 5  # pictures found for each
FIGURES = {
    "text_to_image_r1": "text → image R@1",
    "text_to_image_r10": "text → image R@10",
    "image_to_text_r1": "image → text R@1",
    "image_to_text_r10": "image → text R@10",
    "mrr": "MRR",
}


@dataclass(frozen=True)
class BeforeAndAfter:
    """Vectors of some items at zero-shot and of the kept epoch.

    ``items`` [n] have pictures [n, k], the first of them, ``tested``, titles [tested, k] too.
    """

    items: np.ndarray
    tested: int
    image: tuple[np.ndarray, np.ndarray]
    text: tuple[np.ndarray, np.ndarray]


def write_page(
    path: Path,
    result: Mapping[str, Any],
    vectors: BeforeAndAfter,
    recipe: Mapping[str, Mapping[str, Any]],
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
) -> Path:
    """Write the page of an adaptation; ``result`` is its `to_dict`, ``recipe`` its settings."""
    maps = [
        catalogue_map.of_matrix(_matrix(side, vectors.items, len(catalogue), label), catalogue)
        for side, label in zip(vectors.image, ("zero-shot", "kept epoch"), strict=True)
    ]
    values = {
        "result": result,
        "rows": _rows(result),
        "figures": FIGURES,
        "charts": [chart for chart in _charts(result) if chart is not None],
        "examples": _examples(vectors, workspace, catalogue),
        "maps": [made for made in maps if made is not None],
        "settings": [(f"{table}.{key}", value) for table, keys in recipe.items() for key, value in keys.items()],
        "written": now(),
    }
    return render("adapt.html.j2", values, path)


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The epochs on validation pairs, then zero-shot and the kept epoch on test pairs."""
    kept = result["kept_epoch"]
    epochs = [
        {"name": "zero-shot" if row["epoch"] == 0 else f"epoch {row['epoch']}", "kept": row["epoch"] == kept, **row}
        for row in result["epochs"]
    ]
    test = [{"name": f"test: {name}", "kept": name == "kept", **result["test"][key]} for name, key in TESTS]
    return [*epochs, *test]


TESTS = (("zero-shot", "zero_shot"), ("kept", "kept"))


def _charts(result: Mapping[str, Any]) -> list[Drawing | None]:
    epochs = result["epochs"]
    x = [row["epoch"] for row in epochs]
    zero_shot = epochs[0]["mrr"]
    trained = [row for row in epochs if row["loss"] is not None]
    probes = [name for name in epochs[0] if name.endswith("nDCG@5")]
    return [
        draw("Training loss", [Line([r["epoch"] for r in trained], [r["loss"] for r in trained], "main", True)]),
        draw(
            "MRR on validation pairs (dashed: zero-shot)",
            [Line(x, [row["mrr"] for row in epochs], "main", True), Line([0, max(x)], [zero_shot] * 2, "chance")],
            percent=True,
            floor=0.0,
        ),
        *(
            draw(
                f"{name} (dashed: zero-shot)",
                [
                    Line(x, [row[name] for row in epochs], "main", True),
                    Line([0, max(x)], [epochs[0][name]] * 2, "chance"),
                ],
                percent=True,
            )
            for name in probes
        ),
    ]


def _examples(vectors: BeforeAndAfter, workspace: WorkspaceFolder, catalogue: Catalogue) -> list[dict[str, Any]]:
    """Held-out titles whose place changed most, up and down, with the pictures found before and after."""
    ranks, orders = [], []
    for image, text in zip(vectors.image, vectors.text, strict=True):
        scores = unit_rows(text) @ unit_rows(image[: vectors.tested]).T  # [tested, tested]
        orders.append(np.argsort(-scores, axis=1, kind="stable"))
        ranks.append(1 + np.argmax(orders[-1] == np.arange(vectors.tested)[:, None], axis=1))
    change = 1 / ranks[1] - 1 / ranks[0]
    order = np.argsort(-change, kind="stable")
    half = min(EXAMPLES // 2, len(order) // 2)
    pictures: dict[int, dict[str, Any]] = {}

    def shown(place: int) -> dict[str, Any]:
        if place not in pictures:
            item = int(vectors.items[place])
            try:
                address, why = thumbnails.picture(workspace.media(str(catalogue.column("image")[item]))), ""
            except MediaError as error:
                address, why = "", error.message
            title = catalogue.titles[item] or catalogue.item_ids[item]
            pictures[place] = {"picture": address, "why": why, "title": title, "sound": None}
        return pictures[place]

    return [
        {
            "title": catalogue.titles[int(vectors.items[query])],
            "own": shown(int(query)),
            "ranks": [int(rank[query]) for rank in ranks],
            "found": [
                [{**shown(int(place)), "right": place == query} for place in found[query][:SHOWN]] for found in orders
            ],
        }
        for query in [*order[:half], *order[len(order) - half :]]
    ]


def _matrix(vectors: np.ndarray, items: np.ndarray, n_items: int, label: str) -> Matrix:
    whole, mask = np.zeros((n_items, vectors.shape[1]), np.float32), np.zeros(n_items, bool)
    whole[items], mask[items] = vectors, True
    return Matrix("image", label, "", "", 0, whole, mask)
