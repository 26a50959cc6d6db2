"""BPR of large graphs: users in blocks whose factors stay in the processor's cache, and an end by held-out edges.

`implicit` draws an edge at random for each step. On a large graph neither the edge nor the factors of its user are in the
cache then, and a step takes twice as long. Here a pass over the edges goes through blocks of users in random order;
within a block steps are drawn at random as ever, negatives from the block's own edges. Too many passes make BPR worse on
every graph that was measured, so Recall@20 on held-out edges chooses the pass whose factors are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .held_out_edges import hold_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scipy.sparse import csr_matrix

    Report = Callable[[int, int, float | None], None]
    """Called with passes done, passes at most, and Recall@20 of the held-out edges (None: not known)."""


@dataclass(frozen=True)
class Settings:
    """What decides the factors beside the edges and the settings of `implicit`; graphs of more than ``above_edges`` are trained this way."""

    above_edges: int = 500_000
    block_edges: int = 100_000  # some 5,000 users of 20 edges: 1.5 MB of edges and factors
    steps_per_user: int = 300  # on average, before the training may end: until then nothing may be found at all
    rounds: int = 10  # with a Recall@20 after each
    passes_a_round: int = 5  # at least
    patience: int = 2  # rounds without a better Recall@20 that end the training
    held_out_users: int = 500
    held_out_share: float = 0.1  # of the edges of those users


SETTINGS = Settings()


def least_passes(edges: int, users: int) -> int:
    """Passes over the edges in which users have ``steps_per_user`` steps on average."""
    return -(-SETTINGS.steps_per_user * users // max(edges, 1))


def fit(
    baskets: csr_matrix, make: Callable[..., Any], factors: int, passes: int, seed: int, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of users and of items, float32 [users, factors + 1] and [I, factors + 1], as `implicit` gives them.

    Parameters
    ----------
    baskets
        [users, I], distinct entries.
    make
        Makes `implicit`'s BPR, given ``iterations`` and ``random_state``.
    passes
        Over the edges, at most.
    """
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    users, n_items = baskets.shape
    place = rng.permutation(users)  # so that blocks are alike, whatever the order of the users
    left, item = place[np.repeat(np.arange(users), np.diff(baskets.indptr))], baskets.indices.astype(np.int64)
    held_out = hold_out(left, item, SETTINGS.held_out_users, SETTINGS.held_out_share, seed)
    if held_out is not None:
        left, item = left[held_out.trained], item[held_out.trained]
    edges = csr_matrix((np.ones(len(left), np.float32), (left, item)), shape=(users, n_items))
    of_users, of_items = (
        _start(degrees, factors, rng) for degrees in (np.diff(edges.indptr), np.bincount(item, minlength=n_items))
    )
    of_users[:, factors] = 1.0  # what the items' biases are multiplied with
    del left, item
    blocks = [(rows, edges[rows]) for rows in _blocks(edges)]
    del edges
    best, recall, worse = (of_users, of_items), None, 0
    a_round, least = (
        max(SETTINGS.passes_a_round, passes // SETTINGS.rounds),
        least_passes(baskets.nnz, int((np.diff(baskets.indptr) > 0).sum())),
    )
    for done in range(1, passes + 1):
        for number in rng.permutation(len(blocks)):
            rows, own = blocks[number]
            model = make(iterations=1, random_state=int(rng.integers(2**31)))
            model.user_factors, model.item_factors = of_users[rows], of_items  # both are changed in place
            model.fit(own, show_progress=False)
        if held_out is not None and (done % a_round == 0 or done == passes):
            found = held_out.recall(of_users, of_items)
            if not recall or found > recall:  # where nothing is found yet, later factors are better ones
                best, recall, worse = (of_users.copy(), of_items.copy()), found, 0
            elif done > least:
                worse += 1
        report(done, passes, recall)
        if worse == SETTINGS.patience:
            break
    return best[0][place], best[1]


def _start(degrees: np.ndarray, factors: int, rng: np.random.Generator) -> np.ndarray:
    """Small random numbers as `implicit` begins with; zeros for nodes without an edge."""
    start = (rng.random((len(degrees), factors + 1), np.float32) - 0.5) / factors
    start[degrees == 0] = 0
    return start


def _blocks(edges: csr_matrix) -> Iterator[slice]:
    """Users in blocks of about ``block_edges`` edges."""
    users, total = edges.shape[0], int(edges.indptr[-1])
    cuts = np.searchsorted(edges.indptr, np.arange(0, total, SETTINGS.block_edges), side="left")
    bounds = np.unique(np.append(cuts, users))
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if edges.indptr[high] > edges.indptr[low]:
            yield slice(low, high)
