"""A batch of UniMP: token ids of prompts, which of them are labels, and the items whose pictures they show.

Notation: b rows, L tokens of the longest row, k pictures of the row with the most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows that are padded on the right; made by :meth:`of`."""

    ids: Tensor  # int64 [b, L]
    there: Tensor  # bool [b, L], False in the padding
    labels: Tensor  # bool [b, L]: token j is predicted from the hidden state at j - 1; position 0 never
    weight: Tensor  # float32 [b], of the row's task
    images: Tensor  # int64 [b, k], the item that the k-th <|image|> of the row shows; -1 behind the last one

    @classmethod
    def of(
        cls,
        ids: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        images: Sequence[np.ndarray],
        weight: Sequence[float] | None = None,
    ) -> Batch:
        """The batch of b rows: their ids [L_r], labels [L_r] and pictured items [k_r]; ``weight`` [b] is 1 where None."""
        given = np.ones(len(ids)) if weight is None else weight
        there = _padded([np.ones(len(row), bool) for row in ids], False)
        marked = _padded([np.asarray(row, bool) for row in labels], False)
        marked[:, 0] = False
        return cls(
            torch.from_numpy(_padded([np.asarray(row, np.int64) for row in ids], 0)),
            torch.from_numpy(there),
            torch.from_numpy(marked),
            torch.tensor(np.asarray(given), dtype=torch.float32),
            torch.from_numpy(_padded([np.asarray(row, np.int64) for row in images], -1)),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def count(self) -> int:
        """Labels of all rows: what the loss is divided by (`bundlecache.train.unimp.losses`)."""
        return int(self.labels.sum())

    @property
    def last(self) -> Tensor:
        """Bool [b, L], the last token of every row: in a prompt the ``<|answer|>`` that the answer follows."""
        places = torch.arange(self.ids.shape[1], device=self.there.device)
        return places == self.there.sum(1, keepdim=True) - 1

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``, but for ``images``: pictures are gathered where they are stored."""
        ids, there, labels, weight = (t.to(device) for t in (self.ids, self.there, self.labels, self.weight))
        return Batch(ids, there, labels, weight, self.images)

    def take(self, rows: np.ndarray | Sequence[int]) -> Batch:
        """Some rows, without the padding that only the others needed."""
        index = torch.as_tensor(np.asarray(rows, np.int64))
        ids, there, labels, weight = (t[index.to(t.device)] for t in (self.ids, self.there, self.labels, self.weight))
        images = self.images[index]
        long, many = (int(mask.sum(1).max()) if len(mask) else 0 for mask in (there, images >= 0))
        return Batch(ids[:, :long], there[:, :long], labels[:, :long], weight, images[:, :many])


def _padded(rows: Sequence[np.ndarray], value: int | bool) -> np.ndarray:
    """Rows of one type as one array [b, L], with ``value`` behind the shorter ones."""
    long = max((len(row) for row in rows), default=0)
    made = np.full((len(rows), long), value, rows[0].dtype if len(rows) else np.int64)
    for row, out in zip(rows, made, strict=True):
        out[: len(row)] = row
    return made
