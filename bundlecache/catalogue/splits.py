"""Splits the bundles into train, validation and test, and says which edges of a graph training may see.

Bundles of one group (a session, a user) are near-copies of each other; a split that divides a group gives answers away
(co-occurrence found 35 % of the held-out items in a bundle-level split of public data, 0.5 % in a split by session).
So groups are never divided, bundles with the same items count as one group, and a graph holds only the edges of training
bundles and of users whose group made no held-out bundle.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CatalogueError, counted
from ..item_sets import set_hashes
from ..sorted_arrays import sorted_distinct
from . import cache
from .catalogue import SPLITS, Catalogue, Interactions
from .columns import Lists, Strings
from .kept_splits import KeptSplits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..workspace import WorkspaceFolder

GRAPHS = ("user-item", "bundle-item")
VALID_SHARE, TEST_SHARE = 0.1, 0.2  # of all bundles, where no split column is given


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
    asked = (seed, valid, test)
    if asked not in catalogue.memory:
        split = _assign(catalogue, *asked)
        split.flags.writeable = False
        catalogue.memory[asked] = split
    found: np.ndarray = catalogue.memory[asked]
    return found


def _assign(catalogue: Catalogue, seed: int, valid: float, test: float) -> np.ndarray:
    bundles = catalogue.bundles
    missing = bundles.split.arrow.null_count
    if not missing:
        codes, names = bundles.split.codes()
        return np.array([*names], dtype="<U5")[codes] if len(bundles) else np.zeros(0, "<U5")
    if missing < len(bundles):
        raise CatalogueError(
            f"{len(bundles) - missing:,} of {len(bundles):,} bundles have a split, the others none.",
            hint="fill the column split, or drop it",
        )
    usual = (seed, valid, test) == (0, VALID_SHARE, TEST_SHARE)
    file = None
    if usual and catalogue.cached_in:
        file = catalogue.cached_in / f"split-{catalogue.kept_splits.file_sha256[:16] or 'new'}.npy"
        known = cache.read_array(file)
        if (
            known is not None
            and known.shape == (len(bundles),)
            and known.dtype == np.uint8
            and known.max() < len(SPLITS)
        ):
            return np.array(SPLITS)[known]
    placement = place(catalogue) if usual and catalogue.kept_splits else None
    split = placement.split if placement else _dealt_out(catalogue, seed, valid, test)
    cache.write_array(file, sum((split == part) * np.uint8(code) for code, part in enumerate(SPLITS)))
    return split


def _dealt_out(catalogue: Catalogue, seed: int, valid: float, test: float) -> np.ndarray:
    """Connected groups in the order of a hash of their name fill test, then valid, then train."""
    bundles = catalogue.bundles
    root = _connected(np.arange(len(bundles)), catalogue)
    sizes = np.bincount(root)
    by_name = np.asarray(pc.array_sort_indices(bundles.ids.arrow))
    first = np.unique(root[by_name], return_index=True)[1]  # the smallest id of each group names it
    keys = [_digest(seed, name) for name in bundles.ids.take(by_name[first])]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    # A group goes where its middle falls, so that one large group cannot swallow a whole split.
    before = np.concatenate([[0], sizes[order].cumsum()[:-1]])
    middle = (before + sizes[order] / 2) / len(bundles)
    split_of = np.empty(len(sizes), "<U5")
    split_of[order] = np.where(middle < test, "test", np.where(middle < test + valid, "valid", "train"))
    return split_of[root]


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
    if not kept.are_of(bundles.ids, bundles.items, catalogue.item_ids):
        return None
    split = kept.split_of(bundles.ids)
    new = np.flatnonzero(split == "")
    if not len(new):
        return Placement(split, {}, 0, 0)
    component = _connected(new, catalogue)
    found = np.zeros(component.max() + 1, np.uint8)  # the splits that a component is connected with, a bit each
    np.bitwise_or.at(found, component, _splits_beside(catalogue, split, new))
    sizes = np.bincount(component)
    named = np.full(len(found), "", "<U5")
    for part in ("train", "valid", "test"):  # what is held out most comes last, and stays
        named[found & _bit(part) > 0] = part
    alone = np.flatnonzero(found == 0)
    by_name = new[np.asarray(pc.array_sort_indices(bundles.ids.take(new).arrow))]
    in_order = component[np.searchsorted(new, by_name)]
    first = by_name[np.unique(in_order, return_index=True)[1]]  # the smallest id of each component names it
    for c, name in zip(alone.tolist(), bundles.ids.take(first[alone]), strict=True):
        named[c] = _split_at(int.from_bytes(_digest(0, name)[:8], "big") / 2**64, VALID_SHARE, TEST_SHARE)
    split[new] = named[component]
    joined = int(sizes[found > 0].sum())
    between = int(sizes[found & (found - (found > 0)) > 0].sum())  # more than one bit
    return Placement(split, {part: int((split[new] == part).sum()) for part in SPLITS}, joined, between)


def _splits_beside(catalogue: Catalogue, split: np.ndarray, new: np.ndarray) -> np.ndarray:
    """uint8 [new] the splits of the bundles with the group or the items of each new bundle, a bit for each split.

    ``split`` [B] is "" for new bundles. Others count as they are now and as they were when they were placed.
    """
    bundles, kept = catalogue.bundles, catalogue.kept_splits
    old = np.flatnonzero(split != "")
    bits = np.concatenate([_bit(split[old]), _bit(np.array(kept.split))])
    groups = [bundles.group.take(new).arrow, bundles.group.take(old).arrow, kept.group.arrow]
    number = Strings(pa.chunked_array(groups)).codes()[0]
    before = kept.items(catalogue.item_ids)
    hashes = [set_hashes(lists) for lists in (bundles.items.take(new), bundles.items.take(old), before)]
    lost = len(new) + len(old) + before.rows[before.values < 0]  # a set with a deleted item is no new bundle's
    same = np.unique(np.concatenate(hashes), return_inverse=True)[1].reshape(-1)
    same[lost] = same.max() + 1
    out = np.zeros(len(new), np.uint8)
    for label in (number, same):
        found = np.zeros(label.max() + 1, np.uint8)
        np.bitwise_or.at(found, label[len(new) :], bits)
        out |= found[label[: len(new)]]
    return out


def _bit(part: str | np.ndarray) -> np.ndarray:
    """uint8: one bit for each split, by its name."""
    bits = np.zeros(np.shape(part), np.uint8)
    for code, name in enumerate(SPLITS):
        bits |= (np.asarray(part) == name) * np.uint8(1 << code)
    return bits


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
    placement = place(catalogue) if catalogue.kept_splits else None
    before = catalogue.kept_splits if placement else KeptSplits()
    new = np.flatnonzero(before.split_of(bundles.ids) == "")
    if not len(new):
        return None
    added = bundles.take(new)
    placed = KeptSplits.of(added.ids, split[new], added.group, added.items, catalogue.item_ids)
    before.joined(placed).save(workspace.kept_splits)
    return placement


def hold_out(catalogue: Catalogue, split: str, seed: int = 0) -> list[tuple[int, np.ndarray, int]]:
    """Take one item out of every bundle of a split: (bundle index, partial int32 in order, truth).

    Which one depends on the seed and the bundle's id alone. Bundles with fewer than two items have
    nothing to ask and are passed over.
    """
    bundles = catalogue.bundles
    chosen = np.flatnonzero((assign(catalogue) == split) & (bundles.items.lengths >= 2))
    taken = []
    for b, bundle_id in zip(chosen.tolist(), bundles.ids.take(chosen), strict=True):
        items = bundles.items[b]
        at = int(random.Random(f"{seed}/held-out/{bundle_id}").random() * len(items))
        taken.append((b, np.concatenate([items[:at], items[at + 1 :]]), int(items[at])))
    return taken


def visible_edges(catalogue: Catalogue, split: np.ndarray, parts: Sequence[str]) -> np.ndarray:
    """[E] bool, the interactions that belong to the splits ``parts`` or to no split.

    This is the one rule against leaks through interactions: an edge is hidden when the group of its user made a
    bundle of another split.
    """
    bundles, interactions = catalogue.bundles, catalogue.interactions
    hidden = bundles.group.take(np.flatnonzero(~np.isin(split, parts)))
    allowed = ~np.asarray(pc.is_in(interactions.group.arrow, value_set=hidden.arrow))
    return allowed[interactions.user] if len(interactions) else np.zeros(0, bool)


def visible(catalogue: Catalogue, *parts: str, seed: int = 0) -> Catalogue:
    """The catalogue restricted to these splits: their bundles, and no interaction of a group that made other bundles."""
    split = assign(catalogue, seed)
    bundles, interactions = catalogue.bundles, catalogue.interactions
    kept = np.flatnonzero(np.isin(split, parts))
    edges = visible_edges(catalogue, split, parts)
    return replace(
        catalogue,
        bundles=bundles.take(kept).with_split(split[kept]),
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
        train = np.flatnonzero(split == "train")
        members = bundles.items.take(train)
        return np.stack([np.repeat(train, members.lengths), members.values], axis=1).astype(np.int64)
    keep = visible_edges(catalogue, split, ("train",))
    size = max(len(catalogue), 1)
    edges = sorted_distinct(interactions.user[keep].astype(np.int64) * size + interactions.item[keep])
    return np.stack([edges // size, edges % size], axis=1)


def _digest(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode()).digest()


def _split_at(position: float, valid: float, test: float) -> str:
    """The split at a position in 0..1 of all bundles: first test, then valid, the rest is train."""
    return "test" if position < test else "valid" if position < test + valid else "train"


def _connected(chosen: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """[chosen] the component of each bundle: bundles that share a group or hold the same items are connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(chosen)
    groups = np.unique(catalogue.bundles.group.take(chosen).codes()[0], return_inverse=True)[1].reshape(-1)
    members = catalogue.bundles.items.take(chosen)
    ordered = Lists.of(members.offsets, members.values[np.lexsort((members.values, members.rows))])
    numbers: dict[bytes, int] = {}
    sets = np.fromiter((numbers.setdefault(each.tobytes(), len(numbers)) for each in ordered), np.int64, count)
    ends = np.concatenate([count + groups, count + groups.max(initial=-1) + 1 + sets])
    size = int(ends.max(initial=count - 1)) + 1
    graph = coo_array((np.ones(2 * count, np.int8), (np.tile(np.arange(count), 2), ends)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]
