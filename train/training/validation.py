"""The figures of a validation, and the best weights so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Validation:
    """The figures of one validation. Rates lie in 0..1.

    ``hit1`` is strict: an answer that is no option letter is a miss. ``hit1_letters`` compares the option letters alone,
    ``valid_ratio`` is the share of answers that are a letter.
    """

    hit1: float
    loss: float
    hit1_letters: float
    valid_ratio: float

    def to_dict(self) -> dict[str, float]:
        """Under the names of the training log."""
        return {
            "valid_hit@1": self.hit1,
            "valid_loss": self.loss,
            "valid_hit@1_letters": self.hit1_letters,
            "valid_ratio": self.valid_ratio,
        }


@dataclass
class Best:
    """The best trainable weights so far: by strict HitRate@1 and then loss on the validation questions, or by loss alone."""

    select: str = "hit@1"
    hit1: float = -1.0
    loss: float = math.inf
    step: int = 0
    hit1_letters: float | None = None  # None after a resume from a snapshot of an earlier version
    valid_ratio: float | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, model: nn.Module, step: int, found: Validation) -> bool:
        """Keep the model's weights if they are better."""
        # NaN compares as false with everything, so weights that diverged are never the best.
        better = (
            found.loss < self.loss if self.select == "loss" else (found.hit1, -found.loss) > (self.hit1, -self.loss)
        )
        if math.isnan(found.loss) or not better:
            return False
        self.hit1, self.loss, self.step = found.hit1, found.loss, step
        self.hit1_letters, self.valid_ratio = found.hit1_letters, found.valid_ratio
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        return True

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Put the kept weights back."""
        parameters = dict(model.named_parameters())
        for name, value in self.weights.items():
            parameters[name].copy_(value)
