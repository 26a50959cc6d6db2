"""The embedding table: cached vectors of all items, gathered once per batch and moved to the device."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bundlecache.errors import Command, RecipeError, StoreError

if TYPE_CHECKING:
    from bundlecache.store.store import Matrix

RESIDENT_SHARE = 0.25
"""Tables up to this share of a GPU's free memory are copied there. On a CPU, and beyond it, they stay memory-mapped."""
BLOCK_ROWS = 65_536  # of a matrix that are read at once
WHOLE_BYTES = 1 << 30
"""Vectors up to this size are read at once for their moments."""


class EmbeddingTable:
    """The vectors of I items in m modalities; ``names`` are the keys under which they were given.

    A modality may occur twice, for instance as two graphs; ``modalities`` names the modality of each matrix.
    """

    def __init__(self, matrices: Mapping[str, Matrix], device: torch.device) -> None:
        self.names = list(matrices)
        self.matrices = list(matrices.values())
        self.modalities = [m.modality for m in self.matrices]
        self.widths = [int(m.vectors.shape[1]) for m in self.matrices]
        self.device = device
        self.mask = torch.from_numpy(np.stack([np.asarray(m.mask, bool) for m in self.matrices], axis=1)).to(device)
        self._resident: list[Tensor] | None = None
        self._new: list[Tensor] | None = None  # of items behind the resident ones, see `extended`
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if sum(m.vectors.nbytes for m in self.matrices) <= RESIDENT_SHARE * free:
                self._resident = [_on_device(m.vectors, device) for m in self.matrices]

    @classmethod
    def of(cls, matrices: Mapping[str, Matrix], wanted: Sequence[str], device: torch.device) -> EmbeddingTable:
        """The table of the ``wanted`` matrices (empty: all), in the order of their names' appearance.

        The name of a modality stands for all matrices of it that are given and not wanted by a name of their own.

        Raises
        ------
        RecipeError, StoreError
            When a wanted modality is not stored, or nothing is.
        """
        missing = [name for name in wanted if name not in matrices]
        if missing:
            raise RecipeError(
                f"The recipe fuses {missing[0]!r}, but the store has {', '.join(matrices) or 'nothing'}.",
                hint=Command("encode", "--modality", missing[0].partition(":")[0]),
            )
        chosen = {
            name: matrices[name]
            for one in (wanted or matrices)
            for name in (one, *(n for n, matrix in matrices.items() if matrix.modality == one and n not in wanted))
        }
        if not chosen:
            raise StoreError("The store holds no vectors, so there is nothing to fuse.", hint=Command("encode"))
        return cls(chosen, device)

    def extended(self, matrices: Mapping[str, Matrix]) -> EmbeddingTable:
        """The same table with more items behind its own: ``matrices`` hold the vectors of both (`bundlecache.store.extended`)."""
        made, count = copy.copy(self), len(self.mask)
        made.matrices = [matrices[name] for name in self.names]
        masks = np.stack([np.asarray(m.mask[count:], bool) for m in made.matrices], axis=1)
        made.mask = torch.cat([self.mask, torch.from_numpy(masks).to(self.device)])
        if self._resident is not None:
            new = np.arange(count, len(made.mask))
            made._new = [torch.from_numpy(np.asarray(m.vectors[new])).to(self.device) for m in made.matrices]
        return made

    def rows(self, items: np.ndarray, masked: Sequence[str] = ()) -> tuple[list[Tensor], Tensor]:
        """Vectors (m float32 tensors [u, d_m]) and mask [u, m] of ``items`` [u]; ``masked`` names count as missing."""
        index = to_device(items, self.device)
        mask = self.mask[index]
        if masked:
            keep = [name not in masked for name in self.names]
            mask = mask & torch.tensor(keep, device=self.device)
        if self._resident is not None and self._new is not None:
            count = len(self._resident[0])
            known, own, others = (index < count)[:, None], index.clamp_max(count - 1), (index - count).clamp_min(0)
            pairs = zip(self._resident, self._new, strict=True)
            return [torch.where(known, stored[own], new[others]).float() for stored, new in pairs], mask
        if self._resident is not None:
            return [matrix[index].float() for matrix in self._resident], mask
        gathered = [np.asarray(m.vectors[items], np.float32) for m in self.matrices]
        return [to_device(rows, self.device) for rows in gathered], mask

    def moments(self, modality: int) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation [d_m] of each column of a modality's stored vectors; None where there are none.

        Up to `WHOLE_BYTES` they are those of torch, beyond it they are added up in double precision, block by block.
        """
        matrix = self.matrices[modality]
        rows = np.flatnonzero(np.asarray(matrix.mask, bool))
        if not len(rows):
            return None
        width = matrix.vectors.shape[1]
        if len(rows) * width * 4 <= WHOLE_BYTES:
            vectors = torch.from_numpy(np.asarray(matrix.vectors[rows], np.float32))
            return vectors.mean(0), vectors.std(0, correction=0)
        first = np.asarray(matrix.vectors[rows[0]], np.float64)  # moments are taken around it: no digits cancel
        total, squares = np.zeros(width), np.zeros(width)
        for k in range(0, len(rows), BLOCK_ROWS):
            block = np.asarray(matrix.vectors[rows[k : k + BLOCK_ROWS]], np.float64) - first
            total, squares = total + block.sum(0), squares + (block**2).sum(0)
        mean = total / len(rows)
        deviation = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))
        return torch.from_numpy((first + mean).astype(np.float32)), torch.from_numpy(deviation.astype(np.float32))


def _on_device(vectors: np.ndarray, device: torch.device) -> Tensor:
    """All vectors on ``device``, copied there block by block."""
    first = torch.from_numpy(np.array(vectors[:1]))
    out = torch.empty(vectors.shape, dtype=first.dtype, device=device)
    for k in range(0, len(vectors), BLOCK_ROWS):
        out[k : k + BLOCK_ROWS] = torch.from_numpy(np.array(vectors[k : k + BLOCK_ROWS])).to(device)
    return out


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """``array`` as a tensor on ``device``; from pinned memory, so that the copy does not wait for the GPU's queue."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
