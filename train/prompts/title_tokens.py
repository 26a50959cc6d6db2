"""Token ids of many titles: made from those of their words where that is the same, else title by title.

The last word of a title may share a token with what follows (``),`` is one token of Llama-2's). So a title is kept
together with the beginning of what follows it, up to the next space: its *ending*. Most tokenizers have no token with a
space behind another character. Then the ids between two spaces do not depend on what stands outside: a prompt can be
put together by copying ids, and so can a title from its words. A million titles have few different words, so these are
tokenised once each.

What is not plain ASCII may be changed by a tokenizer's normaliser, so such titles, and a sample of all others, are
tokenised whole between the words that stand around them in a prompt. Where the ids of the neighbours are not found again
on both sides, the title is marked as not ``exact``, and prompts that contain it are tokenised whole. Where a title of
the sample has other ids than its words, all titles are tokenised whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .tokens import Packed, encode_many, ranges

TITLES_PER_CALL = 8192  # of the tokenizer
SAMPLED_TITLES = 2048
"""Titles that are tokenised whole, to see that their words alone have the same ids."""
SPACES = "\u0120\u2581 "
"""How vocabularies write a space: byte-level ones, SentencePiece, and plain."""

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Ending:
    """What follows a title up to the next space, and an example of what stands before the title and after that.

    ``right`` is empty or begins with a space.
    """

    left: str
    text: str
    right: str


def schema(endings: Sequence[Ending]) -> pa.Schema:
    """The columns of a table of titles: as given, as shown, whether its ids are exact, and its ids with each ending."""
    fields = [("title", pa.string()), ("shown", pa.string()), ("exact", pa.bool_())]
    return pa.schema([*fields, *((f"ids {k}", pa.list_(pa.int32())) for k in range(len(endings)))])


def tokenised(
    tokenizer: Any, titles: pa.Array, endings: Sequence[Ending], max_tokens: int, progress: Tell | None = None
) -> pa.Table:
    """The table (`schema`) of ``titles``, which are distinct and clean (`bundlecache.train.prompts.tokens.clean`)."""
    tell = progress or _tell_nobody
    if not splits_at_spaces(tokenizer):
        return _whole(tokenizer, titles, endings, max_tokens, tell)
    ascii_only = pc.and_(pc.string_is_ascii(titles), pc.not_equal(titles, ""))
    plain, odd = titles.filter(ascii_only), titles.filter(pc.invert(ascii_only))
    made = _from_words(tokenizer, plain, endings, max_tokens, tell)
    sample = np.unique(np.linspace(0, len(plain) - 1, min(len(plain), SAMPLED_TITLES)).astype(np.int64))
    tried = _whole(tokenizer, plain.take(pa.array(sample)), endings, max_tokens, _tell_nobody)
    if not made.take(pa.array(sample)).equals(tried):
        return _whole(tokenizer, titles, endings, max_tokens, tell)
    if not len(odd):
        return made
    both = pa.concat_tables([made, _whole(tokenizer, odd, endings, max_tokens, tell)]).combine_chunks()
    return both.take(pc.index_in(titles, value_set=both["title"]))


def splits_at_spaces(tokenizer: Any) -> bool:
    """Whether no token of the vocabulary has a space behind another character; control tokens are no part of a title."""
    control = {*tokenizer.get_added_vocab(), *map(str, tokenizer.all_special_tokens)}
    words = pa.array([word for word in tokenizer.get_vocab() if word not in control], pa.string())
    return not pc.any(pc.match_substring_regex(words, f"[^{SPACES}][{SPACES}]")).as_py()


def shorten(tokenizer: Any, titles: Sequence[str], max_tokens: int) -> list[str]:
    """``titles`` cut, where they are longer, to their longest beginning of at most ``max_tokens`` tokens."""
    cut = list(titles)
    lengths = [len(ids) for ids in encode_many(tokenizer, [f" {title}" if title else "" for title in titles])]
    long = [k for k, length in enumerate(lengths) if length > max_tokens]
    low, high = np.zeros(len(long), int), np.array([len(titles[k]) for k in long], int)  # fits, does not fit
    while (high - low > 1).any():
        middle = (low + high) // 2
        tried = encode_many(tokenizer, [f" {titles[k][:m]}".rstrip() for k, m in zip(long, middle, strict=True)])
        fits = np.array([len(ids) <= max_tokens for ids in tried], bool)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    for k, m in zip(long, low, strict=True):
        cut[k] = titles[k][:m].rstrip()
    return cut


def _from_words(tokenizer: Any, titles: pa.Array, endings: Sequence[Ending], max_tokens: int, tell: Tell) -> pa.Table:
    """The table of titles whose words are tokenised alone; all of them are exact."""
    words = _Words(tokenizer, titles)
    long = words.lengths > max_tokens
    shown = titles
    if long.any():
        rows, cut = np.flatnonzero(long), list[str]()
        for k in range(0, len(rows), TITLES_PER_CALL):
            tell(k, len(rows))
            cut += shorten(tokenizer, titles.take(pa.array(rows[k : k + TITLES_PER_CALL])).to_pylist(), max_tokens)
        shown = pc.replace_with_mask(titles, pa.array(long), pa.array(cut, pa.string()))
        words = _Words(tokenizer, shown)
    columns: dict[str, Any] = {}
    for k, ending in enumerate(endings):
        tell(k, len(endings))
        ids = words.joined(ending.text)
        columns[f"ids {k}"] = pa.ListArray.from_arrays(pa.array(ids.bounds, pa.int32()), pa.array(ids.ids, pa.int32()))
    exact = pa.array(np.ones(len(titles), bool))
    return pa.table({"title": titles, "shown": shown, "exact": exact, **columns}, schema(endings))


class _Words:
    """The words of titles [I] and their ids, each with the space before it; no word is tokenised twice."""

    def __init__(self, tokenizer: Any, titles: pa.Array) -> None:
        self._tokenizer = tokenizer
        lists = pc.split_pattern(titles, " ")
        self._bounds = lists.offsets.to_numpy().astype(np.int64)  # [I + 1]: where the words of each title begin
        found = lists.values.dictionary_encode()
        self._known, self._which = found.dictionary, _indices(found)  # [words]
        self._ids = self._encoded(found.dictionary, "")

    @property
    def lengths(self) -> np.ndarray:
        """int64 [I]: how many tokens each title has."""
        total = np.concatenate([[0], np.cumsum(np.diff(self._ids.bounds)[self._which])])
        return np.diff(total[self._bounds])

    def joined(self, ending: str) -> Packed:
        """The ids of each title with ``ending`` behind its last word."""
        ids, which = self._ids, self._which
        if ending:
            last = self._bounds[1:] - 1
            found = self._known.take(pa.array(which[last])).dictionary_encode()
            ends = self._encoded(found.dictionary, ending)
            which = which.copy()
            which[last] = _indices(found) + len(ids)
            bounds = np.concatenate([ids.bounds, ids.bounds[-1] + ends.bounds[1:]])
            ids = Packed(np.concatenate([ids.ids, ends.ids]), bounds)
        start, length = ids.bounds[which], np.diff(ids.bounds)[which]  # [words]
        total = np.concatenate([[0], np.cumsum(length)])
        return Packed(ids.ids[ranges(start, length)], total[self._bounds])

    def _encoded(self, words: pa.Array, ending: str) -> Packed:
        texts = [f" {word}{ending}" for word in words.to_pylist()]
        lists: list[list[int]] = []
        for k in range(0, len(texts), TITLES_PER_CALL):
            lists += encode_many(self._tokenizer, texts[k : k + TITLES_PER_CALL])
        return Packed.of(lists)


def _indices(found: pa.DictionaryArray) -> np.ndarray:
    return found.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _whole(tokenizer: Any, titles: pa.Array, endings: Sequence[Ending], max_tokens: int, tell: Tell) -> pa.Table:
    """The table of titles that are tokenised whole, between the words around them; the library computes in threads."""
    parts = []
    for k in range(0, len(titles), TITLES_PER_CALL):
        tell(k, len(titles))
        parts.append(_whole_block(tokenizer, titles[k : k + TITLES_PER_CALL].to_pylist(), endings, max_tokens))
    return pa.concat_tables([schema(endings).empty_table(), *parts]).combine_chunks()


def _whole_block(tokenizer: Any, titles: list[str], endings: Sequence[Ending], max_tokens: int) -> pa.Table:
    shown = shorten(tokenizer, titles, max_tokens)
    exact = np.ones(len(titles), bool)
    columns: dict[str, Any] = {}
    for k, ending in enumerate(endings):
        left, right = encode_many(tokenizer, [ending.left, ending.right])
        texts = [ending.left + (f" {title}" if title else "") + ending.text + ending.right for title in shown]
        lists = []
        for row, ids in enumerate(encode_many(tokenizer, texts)):
            stop = len(ids) - len(right)
            exact[row] &= stop >= len(left) and ids[: len(left)] == left and ids[stop:] == right
            lists.append(ids[len(left) : max(stop, len(left))])
        columns[f"ids {k}"] = pa.array(lists, pa.list_(pa.int32()))
    return pa.table({"title": titles, "shown": shown, "exact": exact, **columns}, schema(endings))


def _tell_nobody(done: int, of: int) -> None:
    """For callers that want no progress."""
