"""Where the rows of items begin: at what texts, histories and pictures tell of them, and later ones near those like them.

Notation: I items, h hidden width, n directions, d width of a stored token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bundlecache.baselines.history_directions import history_directions

from .vocabulary import AtomicIds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bundlecache.catalogue.histories import Histories

    from .item_texts import ItemTexts
    from .model import UniMP
    from .pictures import TokenTable

ITEMS_AT_ONCE = 8_192
DIRECTIONS = 16  # of pictures
LIKE = 5
"""A new item begins at the mean row of so many items whose texts mean the most similar."""


@torch.no_grad()
def put(model: UniMP, parts: Sequence[str], texts: ItemTexts, seen: Histories | None = None) -> None:
    """Put the sum of ``parts``, each of length 1, into the rows of items, as long as rows of the base are on average.

    ``text`` is the mean embedding of the item's words, ``histories`` the `history_directions` of what training may see,
    ``pictures`` what :func:`looks` finds in the stored features that the model reads. The last two are turned by random
    axes, so that they share the width with the words. Semantic ids belong to many items and stay as they are; so
    do items of which no part tells anything.
    """
    if not isinstance(model.vocabulary.item_ids, AtomicIds):
        return
    start, count = model.vocabulary.items.start - model.vocabulary.base_size, len(texts)
    tables = [(model.rows.input, model.core.get_input_embeddings().weight)]
    if model.rows.output is not None:
        tables.append((model.rows.output, model.core.get_output_embeddings().weight))
    width = tables[0][0].shape[1]
    shared = torch.zeros(count, width)
    if "histories" in parts and seen is not None:
        shared += _turned(F.normalize(torch.from_numpy(history_directions(seen, count)), dim=1), width)
    if "pictures" in parts and model.pictures is not None:
        shared += _turned(looks(model.pictures), width)
    for rows, table in tables:
        made = shared + F.normalize(means_of(texts, table), dim=1) if "text" in parts else shared
        length = float(table.float().norm(dim=1).mean())
        there = made.norm(dim=1) > 0
        own = rows[start : start + count]
        own[there] = (F.normalize(made, dim=1) * length)[there].to(own)


def looks(table: TokenTable) -> Tensor:
    """float32 [I, n] of length 1: the mean token of each picture, along the axes on which pictures differ most."""
    items = np.flatnonzero(table.mask)
    blocks = np.array_split(items, -(-len(items) // ITEMS_AT_ONCE)) if len(items) else []
    total, squares = torch.zeros(table.width).double(), torch.zeros(table.width, table.width).double()
    for some in blocks:
        means = _mean_tokens(table, some)
        total += means.sum(0)
        squares += means.T @ means
    mean = total / max(1, len(items))
    _, axes = torch.linalg.eigh(squares - len(items) * torch.outer(mean, mean))
    made = torch.zeros(len(table.mask), min(DIRECTIONS, table.width))
    for some in blocks:
        made[torch.from_numpy(some)] = ((_mean_tokens(table, some) - mean) @ axes[:, -made.shape[1] :]).float()
    return F.normalize(made, dim=1)


def _mean_tokens(table: TokenTable, items: np.ndarray) -> Tensor:
    """float64 [n, d] on the CPU."""
    return table.rows(items).mean(1).double().cpu()


def _turned(vectors: Tensor, width: int) -> Tensor:
    """[I, n] as [I, width], by axes at random; columns stand in ascending order, and where n is larger the first are left out."""
    vectors = vectors[:, -width:]
    axes, _ = torch.linalg.qr(torch.randn(width, vectors.shape[1]))
    return vectors @ axes.T


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
