"""Splits the bundles into train, validation and test, and says which edges of a graph training may see.

Bundles of one group (a session, a user) are near-copies of each other; a split that divides a group gives answers away
(co-occurrence found 35 % of the held-out items in a bundle-level split of public data, 0.5 % in a split by session).
So groups are never divided, bundles with the same items count as one group, and a graph holds only the edges of training
bundles and of users whose group made no held-out bundle.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CatalogueError, counted
from ..text import quoted
from .catalogue import SPLITS, Bundles, Catalogue, Interactions
from .kept_splits import KeptBundle, KeptSplits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..workspace import WorkspaceFolder

GRAPHS = ("user-item", "bundle-item")
VALID_SHARE, TEST_SHARE = 0.1, 0.2  # of all bundles, where no split column is given
TOO_ALIKE = 0.1  # share of held-out bundles with a near-copy in training from which on a split is called leaking


def assign(catalogue: Catalogue, seed: int = 0, valid: float = VALID_SHARE, test: float = TEST_SHARE) -> np.ndarray:
    """The split of every bundle: [B] of ``"train"``, ``"valid"``, ``"test"``.

    A split column in the bundles table is taken as it is. Otherwise connected groups are ordered by a hash of their
    name and dealt out until ``test`` and then ``valid`` of the bundles are filled. Where the workspace has kept splits
    (`keep`), bundles that have one stay in it, and only the others are placed; see `place`. Kept splits are those of
    the default ``seed`` and shares: for others they are not looked at.

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
    if catalogue.kept_splits and (seed, valid, test) == (0, VALID_SHARE, TEST_SHARE):
        placement = place(catalogue)
        if placement is not None:
            return placement.split
    root = _connected(range(len(bundles)), catalogue)
    sizes = dict(zip(*np.unique(root, return_counts=True), strict=True))
    names: dict[int, str] = {}
    for r, bundle_id in zip(root, bundles.ids, strict=True):
        names[r] = min(bundle_id, names.get(r, bundle_id))
    order = sorted(sizes, key=lambda r: _digest(seed, names[r]))
    split_of: dict[int, str] = {}
    filled = 0
    for r in order:
        # A group goes where its middle falls, so that one large group cannot swallow a whole split.
        middle = (filled + sizes[r] / 2) / len(bundles)
        split_of[r] = _split_at(middle, valid, test)
        filled += sizes[r]
    return np.array([split_of[r] for r in root], dtype="<U5")


@dataclass(frozen=True)
class Placement:
    """Where new bundles were placed beside those whose splits are kept.

    ``split`` [B] of all bundles; ``new`` is the number of new bundles by split; ``joined`` of them follow bundles with
    the same group or the same items; ``between`` of these do so in several splits, which they connect.
    """

    split: np.ndarray
    new: dict[str, int]
    joined: int
    between: int

    def sentences(self) -> list[str]:
        """What to tell the user; nothing when no bundle is new."""
        count = sum(self.new.values())
        if not count:
            return []
        parts = ", ".join(f"{number:,} to {part}" for part, number in self.new.items() if number)
        told = [
            f"{counted(count, 'new bundle was', 'new bundles were')} placed: {parts}; all others keep their splits."
        ]
        if self.between:
            told.append(
                f"{counted(self.between, 'new bundle shares', 'new bundles share')} a group or the same items with bundles of "
                "several splits; each was placed with the held-out ones, so that training does not see them."
            )
        return told


def place(catalogue: Catalogue) -> Placement | None:
    """Place the bundles that have no kept split; None where the kept splits are those of another data set.

    A new bundle joins the split of the bundles that share its group or hold the same items, directly or through other
    new bundles. Where these are in several splits, it joins the one that is held out from training most (test, then
    valid): in training it would be a copy of a held-out bundle. All others are dealt out by a hash of their name.
    """
    bundles, kept = catalogue.bundles, catalogue.kept_splits
    item_ids = catalogue.item_ids
    if not kept.are_of(
        {name: {item_ids[i] for i in items.tolist()} for name, items in zip(bundles.ids, bundles.items, strict=True)}
    ):
        return None
    split = np.array([kept.bundles[name].split if name in kept.bundles else "" for name in bundles.ids], dtype="<U5")
    new: list[int] = np.flatnonzero(split == "").tolist()
    if not new:
        return Placement(split, {}, 0, 0)
    splits_of: defaultdict[object, set[str]] = defaultdict(set)
    for bundle in kept.bundles.values():  # as they were, also those that were deleted since
        splits_of["group", bundle.group].add(bundle.split)
        splits_of["items", bundle.item_ids].add(bundle.split)
    for b in np.flatnonzero(split != "").tolist():  # as they are now
        for label in _labels(catalogue, b):
            splits_of[label].add(str(split[b]))
    components: defaultdict[int, list[int]] = defaultdict(list)
    for b, component in zip(new, _connected(new, catalogue).tolist(), strict=True):
        components[component].append(b)
    joined = between = 0
    for members in components.values():
        found = set().union(*(splits_of.get(label, set()) for b in members for label in _labels(catalogue, b)))
        joined += len(members) * bool(found)
        between += len(members) * (len(found) > 1)
        if found:
            split[members] = next(part for part in ("test", "valid", "train") if part in found)
        else:
            name = min(bundles.ids[b] for b in members)
            split[members] = _split_at(int.from_bytes(_digest(0, name)[:8], "big") / 2**64, VALID_SHARE, TEST_SHARE)
    return Placement(split, {part: int((split[new] == part).sum()) for part in SPLITS}, joined, between)


