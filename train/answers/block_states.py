"""The language model's hidden states of options that cannot see each other, behind one common prefix.

Three ways give the same numbers:

- *packed*, where something is trained: prefix and blocks are one sequence, a mask hides the blocks from each other, and
  each begins at the position behind the prefix
- *cached*, where nothing is trained: keys and values of the prefix are computed once, and the blocks are packed against
  them, some at a time, so that a thousand options take no more memory than a few
- *apart*, for models that take no such mask (sliding windows, positions without numbers): a row of its own for each option

Notation: b questions in a batch, n options, L tokens of a prefix, t tokens of a question's blocks, h hidden width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..model.embeddings import to_device

if TYPE_CHECKING:
    from ..prompts.option_blocks import OptionBlocks
    from .form import AskedModel

TOKENS_AT_ONCE = 256
"""Tokens of a question's blocks that are packed at once against a cached prefix: more of them hide more from each other."""
MASKABLE = ("sdpa", "eager")
"""The attention of transformers that takes a mask of any shape."""


@dataclass(frozen=True)
class States:
    """Last hidden states of questions, for some of their options."""

    blocks: OptionBlocks  # these options alone
    prefix: Tensor  # [b, h] at the last token of the prefix
    block: Tensor  # [b, t, h]

    def ends(self) -> Tensor:
        """[b, n, h] at the last token of each option."""
        row = torch.arange(len(self.block), device=self.block.device)[:, None]
        return self.block[row, to_device(self.blocks.ends, self.block.device)]


def read(model: AskedModel, blocks: OptionBlocks, tokens: Tensor | None, way: str | None = None) -> Iterator[States]:
    """The states of all options, in one piece or several; ``way`` is packed, cached or apart, the fastest if left out."""
    core = model.llm.get_base_model()
    decoder = getattr(core, core.base_model_prefix)
    if way is None:
        way = "apart" if not _takes_mask(decoder) else "packed" if torch.is_grad_enabled() else "cached"
    ways = {"packed": _packed, "cached": _cached, "apart": _apart}
    yield from ways[way](model, decoder, blocks, tokens)


def _takes_mask(decoder: Any) -> bool:
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if getattr(decoder.config, "_attn_implementation", None) not in MASKABLE:
        return False
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=decoder.config).layers)


def _packed(model: AskedModel, decoder: Any, blocks: OptionBlocks, tokens: Tensor | None) -> Iterator[States]:
    width = blocks.prefix.shape[1]
    embeds = model.embed(np.concatenate([blocks.prefix, blocks.block], axis=1), tokens, blocks.longest)
    before = np.arange(width)
    position = np.concatenate([np.broadcast_to(before, blocks.prefix.shape), _positions(blocks)], axis=1)
    shown = np.zeros((len(embeds), embeds.shape[1], embeds.shape[1]), bool)
    shown[:, :width, :width] = before[:, None] >= before
    shown[:, width:] = _shown(blocks)
    states = decoder(
        inputs_embeds=embeds,
        attention_mask=_mask(shown, embeds),
        position_ids=to_device(position, embeds.device),
        use_cache=False,
    ).last_hidden_state
    yield States(blocks, _at(states, blocks.length - 1), states[:, width:])


def _cached(model: AskedModel, decoder: Any, blocks: OptionBlocks, tokens: Tensor | None) -> Iterator[States]:
    from transformers import DynamicCache

    cache = DynamicCache(config=decoder.config)
    embeds = model.embed(blocks.prefix, tokens, blocks.longest)
    prefix = decoder(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
    last = _at(prefix, blocks.length - 1)
    for part in _parts(blocks):
        embeds = model.embed(part.block, tokens, part.longest)
        states = decoder(
            inputs_embeds=embeds,
            attention_mask=_mask(_shown(part), embeds),
            position_ids=to_device(_positions(part), embeds.device),
            past_key_values=_copied(cache),
            use_cache=True,
        ).last_hidden_state
        yield States(part, last, states)


def _apart(model: AskedModel, decoder: Any, blocks: OptionBlocks, tokens: Tensor | None) -> Iterator[States]:
    count, n = blocks.ends.shape
    for part in [blocks] if torch.is_grad_enabled() else _parts(blocks):
        n = part.ends.shape[1]
        size = np.diff(part.ends, axis=1, prepend=-1)  # [b, n]
        length = np.repeat(part.length, n) + size.ravel()
        ids = np.zeros((count * n, int(length.max())), np.int64)  # causal attention never looks at the padding
        for row in range(count * n):
            q, k = divmod(row, n)
            stop = part.ends[q, k] + 1
            mine = [part.prefix[q, : part.length[q]], part.block[q, stop - size[q, k] : stop]]
            ids[row, : length[row]] = np.concatenate(mine)
        states = decoder(inputs_embeds=model.embed(ids, tokens, ids.shape[1]), use_cache=False).last_hidden_state
        question, column = np.nonzero(part.option >= 0)
        row = question * n + part.option[question, column]
        where = to_device(np.stack([row, part.length[question] + part.place[question, column]]), states.device)
        block = states.new_zeros((*part.block.shape, states.shape[2]))
        places = to_device(np.stack([question, column]), states.device)
        block = block.index_put((places[0], places[1]), states[where[0], where[1]])
        yield States(part, _at(states[::n], part.length - 1), block)


def _parts(blocks: OptionBlocks) -> Iterator[OptionBlocks]:
    """The options by so many that their tokens are about `TOKENS_AT_ONCE` a question."""
    n = blocks.ends.shape[1]
    many = max(1, int(TOKENS_AT_ONCE * n // max(1, blocks.block.shape[1])))
    for first in range(0, n, many):
        yield blocks if many >= n else blocks.part(first, min(n, first + many))


def _positions(blocks: OptionBlocks) -> np.ndarray:
    """int64 [b, t]: every block begins behind the prefix."""
    return blocks.length[:, None] + blocks.place


def _shown(blocks: OptionBlocks) -> np.ndarray:
    """Bool [b, t, L + t]: a token sees the prefix, and of its own block what stands before it and itself."""
    before = np.arange(blocks.prefix.shape[1]) < blocks.length[:, None]  # [b, L]
    place = np.arange(blocks.option.shape[1])
    own = (blocks.option[:, :, None] == blocks.option[:, None, :]) & (place[:, None] >= place)
    seen = np.broadcast_to(before[:, None], (*blocks.option.shape, before.shape[1]))
    return np.concatenate([seen, own], axis=2)


def _mask(shown: np.ndarray, embeds: Tensor) -> Tensor:
    """What is added to the attention scores, [b, 1, q, k]: nothing where a key is shown, else the least number there is."""
    hidden = ~to_device(shown, embeds.device)[:, None]
    return torch.zeros(hidden.shape, dtype=embeds.dtype, device=embeds.device).masked_fill(
        hidden, torch.finfo(embeds.dtype).min
    )


def _copied(cache: Any) -> Any:
    """A cache that grows by itself; the keys and values so far are shared."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


def _at(states: Tensor, place: np.ndarray) -> Tensor:
    """[b, h]: ``states`` [b, L, h] at one place of each row."""
    where = to_device(place, states.device)
    return states[torch.arange(len(states), device=states.device), where]
