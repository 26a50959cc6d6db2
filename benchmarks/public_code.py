"""The method of Bundle-MLLM's public code, re-created from its description, for tests and benchmarks to compare with.

Every question runs the input nets over the whole catalogue and then picks its rows; every text between two soft
places is tokenised anew, by itself; prompts are padded on the left; training reads logits of every position and its
labels are the letter and a full stop; evaluation decodes up to 64 tokens and takes the first letter of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from bundlecache.train.model.bundle_mllm import BundleMLLM

OPENING = (
    "You are a helpful and honest assistant. The following are multiple choice questions about {task}. You should "
    "directly answer the question by choosing the letter of the correct option. Only provide the letter of your answer, "
    "without any explanation or mentioning the option content. Question: Given the partial {bundle}: "
)
MIDDLE = ", which candidate {item} should be included into this {bundle}?\nOptions: "
CLOSING = "\nYour answer should indicate your choice with a single letter (e.g., “A,” “B,” “C,” etc.).\nChoice: "
LETTERS = "ABCDEFGHIJKLMNOPQRST"


class PublicCode(nn.Module):
    """Answers questions about ``titles`` and ``features`` (content [I, d], then one or more graphs [I, 64]).

    Weights are taken from ``model``, whose recipe must say the same.
    """

    def __init__(self, model: BundleMLLM, titles: Sequence[str], features: Sequence[Tensor]) -> None:
        super().__init__()
        assert model.tokens is not None
        prompt, fusion = model.recipe.prompt, model.recipe.fusion
        self.tokenizer, self.llm, self.titles = model.prompts.tokenizer, model.llm, list(titles)
        self.words = {"task": prompt.task, "bundle": prompt.bundle, "item": prompt.item}
        self.soft, self.pooling, self.normed = prompt.separator == "soft", fusion.pooling, fusion.layer_norm != "none"
        self.parts, self.projector, self.separator = model.tokens.fusion, model.tokens.projector, model.tokens.separator
        self.device = model.device
        content, *graphs = (x.to(self.device) for x in features)
        self.features = [F.normalize(content, dim=-1), *graphs]

    def items(self, wanted: Sequence[int]) -> Tensor:
        """Fused and projected tokens [k, h] of the items ``wanted``; the input nets run over all items."""
        parts = self.parts
        whole = torch.stack([net(x) for net, x in zip(parts.nets, self.features, strict=True)], dim=-2)
        x = F.normalize(whole[torch.tensor(list(wanted), device=self.device)], dim=-1)  # [k, m, w]
        base = F.layer_norm(x, x.shape[-1:]) if self.normed else x
        scores = parts.query(base) * x.shape[-1] ** -0.5 @ parts.key(base).transpose(-1, -2)
        y = scores.softmax(-1) @ (base if parts.value is None else parts.value(base))
        if self.pooling == "mean":
            return self.projector(y.mean(-2))
        pool, asked = parts.pool, self.separator
        asked = pool.query(asked.detach() if self.pooling == "separator-detached" else asked)
        base = F.layer_norm(y, y.shape[-1:]) if self.normed else y
        weights = (pool.key(base) @ asked * x.shape[-1] ** -0.5).softmax(-1)
        return self.projector((weights[..., None] * (base if pool.value is None else pool.value(base))).sum(-2))

    def text(self, given: Sequence[int], options: Sequence[int]) -> str:
        """The prompt, with ``<Feature>`` where fused tokens stand."""
        shown = "".join(f"{k}. {self.titles[i]}, <Feature>; " for k, i in enumerate(given, 1))
        offered = "".join(
            f"{letter}. {self.titles[i]}, <Feature>; " for letter, i in zip(LETTERS, options, strict=False)
        )
        return OPENING.format(**self.words) + shown + MIDDLE.format(**self.words) + offered + CLOSING

    def sequence(self, given: Sequence[int], options: Sequence[int], answer: int | None = None) -> Tensor:
        """Input embeddings [L, h] of one question; with ``answer`` its letter and a full stop stand at the end."""
        tokens = self._like_words(self.items([*given, *options]))
        rows = [self._words([self.tokenizer.bos_token_id])]
        for k, segment in enumerate(self.text(given, options).split("<Feature>")):
            if k:
                rows += ([self._like_words(self.separator[None])] if self.soft else []) + [tokens[k - 1 : k]]
            rows.append(self._words(self._ids(segment)))
        if answer is not None:
            rows.append(self._words(self._label(answer)))
        return torch.cat(rows)

    def _words(self, ids: Sequence[int]) -> Tensor:
        rows: Tensor = self.llm.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=self.device))
        return rows

    def _like_words(self, rows: Tensor) -> Tensor:
        """Fused tokens are computed in single precision and read in the language model's."""
        return rows.to(self.llm.get_input_embeddings().weight.dtype)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _label(self, answer: int) -> list[int]:
        spaced = self._ids(f"a {LETTERS[answer]}.")  # SentencePiece's own space in front of "A."
        return spaced[-2:]

    def padded(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings [b, L, h] padded on the left with that of id 0, and their mask [b, L]."""
        longest = max(map(len, rows))
        filler = self._words([0])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        return torch.stack([torch.cat([filler.expand(longest - len(row), -1), row]) for row in rows]), mask

    def loss(self, given: Sequence[np.ndarray], options: np.ndarray, truth: np.ndarray) -> Tensor:
        """Mean cross-entropy of letter and full stop, from logits of every position."""
        rows = [self.sequence(g, o, int(t)) for g, o, t in zip(given, options, truth, strict=True)]
        embeds, mask = self.padded(rows)
        labels = torch.full(mask.shape, -100, device=self.device)
        labels[:, -2:] = torch.tensor([self._label(int(t)) for t in truth], device=self.device)
        loss: Tensor = self.llm(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss
        return loss

    @torch.no_grad()
    def generate(self, given: Sequence[np.ndarray], options: np.ndarray, new_tokens: int = 64) -> Tensor:
        """Greedily decoded ids [b, at most new_tokens]; the text before the first full stop is the answer."""
        embeds, mask = self.padded([self.sequence(g, o) for g, o in zip(given, options, strict=True)])
        made: Any = self.llm.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        return made
