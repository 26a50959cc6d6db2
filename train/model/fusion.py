"""The fusion module: all vectors of an item become one token of the language model.

Every modality has an input network to a common width; the modalities attend to each other with one head; their mean
goes through a projector into the language model. By default this is the arithmetic of Bundle-MLLM (KDD'25): unit length
before attention, no value matrix, no residual, no position, so the order of modalities does not matter. A missing
modality is masked in the attention and in the mean; items without any vector share a learned one. The public code's
variants are settings: a value matrix, LayerNorm before attention, and pooling by a second attention whose query is the
soft separator (`SeparatorPooling`).

Notation: u distinct items, m modalities, d_m width of modality m, w fusion width, h hidden width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from bundlecache.recipes.settings import Fusion as Settings


class Fusion(nn.Module):
    """One vector [w] per item from its m modalities, of widths ``widths`` and kinds ``modalities``.

    ``hidden`` is the hidden width of the language model, which pooling by the soft separator needs.
    """

    def __init__(self, widths: Sequence[int], modalities: Sequence[str], settings: Settings, hidden: int = 0) -> None:
        super().__init__()
        self.settings = s = settings
        self.input_of = [s.graph_input if name == "graph" else s.content_input for name in modalities]
        self.nets = nn.ModuleList(
            _net([d, *(() if name == "graph" else (width or d for width in s.hidden)), s.width])
            for d, name in zip(widths, modalities, strict=True)
        )
        self.query = nn.Linear(s.width, s.width, bias=False)
        self.key = nn.Linear(s.width, s.width, bias=False)
        self.value = nn.Linear(s.width, s.width, bias=False) if s.value_projection else None
        self.pool = None if s.pooling == "mean" else SeparatorPooling(hidden, s)
        self.kind = nn.Parameter(torch.randn(len(widths), s.width) * s.width**-0.5) if s.type_embedding else None
        self.norm = nn.LayerNorm(s.width) if s.layer_norm == "fused" else None
        self.absent = nn.Parameter(torch.randn(s.width) * s.width**-0.5)
        for k, d in enumerate(widths):
            self.register_buffer(f"mean{k}", torch.zeros(d))
            self.register_buffer(f"std{k}", torch.ones(d))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def standardise(self, modality: int, mean: Tensor, deviation: Tensor) -> None:
        """Keep the mean and deviation [d_m] of each column of one modality's vectors."""
        if self.input_of[modality] == "standardise":
            self.get_buffer(f"mean{modality}").copy_(mean)
            self.get_buffer(f"std{modality}").copy_(deviation.clamp_min(1e-6))

    def _input(self, modality: int, vectors: Tensor) -> Tensor:
        how = self.input_of[modality]
        if how == "l2":
            return F.normalize(vectors, dim=-1)
        if how == "standardise":
            return (vectors - self.get_buffer(f"mean{modality}")) / self.get_buffer(f"std{modality}")
        return vectors

    def _drop_inputs(self, x: Tensor) -> Tensor:
        """Dropout from uniform numbers, which takes a third of the time of torch's own on a CPU."""
        chance = self.settings.input_dropout
        if not self.training or chance == 0:
            return x
        return x * (torch.rand_like(x) >= chance) / max(1 - chance, 1e-6)

    def forward(self, vectors: Sequence[Tensor], mask: Tensor, separator: Tensor | None = None) -> Tensor:
        """Fuse ``vectors`` (m tensors [u, d_m]) under ``mask`` [u, m] (True = there) to [u, width].

        ``separator`` [h] is the soft separator, which pooling by it needs.
        """
        x, base, attention, present = self._attend(vectors, mask)
        y = self._mix(x, base, attention)
        if self.pool is not None and separator is not None:
            fused = self.pool(y, present, separator)
        else:
            weight = present.to(y.dtype)[:, :, None]
            fused = (y * weight).sum(1) / weight.sum(1)  # [u, w]
        if self.norm is not None:
            fused = self.norm(fused)
        return torch.where(mask.any(dim=1, keepdim=True), fused, self.absent)

    def attention(
        self, vectors: Sequence[Tensor], mask: Tensor, separator: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attention between modalities [u, m, m] and pooling weights [u, m].

        Arguments as in :meth:`forward`. Both sum to 1 along their last axis; masked modalities get 0.
        """
        x, base, attention, present = self._attend(vectors, mask)
        if self.pool is not None and separator is not None:
            return attention, self.pool.weights(self._mix(x, base, attention), present, separator)
        weight = present.to(attention.dtype)
        return attention, weight / weight.sum(1, keepdim=True)

    def _attend(self, vectors: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs [u, m, w], the rows that attend [u, m, w], their attention [u, m, m], the mask [u, m] without empty rows."""
        s = self.settings
        rows = []
        for k, net in enumerate(self.nets):
            here = mask[:, k, None]
            known = (
                vectors[k].to(self.query.weight.dtype).masked_fill(~here, 0.0)
            )  # masked rows may hold anything, NaN included
            rows.append(net(self._drop_inputs(self._input(k, known))))
        x = torch.stack(rows, dim=1)  # [u, m, w]
        if s.normalise:
            x = F.normalize(x, dim=-1)
        if self.kind is not None:
            x = x + self.kind
        base = F.layer_norm(x, x.shape[-1:]) if s.layer_norm == "attention" else x
        present = mask | ~mask.any(dim=1, keepdim=True)  # a row of nothing but -inf would be NaN
        form = self.query.weight.T @ self.key.weight * s.width**-0.5  # q k^T as one bilinear form: half the work
        scores = base @ form @ base.transpose(1, 2)  # [u, m, m]
        attention = scores.masked_fill(~present[:, None, :], -torch.inf).softmax(dim=-1)
        return x, base, attention, present

    def _mix(self, x: Tensor, base: Tensor, attention: Tensor) -> Tensor:
        y = attention @ (base if self.value is None else self.value(base))  # [u, m, w]
        return y + x if self.settings.residual else y


class SeparatorPooling(nn.Module):
    """The rows of an item weighed by what the soft separator, of width ``hidden``, asks of them."""

    def __init__(self, hidden: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.query = nn.Linear(hidden, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False) if settings.value_projection else None

    def forward(self, rows: Tensor, present: Tensor, separator: Tensor) -> Tensor:
        """[u, w] of ``rows`` [u, m, w], those that are ``present`` [u, m]."""
        base = self._base(rows)
        weight = self.weights(rows, present, separator)[:, :, None]
        return (weight * (base if self.value is None else self.value(base))).sum(1)

    def weights(self, rows: Tensor, present: Tensor, separator: Tensor) -> Tensor:
        """Pooling weights [u, m]."""
        s = self.settings
        asked = self.query(separator.detach() if s.pooling == "separator-detached" else separator)  # [w]
        scores = self.key(self._base(rows)) @ asked * s.width**-0.5  # [u, m]
        return scores.masked_fill(~present, -torch.inf).softmax(dim=-1)

    def _base(self, rows: Tensor) -> Tensor:
        return F.layer_norm(rows, rows.shape[-1:]) if self.settings.layer_norm == "attention" else rows


class ItemTokens(nn.Module):
    """Fusion, projector and soft separator: everything of a run that is neither the LLM nor its adapter.

    ``embedding_rms`` is the root mean square of the language model's embedding table.
    """

    def __init__(
        self,
        widths: Sequence[int],
        modalities: Sequence[str],
        settings: Settings,
        hidden: int,
        embedding_rms: float,
        separator: Tensor | None,
    ) -> None:
        super().__init__()
        self.fusion = Fusion(widths, modalities, settings, hidden)
        self.projector = nn.Sequential(
            nn.Linear(settings.width, settings.projector_width), nn.GELU(), nn.Linear(settings.projector_width, hidden)
        )
        self.register_buffer("embedding_rms", torch.tensor(embedding_rms))
        self.scale = nn.Parameter(torch.ones(())) if settings.output == "embedding" else None
        self.separator = None if separator is None else nn.Parameter(separator.clone())
        self.modality_dropout = settings.modality_dropout

    def forward(self, vectors: Sequence[Tensor], mask: Tensor) -> Tensor:
        """One token per item, float32 [u, h]; arguments as in :meth:`Fusion.forward`."""
        if self.training and self.modality_dropout > 0:
            mask = _drop(mask, self.modality_dropout)
        tokens = self.projector(self.fusion(vectors, mask, self.separator))
        if self.scale is None:
            return tokens
        rms = tokens.pow(2).mean(-1, keepdim=True).add(1e-12).sqrt()
        return tokens / rms * (self.get_buffer("embedding_rms") * self.scale)


def _net(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(len(widths) - 1):
        layers += [nn.ReLU()] * (k > 0) + [nn.Linear(widths[k], widths[k + 1])]
    return nn.Sequential(*layers)


def _drop(mask: Tensor, chance: float) -> Tensor:
    """``mask`` with entries dropped at random; an item that has any modality keeps at least one."""
    kept = mask & (torch.rand(mask.shape, device=mask.device) >= chance)
    return torch.where(kept.any(1, keepdim=True), kept, mask)
