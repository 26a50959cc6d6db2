"""The perceiver resampler: however many tokens a picture has, a few latents that the language model can attend to.

As in OpenFlamingo (https://arxiv.org/abs/2308.01390): linear layers without bias, no position or frame embeddings. Notation: u
pictures, t tokens of a picture, d their width, n latents, w the width of the latents.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FEED = 4
"""The hidden width of feed-forward nets is this times their width."""
SMALL = 0.1
"""Latents of narrow tokens begin at this times the paper's normal numbers."""


class Attention(nn.Module):
    """Multi-head attention from queries of one width to keys and values of another; without masks or biases."""

    def __init__(self, width: int, media_width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(media_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[..., s, heads * e] as [..., heads, s, e]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def keys_values(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, [..., heads, s, e] each, of media [..., s, media width]."""
        keys, values = self.to_kv(media).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def joined(self, heads: Tensor) -> Tensor:
        """The output of all heads [..., heads, s, e] side by side: [..., s, heads * e]."""
        return heads.transpose(-2, -3).flatten(-2)


def feed_forward(width: int) -> nn.Sequential:
    """LayerNorm and a net with one hidden layer."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, FEED * width, bias=False),
        nn.GELU(),
        nn.Linear(FEED * width, width, bias=False),
    )


class ResamplerLayer(nn.Module):
    """Latents attend to a picture's tokens and to each other, then go through a feed-forward net."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm_media, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, width, heads, head_width)
        self.feed = feed_forward(width)

    def forward(self, latents: Tensor, media: Tensor) -> Tensor:
        """New latents [u, n, w] from those before and from media [u, t, w]."""
        normed = self.norm_latents(latents)
        queries = self.attention.split(self.attention.to_q(normed))
        keys, values = self.attention.keys_values(torch.cat([self.norm_media(media), normed], dim=1))
        seen = F.scaled_dot_product_attention(queries, keys, values)
        latents = latents + self.attention.to_out(self.attention.joined(seen))
        return latents + self.feed(latents)


class Resampler(nn.Module):
    """Tokens of pictures [u, t, d] to latents [u, n, w].

    w is d, as in the paper, or ``width``; then a linear layer with bias comes first. Narrow tokens need it: a LayerNorm
    takes two numbers from each of them.
    """

    def __init__(self, media_width: int, latents: int, depth: int, heads: int, head_width: int, width: int = 0) -> None:
        super().__init__()
        self.width = width or media_width
        self.widen = nn.Linear(media_width, width) if width else None
        self.latents = nn.Parameter(torch.randn(latents, self.width))
        self.layers = nn.ModuleList(ResamplerLayer(self.width, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(self.width)

    @torch.no_grad()
    def begin_at(self, tokens: Tensor) -> None:
        """Let the first layer turn ``tokens`` [n, d] by random axes, less their mean and with numbers of about 1.

        What all pictures have in common would else be most of what the latents hold; these begin small for the same reason.
        """
        if self.widen is None or not len(tokens):
            return
        turned, _ = torch.linalg.qr(torch.randn(max(self.widen.weight.shape), min(self.widen.weight.shape)))
        weight = (turned if self.width >= tokens.shape[1] else turned.T).to(tokens)  # [w, d]
        mean = tokens.mean(0)
        weight = weight * (self.width**0.5 / (tokens - mean).norm(dim=1).mean().clamp_min(1e-6))
        self.widen.weight.copy_(weight)
        assert self.widen.bias is not None  # noqa: S101 - as it was made
        self.widen.bias.copy_(-(weight @ mean))
        self.latents.mul_(SMALL)

    def forward(self, media: Tensor) -> Tensor:
        """The latents of every picture; one picture's do not depend on the others."""
        media = media.to(self.latents.dtype)
        if self.widen is not None:
            media = self.widen(media)
        latents = self.latents.expand(len(media), -1, -1)
        for layer in self.layers:
            latents = layer(latents, media)
        return self.norm(latents)
