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
    """Many short id lists in one array: list ``k`` is ``ids[start[k] : start[k] + length[k]]``."""

    ids: np.ndarray  # int32 [total]
    start: np.ndarray  # int64 [k]
    length: np.ndarray  # int64 [k]

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Packed:
        """Pack ``lists`` in their order."""
        length = np.fromiter((len(ids) for ids in lists), np.int64, len(lists))
        flat = np.fromiter((i for ids in lists for i in ids), np.int32, int(length.sum()))
        return cls(flat, np.cumsum(length) - length, length)


class Pieces:
    """The lists of several packed arrays under one numbering: those of ``pools[0]`` first, then those of the next."""

    def __init__(self, pools: Sequence[Packed]) -> None:
        self.pools = pools
        self.length = np.concatenate([pool.length for pool in pools])
        self._start = np.concatenate([pool.start for pool in pools])
        self._pool = np.repeat(np.arange(len(pools), dtype=np.int8), [len(pool.length) for pool in pools])

    def gather(self, chain: np.ndarray) -> np.ndarray:
        """int64: the ids of the lists ``chain`` [c], one after the other."""
        length = self.length[chain]
        shift = self._start[chain] - (np.cumsum(length) - length)
        where = np.repeat(shift, length) + np.arange(int(length.sum()))
        pool = np.repeat(self._pool[chain], length)
        out = np.empty(len(where), np.int64)
        for p in np.unique(pool):
            out[pool == p] = self.pools[p].ids[where[pool == p]]
        return out


def clean(title: str, reserved: Sequence[str]) -> str:
    """``title`` as plain text on one line: nothing in it can be a line break or a token of the tokenizer's own.

    Neither can it become one under a normaliser that folds case or compatible characters.

    >>> clean("red <s>\\n dress\\x07", ["<s>"])
    'red < s> dress'
    """
    text = " ".join("".join(c if c.isprintable() else " " for c in title).split())
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
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=not control)["input_ids"]
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
