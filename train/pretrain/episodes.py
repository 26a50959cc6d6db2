"""Random bundle questions for the embedded base: token ids without meaning, vectors without a source.

An episode is one question of the brief prompt. Its items carry up to four channels of
evidence, each a level out of a few: one shows in the title (words drawn from the level's
own pool), three are mixed into the soft vector (a random code per level). The members of
a bundle, the answer included, tend to share the bundle's level of a channel; the other
options do so by chance. Pools and codes are drawn anew for every question, so nothing can
be learnt but to compare the options with the bundle, to weigh noisy evidence, and to name
the letter of the best.

Notation: b episodes, g given items, n options, i = g + n items, s positions, h hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TEMPLATE, WORD, SOFT, GIVEN_WORD, GIVEN_SOFT, END = range(6)
"""Kinds of position: WORD, SOFT and END belong to options, GIVEN_* to the partial bundle."""

VECTOR_CHANNELS = 3


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of the brief prompt's fixed pieces, and the ids that may stand for words."""

    opening: list[int]
    options: list[int]
    answer: list[int]
    letters: list[int]
    separator: int
    end: int
    words: Tensor  # [w] every id that is none of the above


@dataclass(frozen=True)
class Knobs:
    """How hard one batch of episodes is."""

    options: int = 10
    given: int = 3
    words: int = 3
    soft: bool = True  # items carry a separator and a soft vector
    titled: bool = True  # titles carry evidence
    noise: float = 1.0  # 0: members always agree and other options never do; 1: the full range
    ragged: bool = False  # some words are left out, so that titles differ in length


@dataclass(frozen=True)
class Episodes:
    """A batch of questions with everything that the losses need."""

    tokens: Tensor  # [b, s] padded on the right with the separator
    kind: Tensor  # [b, s]
    vectors: Tensor | None  # [b, i, h] what stands at the soft positions, unit RMS
    answer_at: Tensor  # [b] position whose next token is the letter
    truth: Tensor  # [b]
    seen: Tensor  # [b, s] at a word: 1.0 where a given item before it has the same word
    likeness: Tensor  # [b, i] share of the vector's weight on which an item agrees with its bundle


