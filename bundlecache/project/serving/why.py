"""Says why an item was offered: which modalities the model looked at, the nearest items of the bundle, who took both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...vector_math import unit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...store.store import Matrix
    from ...train.model.bundle_mllm import BundleMLLM
    from .together import Together

NEAREST = 3  # bundle items that are named as near


@dataclass(frozen=True)
class Near:
    """A bundle item that resembles the offered one, how much (cosine), and by which vectors."""

    item: int
    similarity: float
    by: str


@dataclass(frozen=True)
class TakenTogether:
    """A bundle item, and how many bundles and users have it and the offered one."""

    item: int
    bundles: int
    users: int


@dataclass(frozen=True)
class Why:
    """Why one item was offered; ``modalities`` are the shares of the fusion's attention, their sum is 1."""

    modalities: list[tuple[str, float]]
    nearest: list[Near]
    together: list[TakenTogether]


def explain(
    offered: Sequence[int],
    partial: np.ndarray,
    matrices: Mapping[str, Matrix],
    together: Together,
    model: BundleMLLM | None,
) -> list[Why]:
    """Why each of the ``offered`` items [u] was offered for a partial bundle (item indices [g]).

    ``matrices`` hold the vectors of all of them; who took a new item, which is behind the catalogue, nobody knows.
    """
    items = np.asarray(offered, np.int64)
    if not len(items):
        return []
    names, weights = _attention(model, items)
    near = _nearest(items, partial, matrices)
    found = []
    for row, item in enumerate(items.tolist()):
        known = [other for other in partial.tolist() if other < len(together.catalogue)]
        counts = [(other, *together.counts(item, other)) for other in known]
        taken = [TakenTogether(*each) for each in counts if each[1] or each[2]]
        taken.sort(key=lambda each: (-each.bundles, -each.users))
        shares = [(name, round(float(w), 4)) for name, w in zip(names, weights[row].tolist(), strict=True) if w > 0]
        found.append(Why(sorted(shares, key=lambda each: -each[1]), near[row], taken))
    return found


def _attention(model: BundleMLLM | None, items: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of the model's modalities, and how much it looks at each of an item [u, m]."""
    if model is None:
        return [], np.zeros((len(items), 0))
    from ...train.inference import item_tokens

    return item_tokens.attention_of(model, items)


def _nearest(items: np.ndarray, partial: np.ndarray, matrices: Mapping[str, Matrix]) -> list[list[Near]]:
    """Of every item the nearest members of the bundle, each by the vectors in which it is nearest."""
    best = np.full((len(items), len(partial)), -np.inf)
    by = np.zeros(best.shape, np.int64)
    names = list(matrices)
    for number, matrix in enumerate(matrices.values()):
        mine = unit_rows(np.asarray(matrix.vectors[items], np.float32), np.float64)
        theirs = unit_rows(np.asarray(matrix.vectors[partial], np.float32), np.float64)
        cosine = np.where(matrix.mask[items][:, None] & matrix.mask[partial][None], mine @ theirs.T, -np.inf)
        by = np.where(cosine > best, number, by)
        best = np.maximum(best, cosine)
    found = []
    for row, order in enumerate(np.argsort(-best, axis=1, kind="stable")[:, :NEAREST]):
        kept = [at for at in order.tolist() if np.isfinite(best[row, at])]
        found.append([Near(int(partial[at]), round(float(best[row, at]), 4), names[by[row, at]]) for at in kept])
    return found
