"""The method of UniMP's public code, re-created from its description, for benchmarks and tests to compare with.

The frozen vision tower runs in every step over the pictures of every row. Every picture is resampled as often as it
occurs; every text position computes scores over all latents of its row, most of which are masked; the language model's
vocabulary is enlarged by the items and all of its rows are trained; logits are computed at every position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Weights = Mapping[str, Tensor]


def weights_of(state: Weights, prefix: str) -> nn.ParameterDict:
    """Trainable copies of the tensors below ``prefix``; a dot is no part of a parameter's name."""
    some = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    return nn.ParameterDict(
        {name.replace(".", "/"): nn.Parameter(value.detach().clone()) for name, value in some.items()}
    )


def normed(w: Any, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}/weight"], w[f"{name}/bias"])


def feed(w: Any, name: str, x: Tensor) -> Tensor:
    return F.gelu(normed(w, f"{name}/0", x) @ w[f"{name}/1/weight"].T) @ w[f"{name}/3/weight"].T


def attended(w: Any, name: str, heads: int, x: Tensor, media: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention with all scores [b, heads, s, n] in memory; ``mask`` [b, s, n] is True where one may look."""
    q, (k, v) = x @ w[f"{name}/to_q/weight"].T, (media @ w[f"{name}/to_kv/weight"].T).chunk(2, -1)
    q, k, v = (some.unflatten(-1, (heads, -1)).transpose(1, 2) for some in (q, k, v))
    score = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if mask is not None:
        score = score.masked_fill(~mask[:, None], -torch.finfo(score.dtype).max)
    score = score - score.amax(-1, keepdim=True).detach()
    share = score.softmax(-1)
    if mask is not None:
        share = share.masked_fill(~mask.any(-1)[:, None, :, None], 0.0)
    return (share @ v).transpose(1, 2).flatten(2) @ w[f"{name}/to_out/weight"].T


class Gated(nn.Module):
    """A decoder layer with a gated block in front of it, in the place of the layer."""

    def __init__(self, layer: nn.Module, state: Weights, prefix: str, heads: int) -> None:
        super().__init__()
        self.layer, self.heads, self.w = layer, heads, weights_of(state, prefix)
        self.media = self.mask = None  # set before each step

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen = attended(self.w, "attention", self.heads, normed(self.w, "norm", x), self.media, self.mask)
        x = x + self.w["gate"].tanh() * seen
        x = x + self.w["feed_gate"].tanh() * feed(self.w, "feed", x)
        return self.layer(x, *args, **kwargs)


class PublicWay(nn.Module):
    """The loss of rows by a causal language model ``llm`` (GPT-NeoX of transformers), which is changed.

    ``state`` are the weights of our model (`UniMP.own_state`), ``tower`` is a CLIP vision model; ``image`` the id of a picture.
    """

    def __init__(self, llm: Any, tower: Any, state: Weights, image: int, heads: int, gamma: float) -> None:
        super().__init__()
        self.tower, self.heads, self.gamma, self.image = tower.eval().requires_grad_(False), heads, gamma, image
        llm.requires_grad_(False)
        for name, old in (("input", llm.get_input_embeddings()), ("output", llm.get_output_embeddings())):
            rows = nn.Parameter(torch.cat([old.weight.detach(), state[f"rows.{name}"].detach()]))
            new = nn.Embedding(1, 1) if name == "input" else nn.Linear(1, 1, bias=False)
            new.weight = rows
            (llm.set_input_embeddings if name == "input" else llm.set_output_embeddings)(new)
        self.llm, self.w = llm, weights_of(state, "sight.resampler.")
        layers = llm.gpt_neox.layers
        self.gated = [i for i in range(len(layers)) if f"blocks.{i}.gate" in state]
        for i in self.gated:
            layers[i] = Gated(layers[i], state, f"blocks.{i}.", heads)

    def resampled(self, tokens: Tensor) -> Tensor:
        """Latents [b, n, w] of the tokens [b, t, w] of pictures."""
        latents, layer = self.w["latents"].expand(len(tokens), -1, -1), 0
        while f"layers/{layer}/norm_media/weight" in self.w:
            name = f"layers/{layer}"
            own = normed(self.w, f"{name}/norm_latents", latents)
            media = torch.cat([normed(self.w, f"{name}/norm_media", tokens), own], 1)
            latents = latents + attended(self.w, f"{name}/attention", self.heads, own, media)
            latents = latents + feed(self.w, f"{name}/feed", latents)
            layer += 1
        return normed(self.w, "norm", latents)

    def forward(self, ids: Tensor, labels: Tensor, weight: Tensor, pixels: Tensor) -> Tensor:
        """The loss of ids and labels [b, L], weights [b] and pictures [b, k, 3, size, size]."""
        b, k = pixels.shape[:2]
        with torch.no_grad():
            tokens = self.tower(pixel_values=pixels.flatten(0, 1)).last_hidden_state[:, 1:]
        latents = self.resampled(tokens)  # [b * k, n, w]
        time = (ids == self.image).cumsum(1)
        number = torch.arange(1, k + 1).repeat_interleave(latents.shape[1])
        for i in self.gated:
            block = self.llm.gpt_neox.layers[i]
            block.media, block.mask = latents.unflatten(0, (b, k)).flatten(1, 2), time[:, :, None] == number
        logits = self.llm(input_ids=ids, use_cache=False).logits[:, :-1].float()
        entropy = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        right = logits.softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        each = weight[:, None] * (1 - right) ** self.gamma * entropy
        return (each * labels[:, 1:]).sum() / labels[:, 1:].sum()

    def gradients(self, base: int) -> dict[str, Tensor]:
        """Gradients by the names of our tensors; of the rows those behind the ``base`` first ones."""
        made = {f"sight.resampler.{name.replace('/', '.')}": p.grad for name, p in self.w.items()}
        for i in self.gated:
            made |= {f"blocks.{i}.{n.replace('/', '.')}": p.grad for n, p in self.llm.gpt_neox.layers[i].w.items()}
        for name, rows in (("input", self.llm.get_input_embeddings()), ("output", self.llm.get_output_embeddings())):
            made[f"rows.{name}"] = rows.weight.grad[base:]
        return made
