"""Contrastive losses over pairs of vectors: sigmoid (SigLIP) and softmax (CLIP), with pairs that are no negatives left out.

Both equal open_clip's ``SigLipLoss`` and ``ClipLoss`` and what transformers computes, where no two titles are the same.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Loss = Literal["sigmoid", "softmax"]


def contrastive(kind: Loss, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: Tensor) -> Tensor:
    """The mean loss of a batch.

    Parameters
    ----------
    image, text
        Vectors [b, d] of length 1; row k of both is a pair.
    scale, bias
        Logits are ``scale * cosine + bias``; the softmax does not depend on the bias.
    group
        Whole numbers [b], equal where titles say the same: such rows are no negatives of each other.
    """
    logits = scale * image @ text.T + bias  # [b, b]
    same = group[:, None] == group[None, :]  # [b, b]
    same.fill_diagonal_(False)
    return sigmoid(logits, same) if kind == "sigmoid" else softmax(logits, same)


def sigmoid(logits: Tensor, same: Tensor) -> Tensor:
    """The pairwise sigmoid loss of SigLIP: its sum over all pairs by the number of rows; ``same`` [b, b] is left out."""
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).masked_fill(same, 0.0).sum() / len(logits)


def softmax(logits: Tensor, same: Tensor) -> Tensor:
    """The loss of CLIP: cross-entropy of the rows and of the columns, halved; ``same`` [b, b] is left out."""
    logits = logits.masked_fill(same, -torch.inf)
    truth = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
