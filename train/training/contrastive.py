"""The contrastive loss that starts the fusion stage: like items get similar tokens. It is not in the paper.

Without it, the fusion module learns only through the frozen language model, which is slow at first. Which items are alike
is said by ``contrastive_pairs``: those of a training bundle; where bundles are few, also those of a category and those that
a user took one after the other. No pair comes from a bundle of validation or test, or from the users who made one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bundlecache.catalogue import splits
from bundlecache.catalogue.columns import Lists
from bundlecache.errors import RecipeError
from bundlecache.sorted_arrays import places_by_value

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue

MAX_PAIRS = 128  # of a kind in a step
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Pairs:
    """Lists of items of which two are alike: any two of a list, or with ``in_order`` two neighbours."""

    lists: Lists
    in_order: bool = False

    @classmethod
    def of(cls, kind: str, catalogue: Catalogue, bundles: Lists) -> Pairs:
        """Those of one kind of ``contrastive_pairs``; ``bundles`` are the training bundles that may be used.

        Raises
        ------
        RecipeError
            When the catalogue has no categories, or no histories of two items.
        """
        if kind == "bundles":
            return cls(bundles)
        if kind == "categories":
            category = catalogue.column("category")
            filled = np.flatnonzero(category.filled)
            order, ends = places_by_value(category.take(filled).codes()[0])
            alike = Lists.of(ends, filled[order])
            lacks, instead = "no two items of one category", "add a column category to the items table"
        else:
            interactions = catalogue.interactions
            kept = np.flatnonzero(splits.visible_edges(catalogue, splits.assign(catalogue), ("train",)))
            order, ends = places_by_value(interactions.user[kept])  # the table's order is that of time
            alike = Lists.of(ends, interactions.item[kept[order]])
            lacks, instead = "no user of training who took two items", "add interactions.parquet"
        two = np.flatnonzero(alike.lengths >= 2)
        if not len(two):
            raise RecipeError(
                f"contrastive_pairs takes {kind}, but the catalogue has {lacks}.",
                hint=f"--set contrastive_pairs=bundles for the stage, or {instead}",
            )
        return cls(alike.take(two), in_order=kind == "histories")

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two items of each of up to 128 lists, int64 [p] and [p]; different ones but where a list repeats an item."""
        chosen = rng.choice(len(self.lists), min(MAX_PAIRS, len(self.lists)), replace=False)
        if self.in_order:
            first = self.lists.offsets[:-1][chosen] + rng.integers(self.lists.lengths[chosen] - 1)
            return self.lists.values[first].astype(np.int64), self.lists.values[first + 1].astype(np.int64)
        pairs = np.stack([rng.choice(self.lists[k], 2, replace=False) for k in chosen]).astype(np.int64)
        return pairs[:, 0], pairs[:, 1]


def drawn_loss(kinds: Sequence[Pairs], rng: np.random.Generator, tokens: Callable[[np.ndarray], Tensor]) -> Tensor:
    """The mean over ``kinds`` of the loss of pairs that are drawn of each; ``tokens(items)`` [n] gives their tokens [n, h].

    Pairs of one kind are no wrong pairs for another: two items of a category may stand in one bundle.
    """
    drawn = [kind.draw(rng) for kind in kinds]
    items, row = np.unique(np.concatenate([side for pair in drawn for side in pair]), return_inverse=True)
    found = tokens(items)[torch.from_numpy(row)]
    sides = found.split([len(side) for pair in drawn for side in pair])
    losses = [contrastive_loss(sides[2 * k], sides[2 * k + 1], left, right) for k, (left, right) in enumerate(drawn)]
    return torch.stack(losses).mean()


def contrastive_loss(left: Tensor, right: Tensor, left_items: np.ndarray, right_items: np.ndarray) -> Tensor:
    """InfoNCE both ways between tokens [p, h] and [p, h]; row k belongs to row k.

    An item that occurs twice in the batch is not a negative of itself.
    """
    scores = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T / TEMPERATURE  # [p, p]
    same = torch.from_numpy((left_items[:, None] == left_items[None]) | (right_items[:, None] == right_items[None]))
    same = same.to(scores.device).fill_diagonal_(False)
    scores = scores.masked_fill(same, -torch.inf)
    target = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
