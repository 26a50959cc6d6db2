"""Tanh-gated cross-attention: blocks in front of a frozen language model's layers that let its text see pictures.

Hooks put them in front of every n-th decoder layer of any causal language model of transformers, and take them away
again; neither its code nor its weights change. While a gate is zero, its block changes nothing, to the bit.

A text position sees the latents of one picture only, the last one before it (`Pictures`), or of all pictures before it
when attention is not exclusive. What is computed is what is seen: positions are packed by the picture that they see, so
that no score is computed to be masked. Notation: b rows, L tokens, h hidden width, p positions that see a picture, g runs
of such positions, n latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from bundlecache.errors import RecipeError

from .pictures import Pictures
from .resampler import Attention, feed_forward


class GatedBlock(nn.Module):
    """``x + tanh(gate) * attention(x, pictures)``, then ``x + tanh(feed_gate) * feed(x)``; both gates begin at 0."""

    def __init__(self, width: int, media_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, media_width, heads, head_width)
        self.gate = nn.Parameter(torch.zeros(1))
        self.feed = feed_forward(width)
        self.feed_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, pictures: Pictures) -> Tensor:
        """Hidden states [b, L, h] that have seen their pictures, in the number format of ``x``."""
        own = x.to(self.gate.dtype)
        if len(pictures.latents):
            look = self._exclusive if pictures.exclusive else self._all_before
            own = own + self.gate.tanh() * look(own, pictures)
        own = own + self.feed_gate.tanh() * self.feed(own)
        return own.to(x.dtype)

    def keys_values(self, pictures: Pictures) -> tuple[Tensor, Tensor]:
        """Keys and values [u, heads, n, e] of all pictures; kept for the next token where nothing is trained."""
        if torch.is_grad_enabled():
            return self.attention.keys_values(pictures.latents)
        if id(self) not in pictures.kept:
            pictures.kept[id(self)] = self.attention.keys_values(pictures.latents)
        return pictures.kept[id(self)]

    def _exclusive(self, x: Tensor, pictures: Pictures) -> Tensor:
        """What every position sees of its one picture, [b, L, h]; 0 where it sees none."""
        flat = x.flatten(0, 1)
        queries = self.attention.to_q(self.norm(flat[pictures.positions]))  # [p, heads * e]
        runs = len(pictures.of_segment)
        packed = queries.new_zeros(runs * pictures.longest, queries.shape[1])
        packed = packed.index_copy(0, pictures.slot, queries).unflatten(0, (runs, pictures.longest))  # [g, longest, ..]
        keys, values = (some[pictures.of_segment] for some in self.keys_values(pictures))
        heads = F.scaled_dot_product_attention(self.attention.split(packed), keys, values)
        out = self.attention.to_out(self.attention.joined(heads).flatten(0, 1)[pictures.slot])  # [p, h]
        return out.new_zeros(flat.shape).index_copy(0, pictures.positions, out).view(x.shape)

    def _all_before(self, x: Tensor, pictures: Pictures) -> Tensor:
        """What every position sees of all pictures before it, [b, L, h]; 0 where there are none."""
        place = pictures.place  # [b, k]
        number = torch.arange(1, place.shape[1] + 1, device=place.device)
        seen = (pictures.time[:, :, None] >= number) & (place >= 0)[:, None]  # [b, L, k]
        some = seen.any(-1, keepdim=True)
        mask = (seen | ~some).repeat_interleave(pictures.latents.shape[1], dim=-1)[:, None]  # [b, 1, L, k * n]
        keys, values = (  # [b, heads, k * n, e]
            kept[place.clamp_min(0)].transpose(1, 2).flatten(2, 3) for kept in self.keys_values(pictures)
        )
        queries = self.attention.split(self.attention.to_q(self.norm(x)))
        heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.attention.to_out(self.attention.joined(heads)) * some


class GatedBlocks(nn.ModuleDict):
    """The blocks of a language model; they act while :meth:`reading` pictures, and never otherwise."""

    def __init__(self, llm: Any, every: int, media_width: int, heads: int, head_width: int) -> None:
        """Put a block in front of every ``every``-th decoder layer of ``llm``; layer numbers begin with 0."""
        layers = decoder_layers(llm)
        width = llm.config.get_text_config().hidden_size
        chosen = [i for i in range(len(layers)) if (i + 1) % every == 0]
        if not chosen:
            raise RecipeError(
                f"The base model has {len(layers)} layers, so none is the {every}th.",
                hint=f"--set vision.every_n={len(layers)}",
            )
        super().__init__({str(i): GatedBlock(width, media_width, heads, head_width) for i in chosen})
        self.pictures: Pictures | None = None
        self._hooks = [layers[i].register_forward_pre_hook(self._hook(i), with_kwargs=True) for i in chosen]

    @contextmanager
    def reading(self, pictures: Pictures) -> Iterator[None]:
        """The language model sees ``pictures`` inside this context."""
        self.pictures = pictures
        try:
            yield
        finally:
            self.pictures = None

    def remove(self) -> None:
        """Take the blocks away: the language model is what it was."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, layer: int) -> Any:
        """The forward pre-hook of decoder layer ``layer``.

        transformers runs hooks outside of what it computes again for the sake of memory, so a block sees to that itself.
        """
        block = self[str(layer)]

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self.pictures is None:
                return None
            x = args[0] if args else kwargs["hidden_states"]
            if getattr(module, "gradient_checkpointing", False) and module.training and torch.is_grad_enabled():
                x = checkpoint(block, x, self.pictures, use_reentrant=False)
            else:
                x = block(x, self.pictures)
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        return hook


def decoder_layers(llm: Any) -> nn.ModuleList:
    """The list of decoder layers of a causal language model, found by its length and by what its members are.

    Raises
    ------
    RecipeError
        When there is no such list.
    """
    count = llm.config.get_text_config().num_hidden_layers
    for _, module in llm.named_modules():  # outer ones first
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(one) for one in module}) == 1:
            return module
    raise RecipeError(f"No list of {count} decoder layers was found in {type(llm).__name__}.")
