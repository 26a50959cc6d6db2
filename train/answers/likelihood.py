"""The answer form ``likelihood``: how much likelier the partial bundle makes an option's title.

The score of an option is log p(title | bundle) - log p(title | no bundle), the pointwise mutual information of title and
bundle: the second term takes out that short and common titles are likely behind everything. In training it is multiplied
by a learnt factor, and the right option's score is to be the highest (cross-entropy over the options).

Notation: b questions in a batch, n options, t tokens of a question's blocks, u distinct items, h hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from ..model import llm as llms
from ..model.embeddings import to_device
from ..prompts.builder import NO_ITEMS
from .block_states import States, read
from .form import AnswerForm

TOKENS_OF_HEAD = 1024
"""Tokens whose logits over the whole vocabulary are in memory at once."""


class Likelihood(AnswerForm):
    """See the module; the factor is the exponential of ``log_factor``, 1 before training."""

    name = "likelihood"

    def __init__(self, *, evidence: bool = False) -> None:
        super().__init__(evidence=evidence)
        self.log_factor = nn.Parameter(torch.zeros(()))
        self._known: dict[int, Tensor] = {}  # item -> its title's log-likelihood behind no bundle

    def start(self) -> None:
        """Forget the likelihoods of titles: the weights may be others now."""
        self._known = {}

    def scores(self, model: Any, batch: Any, tokens: Tensor | None) -> Tensor:
        """As `AnswerForm.scores`."""
        behind = torch.cat(list(self._likelihoods(model, batch, tokens)), dim=1)
        return (behind - self._behind_nothing(model, batch.options)) * self.log_factor.exp()

    def _behind_nothing(self, model: Any, options: np.ndarray) -> Tensor:
        """Log-likelihoods [b, n] of the titles of ``options`` [b, n] behind an empty bundle; each is computed once.

        Without gradients they all share one prefix, which is read once; with them, a row holds as many as a question does.
        """
        known = {} if torch.is_grad_enabled() else self._known
        items = np.setdiff1d(options, np.fromiter(known, np.int64, len(known)))
        if len(items):
            n = options.shape[1] if torch.is_grad_enabled() else len(items)
            asked = np.resize(items, (-(-len(items) // n), n))
            blocks = model.prompts.blocks([NO_ITEMS] * len(asked), asked, "text")
            found = torch.cat(list(self._likelihoods(model, blocks, None)), dim=1).flatten()
            known.update(zip(items.tolist(), found[: len(items)].unbind(), strict=True))
        distinct, place = np.unique(options, return_inverse=True)
        every = torch.stack([known[item] for item in distinct.tolist()])
        return every[to_device(place.reshape(options.shape), every.device)]

    def _likelihoods(self, model: Any, blocks: Any, tokens: Tensor | None) -> Iterator[Tensor]:
        """Log-likelihood of every block, float32 [b, n], for some options after the other."""
        core = model.llm.get_base_model()
        for states in read(model, blocks, tokens, self.way):
            part = states.blocks
            question, column = np.nonzero(part.option >= 0)
            said = part.block[question, column]
            each = []
            before = _before(states)[to_device(question, model.device), to_device(column, model.device)]  # [t, h]
            for k in range(0, len(said), TOKENS_OF_HEAD):
                some = before[k : k + TOKENS_OF_HEAD], to_device(said[k : k + TOKENS_OF_HEAD], model.device)
                keep = torch.is_grad_enabled() and len(said) > TOKENS_OF_HEAD
                each.append(
                    checkpoint(_log_likelihood, core, *some, use_reentrant=False)
                    if keep
                    else _log_likelihood(core, *some)
                )
            count, n = part.ends.shape
            place = to_device(question * n + part.option[question, column], model.device)
            flat = torch.cat(each)
            yield flat.new_zeros(count * n).index_add(0, place, flat).view(count, n)


def _before(states: States) -> Tensor:
    """[b, t, h]: of each token of a block the state before it, which foretells it."""
    shifted = torch.cat([states.prefix[:, None], states.block[:, :-1]], dim=1)
    first = to_device(states.blocks.place == 0, shifted.device)[..., None]
    return torch.where(first, states.prefix[:, None], shifted)


def _log_likelihood(core: Any, before: Tensor, said: Tensor) -> Tensor:
    """Log-probabilities [t] of the tokens ``said`` [t] behind the states ``before`` [t, h]."""
    logits = llms.head(core, before)
    return -F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), said, reduction="none")
