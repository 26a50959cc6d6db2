"""Item factors of who-took-what by `implicit`: alternating least squares, and Bayesian personalised ranking.

One thread and one seed, so that the same edges give the same factors. Time and memory are linear in the edges: a fixed
number of iterations passes over them. Baselines rank by them, and Stage A can put them into the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy.sparse import csr_array

FACTORS = 32
# Fixed once on a synthetic catalogue, never tuned on the questions that they answer.
SETTINGS: dict[str, dict[str, Any]] = {
    "als": {"factors": FACTORS, "regularization": 1.0, "alpha": 10.0, "iterations": 15},
    "bpr": {"factors": FACTORS, "learning_rate": 0.05, "regularization": 0.01, "iterations": 100},
}


def item_factors(
    method: str, baskets: csr_array, seed: int = 0, report: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """float32 [I, FACTORS] of ``"als"`` or ``"bpr"``, from baskets [baskets, I]; without BPR's item biases.

    An item that no basket holds gets numbers that mean nothing: they are the caller's to leave out. ``report`` is called
    after each iteration with their numbers, those done and all.
    """
    return all_factors(method, baskets, seed, report)[1][:, :FACTORS]


def all_factors(
    method: str, baskets: csr_array, seed: int = 0, report: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of baskets and of items, float32 [baskets, k] and [I, k], whose dot products rank; as `item_factors`.

    BPR appends each item's bias, which is its popularity, and to each basket a 1 that it is multiplied with.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    total = SETTINGS[method]["iterations"]

    def called(iteration: int, *_: object) -> None:
        if report is not None:
            report(iteration + 1, total)

    make = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}[method]
    with threadpool_limits(1, "blas"):  # around the construction too, which warns about more threads
        model = make(**SETTINGS[method], num_threads=1, random_state=seed)
        model.fit(csr_matrix(baskets), show_progress=False, callback=called)
    return np.asarray(model.user_factors, np.float32), np.asarray(model.item_factors, np.float32)
