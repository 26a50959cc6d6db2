"""The answer form ``letters``: all options stand in one prompt, and the next token names one of them.

The logits of the letters rank the options. An answer is valid when the most likely token of the whole vocabulary is a
letter of the question.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bundlecache.errors import RecipeError

from ..model import llm as llms
from ..model.embeddings import to_device
from ..prompts.tokens import full_stop
from .form import AnswerForm


class Letters(AnswerForm):
    """See the module; nothing of it is trained but the language model's adapter and the fused tokens."""

    name = "letters"
    at_once = True

    def build(
        self,
        prompts: Any,
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        history: Sequence[np.ndarray] | None = None,
    ) -> Any:
        """One prompt for each question, with all of its options."""
        return prompts.build(partial, list(options), mode, history)

    def loss(self, model: Any, batch: Any, tokens: Tensor | None, truth: np.ndarray, n: int) -> Tensor:
        """Mean loss (``run.loss``) of the true letters."""
        letter, kind = model.prompts.letters[truth], model.recipe.run.loss
        if batch.features is not None and kind != "letters":
            raise RecipeError(
                f"The features of options are added to the letters' logits, but the loss is over more ({kind}).",
                hint="--set run.loss=letters",
            )
        if kind == "letter-and-stop":
            return _letter_and_stop(model, batch, tokens, letter)
        logits = model.logits(batch, tokens)
        if kind == "letters":
            scores = logits[:, model.get_buffer("letters")[:n]]
            if batch.features is not None:
                scores = scores + model.added(batch.features)
            return F.cross_entropy(scores, to_device(truth, logits.device))
        return F.cross_entropy(logits, to_device(letter, logits.device))

    @torch.inference_mode()
    def read(
        self, model: Any, batch: Any, tokens: Tensor | None, counts: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The letters' part of the logits over the vocabulary, and which answers are valid."""
        full = model.logits(batch, tokens)  # [b, V]
        letters = model.get_buffer("letters")[: max(counts)]
        said, top = full[:, letters], full.argmax(dim=1)  # [b, k], [b]
        place = (top[:, None] == letters).float()  # [b, k]
        first = torch.where(place.any(1), place.argmax(1), len(letters)).cpu().numpy()
        if batch.features is not None:
            said = said + model.added(batch.features)
        return said.cpu().numpy(), first < np.asarray(counts)


def _letter_and_stop(model: Any, batch: Any, tokens: Tensor | None, letter: np.ndarray) -> Tensor:
    """Mean cross-entropy over two tokens a question: the letter [b] behind the prompt, and the full stop behind it."""
    ids = np.pad(batch.ids, ((0, 0), (0, 1)))
    ids[np.arange(len(ids)), batch.last + 1] = letter
    spoken = dataclasses.replace(batch, ids=ids, last=batch.last + 1)
    states = model.answer_state(spoken, tokens, ahead=1)  # [2, b, h]
    logits = llms.head(model.llm.get_base_model(), states).float()  # [2, b, V]
    stop = np.full_like(letter, full_stop(model.prompts.tokenizer))
    return F.cross_entropy(logits.flatten(0, 1), to_device(np.concatenate([letter, stop]), logits.device))
