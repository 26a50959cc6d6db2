"""Item factors of who-took-what by `implicit`: alternating least squares, and Bayesian personalised ranking.

One thread and one seed, so that the same edges give the same factors. Time and memory are linear in the edges: a bounded
number of passes goes over them, fewer on large graphs. Baselines rank by them, and Stage A can put them into the store.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import large_bpr

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_array

    Report = Callable[[int, int, float | None], None]
    """Called after each pass over the edges: passes done, passes at most, Recall@20 of held-out edges (None: not known)."""

FACTORS = 32
# Fixed once on a synthetic catalogue, never tuned on the questions that they answer.
SETTINGS: dict[str, dict[str, Any]] = {
    "als": {"factors": FACTORS, "regularization": 1.0, "alpha": 10.0, "iterations": 15},
    "bpr": {"factors": FACTORS, "learning_rate": 0.05, "regularization": 0.01, "iterations": 100},
}
PASSED_EDGES = {"als": 30_000_000, "bpr": 100_000_000}
"""Edges times passes of a training, at most, down to `FEWEST_PASSES`: 2 million edges are the largest with 15 passes of ALS."""
FEWEST_PASSES = 10


def settings_for(method: str, edges: int, users: int) -> dict[str, Any]:
    """All that decides the factors of a graph of so many edges of so many users (baskets) beside the edges and the seed, by name."""
    most = max(FEWEST_PASSES, PASSED_EDGES[method] // max(edges, 1))
    large = method == "bpr" and edges > large_bpr.SETTINGS.above_edges
    if large:
        most = max(most, large_bpr.least_passes(edges, users))
    settings = {**SETTINGS[method], "iterations": min(SETTINGS[method]["iterations"], most)}
    return settings | ({"large": asdict(large_bpr.SETTINGS)} if large else {})


def factor_rules(method: str) -> tuple[object, ...]:
    """All that `settings_for` depends on beside the edges; also of a method that is none of them."""
    return SETTINGS.get(method), PASSED_EDGES.get(method), FEWEST_PASSES, large_bpr.SETTINGS


def item_factors(method: str, baskets: csr_array, seed: int = 0, report: Report | None = None) -> np.ndarray:
    """float32 [I, FACTORS] of ``"als"`` or ``"bpr"``, from baskets [baskets, I]; without BPR's item biases.

    An item that no basket holds gets numbers that mean nothing: they are the caller's to leave out.
    """
    return all_factors(method, baskets, seed, report)[1][:, :FACTORS]


def all_factors(
    method: str, baskets: csr_array, seed: int = 0, report: Report | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of baskets and of items, float32 [baskets, k] and [I, k], whose dot products rank; as `item_factors`.

    BPR appends each item's bias, which is its popularity, and to each basket a 1 that it is multiplied with.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    given = csr_matrix(baskets)
    settings = settings_for(method, given.nnz, int((np.diff(given.indptr) > 0).sum()))
    large, passes = settings.pop("large", None), settings.pop("iterations")
    tell: Report = report or (lambda *_: None)
    kind = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}[method]
    make = partial(kind, **settings, num_threads=1)
    with threadpool_limits(1, "blas"):  # around the construction too, which warns about more threads
        if large:
            return large_bpr.fit(given, make, FACTORS, passes, seed, tell)
        model = make(iterations=passes, random_state=seed)
        model.fit(given, show_progress=False, callback=lambda pass_, *_: tell(pass_ + 1, passes, None))
    return np.asarray(model.user_factors, np.float32), np.asarray(model.item_factors, np.float32)