def keep(workspace: WorkspaceFolder, catalogue: Catalogue) -> Placement | None:
    """Write the splits of all bundles into the workspace, where bundles keep them from then on.

    It is called when questions are frozen. Nothing is written where the bundles table has a split column, nor where
    nothing is new. Gives what was new beside kept splits; None at the first call and where nothing was written.

    Raises
    ------
    BundlecacheError
        When the file cannot be written.
    """
    bundles = catalogue.bundles
    if not len(bundles) or bundles.split[0] is not None:
        return None
    catalogue = replace(catalogue, kept_splits=KeptSplits.read(workspace.kept_splits))
    split = assign(catalogue)
    now = {
        name: KeptBundle(str(part), group, tuple(sorted(catalogue.item_ids[i] for i in items.tolist())))
        for name, part, group, items in zip(bundles.ids, split, bundles.group, bundles.items, strict=True)
    }
    placement = place(catalogue) if catalogue.kept_splits else None
    before = catalogue.kept_splits.bundles if placement else {}
    if before.keys() >= now.keys():
        return None
    KeptSplits({**now, **before}).save(workspace.kept_splits)
    return placement


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
    """Groups with bundles in more than one split, in ascending order; each is a leak."""
    first: dict[str, str] = {}
    crossing = {
        group
        for group, part in zip(catalogue.bundles.group, split, strict=True)
        if first.setdefault(group, str(part)) != part
    }
    return sorted(crossing)


def leaks(catalogue: Catalogue, split: np.ndarray | None = None) -> list[str]:
    """How held-out bundles leak into training, one sentence each; empty when the split is clean.

    It looks for groups that have bundles on both sides, and for held-out bundles that share more than half of all
    their items with a training bundle, as sessions and users do where the column group does not name them. Where tastes
    are alike some bundles are too, so only a share of ``TOO_ALIKE`` counts as a leak.
    """
    split = assign(catalogue) if split is None else split
    held = np.flatnonzero(split != "train")
    found = []
    if cut := crossing_groups(catalogue, split):
        crossing = set(cut)
        inside = sum(catalogue.bundles.group[b] in crossing for b in held)
        given = catalogue.bundles.split[0] is not None
        found.append(
            f"The split cuts through {len(cut):,} groups ({quoted(cut[0])}, ...): {inside:,} of {len(held):,} held-out bundles have "
            "near-copies on another side, so scores on them are too good."
            + (
                " Leave the column split out to split by group."
                if given
                else " Groups grew together after splits were kept."
            )
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
    """[E] bool, the interactions that belong to the splits ``parts`` or to no split.

    This is the one rule against leaks through interactions: an edge is hidden when the group of its user made a
    bundle of another split.
    """
    bundles, interactions = catalogue.bundles, catalogue.interactions
    hidden = {group for group, part in zip(bundles.group, split.tolist(), strict=True) if part not in parts}
    allowed = np.array([group not in hidden for group in interactions.group], bool)
    return allowed[interactions.user] if len(interactions) else np.zeros(0, bool)


def visible(catalogue: Catalogue, *parts: str, seed: int = 0) -> Catalogue:
    """The catalogue restricted to these splits: their bundles, and no interaction of a group that made other bundles."""
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


def _digest(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode()).digest()


def _split_at(position: float, valid: float, test: float) -> str:
    """The split at a position in 0..1 of all bundles: first test, then valid, the rest is train."""
    return "test" if position < test else "valid" if position < test + valid else "train"


def _labels(catalogue: Catalogue, b: int) -> tuple[tuple[str, object], tuple[str, object]]:
    """What connects a bundle with kept ones: its group and its set of items, as ids."""
    items = tuple(sorted(catalogue.item_ids[i] for i in catalogue.bundles.items[b].tolist()))
    return ("group", catalogue.bundles.group[b]), ("items", items)


def _connected(chosen: Iterable[int], catalogue: Catalogue) -> np.ndarray:
    """[chosen] the component of each bundle: bundles that share a group or hold the same items are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[object, int] = {}
    pairs: list[tuple[int, int]] = []
    for row, b in enumerate(chosen):
        labels = ("group", catalogue.bundles.group[b]), ("items", tuple(sorted(catalogue.bundles.items[b].tolist())))
        pairs += [(row, nodes.setdefault(label, len(nodes))) for label in labels]
    count = pairs[-1][0] + 1 if pairs else 0
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    size = count + len(nodes)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, count + columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]
