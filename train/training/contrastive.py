"""The contrastive loss that starts the fusion stage: items of one bundle get similar tokens. It is not in the paper.

Without it, the fusion module learns only through the frozen language model, which is slow at first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

MAX_PAIRS = 128  # of a step
TEMPERATURE = 0.1


def draw_pairs(bundles: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two different items of each of up to 128 bundles, int64 [p] and [p]."""
    chosen = rng.choice(len(bundles), min(MAX_PAIRS, len(bundles)), replace=False)
    pairs = np.stack([rng.choice(bundles[b], 2, replace=False) for b in chosen]).astype(np.int64)
    return pairs[:, 0], pairs[:, 1]


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
