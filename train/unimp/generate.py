"""Generates what follows a prompt: beams that may be constrained, over a prefix that is computed once.

Keys and values of the prompt are cached, and new tokens see the prompt's last picture. Notation: b rows, w beams, L tokens
of the longest prompt, l beams that are not finished, of all rows together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .batch import Batch
from .pictures import Pictures
from .rows import ExtraRows
from .vocabulary import Vocabulary

Allowed = Callable[[tuple[int, ...]], Sequence[int]]


class Model(Protocol):
    """What of `bundlecache.train.unimp.model.UniMP` generation asks."""

    vocabulary: Vocabulary
    rows: ExtraRows

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def core(self) -> Any: ...  # noqa: D102

    @property
    def decoder(self) -> Any: ...  # noqa: D102

    def see(self, batch: Batch) -> Pictures | None: ...  # noqa: D102

    def states(self, ids: Tensor, pictures: Pictures | None, **how: Any) -> Tensor: ...  # noqa: D102

    def logits(self, hidden: Tensor) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class Beam:
    """Generated ids, without the one that ended them, and the sum of their log-probabilities."""

    ids: tuple[int, ...]
    score: float


@torch.no_grad()
def generate(
    model: Model,
    batch: Batch,
    max_tokens: int,
    allowed: Allowed | Sequence[Allowed] | None = None,
    beams: int = 1,
) -> list[list[Beam]]:
    """The ``beams`` best continuations of every row of ``batch``, best first.

    They are ordered by their mean log-probability a token; one beam takes the likeliest word each time. ``allowed`` gives the ids that may follow the
    ids generated so far, and none when these are whole, for all rows or in a list for each; probabilities are those among
    all words. Without
    it any word of the base may follow, and the end is <|endofchunk|> or the base's own end of a text, whose
    log-probability counts.
    """
    lengths = batch.there.sum(1).cpu()
    if len(set(lengths.tolist())) > 1 and not _mixes_lengths(model):
        found: list[list[Beam]] = [[] for _ in lengths]
        for length in set(lengths.tolist()):
            rows = [row for row, own in enumerate(lengths.tolist()) if own == length]
            some = [allowed[row] for row in rows] if isinstance(allowed, Sequence) else allowed
            for row, made in zip(rows, generate(model, batch.take(rows), max_tokens, some, beams), strict=True):
                found[row] = made
        return found
    search = _Search(model, batch.to(model.device), lengths.to(model.device), beams)
    rules = allowed if allowed is None or isinstance(allowed, Sequence) else [allowed] * len(lengths)
    while search.live and search.step < max_tokens:
        search.advance(rules, last=search.step + 1 == max_tokens)
    return search.best()


def _mixes_lengths(model: Model) -> bool:
    """Whether rows of different lengths can be continued together: positions must be given, and no layer forget."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    told = "position_ids" in inspect.signature(model.decoder.forward).parameters
    return told and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.core.config).layers)


