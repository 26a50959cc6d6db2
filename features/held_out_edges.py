"""Holds out a bounded number of a graph's edges, to see after each epoch how well the others predict them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .lightgcn import Ranking, evaluate


@dataclass(frozen=True)
class HeldOut:
    """Edges that training does not see, of some left nodes.

    ``nodes`` [n] are those left nodes in ascending order; ``trained`` [E] says which edges of the graph remain for
    training; ``known`` [k, 2] and ``edges`` [h, 2] are the nodes' remaining and held-out edges as (row of ``nodes``, item).
    """

    nodes: np.ndarray
    trained: np.ndarray
    known: np.ndarray
    edges: np.ndarray

    def ranking(self, left: np.ndarray, item: np.ndarray) -> Ranking:
        """Recall@20 and NDCG@20 of the held-out edges by the vectors of all left nodes and of all items."""
        return evaluate(left[self.nodes], item, self.known, self.edges)


def hold_out(
    left: np.ndarray, item: np.ndarray, nodes: int = 1000, share: float = 0.1, seed: int = 0
) -> HeldOut | None:
    """Take ``share`` of the edges, and at least one, from each of ``nodes`` left nodes that have two edges or more.

    At most ``nodes`` nodes are asked, so that an evaluation grows with the items alone. The last edge of an item stays.
    None where nothing can be held out.
    """
    rng = np.random.default_rng(seed)
    degree = np.bincount(left)
    able = np.flatnonzero(degree >= 2)
    chosen = np.sort(rng.choice(able, min(nodes, len(able)), replace=False))
    row_of = np.full(len(degree), -1)
    row_of[chosen] = np.arange(len(chosen))
    own = np.flatnonzero(row_of[left] >= 0)  # edges of the chosen nodes
    own = own[np.lexsort((rng.random(len(own)), left[own]))]  # in a random order within each node
    begins = np.cumsum(degree[chosen]) - degree[chosen]
    place = np.arange(len(own)) - np.repeat(begins, degree[chosen])
    wanted = np.maximum(1, (share * degree[chosen]).astype(np.int64))
    held = own[place < np.repeat(wanted, degree[chosen])]
    unseen = np.bincount(item[held], minlength=int(item.max()) + 1) == np.bincount(item)
    held = held[~unseen[item[held]]]
    if not len(held):
        return None
    trained = np.ones(len(left), bool)
    trained[held] = False
    known = own[trained[own]]
    return HeldOut(chosen, trained, _pairs(row_of, left, item, known), _pairs(row_of, left, item, held))


def _pairs(row_of: np.ndarray, left: np.ndarray, item: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.stack([row_of[left[edges]], item[edges]], axis=1)
