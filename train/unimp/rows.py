"""The rows of UniMP's own tokens, input and output, beside those of the frozen base model.

The base's matrices are neither enlarged nor copied, so its rows stay what they are, byte for byte, and the cost of
changing ours does not depend on its vocabulary. Notation: V rows of the base, E of ours, h hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..model import llm as llms
from .vocabulary import Vocabulary


class ExtraRows(nn.Module):
    """Input rows, and output rows where the base has two tables too; a tied base shares ours as it shares its own."""

    def __init__(self, llm: Any, vocabulary: Vocabulary, dropout: float = 0.0) -> None:
        """Random rows, as long as those of the base are on average; ``dropout`` is that of what is looked up."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.base_size = vocabulary.base_size
        words, head = llm.get_input_embeddings(), llm.get_output_embeddings()
        self.input = nn.Parameter(_random(words.weight, vocabulary.extra))
        tied = head.weight is words.weight
        self.output = None if tied else nn.Parameter(_random(head.weight, vocabulary.extra))
        scale = getattr(words, "embed_scale", 1.0)  # some families multiply what they look up
        self.scale = float(scale)

    @property
    def out(self) -> Tensor:
        """The output rows [E, h], shared or not."""
        return self.input if self.output is None else self.output

    def untie(self) -> None:
        """Give shared rows an output of their own, with the same values.

        The stage ``head`` trains output rows on hidden states that were computed once. With shared rows every change
        would change these states too, and they would have to be computed anew.
        """
        if self.output is None:
            self.output = nn.Parameter(self.input.detach().clone())

    def embed(self, llm: Any, ids: Tensor) -> Tensor:
        """Input embeddings [b, L, h] of ids of both kinds [b, L]."""
        ours = ids >= self.base_size
        words = llm.get_input_embeddings()(ids.masked_fill(ours, 0))
        row, column = ours.nonzero(as_tuple=True)
        values = self.dropout(F.embedding(ids[row, column] - self.base_size, self.input) * self.scale)
        return words.index_put((row, column), values.to(words.dtype))

    def logits(self, llm: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of hidden states [n, h] over the base's words, float32 [n, V], and over ours, [n, E]."""
        return llms.head(llm, hidden)[:, : self.base_size].float(), self.own_logits(llm, hidden, self.out)

    def own_logits(self, llm: Any, hidden: Tensor, rows: Tensor) -> Tensor:
        """Logits [n, r] of hidden states [n, h] over some of our output rows [r, h]."""
        return llms.scaled(llm.config, F.linear(hidden.to(rows.dtype), rows)).float()


def _random(weight: Tensor, count: int) -> Tensor:
    """``count`` rows of normal numbers whose root mean square is that of ``weight``."""
    rms = float(torch.linalg.vector_norm(weight.detach().float())) / max(1, weight.numel()) ** 0.5
    return torch.randn(count, weight.shape[1], device=weight.device) * rms
