"""Finds what leaks across a split: groups on both sides, and held-out bundles that are near-copies of training bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..text import quoted
from .splits import assign

if TYPE_CHECKING:
    from .catalogue import Catalogue

COMPARED_BUNDLES = 4096  # held-out bundles that are compared with all of training at once
TOO_ALIKE = 0.1  # share of held-out bundles with a near-copy in training from which on a split is called leaking


def crossing_groups(catalogue: Catalogue, split: np.ndarray) -> list[str]:
    """Groups with bundles in more than one split, in ascending order; each is a leak."""
    codes, names = catalogue.bundles.group.codes()
    part = np.unique(split, return_inverse=True)[1].reshape(-1)
    lowest, highest = np.full(len(names), len(split)), np.full(len(names), -1)
    np.minimum.at(lowest, codes, part)
    np.maximum.at(highest, codes, part)
    return sorted(names.take(np.flatnonzero(lowest < highest)))


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
        inside = int(np.isin(catalogue.bundles.group.take(held), cut).sum())
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

    members, sizes = catalogue.bundles.items, catalogue.bundles.items.lengths
    # Two bundles that share more than half of both together share one of the rarer half of their items. Bundles with
    # such an item in common are few, while those that share a popular one grow with the square of the bundles.
    popularity = np.bincount(members.values, minlength=len(catalogue))
    order = np.lexsort((members.values, popularity[members.values], members.rows))
    place = np.arange(len(order)) - np.repeat(members.offsets[:-1], sizes)
    rare = order[place < np.repeat((sizes + 1) // 2, sizes)]
    shape = (len(sizes), len(catalogue))
    member = csr_array((np.ones(len(order), np.int32), members.values[order], members.offsets), shape=shape)
    member.sort_indices()
    rarer = csr_array((np.ones(len(rare), np.int32), (members.rows[rare], members.values[rare])), shape=shape)
    held, train = np.flatnonzero(split != "train"), np.flatnonzero(split == "train")
    out = np.zeros(len(held), bool)
    others = rarer[train].T.tocsr()
    for start in range(0, len(held), COMPARED_BUNDLES):
        rows = np.arange(start, min(start + COMPARED_BUNDLES, len(held)))
        pairs = (rarer[held[rows]] @ others).tocoo()
        a, b = held[rows][pairs.row], train[pairs.col]
        shared = (member[a] * member[b]).sum(axis=1)
        out[rows[pairs.row[(shared >= 2) & (3 * shared > sizes[a] + sizes[b])]]] = True
    return out
