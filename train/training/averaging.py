"""Averages of the trained weights over the latest steps, which are validated and kept in the place of the last ones.

A step of few questions moves the weights at random as much as it improves them; an average of many steps does not.
The average is an exponential one (Polyak and Juditsky 1992; PyTorch's `torch.optim.swa_utils`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages:
    """The averages of ``parameters``. After k steps the latest counts 1 - decay, with a decay of at most (1 + k) / (10 + k)."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights behind the step ``steps``, counted from 1."""
        decay = min(self.decay, (1 + steps) / (10 + steps))  # the first weights are soon forgotten
        get_ema_multi_avg_fn(decay)(self.values, [p.detach() for p in self.parameters], steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand in the place of the parameters, which come back at the end."""
        last = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(last)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self.parameters, list(values))
