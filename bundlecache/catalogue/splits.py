"""Train, validation and test: which bundles, and which edges of a graph, training may see.

Bundles of one group (a session, a user) are near-copies of each other; a split that cuts through a
group gives answers away (co-occurrence found 35 % of the held-out items in a bundle-level split of
public data, 0.5 % in a split by session). So groups are never cut, bundles of equal content count as one
group, and a graph holds the edges of training bundles and of users of no held-out group only.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CatalogueError
from .model import Bundles, Catalogue, Interactions

if TYPE_CHECKING:
    from collections.abc import Sequence

GRAPHS = ("user-item", "bundle-item")
TOO_ALIKE = 0.1  # share of held-out bundles with a near-copy in training from which on a split is called leaking


def assign(catalogue: Catalogue, seed: int = 0, valid: float = 0.1, test: float = 0.2) -> np.ndarray:
    """The split of every bundle: [B] of ``"train"``, ``"valid"``, ``"test"``.

    A split column in the bundles table is taken as it stands. Otherwise connected groups are ordered by
    a hash of their name and dealt out until ``test`` and then ``valid`` of the bundles are filled.

    Raises
    ------
    CatalogueError
        When the split column is filled for some bundles only.
    """
    bundles = catalogue.bundles
    given = [split is not None for split in bundles.split]
    if given and all(given):
        return np.array(bundles.split, dtype="<U5")
    if any(given):
        raise CatalogueError(
            f"{sum(given):,} of {len(bundles):,} bundles have a split, the others none.",
            hint="fill the column split, or drop it",
        )
    root = _connected(catalogue)
    sizes = dict(zip(*np.unique(root, return_counts=True), strict=True))
    names: dict[int, str] = {}
    for r, bundle_id in zip(root, bundles.ids, strict=True):
        names[r] = min(bundle_id, names.get(r, bundle_id))
    order = sorted(sizes, key=lambda r: hashlib.blake2b(f"{seed}:{names[r]}".encode()).digest())
    split_of: dict[int, str] = {}
    filled = 0
    for r in order:
        # A group goes where its middle falls, so that one large group cannot swallow a whole split.
        middle = (filled + sizes[r] / 2) / len(bundles)
        split_of[r] = "test" if middle < test else "valid" if middle < test + valid else "train"
        filled += sizes[r]
    return np.array([split_of[r] for r in root], dtype="<U5")


def hold_out(catalogue: Catalogue, split: str, seed: int = 0) -> list[tuple[int, np.ndarray, int]]:
    """Take one item out of every bundle of a split: (bundle index, partial int32 in order, truth).

    Which one depends on the seed and the bundle's id alone. Bundles with fewer than two items have
    nothing to ask and are passed over.
    """
    taken = []
    for b in np.flatnonzero(assign(catalogue) == split).tolist():
        items = catalogue.bundles.items[b]
        if len(items) < 2:
            continue
        rng = random.Random(f"{seed}/held-out/{catalogue.bundles.ids[b]}")
        at = int(rng.random() * len(items))
        taken.append((b, np.delete(items, at).astype(np.int32), int(items[at])))
    return taken


def crossing_groups(catalogue: Catalogue, split: np.ndarray) -> list[str]:
    """Groups whose bundles stand in more than one split: with a given split column, that is a leak."""
    first: dict[str, str] = {}
    crossing = {
        group
        for group, part in zip(catalogue.bundles.group, split, strict=True)
        if first.setdefault(group, str(part)) != part
    }
    return sorted(crossing)


def leaks(catalogue: Catalogue, split: np.ndarray | None = None) -> list[str]:
    """What lets training see its own exam, one sentence each; empty when the split is clean.

    Two things are looked for: groups that stand on both sides (only a given split column can cut through
    one), and held-out bundles that share more than half of all their items with a training bundle, which is
    what sessions and users leave behind where nobody wrote them into the column group. Bundles alike happen
    where tastes are alike, so a few are no leak: the share that is spoken of is ``TOO_ALIKE``.
    """
    split = assign(catalogue) if split is None else split
    held = np.flatnonzero(split != "train")
    found = []
    if cut := crossing_groups(catalogue, split):
        crossing = set(cut)
        inside = sum(catalogue.bundles.group[b] in crossing for b in held)
        found.append(
            f"The split cuts through {len(cut):,} groups ({cut[0]!r}, ...): {inside:,} of {len(held):,} held-out bundles have "
            "near-copies on another side, so scores on them are too good. Leave the column split out to split by group."
        )
    elif (copies := int(near_copies(catalogue, split).sum())) > TOO_ALIKE * max(len(held), 1):
        found.append(
            f"{copies:,} of {len(held):,} held-out bundles share more than half of their items with a training bundle, so scores "
            "on them are too good. If they come from one session or user, say so in the column group of the bundles table."
        )
    return found


def near_copies(catalogue: Catalogue, split: np.ndarray) -> np.ndarray:
    """[held-out bundles] bool: whether a training bundle shares two items or more, and over half of both together."""
    from scipy.sparse import csr_array

    bundles = catalogue.bundles
    sizes = np.array([len(items) for items in bundles.items], np.int64)
    member = csr_array(
        (
            np.ones(sizes.sum(), np.int32),
            np.concatenate([*bundles.items, np.zeros(0, np.int32)]),
            np.r_[0, sizes.cumsum()],
        ),
        shape=(len(bundles), len(catalogue)),
    )
    held, train = np.flatnonzero(split != "train"), np.flatnonzero(split == "train")
    shared = (member[held] @ member[train].T).tocoo()
    union = sizes[held][shared.row] + sizes[train][shared.col] - shared.data
    out = np.zeros(len(held), bool)
    out[shared.row[(shared.data >= 2) & (2 * shared.data > union)]] = True
    return out


def visible_edges(catalogue: Catalogue, split: np.ndarray, parts: Sequence[str]) -> np.ndarray:
    """[E] bool, the interactions that somebody may see who may see the bundles of the splits ``parts`` only.

    This is the one rule against leaks through interactions: an edge is hidden when the group of its user made a
    bundle of another split.
    """
    bundles, interactions = catalogue.bundles, catalogue.interactions
    hidden = {group for group, part in zip(bundles.group, split.tolist(), strict=True) if part not in parts}
    allowed = np.array([group not in hidden for group in interactions.group], bool)
    return allowed[interactions.user] if len(interactions) else np.zeros(0, bool)


def visible(catalogue: Catalogue, *parts: str, seed: int = 0) -> Catalogue:
    """The catalogue as somebody sees it who may see these splits only: their bundles, and no user of the other ones."""
    split = assign(catalogue, seed)
    bundles, interactions = catalogue.bundles, catalogue.interactions
    kept = np.flatnonzero(np.isin(split, parts)).tolist()
    edges = visible_edges(catalogue, split, parts)
    return replace(
        catalogue,
        bundles=Bundles(
            ids=[bundles.ids[b] for b in kept],
            items=[bundles.items[b] for b in kept],
            split=[str(split[b]) for b in kept],
            group=[bundles.group[b] for b in kept],
            name=[bundles.name[b] for b in kept],
        ),
        interactions=Interactions(
            interactions.users, interactions.user[edges], interactions.item[edges], interactions.group
        ),
    )


def training_graph(catalogue: Catalogue, kind: str, seed: int = 0) -> np.ndarray:
    """Edges that training may see, without repeats: int64 [E, 2] of (user or bundle index, item index).

    ``user-item`` leaves out every user whose group made a validation or test bundle; ``bundle-item``
    leaves out those bundles.

    Raises
    ------
    CatalogueError
        For another ``kind``.
    """
    if kind not in GRAPHS:
        raise CatalogueError(f"There is no graph {kind!r}; there are {' and '.join(GRAPHS)}.")
    bundles, interactions = catalogue.bundles, catalogue.interactions
    split = assign(catalogue, seed)
    if kind == "bundle-item":
        pairs = [(b, int(i)) for b in np.flatnonzero(split == "train") for i in bundles.items[b]]
        return np.array(pairs, np.int64).reshape(-1, 2)
    keep = visible_edges(catalogue, split, ("train",))
    edges = np.stack([interactions.user[keep], interactions.item[keep]], axis=1).astype(np.int64)
    return np.unique(edges, axis=0).reshape(-1, 2)


def _connected(catalogue: Catalogue) -> np.ndarray:
    """[B] the component of every bundle: bundles that share a group or hold the same items are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    bundles = catalogue.bundles
    labels: dict[object, int] = {}
    rows, cols = [], []
    for b, (group, items) in enumerate(zip(bundles.group, bundles.items, strict=True)):
        for label in (("group", group), ("items", tuple(sorted(items.tolist())))):
            rows.append(b)
            cols.append(len(bundles) + labels.setdefault(label, len(labels)))
    size = len(bundles) + len(labels)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, cols)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(bundles)]
