"""Stored token features of pictures by item, and the pictures that one batch reads: which text position sees which.

Notation: b rows, L tokens, k pictures of a row, u different pictures, t tokens of a picture, n latents, w their width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.errors import Command, StoreError

from ..model.embeddings import EmbeddingTable, to_device
from .resampler import Resampler

if TYPE_CHECKING:
    from bundlecache.store.store import Matrix

AT_ONCE = 256
"""Pictures whose latents are computed at once when all are."""
KEPT_BYTES = 1 << 30


class TokenTable:
    """Token features [I, t, d] of the items' pictures, memory-mapped or resident on a GPU, and which items have some."""

    def __init__(self, matrix: Matrix, device: torch.device) -> None:
        """Read the features of ``matrix``, whose vectors are [I, t, d].

        Raises
        ------
        StoreError
            When it holds one vector an item instead of tokens.
        """
        if matrix.vectors.ndim != 3:
            raise StoreError(
                f"The model reads several tokens a picture, but {matrix.spec} stores one vector an item.",
                hint=Command("encode", "--modality", "image", "--encoder", "descriptor-tokens:picture"),
            )
        self.matrix = matrix
        self.mask = np.asarray(matrix.mask, bool)  # [I]
        self._table = EmbeddingTable({matrix.modality: matrix}, device)

    @property
    def width(self) -> int:
        """Width d of a token."""
        return int(self.matrix.vectors.shape[2])

    def spread(self, most: int) -> np.ndarray:
        """int64, at most about so many items that have features, spread over the catalogue."""
        there = np.flatnonzero(self.mask)
        return there[:: max(1, len(there) // max(1, most))]

    def some(self, most: int) -> Tensor:
        """At most about so many tokens, float32 [n, d] on the device, of items that are spread over the catalogue."""
        return self.rows(self.spread(most // self.matrix.vectors.shape[1])).flatten(0, 1)

    def rows(self, items: np.ndarray) -> Tensor:
        """Features of items [u] that have some, float32 [u, t, d] on the device."""
        return self._table.rows(items)[0][0]


@dataclass
class Pictures:
    """The pictures of one batch as its positions see them; made by :meth:`Sight.see`.

    ``latents`` are those of the u different pictures. With exclusive attention every position sees at most one of them:
    ``group`` says which of the ``shown`` pictures it is, -1 for none. Otherwise it sees the ``seen`` pictures of its row.
    """

    latents: Tensor  # [u, n, w]
    means: Tensor  # [u, d], of their stored tokens
    time: Tensor  # int64 [b, L], how many <|image|> stand in the row up to the position
    place: Tensor  # int64 [b, k], which of the u the k-th picture of a row is; -1 without picture
    exclusive: bool
    kept: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )  # keys and values by block, when nothing trains

    def __post_init__(self) -> None:
        """Find the latest picture before each position, and with exclusive attention sort the positions by it."""
        b, long = self.time.shape
        shown = torch.cat([self.place.new_full((b, 1), -1), self.place], dim=1)  # at time 0 there is none
        self.seen = shown.gather(1, self.time.clamp_max(shown.shape[1] - 1))  # [b, L], which of the u; -1: none
        if not self.exclusive:
            return
        flat = (self.seen >= 0).flatten().nonzero()[:, 0]
        segment = (self.time + torch.arange(b, device=self.time.device)[:, None] * (long + 1)).flatten()[flat]
        _, inverse, counts = torch.unique_consecutive(segment, return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        self.positions = flat  # [p] of b * L, those that see a picture
        self.longest = int(counts.max()) if len(counts) else 0
        self.slot = inverse * self.longest + torch.arange(len(flat), device=flat.device) - starts[inverse]  # [p]
        self.of_segment = self.seen.flatten()[flat[starts]]  # [g], which of the u a run of positions sees

    def later(self, time: Tensor, place: Tensor) -> Pictures:
        """The same pictures for other positions, such as those of generated tokens; arguments as above."""
        return Pictures(self.latents, self.means, time, place, self.exclusive, self.kept)


class Sight(nn.Module):
    """Stored features and the resampler: gives the pictures of batches, each different picture resampled once."""

    def __init__(self, table: TokenTable, resampler: Resampler, *, exclusive: bool) -> None:
        super().__init__()
        self.table, self.resampler, self.exclusive = table, resampler, exclusive
        self._kept: tuple[Tensor, Tensor] | None = None  # latents and mean tokens of all pictures, see `keep`
        self._row = np.cumsum(table.mask) - 1  # [I], in `_kept`

    def known(self, images: Tensor) -> np.ndarray:
        """Which of the items [b, k] of a batch have a picture, bool; -1 is no item."""
        items = images.cpu().numpy()
        return (items >= 0) & self.table.mask[items]

    def see(self, ids: Tensor, images: Tensor, image: int) -> Pictures:
        """The pictures of token ids [b, L], where ``image`` is the id of <|image|>, and of their items [b, k]."""
        known = self.known(images)
        items, where = np.unique(images.cpu().numpy()[known], return_inverse=True)
        place = np.full(known.shape, -1, np.int64)
        place[known] = where
        latents, means = self._read(items)
        return Pictures(latents, means, (ids == image).cumsum(1), to_device(place, ids.device), self.exclusive)

    def keep(self) -> None:
        """Compute the latents of all pictures once, for answers of a model that is not trained meanwhile.

        Beyond `KEPT_BYTES` none are kept: then those of a batch's pictures are computed with it.
        """
        there, one = np.flatnonzero(self.table.mask), self.resampler.latents
        if len(there) * one.numel() * one.element_size() > KEPT_BYTES:
            return
        with torch.no_grad():
            parts = [self._resampled(there[k : k + AT_ONCE]) for k in range(0, max(1, len(there)), AT_ONCE)]
        self._kept = torch.cat([latents for latents, _ in parts]), torch.cat([means for _, means in parts])

    def train(self, mode: bool = True) -> Sight:
        """Kept latents are forgotten when training begins or goes on: the resampler changes."""
        if mode:
            self._kept = None
        return super().train(mode)

    def _read(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """Latents [u, n, w] and mean tokens [u, d] of the pictures of items [u], all of which have one."""
        if self._kept is not None and not torch.is_grad_enabled():
            latents, means = self._kept
            rows = to_device(self._row[items], means.device)
            return latents[rows], means[rows]
        return self._resampled(items)

    def _resampled(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        own = self.resampler.latents
        if not len(items):
            return own.new_zeros(0, *own.shape), own.new_zeros(0, self.table.width)
        tokens = self.table.rows(items)
        return self.resampler(tokens), tokens.mean(1)
