"""Catalogues of random bundles, whose questions only a leak can answer."""

from __future__ import annotations

import dataclasses

import numpy as np

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.catalogue.columns import id_hash


def with_cells(catalogue: Catalogue, **columns) -> Catalogue:
    """The catalogue with other cells in columns of its bundles: for each column a mapping from bundle numbers to cells."""
    bundles = catalogue.bundles
    changed = {}
    for name, cells in columns.items():
        changed[name] = [*getattr(bundles, name)]
        for b, cell in cells.items():
            changed[name][b] = cell
    return dataclasses.replace(catalogue, bundles=dataclasses.replace(bundles, **changed))


def random_catalogue(items=400, bundles=600, *, popular=False, categories=True, seed=0) -> Catalogue:
    """Random bundles: nothing but a leak can answer their questions. ``popular`` draws some items far more often."""
    rng = np.random.default_rng(seed)
    ids = sorted((f"i{n}" for n in range(items)), key=id_hash)
    p = (1 + rng.permutation(items)) ** -0.7 if popular else np.ones(items)
    members = [rng.choice(items, rng.integers(2, 6), replace=False, p=p / p.sum()) for _ in range(bundles)]
    return Catalogue(
        item_ids=ids,
        titles=[f"thing {i}" for i in ids],
        columns={"category": [f"all > kind {i % 8}" for i in range(items)]} if categories else {},
        bundles=Bundles(
            ids=[f"b{b}" for b in range(bundles)],
            items=[m.astype(np.int32) for m in members],
            split=[None] * bundles,
            group=[f"g{b}" for b in range(bundles)],
            name=[None] * bundles,
        ),
        interactions=Interactions(),
    )


def personal_catalogue(*, of_bundles_only: bool = False):
    """Bundles of random items, and users who elsewhere take only items of the parity of what their bundle lacks."""
    shop = random_catalogue(200, 300)
    rng = np.random.default_rng(5)
    split = ["train"] * 100 + ["valid"] * 100 + ["test"] * 100
    shop = dataclasses.replace(shop, bundles=dataclasses.replace(shop.bundles, split=split))
    truths = {b: t for part in ("valid", "test") for b, _, t in splits.hold_out(shop, part)}
    edges = []
    for b, items in enumerate(shop.bundles.items):
        liked = rng.choice(100, 12, replace=False) * 2 + truths.get(b, b) % 2
        edges += [(b, int(i)) for i in items] + ([] if of_bundles_only else [(b, int(i)) for i in liked])
    user, item = np.array(edges, np.int32).T
    groups = list(shop.bundles.group)
    return dataclasses.replace(shop, interactions=Interactions([f"u{b}" for b in range(300)], user, item, groups))


def content_of(catalogue: Catalogue) -> tuple[object, ...]:
    """All that a catalogue holds, as plain lists that can be compared."""
    bundles, clicks = catalogue.bundles, catalogue.interactions
    columns = {name: [*cells] for name, cells in catalogue.columns.items()}
    texts = [*catalogue.item_ids], [*catalogue.titles], columns, [*bundles.ids], [*bundles.group], [*clicks.users]
    return *texts, [b.tolist() for b in bundles.items], clicks.user.tolist(), clicks.item.tolist(), catalogue.notes
