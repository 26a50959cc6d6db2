"""The loss of UniMP: cross-entropy of the labels, weighted by how hard each of them is and by its task.

``L = sum over labels of w (1 - p)^gamma (-log p) / labels``: p is the probability of the right token among all words
of base and catalogue, w the weight of the row's task. The factor ``(1 - p)^gamma`` is differentiated too; gamma 0 is plain
cross-entropy.

There is one denominator: the number of labels of the whole optimiser step, over all its pieces and processes. So a
label counts the same wherever it stands, and the same rows give the same gradient however they are cut into pieces.
Notation: n labels, V words of the base, E of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 1 << 26
"""Beyond so many logits (256 MB) labels are computed in parts, and their logits again in the backward pass."""


@dataclass(frozen=True)
class Labels:
    """n labels and what the language model says before them.

    ``total`` and ``gold`` are the base's part of the softmax: the logsumexp of the logits of its words, and the logit of
    the right one, 0 where that is ours. While only our output rows are trained, all of this is constant, and can be
    computed once (the stage ``head``): a step then costs nothing that grows with V.
    """

    hidden: Tensor  # [n, h]
    truth: Tensor  # int64 [n], ids
    weight: Tensor  # float32 [n], of the row's task
    total: Tensor  # float32 [n]
    gold: Tensor  # float32 [n]


def base_part(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """``total`` and ``gold`` of `Labels`, from the logits [n, V] of the base's words."""
    size = logits.shape[1]
    right = logits.gather(1, truth.clamp_max(size - 1)[:, None])[:, 0]
    return logits.logsumexp(-1), right.masked_fill(truth >= size, 0.0)


def cross_entropy(total: Tensor, gold: Tensor, own: Tensor, truth: Tensor, size: int) -> Tensor:
    """-log p [n] of the ids ``truth`` [n], from the base's part and the logits of our words [n, E]; ``size`` is V.

    The logits of both are never joined: that would copy the larger part, and its gradient.
    """
    right = own.gather(1, (truth - size).clamp_min(0)[:, None])[:, 0].masked_fill(truth < size, 0.0)
    return torch.logaddexp(total, own.logsumexp(-1)) - gold - right


def reweighted(entropy: Tensor, gamma: float) -> Tensor:
    """``(1 - p)^gamma (-log p)`` of cross-entropies -log p.

    >>> reweighted(torch.tensor([0.25]).log().neg(), 2.0).item() / torch.tensor(4.0).log().item()  # (3/4)^2
    0.5625
    """
    if gamma == 0:
        return entropy
    entropy = entropy.clamp_min(0)  # rounding may leave it just below
    return (-torch.expm1(-entropy)) ** gamma * entropy


def in_parts(entropies: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, truth: Tensor, size: int) -> Tensor:
    """-log p [n] of labels ``truth`` [n] behind hidden states [n, h], with at most `LOGITS_AT_ONCE` logits at once.

    ``entropies`` computes them for some of the labels; ``size`` is V + E.
    """
    at_once = max(1, LOGITS_AT_ONCE // size)
    if len(hidden) <= at_once:
        return entropies(hidden, truth)
    pairs = zip(hidden.split(at_once), truth.split(at_once), strict=True)
    return torch.cat([checkpoint(entropies, states, right, use_reentrant=False) for states, right in pairs])


def total_loss(entropy: Tensor, weight: Tensor, gamma: float, denominator: float) -> Tensor:
    """The sum of the labels' losses, divided by ``denominator``; ``entropy`` and ``weight`` are [n]."""
    return (weight * reweighted(entropy, gamma)).sum() / denominator
