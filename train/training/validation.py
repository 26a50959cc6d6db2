"""The figures of a validation, and the best weights so far."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class Figures(ABC):
    """What one validation found, of whatever model. ``loss`` is a number that is compared where nothing else is."""

    loss: float

    @abstractmethod
    def order(self, select: str) -> tuple[float, ...]:
        """What weights are compared by, of whatever the recipe's ``run.select`` says; larger is better."""

    @property
    @abstractmethod
    def main(self) -> float:
        """The figure that people are told of."""

    @abstractmethod
    def words(self, best: float) -> str:
        """For the progress line, beside the ``best`` main figure of the stage."""

    @abstractmethod
    def to_dict(self) -> dict[str, float]:
        """Under the names of the training log."""

    def state(self) -> dict[str, Any]:
        """For a snapshot; a stage reads it back (`bundlecache.train.training.stage.StageLoop.figures_of`)."""
        return dict(vars(self))


@dataclass(frozen=True)
class Validation(Figures):
    """The figures of one validation on bundle questions. Rates lie in 0..1.

    ``hit1`` is strict: an answer that is no option letter is a miss. ``hit1_letters`` compares the option letters alone,
    ``valid_ratio`` is the share of answers that are a letter.
    """

    hit1: float
    loss: float
    hit1_letters: float
    valid_ratio: float

    def order(self, select: str) -> tuple[float, ...]:
        """Strict HitRate@1 and then loss, or loss alone."""
        return (-self.loss,) if select == "loss" else (self.hit1, -self.loss)

    @property
    def main(self) -> float:
        """Strict HitRate@1."""
        return self.hit1

    def words(self, best: float) -> str:
        """HitRate@1, and where answers are no letters, what it is among letters."""
        text = f"valid HitRate@1 {self.hit1:.3f}, best {best:.3f}"
        if self.valid_ratio is not None and self.valid_ratio < 1:
            text += f"; among letters {self.hit1_letters:.3f}, valid answers {self.valid_ratio:.2f}"
        return text

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
    """The best trainable weights so far, by what the recipe selects, and their figures; None before there are any."""

    select: str = "hit@1"
    step: int = 0
    found: Figures | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, model: nn.Module, step: int, found: Figures) -> bool:
        """Keep the model's weights if they are better."""
        # Weights that diverged are never the best, whatever else they find.
        if not math.isfinite(found.loss) or (
            self.found is not None and not found.order(self.select) > self.found.order(self.select)
        ):
            return False
        self.step, self.found = step, found
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        return True

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Put the kept weights back."""
        parameters = dict(model.named_parameters())
        for name, value in self.weights.items():
            parameters[name].copy_(value)

    def state(self) -> dict[str, Any]:
        """Step and figures, for a snapshot; the weights are kept apart."""
        return {"step": self.step, **({} if self.found is None else self.found.state())}


def has_figures(state: Mapping[str, Any]) -> bool:
    """Whether a snapshot's :meth:`Best.state` holds any: earlier versions wrote an infinite loss where there were none."""
    return "loss" in state and math.isfinite(state["loss"])
