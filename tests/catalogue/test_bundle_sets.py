"""Public bundle sets that `import tables` takes as they are: a five-row sample of each layout, made up here."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import registry as readers
from bundlecache.store import import_vectors
from bundlecache.workspace import WorkspaceFolder

LAYOUTS = {  # columns of the items beside item_id and title, and of the bundles beside bundle_id, item_ids and group
    "online_retail": ({"price": [2.95, 3.36, 1.0, 0.5, 4.0]}, {"date": "2011-11-03 13:44"}),
    "ikea": (
        {"category": ["Wall lamp"] * 5, "description": ["Light, soft."] * 5, "size": ["42x172 cm"] * 5},
        {"name": "a small kitchen", "room": "Kitchen"},
    ),
    "recipes_epicurious": ({"category": ["vegetable", "cereal/crop", "dairy", "meat", "spice"]}, {"cuisine": "Korean"}),
    "spotify_playlists": (
        {"artist": ["Pink Floyd"] * 5, "tempo": [124.2, 140.1, 90.0, 100.0, 60.5], "mode": [1, 0, 1, 1, 0]},
        {"name": "Pop hits", "genre": "pop", "subgenre": "dance pop"},
    ),
}
IDS = ["0abf05402d", "2a21b7492b", "af998e6249", "b57117fb0f", "00123e4567"]  # hashes, one of which looks like a number


def sample(root, name):
    """Five items and six bundles, of which the first two are of one group."""
    more, about = LAYOUTS[name]
    items = {"item_id": IDS, "title": ["PINK SOCK", "CAKE TIN, RED", "MUG", "TIN", "LAMP"], **more}
    if name == "ikea":
        items["image"] = [f"images/{item}.jpg" for item in IDS]
        (root / "images").mkdir(parents=True)
        for path in items["image"]:
            (root / path).write_bytes(b"not looked at here")
    root.mkdir(exist_ok=True)
    if name == "spotify_playlists":
        pq.write_table(pa.table(items), root / "items.parquet")
    else:
        columns = list(items)
        rows = [columns, *zip(*items.values(), strict=True)]
        quoted = [",".join(json.dumps(str(cell)) if "," in str(cell) else str(cell) for cell in row) for row in rows]
        (root / "items.csv").write_text("\n".join(quoted) + "\n", "utf-8")
    lines = [
        {"bundle_id": f"b{k}", "item_ids": [IDS[k % 5], IDS[(k + 1) % 5]], "group": f"g{k // 2}", **about}
        for k in range(6)
    ]
    (root / "bundles.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    if name == "online_retail":
        taken = {"user_id": ["c1", "c1", "c2"], "item_id": IDS[:3], "timestamp": ["2011-01-18"] * 3}
        pq.write_table(pa.table(taken), root / "interactions.parquet")
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_bundle_set_is_imported_as_it_is(name, tmp_path):
    folder = WorkspaceFolder(tmp_path / "ws")
    made = readers.read("tables", sample(tmp_path / name, name), folder)
    catalogue = Catalogue.read(folder)
    assert sorted(catalogue.item_ids) == sorted(IDS)
    assert sorted(catalogue.titles) == sorted(["PINK SOCK", "CAKE TIN, RED", "MUG", "TIN", "LAMP"])
    assert (made.items, made.bundles, made.interactions) == (5, 6, 3 if name == "online_retail" else 0)
    assert made.media == (5 if name == "ikea" else 0)
    assert sorted(catalogue.bundles.group) == ["g0", "g0", "g1", "g1", "g2", "g2"]
    split = dict(zip(catalogue.bundles.ids, splits.assign(catalogue), strict=True))
    assert all(split[f"b{k}"] == split[f"b{k + 1}"] for k in (0, 2, 4)), "a group is torn apart"
    shown = {catalogue.column(column)[0] for column in LAYOUTS[name][1]}  # what describes a bundle is told of no item
    assert shown == {None}


def test_the_audio_numbers_of_tracks_become_one_standardised_vector(tmp_path):
    root, folder = sample(tmp_path / "spotify", "spotify_playlists"), WorkspaceFolder(tmp_path / "ws")
    readers.read("tables", root, folder)
    found = import_vectors.read(root / "items.parquet", Catalogue.read(folder), "audio", "spotify")
    assert (list(found.item_ids), found.unknown) == (IDS, 0)
    numbers = np.array([LAYOUTS["spotify_playlists"][0][name] for name in ("tempo", "mode")]).T
    np.testing.assert_allclose(found.vectors, (numbers - numbers.mean(0)) / numbers.std(0), atol=1e-6)
