"""Holds out a bounded number of a graph's edges, and measures how well vectors of its nodes rank them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

USERS_AT_ONCE = 1024  # rows of scores that evaluation holds at most
SCORES_AT_ONCE = 1 << 24  # scores that evaluation holds at most


@dataclass(frozen=True)
class Ranking:
    """Means over the left nodes that have held-out items."""

    recall: float
    ndcg: float
    nodes: int


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

    def recall(self, left: np.ndarray, item: np.ndarray, k: int = 20) -> float:
        """Recall@k alone, in less time: nothing is sorted. Of equal scores the held-out item's is the last, NaN is below all."""
        relevant, row_of = np.bincount(self.edges[:, 0], minlength=len(self.nodes)), np.full(len(self.nodes), -1)
        found, rows = 0.0, max(1, SCORES_AT_ONCE // len(item))
        asked = np.flatnonzero(relevant)
        for chunk in (asked[start : start + rows] for start in range(0, len(asked), rows)):
            scores = left[self.nodes[chunk]] @ item.T  # [c, n_items]
            row_of[chunk] = np.arange(len(chunk))
            known, edges = (pairs[row_of[pairs[:, 0]] >= 0] for pairs in (self.known, self.edges))
            scores[row_of[known[:, 0]], known[:, 1]] = -np.inf
            for node, wanted in edges.tolist():
                row = scores[row_of[node]]
                found += float(np.count_nonzero(~(row < row[wanted])) <= k) / relevant[node]  # itself among them
            row_of[chunk] = -1
        return found / max(len(asked), 1)


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


def evaluate(left: np.ndarray, item: np.ndarray, known: np.ndarray, held_out: np.ndarray, k: int = 20) -> Ranking:
    """Recall@k and NDCG@k of all items for every left node with held-out edges, its ``known`` items left out.

    As in the LightGCN authors' protocol: recall is found over held out, the ideal DCG of a node counts
    min(held out, k) hits.

    Parameters
    ----------
    left, item
        Vectors [n_left, d] and [n_items, d]; the score is their dot product.
    known, held_out
        Edges int [E, 2] of (left node, item), distinct; those in training, and those to be found.
    """
    n_items, k = len(item), min(k, len(item))
    relevant = np.bincount(held_out[:, 0], minlength=len(left))  # [n_left]
    nodes = np.flatnonzero(relevant)
    wanted, known = np.sort(held_out[:, 0] * n_items + held_out[:, 1]), known[np.argsort(known[:, 0], kind="stable")]
    gain = 1 / np.log2(np.arange(2, k + 2))  # [k]
    ideal = np.cumsum(gain)
    recall = ndcg = 0.0
    rows = min(USERS_AT_ONCE, max(1, SCORES_AT_ONCE // n_items))
    for chunk in (nodes[s : s + rows] for s in range(0, len(nodes), rows)):
        scores = left[chunk] @ item.T  # [c, n_items]
        row_of = np.full(len(left), -1)
        row_of[chunk] = np.arange(len(chunk))
        seen = known[row_of[known[:, 0]] >= 0]
        scores[row_of[seen[:, 0]], seen[:, 1]] = -np.inf
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        keys = chunk[:, None] * n_items + np.take_along_axis(top, order, 1)
        hit = wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys  # [c, k]
        recall += float((hit.sum(axis=1) / relevant[chunk]).sum())
        ndcg += float((hit @ gain / ideal[np.minimum(relevant[chunk], k) - 1]).sum())
    return Ranking(recall / max(len(nodes), 1), ndcg / max(len(nodes), 1), len(nodes))


def _pairs(row_of: np.ndarray, left: np.ndarray, item: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.stack([row_of[left[edges]], item[edges]], axis=1)
