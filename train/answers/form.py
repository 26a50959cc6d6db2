"""What an answer form is: how a model is asked about options, how it learns from the truth, and how its answer is read.

``letters`` is the form of the paper: all options stand in one prompt, and the answer is the letter of one. The other
forms score every option in a prompt of its own behind a common prefix, so neither the order of the options nor their
number matters. A new form is one file here and one line in `registry`.

Notation: b questions in a batch, n options, h hidden width of the language model, f features of an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..model.embeddings import to_device

WHOLE_STAGES = ("fusion", "joint")
"""The stages that train on fused tokens."""
GAIN = 4.0
"""A weight that begins at zero is trained at the rate of the adapter; this makes it move faster."""


class Evidence(Protocol):
    """What a model reads of each option beside its prompt; `BundleMLLM.evidence` is None or a module of this kind.

    Its parameters are trained in every stage and kept with those of the answer form.
    """

    def features(
        self, partial: Sequence[np.ndarray], options: Sequence[np.ndarray], bundles: np.ndarray | None
    ) -> np.ndarray:
        """float32 [b, n, f] of ``options`` (b lists of at most n) to the partial bundles; 0 where a list is shorter.

        ``bundles`` [b] are the training bundles (rows of the catalogue's) that the questions were drawn from, whose
        traces must not count; None outside of training.
        """
        ...

    def __call__(self, features: Tensor) -> Tensor:
        """What is added to the options' scores, float32 [b, n]."""
        ...


class AskedModel(Protocol):
    """What a form needs of the model (`bundlecache.train.model.bundle_mllm.BundleMLLM`)."""

    llm: Any
    prompts: Any
    recipe: Any

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        ...

    def embed(self, ids: np.ndarray, tokens: Tensor | None, longest: int) -> Tensor:
        """Input embeddings of ids, see there."""
        ...

    def added(self, features: np.ndarray | None) -> Tensor | float:
        """What the features of options add to their scores."""
        ...


class AnswerForm(nn.Module):
    """A form; its parameters, if it has any, are trained with the model. Batches come from :meth:`build`.

    ``evidence`` says that the model has some, and that the form's own scores mean something before training. A
    language model's log-likelihoods differ by tens of nats, which would drown the evidence, so they get a factor beside it
    that begins at zero: training begins with what the evidence says, and lets in as much of them as helps.

    Attributes
    ----------
    name
        As the setting ``answer.form`` says it.
    at_once
        Whether all options stand in one prompt. Then their number is limited, and their order may matter.
    untrained
        Whether the base model can answer in this form before any training.
    compares_tokens
        Whether the form reads options' fused tokens by itself, also where the prompt shows none.
    way
        How the states of options are computed (`block_states.read`); None takes the fastest.
    """

    name = ""
    at_once = False
    untrained = True
    compares_tokens = False
    way: str | None = None

    def __init__(self, *, evidence: bool = False) -> None:
        super().__init__()
        self.factor_change = nn.Parameter(torch.zeros(())) if evidence else None

    def trained_in(self, stage: str, parameter: str) -> bool:  # noqa: ARG002
        """Whether ``stage`` trains the form's parameter of this name."""
        return True

    def start(self) -> None:
        """Questions are about to be answered, all with the same weights: what is kept between them begins anew."""

    def build(
        self,
        prompts: Any,
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        history: Sequence[np.ndarray] | None = None,
    ) -> Any:
        """The prompts of b questions; arguments as of `PromptBuilder.build`."""
        return prompts.blocks(partial, np.asarray(options), mode, history)

    def scores(self, model: AskedModel, batch: Any, tokens: Tensor | None) -> Tensor:
        """Scores of the options, float32 [b, n]: logits over a question's options. ``tokens`` [u, h] are the fused ones."""
        raise NotImplementedError

    def weighed(self, model: AskedModel, batch: Any, tokens: Tensor | None) -> Tensor:
        """The scores with what the evidence adds to them, float32 [b, n]; without evidence they are as they stand."""
        scores = self.scores(model, batch, tokens)
        if batch.features is None:
            return scores
        factor = 1.0 if self.factor_change is None else GAIN * self.factor_change
        return factor * scores + model.added(batch.features)

    def loss(self, model: AskedModel, batch: Any, tokens: Tensor | None, truth: np.ndarray, n: int) -> Tensor:  # noqa: ARG002
        """Mean loss of questions of ``n`` options whose right ones are ``truth`` [b]."""
        scores = self.weighed(model, batch, tokens)
        return F.cross_entropy(scores, to_device(truth, scores.device))

    @torch.inference_mode()
    def read(
        self,
        model: AskedModel,
        batch: Any,
        tokens: Tensor | None,
        counts: Sequence[int],  # noqa: ARG002
    ) -> tuple[np.ndarray, np.ndarray]:
        """The scores [b, n] of questions of ``counts`` [b] options, and whether each was answered with an option [b]."""
        scores = self.weighed(model, batch, tokens)
        return scores.float().cpu().numpy(), np.ones(len(scores), bool)
