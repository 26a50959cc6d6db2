"""The embedding table: cached vectors of all items, gathered once per batch and moved to the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bundlecache.errors import Command, RecipeError, StoreError

if TYPE_CHECKING:
    from bundlecache.store.store import Matrix

RESIDENT_BYTES = 2 << 30
"""Tables up to this size are copied to the device; larger ones stay memory-mapped."""


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
        total = sum(m.vectors.nbytes for m in self.matrices)
        self._resident: list[Tensor] | None = None
        if total <= RESIDENT_BYTES:
            self._resident = [torch.from_numpy(np.array(m.vectors)).to(device) for m in self.matrices]

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

    def rows(self, items: np.ndarray, masked: Sequence[str] = ()) -> tuple[list[Tensor], Tensor]:
        """Vectors (m float32 tensors [u, d_m]) and mask [u, m] of ``items`` [u]; ``masked`` names count as missing."""
        index = to_device(items, self.device)
        mask = self.mask[index]
        if masked:
            keep = [name not in masked for name in self.names]
            mask = mask & torch.tensor(keep, device=self.device)
        if self._resident is not None:
            return [matrix[index].float() for matrix in self._resident], mask
        gathered = [np.asarray(m.vectors[items], np.float32) for m in self.matrices]
        return [to_device(rows, self.device) for rows in gathered], mask

    def present(self, modality: int) -> Tensor:
        """All stored vectors of one modality, float32 [r, d_m]."""
        matrix = self.matrices[modality]
        mask = np.asarray(matrix.mask, bool)
        return torch.from_numpy(np.asarray(matrix.vectors[mask], np.float32))


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """``array`` as a tensor on ``device``; from pinned memory, so that the copy does not wait for the GPU's queue."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
