"""Completes many partial bundles at once: candidates of each are ranked, those of equal number in one call of the model.

The server batches concurrent requests by it, and files of carts are completed by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...baselines.rankers import Ranker
    from ...train.model.bundle_mllm import BundleMLLM

NO_HISTORY = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Bundle:
    """A partial bundle and its candidates, as item indices; ``history`` is its user's, the latest item last."""

    partial: np.ndarray  # [g]
    proposed: np.ndarray  # [n], the likeliest first
    history: np.ndarray = field(default_factory=lambda: NO_HISTORY)


@dataclass(frozen=True)
class Ranking:
    """The candidates of one bundle, best first, and their probabilities among each other."""

    items: np.ndarray  # int32 [n]
    probabilities: np.ndarray  # float64 [n]


def complete_bundles(
    bundles: Sequence[Bundle],
    *,
    model: BundleMLLM | None = None,
    ranker: Ranker | None = None,
    permutations: int = 1,
    at_once: int | None = None,
    batch_size: int = 32,
) -> list[Ranking]:
    """Rank the candidates of every bundle; each gets what it would get alone, to the last digits of a float32.

    Parameters
    ----------
    model, ranker
        What ranks: the model where one is given, else the ranker (a learned ranker, or a model on top of it).
    permutations, at_once, batch_size
        How the model is asked, see `bundlecache.train.inference.scoring.score_options`.
    """
    found: list[Ranking | None] = [None] * len(bundles)
    by_count: dict[int, list[int]] = {}  # number of candidates -> bundles, because the options of a call are a matrix
    for at, bundle in enumerate(bundles):
        by_count.setdefault(len(bundle.proposed), []).append(at)
    for places in by_count.values():
        chosen = [bundles[at] for at in places]
        partial = [np.asarray(bundle.partial) for bundle in chosen]
        options = np.stack([np.asarray(bundle.proposed, np.int32) for bundle in chosen])  # [q, n]
        if model is not None:
            how: dict[str, Any] = {"permutations": permutations, "at_once": at_once, "batch_size": batch_size}
            probabilities = _asked(model, partial, options, [bundle.history for bundle in chosen], how)
        else:
            from ...baselines import completion

            assert ranker is not None  # noqa: S101 - one of both is given
            probabilities = completion.probabilities(ranker, partial, options)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        for row, at in enumerate(places):
            found[at] = Ranking(options[row, order[row]], probabilities[row, order[row]].astype(np.float64))
    return [ranking for ranking in found if ranking is not None]


def _asked(
    model: BundleMLLM,
    partial: list[np.ndarray],
    options: np.ndarray,
    history: list[np.ndarray],
    how: dict[str, Any],
) -> np.ndarray:
    """[q, n] the model's probabilities."""
    from ...train.inference import scoring

    return scoring.score_options(model, partial, options, history=history, **how).probabilities()
