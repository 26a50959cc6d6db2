"""``descriptor:text``: hashed words and letter groups of a text, an encoder without weights."""

from __future__ import annotations

import re
import unicodedata
import zlib
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .fingerprints import fingerprint
from .item_text import TEXT_READING, clean_text

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

_WORD = re.compile(r"\w+")
CACHED_WORDS = 65_536  # words whose hashes are remembered: titles repeat them


def load(spec: EncoderSpec, options: Options) -> TextDescriptor:
    """The registry's entry for ``descriptor:text``."""
    return TextDescriptor(spec.text, options.dtype, options.batch_size or 1024)


class TextDescriptor:
    """Words (weight 1) and groups of 3 to 5 letters (weight 0.35), hashed with a sign into 128 numbers.

    No vocabulary and no document frequencies: a title's vector depends on the title alone, so adding an
    item changes no other. The sign keeps collisions from adding up. Case does not count; writing without
    spaces is carried by the letter groups. Rows have length one.
    """

    modality = "text"
    tokens = 0
    reading = TEXT_READING
    dim = 128
    groups = (3, 4, 5)
    group_weight = 0.35

    def __init__(self, spec: str, dtype: str, batch_size: int) -> None:
        self.spec, self.dtype, self.batch_size = spec, dtype, batch_size
        self.fingerprint = fingerprint("text descriptor", 1, self.dim, self.groups, self.group_weight)
        self.preprocess = f"{self.reading}, NFKC, case-folded, words and letter groups, crc32"

    def read(self, source: Path | str) -> str:
        """The title without surrounding space."""
        return clean_text(source)

    def prepare(self, raw: str) -> str:
        """The title in one Unicode form with single spaces."""
        return " ".join(unicodedata.normalize("NFKC", raw).split())

    def encode(self, samples: list[Any]) -> np.ndarray:
        """Titles -> float32 [n, 128]."""
        texts = []
        for text in samples:
            words = [_word_codes(word, self.groups) for word in _WORD.findall(text.casefold()) or [text]]
            texts.append(b"".join([word for word, _ in words]) + b"".join([groups for _, groups in words]))
        codes = np.frombuffer(b"".join(texts), np.uintc)  # [tokens], the words of a title before its letter groups
        title = np.repeat(np.arange(len(texts)), [len(text) // codes.itemsize for text in texts])  # [tokens]
        weights = np.array([-1.0, 1.0, -self.group_weight, self.group_weight])[codes & 3]
        size = len(texts) * self.dim
        out = np.bincount(title * self.dim + (codes >> 2) % self.dim, weights, size).reshape(len(texts), self.dim)
        for row in np.flatnonzero(~out.any(axis=1)):  # every token met its opposite: rare, and still no zero vector
            out[row, zlib.crc32(samples[row].encode()) % self.dim] = 1.0
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


@lru_cache(CACHED_WORDS)
def _word_codes(word: str, groups: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The codes of a word, and of its letter groups, as 32-bit numbers: hash without its upper two bits, whether it is a group, sign."""
    framed = f"<{word}>"
    parts = [f"{size}{framed[i : i + size]}" for size in groups for i in range(len(framed) - size + 1)]
    return _codes([word], group=0), _codes(parts, group=1)


def _codes(tokens: list[str], group: int) -> bytes:
    hashes = [zlib.crc32(token.encode()) for token in tokens]
    return array("I", [(code & 0x3FFF_FFFF) << 2 | group << 1 | code >> 31 for code in hashes]).tobytes()
