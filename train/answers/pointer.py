"""The answer form ``pointer``: each option gets a score at its own end, from a small head.

The head reads the hidden state behind an option: by one direction, which is quickly found, and by a small network. Where
there are fused tokens it also compares the option's token with the state behind the partial bundle. Before training all
scores are zero.

Notation: b questions in a batch, n options, h hidden width of the language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..model.embeddings import to_device
from .block_states import read
from .form import GAIN, WHOLE_STAGES, AnswerForm

if TYPE_CHECKING:
    from ..prompts.option_blocks import OptionBlocks

MAX_WIDTH = 256  # of the head's layers
FULL_GAIN_WIDTH = 64
"""Up to this hidden width scores have the whole `GAIN`; wider states move them by more a step, so there it shrinks alike."""


class Pointer(AnswerForm):
    """The head for a language model of width ``hidden``; ``fused`` says that options have fused tokens."""

    name = "pointer"
    untrained = False
    compares_tokens = True

    def __init__(self, hidden: int, *, fused: bool) -> None:
        super().__init__()
        width = min(hidden, MAX_WIDTH)
        self.gain = GAIN * min(1.0, FULL_GAIN_WIDTH / hidden)
        self.norm = nn.LayerNorm(hidden)
        self.direction = nn.Linear(hidden, 1, bias=False)
        self.network = nn.Sequential(nn.Linear(hidden, width), nn.GELU(), nn.Linear(width, 1, bias=False))
        for last in (self.direction, self.network[2]):
            nn.init.zeros_(last.weight)
        self.fused = _Comparison(hidden, width) if fused else None

    def trained_in(self, stage: str, parameter: str) -> bool:
        """The comparison with fused tokens is trained where there are some."""
        return stage in WHOLE_STAGES or not parameter.startswith("fused.")

    def scores(self, model: Any, batch: Any, tokens: Tensor | None) -> Tensor:
        """As `AnswerForm.scores`."""
        parts, kind = [], self.direction.weight.dtype  # that of the head: half precision would cost digits
        for states in read(model, batch, tokens, self.way):
            with torch.autocast(states.block.device.type, enabled=False):
                ends = self.norm(states.ends().to(kind))  # [b, n, h]
                part = self.gain * (self.direction(ends) + self.network(ends))[..., 0]  # [b, n]
                if self.fused is not None and tokens is not None:
                    compared = self.fused(states.prefix.to(kind), tokens.to(kind), _rows(states.blocks))
                    part = part + self.gain * compared
            parts.append(part)
        return torch.cat(parts, dim=1)


class _Comparison(nn.Module):
    """The product of a partial bundle's state and of the tokens of its options."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width, bias=False))
        self.key = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width, bias=False))
        nn.init.zeros_(self.query[1].weight)
        self.scale = width**-0.5

    def forward(self, state: Tensor, tokens: Tensor, rows: np.ndarray) -> Tensor:
        """[b, n] of states [b, h] and of the tokens [u, h] in the ``rows`` [b, n]."""
        keys = self.key(tokens)[to_device(rows, tokens.device)]  # [b, n, w]
        return (keys @ self.query(state)[:, :, None])[..., 0] * self.scale


def _rows(blocks: OptionBlocks) -> np.ndarray:
    """Int64 [b, n]: the row of each option among the distinct items, as which its token is computed."""
    return np.searchsorted(blocks.items, blocks.options)
