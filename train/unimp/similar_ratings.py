"""Predicts a rating from the ratings that a user gave before to items with similar pictures, beside what the language model says.

An attention over the ratings of a row: the query is the picture of the item that is asked about, the keys are the pictures of the
rated items, the values one vector for each rating, which is added to the last hidden state. It is a copy mechanism as in
pointer-generator networks (https://arxiv.org/abs/1704.04368), with pictures as keys. It begins where the baseline "ratings of
similar items" stands (`bundlecache.baselines.rating_neighbours`), and trains its axes, its temperature and its values.
Notation: b rows, L tokens, u pictures, d width of a stored token, p positions that are asked about, m ratings of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from .pictures import Pictures
    from .vocabulary import Vocabulary

AXES = 32
"""Directions along which pictures are compared, at most."""
SHARPNESS = 10.0
"""Scores begin at this times the cosine."""
DAMPING = 7.4
"""Beside the ratings stands nothing, which begins with the weight of so many of items with a cosine of 0."""
STRENGTH = 3.0
"""What a rating adds to its own logit where all weight lies on it, at the start."""


class SimilarRatings(nn.Module):
    """Adds to hidden states in front of a rating what users said of items with similar pictures."""

    def __init__(self, means: Tensor, rates: Tensor) -> None:
        """Begin at the main axes of pictures, mean tokens [n, d], and at the output rows of the ratings [r, h]."""
        super().__init__()
        centre = means.mean(0)
        _, _, axes = torch.linalg.svd(means - centre, full_matrices=False)
        self.register_buffer("centre", centre)  # [d]
        self.axes = nn.Parameter(axes[:AXES].clone(memory_format=torch.contiguous_format))  # [a, d]
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        self.nothing = nn.Parameter(torch.tensor(DAMPING).log())
        own = rates.detach().float()
        self.values = nn.Parameter(STRENGTH * own / own.square().sum(1, keepdim=True).clamp_min(1e-12))  # [r, h]

    def forward(self, hidden: Tensor, ids: Tensor, pictures: Pictures, vocabulary: Vocabulary) -> Tensor:
        """Hidden states [b, L, h] of token ids [b, L]; those at ``<|answer|>`` know the ratings before them."""
        rates, seen = vocabulary.rates, pictures.seen  # [b, L]
        rated = (ids >= rates.start) & (ids < rates.stop) & (seen >= 0)
        row, at = ((ids == vocabulary.answer) & (seen >= 0)).nonzero(as_tuple=True)  # [p]
        most = int(rated.sum(1).max()) if len(row) else 0
        if not most:
            return hidden
        where = rated.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # [b, m] their places, in order
        known = rated.gather(1, where)[row] & (where[row] < at[:, None])  # [p, m]
        keys = F.normalize((pictures.means - self.centre) @ self.axes.T, dim=1)  # [u, a]
        cosine = (keys[seen.gather(1, where)[row]] * keys[seen[row, at]][:, None]).sum(-1)
        scores = (cosine * self.sharpness.exp()).masked_fill(~known, -torch.inf)
        weight = torch.cat([self.nothing.expand(len(row), 1), scores], dim=1).softmax(1)[:, 1:]  # [p, m]
        given = (ids.gather(1, where)[row] - rates.start).clamp_(0, len(self.values) - 1)
        share = weight.new_zeros(len(row), len(self.values)).scatter_add(1, given, weight)  # [p, r]
        added = (share @ self.values).to(hidden.dtype)
        return hidden.index_put((row, at), added, accumulate=True)
