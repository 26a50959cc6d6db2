"""Where the rows of items begin: at what their texts mean to the base model, and of items that come later, near those like them.

Notation: I items, h hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .vocabulary import AtomicIds

if TYPE_CHECKING:
    from .item_texts import ItemTexts
    from .model import UniMP

ITEMS_AT_ONCE = 8_192
LIKE = 5
"""A new item begins at the mean row of so many items whose texts mean the most similar."""


@torch.no_grad()
def from_texts(model: UniMP, texts: ItemTexts) -> None:
    """Put the mean embedding of every item's text into its rows, as long as rows of the base are on average.

    Semantic ids belong to many items and stay as they are; so do items without text.
    """
    if not isinstance(model.vocabulary.item_ids, AtomicIds):
        return
    start = model.vocabulary.items.start - model.vocabulary.base_size
    tables = [(model.rows.input, model.core.get_input_embeddings().weight)]
    if model.rows.output is not None:
        tables.append((model.rows.output, model.core.get_output_embeddings().weight))
    for rows, table in tables:
        length = float(table.float().norm(dim=1).mean())
        mean = means_of(texts, table)
        norm = mean.norm(dim=1, keepdim=True)
        there = norm[:, 0] > 0
        own = rows[start : start + len(texts)]
        own[there] = (mean / norm.clamp_min(1e-12) * length)[there].to(own)


@torch.no_grad()
def like_others(model: UniMP, texts: ItemTexts, new: np.ndarray) -> None:
    """Put, for items ``new`` (indices), the mean of the trained rows of the known items that are most like them.

    Items are compared by the mean embeddings of their texts. No other row is touched.
    """
    known = np.setdiff1d(np.arange(len(texts)), new)
    if not isinstance(model.vocabulary.item_ids, AtomicIds) or not len(new) or not len(known):
        return
    means = means_of(texts, model.core.get_input_embeddings().weight)
    means = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    start = model.vocabulary.items.start - model.vocabulary.base_size
    others = means[torch.from_numpy(known)]
    for low in range(0, len(new), ITEMS_AT_ONCE):
        some = torch.from_numpy(new[low : low + ITEMS_AT_ONCE])
        nearest = (means[some] @ others.T).topk(min(LIKE, len(known)), dim=1).indices  # [n, LIKE]
        at = start + torch.from_numpy(known)[nearest]
        for rows in (model.rows.input, model.rows.output):
            if rows is not None:
                place = at.to(rows.device)
                rows[(start + some).to(rows.device)] = rows[place].mean(1)


@torch.no_grad()
def means_of(texts: ItemTexts, table: Tensor) -> Tensor:
    """float32 [I, h] on the CPU: the mean of the rows of ``table`` [V, h] of every item's text; zeros without text."""
    ids, bounds = texts.ids.ids, np.asarray(texts.ids.bounds, np.int64)
    made = torch.zeros(len(texts), table.shape[1])
    for low in range(0, len(texts), ITEMS_AT_ONCE):
        ends = bounds[low : low + ITEMS_AT_ONCE + 1]
        flat = torch.from_numpy(np.asarray(ids[ends[0] : ends[-1]], np.int64)).to(table.device)
        item = torch.from_numpy(np.repeat(np.arange(len(ends) - 1), np.diff(ends)))
        part = torch.zeros(len(ends) - 1, table.shape[1]).index_add_(0, item, table[flat].float().cpu())
        made[low : low + len(part)] = part / torch.from_numpy(np.maximum(np.diff(ends), 1))[:, None]
    return made
