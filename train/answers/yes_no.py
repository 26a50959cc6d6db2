"""The answer form ``yes-no``: each option is judged by itself, by how much likelier "yes" is than "no".

Training judges each option by itself too: the loss is the binary cross-entropy of the right option and, with the same
weight in all, of the wrong ones.

Notation: b questions in a batch, n options, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..model import llm as llms
from ..model.embeddings import to_device
from .block_states import read
from .form import AnswerForm


class YesNo(AnswerForm):
    """See the module; nothing of it is trained but the language model's adapter and the fused tokens."""

    name = "yes-no"

    def scores(self, model: Any, batch: Any, tokens: Tensor | None) -> Tensor:
        """Log-odds of yes against no, float32 [b, n]."""
        core, (yes, no) = model.llm.get_base_model(), model.prompts.yes_and_no
        parts = []
        for states in read(model, batch, tokens, self.way):
            logits = llms.head(core, states.ends())  # [b, n, V]
            parts.append((logits[..., yes] - logits[..., no]).to(torch.promote_types(logits.dtype, torch.float32)))
        return torch.cat(parts, dim=1)

    def loss(self, model: Any, batch: Any, tokens: Tensor | None, truth: np.ndarray, n: int) -> Tensor:
        """Mean over questions of the right option's loss and of the mean loss of the wrong ones."""
        odds = self.weighed(model, batch, tokens)
        right = F.one_hot(to_device(truth, odds.device), n).bool()
        each = F.softplus(torch.where(right, -odds, odds))  # [b, n]
        return (each * torch.where(right, 0.5, 0.5 / max(1, n - 1))).sum(1).mean()
