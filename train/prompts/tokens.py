"""Token ids of texts, and many short lists of them packed into arrays from which prompts are copied."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bundlecache.errors import RecipeError
from bundlecache.recipes.settings import Prompt

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANCHOR = "a"
"""The word after which pieces are tokenised: alone, SentencePiece would put a space in front of them."""


@dataclass(frozen=True)
class Packed:
    """Many short id lists in one array: list ``k`` is ``ids[bounds[k] : bounds[k + 1]]``."""

    ids: np.ndarray  # int32 [total]
    bounds: np.ndarray  # int32 or int64 [k + 1]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Packed:
        """Pack ``lists`` in their order."""
        length = np.fromiter((len(ids) for ids in lists), np.int64, len(lists))
        flat = np.fromiter((i for ids in lists for i in ids), np.int32, int(length.sum()))
        return cls(flat, np.concatenate([[0], np.cumsum(length)]))


class Pieces:
    """The lists of several packed arrays under one numbering: those of ``pools[0]`` first, then those of the next.

    Nothing is copied from the pools until it is asked for: those of a large catalogue are memory-mapped.
    """

    def __init__(self, pools: Sequence[Packed]) -> None:
        self.pools = pools
        self._first = np.cumsum([0, *map(len, pools)])  # number of the first list of each pool

    def lengths(self, chain: np.ndarray) -> np.ndarray:
        """int64 [c]: how many ids the lists ``chain`` [c] hold."""
        _, start, stop = self._places(chain)
        return stop - start

    def gather(self, chain: np.ndarray) -> np.ndarray:
        """int64: the ids of the lists ``chain`` [c], one after the other."""
        pool, start, stop = self._places(chain)
        length = stop - start
        where = ranges(start, length)
        pool = np.repeat(pool, length)
        out = np.empty(len(where), np.int64)
        for p in np.unique(pool):
            out[pool == p] = self.pools[p].ids[where[pool == p]]
        return out

    def _places(self, chain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pool, start and stop [c] each of the lists ``chain`` [c]."""
        pool = np.searchsorted(self._first, chain, side="right") - 1
        row = chain - self._first[pool]
        start, stop = np.empty(len(chain), np.int64), np.empty(len(chain), np.int64)
        for p in np.unique(pool):
            mine = pool == p
            start[mine] = self.pools[p].bounds[row[mine]]
            stop[mine] = self.pools[p].bounds[row[mine] + 1]
        return pool, start, stop


def ranges(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """int64: ``start[k], start[k] + 1, ...``, ``length[k]`` numbers of each k, one after the other.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    shift = start - (np.cumsum(length) - length)
    return np.repeat(shift, length) + np.arange(int(length.sum()))


def padded(flat: np.ndarray, length: np.ndarray, fill: int = 0) -> np.ndarray:
    """int64 [b, L]: rows of ``length`` [b] numbers each, one after the other in ``flat``, with ``fill`` behind them."""
    out = np.full((len(length), int(length.max(initial=0))), fill, np.int64)
    out[np.arange(out.shape[1]) < length[:, None]] = flat
    return out


def clean(title: str, reserved: Sequence[str]) -> str:
    """``title`` as plain text on one line: nothing in it can be a line break or a token of the tokenizer's own.

    Neither can it become one under a normaliser that folds case or compatible characters.

    >>> clean("red <s>\\n dress\\x07", ["<s>"])
    'red < s> dress'
    """
    if not title.isprintable():
        title = "".join(c if c.isprintable() else " " for c in title)
    text = " ".join(title.split())
    if not reserved:
        return text
    control = _any_of(tuple(reserved))
    if not text.isascii() and control.search(folded := unicodedata.normalize("NFKC", text)):
        text = folded
    while control.search(text):
        text = control.sub(lambda found: f"{found[0][:1]} {found[0][1:]}" if len(found[0]) > 1 else " ", text)
    return " ".join(text.split())


@cache
def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)), re.IGNORECASE)


def reserved(tokenizer: Any) -> list[str]:
    """The texts that this tokenizer takes for control tokens, longest first."""
    words = {str(token) for token in tokenizer.get_added_vocab()} | {
        str(token) for token in tokenizer.all_special_tokens
    }
    return sorted((word for word in words if word.strip()), key=len, reverse=True)


def encode_many(tokenizer: Any, pieces: Sequence[str], *, control: bool = False) -> list[list[int]]:
    """Ids of ``pieces`` as they are spelled after a word; see :func:`encode_text`."""
    anchor, *anchored = encode_text(tokenizer, [ANCHOR, *(ANCHOR + piece for piece in pieces)], control=control)
    lists = [ids[len(anchor) :] if ids[: len(anchor)] == anchor else None for ids in anchored]
    alone = [k for k, ids in enumerate(lists) if ids is None]
    if alone:  # the piece melts into the word before it
        for k, ids in zip(alone, encode_text(tokenizer, [pieces[k] for k in alone], control=control), strict=True):
            lists[k] = ids
    return [ids for ids in lists if ids is not None]


def encode_text(tokenizer: Any, texts: Sequence[str], *, control: bool = False) -> list[list[int]]:
    """Ids of ``texts`` from their beginning: plain text, out of which no control token can come unless they count."""
    how = {"add_special_tokens": False, "split_special_tokens": not control, "return_attention_mask": False}
    encoded = tokenizer(list(texts), **how)["input_ids"]
    return [list(ids) for ids in encoded]


def encode_control(tokenizer: Any, text: str) -> list[int]:
    """Ids of ``text`` of a recipe or a template, in which control tokens such as ``<sep>`` do count."""
    return encode_text(tokenizer, [text], control=True)[0]


def letter_ids(tokenizer: Any, at_least: int, spellings: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """int64 [n]: the one token of each answer " A", " B", ..., as far as the tokenizer has them.

    A letter counts when it is one token that decodes to it again and that no letter before it has. ``spellings``
    are the letters' ids where an answer is spelled otherwise.

    Raises
    ------
    RecipeError
        When there are fewer than ``at_least``.
    """
    found: list[int] = []
    spellings = spellings or encode_many(tokenizer, [f" {letter}" for letter in ALPHABET])
    for letter, ids in zip(ALPHABET, spellings, strict=True):
        if len(ids) != 1 or ids[0] in found or tokenizer.decode(ids).strip() != letter:
            break
        found.append(ids[0])
    if len(found) < at_least:
        more = (
            f"; {ALPHABET[len(found)]!r} is {len(spellings[len(found)])} tokens" if len(found) < len(ALPHABET) else ""
        )
        raise RecipeError(
            f"{at_least} options were asked for, but this tokenizer has one token each for {len(found)} letters{more}.",
            hint="--set data.options=10, or take another base model",
        )
    return np.array(found, np.int64)


def full_stop(tokenizer: Any) -> int:
    """The token of the full stop behind an answer.

    Raises
    ------
    RecipeError
        When "A." is not a letter and a full stop.
    """
    (ids,) = encode_many(tokenizer, [" A."])
    if len(ids) != 2:
        raise RecipeError(
            f"The loss over letter and full stop needs two tokens for 'A.', but here it is {len(ids)}.",
            hint="--set run.loss=vocabulary",
        )
    return ids[1]


def separator_ids(tokenizer: Any, settings: Prompt) -> list[int]:
    """Ids whose mean embedding starts the soft separator; empty when the recipe names none."""
    return encode_control(tokenizer, settings.separator_init) if settings.separator_init else []
