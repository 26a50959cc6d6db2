"""A pair of sides with its temperature and bias, as a contrastive loss trains it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .losses import Loss, contrastive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundlecache.recipes.adapt_recipe import AdaptRecipe

    from .sides import StoredSide, TowerSide

MAX_SCALE = 100.0  # of logits, as CLIP bounds it
MIN_SCALE = 5.0  # of a fit: where pairs are not told apart yet, the best scale would be 0, which learns nothing
FRESH = {"softmax": (1 / 0.07, 0.0), "sigmoid": (10.0, -10.0)}  # scale and bias where CLIP and SigLIP begin
FITTED_PAIRS = 1024  # on which temperature and bias are fitted
FIT_STEPS = 60


class Pair(nn.Module):
    """Two sides whose vectors have one width. ``log_scale`` and ``bias`` turn cosines into logits."""

    def __init__(self, image: StoredSide | TowerSide, text: StoredSide | TowerSide, scale: float, bias: float) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def loss(self, kind: Loss, image: Tensor, text: Tensor, group: Tensor) -> Tensor:
        """The loss of a batch of vectors [b, k] that need not have length 1."""
        image, text = nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1)
        return contrastive(kind, image, text, self.log_scale.exp(), self.bias, group)

    def learning(self) -> dict[str, nn.Parameter]:
        """All parameters that learn, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Keep the temperature in the bounds of CLIP."""
        self.log_scale.clamp_(0.0, math.log(MAX_SCALE))

    def groups(self, recipe: AdaptRecipe) -> Iterator[dict]:
        """Groups of AdamW, each with its ``peak`` rate; vectors, temperature and bias are not decayed."""
        from .sides import rates

        t = recipe.training
        merged: dict[tuple[float, float], list[nn.Parameter]] = {}
        for side, lr in ((self.image, t.lr), (self.text, t.text_lr or t.lr)):
            for _, parameter, rate in rates(side, lr, t.head_lr, t.layer_decay):
                decay = t.weight_decay if parameter.ndim > 1 else 0.0
                merged.setdefault((rate, decay), []).append(parameter)
        for (rate, decay), parameters in merged.items():
            yield {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        if t.scale_lr:
            scale = [self.log_scale, *([self.bias] if t.loss == "sigmoid" else [])]
            yield {"params": scale, "lr": t.scale_lr, "peak": t.scale_lr, "weight_decay": 0.0}


def fit_scale(kind: Loss, image: Tensor, text: Tensor, group: Tensor) -> tuple[float, float]:
    """The scale and bias with the smallest loss on vectors [n, k] as they are.

    A loss of another kind than the towers were trained with would else begin far off and ruin them.
    """
    scale, bias = FRESH[kind]
    log_scale = torch.tensor(math.log(scale), requires_grad=True)
    shift = torch.tensor(bias, requires_grad=True)
    image, text = (nn.functional.normalize(side.detach().float().cpu(), dim=-1) for side in (image, text))
    fitted = torch.optim.LBFGS([log_scale, shift], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        fitted.zero_grad()
        value = contrastive(kind, image, text, log_scale.exp(), shift, group.cpu())
        value.backward()
        return value

    fitted.step(closure)
    found = float(log_scale.detach().exp())
    if not (math.isfinite(found) and math.isfinite(float(shift.detach()))):
        return FRESH[kind]
    return min(max(found, MIN_SCALE), MAX_SCALE), float(shift.detach())