def draw(batch: int, hidden: int, vocabulary: Vocabulary, knobs: Knobs, rng: torch.Generator) -> Episodes:
    """Draw `batch` episodes."""
    g, n = knobs.given, knobs.options
    items = g + n
    truth = torch.randint(n, (batch,), generator=rng)
    member = torch.zeros(batch, items, dtype=torch.bool)
    member[:, :g] = True
    member[torch.arange(batch), g + truth] = True

    count = int(torch.randint(4, 9, (1,), generator=rng))
    levels, agrees = _levels(member, count, knobs, rng)  # [b, i, c] each
    titles = _titles(levels[:, :, 0], count, vocabulary, knobs, rng)  # [b, i, words]
    vectors, likeness = None, torch.zeros(batch, items)
    if knobs.soft:
        vectors, likeness = _vectors(levels[:, :, 1:], agrees[:, :, 1:], count, hidden, rng)
    tokens, kind = _lay_out(titles, vocabulary, knobs)
    if knobs.ragged and knobs.words > 1:
        tokens, kind = _drop_words(tokens, kind, titles, vocabulary, rng)
    answer_at = (kind >= 0).sum(1) - 1
    return Episodes(tokens, kind, vectors, answer_at, truth, _seen(tokens, kind), likeness)


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def _levels(member: Tensor, count: int, knobs: Knobs, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return each item's level in each channel, and whether it is its bundle's own."""
    batch, items = member.shape
    channels = 1 + VECTOR_CHANNELS
    own = torch.randint(count, (batch, 1, channels), generator=rng)
    other = (own + torch.randint(1, count, (batch, items, channels), generator=rng)) % count
    faith = 1 - knobs.noise * _uniform((batch, 1, channels), 0.0, 0.7, rng)  # members that agree
    chance = knobs.noise * _uniform((batch, 1, channels), 0.0, 0.4, rng)  # others that agree
    blank = torch.rand(batch, 1, channels, generator=rng) < 0.3 * knobs.noise  # says nothing
    if not knobs.titled:
        blank[:, :, 0] = True
    faith = torch.where(blank, chance, faith)
    likely = torch.where(member[:, :, None], faith, chance)
    agrees = torch.rand(batch, items, channels, generator=rng) < likely  # [b, i, c]
    return torch.where(agrees, own, other), agrees


def _titles(level: Tensor, count: int, vocabulary: Vocabulary, knobs: Knobs, rng: torch.Generator) -> Tensor:
    """Spell titles: one or more words of the level's pool among words that say nothing."""
    batch, items = level.shape
    known = vocabulary.words
    size = int(torch.randint(1, 5, (1,), generator=rng))
    pools = known[torch.randint(len(known), (batch, count * size), generator=rng)]  # [b, count * size]
    filler_size = int(torch.randint(6, 25, (1,), generator=rng))
    filler = known[torch.randint(len(known), (batch, filler_size), generator=rng)]
    shape = (batch, items, knobs.words)
    pick = torch.randint(size, shape, generator=rng) + size * level[:, :, None]
    keyed = pools.gather(1, pick.flatten(1)).view(shape)
    pick = torch.randint(filler_size, shape, generator=rng)
    plain = filler.gather(1, pick.flatten(1)).view(shape)
    rate = knobs.noise * float(_uniform((1,), 0.1, 0.6, rng))
    is_key = torch.rand(shape, generator=rng) >= rate
    always = torch.randint(knobs.words, (batch, items, 1), generator=rng)
    is_key.scatter_(2, always, torch.rand(batch, items, 1, generator=rng) >= 0.2 * knobs.noise)
    if not knobs.titled:
        is_key[:] = False
    return torch.where(is_key, keyed, plain)


def _vectors(levels: Tensor, agrees: Tensor, count: int, hidden: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix the codes of an item's levels, noise and a common offset into one vector of unit RMS."""
    batch, _, channels = levels.shape
    codes = torch.randn(batch, channels, count, hidden, generator=rng)
    weight = _uniform((batch, 1, channels), 0.2, 1.0, rng)
    index = levels.transpose(1, 2)[..., None].expand(-1, -1, -1, hidden)  # [b, c, i, h]
    mixed = (codes.gather(2, index) * weight.transpose(1, 2)[..., None]).sum(1)  # [b, i, h]
    mixed = mixed + _uniform((batch, 1, 1), 0.0, 0.8, rng) * torch.randn(mixed.shape, generator=rng)
    offset = torch.randn(batch, 1, hidden, generator=rng) * _uniform((batch, 1, 1), 0.0, 1.0, rng)
    mixed = mixed + offset
    vectors = mixed / mixed.square().mean(-1, keepdim=True).sqrt()
    vectors = vectors * _uniform((batch, 1, 1), 0.7, 1.5, rng)
    likeness = (agrees * weight.square()).sum(-1) / weight.square().sum(-1)
    return vectors, likeness


def _lay_out(titles: Tensor, vocabulary: Vocabulary, knobs: Knobs) -> tuple[Tensor, Tensor]:
    """Write the brief prompt in token ids; returns tokens and kinds [b, s]."""
    batch, words = titles.shape[0], titles.shape[2]
    tokens: list[Tensor] = []
    kinds: list[int] = []

    def fixed(ids: list[int], kind: int = TEMPLATE) -> None:
        tokens.append(torch.tensor(ids).expand(batch, -1))
        kinds.extend([kind] * len(ids))

    def item(index: int, word: int, soft: int, end: int) -> None:
        tokens.append(titles[:, index])
        kinds.extend([word] * words)
        if knobs.soft:
            fixed([vocabulary.separator])
            fixed([vocabulary.separator], soft)
        fixed([vocabulary.end], end)

    fixed(vocabulary.opening)
    for index in range(knobs.given):
        item(index, GIVEN_WORD, GIVEN_SOFT, TEMPLATE)
    fixed(vocabulary.options)
    for index in range(knobs.options):
        fixed([vocabulary.letters[index]])
        item(knobs.given + index, WORD, SOFT, END)
    fixed(vocabulary.answer)
    return torch.cat(tokens, 1), torch.tensor(kinds).expand(batch, -1)


def _drop_words(
    tokens: Tensor, kind: Tensor, titles: Tensor, vocabulary: Vocabulary, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Leave a third of the words out, the first of a title never; kind is -1 past the end."""
    words = titles.shape[2]
    is_word = (kind == WORD) | (kind == GIVEN_WORD)
    first = torch.arange(words).repeat(titles.shape[1]).expand(len(tokens), -1) == 0
    drop = torch.zeros_like(is_word)
    drop[is_word] = ((torch.rand(first.shape, generator=rng) < 0.33) & ~first).flatten()
    order = drop.long().argsort(dim=1, stable=True)
    past = drop.gather(1, order)
    tokens = tokens.gather(1, order).masked_fill(past, vocabulary.separator)
    kind = kind.gather(1, order).masked_fill(past, -1)
    longest = int((kind >= 0).sum(1).max())
    return tokens[:, :longest], kind[:, :longest]


def _seen(tokens: Tensor, kind: Tensor) -> Tensor:
    """Mark the words that a given item before them has too."""
    same = (tokens[:, :, None] == tokens[:, None, :]) & (kind == GIVEN_WORD)[:, None, :]
    return same.tril(-1).any(-1).float()