class _Search:
    """The beams of all rows, with the cache that their last tokens were put into."""

    def __init__(self, model: Model, batch: Batch, lengths: Tensor, beams: int) -> None:
        from transformers import DynamicCache

        self.model, self.beams, self.step = model, beams, 0
        self.there, self.lengths = batch.there, lengths
        self.padded = bool((lengths < batch.ids.shape[1]).any())
        self.cache = DynamicCache(config=model.core.config)
        self.pictures = model.see(batch)
        states = model.states(batch.ids, self.pictures, use_cache=True, past_key_values=self.cache)
        last = torch.arange(len(lengths), device=lengths.device), lengths - 1
        self.logits = model.logits(states[last])
        if self.pictures is not None:
            self.time, self.place = self.pictures.time[last], self.pictures.place  # [b], [b, k]
        self.live: list[tuple[int, Beam]] = [(row, Beam((), 0.0)) for row in range(len(lengths))]  # (row, beam) [l]
        self.done: list[list[Beam]] = [[] for _ in range(len(lengths))]
        config, words = model.core.config.get_text_config(), model.vocabulary
        ends = config.eos_token_id
        self.ends = {words.end_of_chunk, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}
        self.banned = torch.tensor(
            [token for token in range(words.base_size, words.size) if token != words.end_of_chunk],
            device=lengths.device,
        )

    def advance(self, allowed: Sequence[Allowed] | None, *, last: bool) -> None:
        """Lengthen every beam by one token and keep the best; with ``last`` none goes on."""
        proposals: list[list[tuple[float, int, int]]] = [[] for _ in self.done]  # (score, beam, id) by row
        likely = self.logits.log_softmax(-1)
        if allowed is None:
            likely[:, self.banned] = -torch.inf
            values, ids = likely.topk(min(2 * self.beams, likely.shape[1]), dim=-1)
            choices = list(zip(values.tolist(), ids.tolist(), strict=True))
        for k, (row, beam) in enumerate(self.live):
            if allowed is not None:
                given = list(allowed[row](beam.ids))
                if not given:
                    self.done[row].append(beam)
                    continue
                values = likely[k, torch.tensor(given, device=likely.device)]
                top, where = values.topk(min(2 * self.beams, len(given)))
                choices_k = top.tolist(), [given[i] for i in where.tolist()]
            else:
                choices_k = choices[k]
            proposals[row] += [(beam.score + v, k, token) for v, token in zip(*choices_k, strict=True)]
        chosen: list[tuple[int, int, Beam]] = []  # parent, row, beam
        for row, some in enumerate(proposals):
            going = 0
            for score, k, token in sorted(some, reverse=True):
                if going == self.beams:
                    break
                before = self.live[k][1].ids
                if token in self.ends:
                    self.done[row].append(Beam(before, score))
                    if self.beams == 1:
                        break  # the likeliest word, one after the other, and nothing behind an end
                    continue
                going += 1
                chosen.append((k, row, Beam((*before, token), score)))
        self._go_on(chosen, allowed, last=last)

    def _go_on(self, chosen: list[tuple[int, int, Beam]], allowed: Sequence[Allowed] | None, *, last: bool) -> None:
        """Feed the tokens of the ``chosen`` beams, but for those that are whole or cannot come among the best."""
        going = []
        for parent, row, beam in chosen:
            if last or (allowed is not None and not allowed[row](beam.ids)):
                self.done[row].append(beam)
            elif len(self.done[row]) < self.beams or _mean(beam) > sorted(map(_mean, self.done[row]))[-self.beams]:
                going.append((parent, row, beam))
        self.live = [(row, beam) for _, row, beam in going]
        self.step += 1
        if not going:
            return
        model, device = self.model, self.lengths.device
        self.cache.reorder_cache(torch.tensor([parent for parent, _, _ in going], device=device))
        rows = torch.tensor([row for _, row, _ in going], device=device)
        tokens = torch.tensor([[beam.ids[-1]] for _, _, beam in going], device=device)  # [l, 1]
        how: dict[str, Any] = {"use_cache": True, "past_key_values": self.cache}
        if self.padded:
            ours = self.there.new_ones(len(going), self.step)
            how["attention_mask"] = torch.cat([self.there[rows], ours], dim=1).long()
            how["position_ids"] = (self.lengths[rows] + self.step - 1)[:, None]
        pictures = None
        if self.pictures is not None:
            pictures = self.pictures.later(self.time[rows][:, None], self.place[rows])
        states = model.states(tokens, pictures, **how)
        self.logits = model.logits(states[:, -1])

    def best(self) -> list[list[Beam]]:
        """The best beams of every row."""
        return [sorted(some, key=_mean, reverse=True)[: self.beams] for some in self.done]


def _mean(beam: Beam) -> float:
    """Mean log-probability a token, the end included."""
    return beam.score / max(1, len(beam.ids))
