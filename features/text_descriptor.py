"""``descriptor:text``: hashed words and letter groups of a text, an encoder without weights."""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .fingerprints import fingerprint
from .item_text import TEXT_READING, clean_text

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

_WORD = re.compile(r"\w+")


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
        out = np.zeros((len(samples), self.dim))
        for row, text in zip(out, samples, strict=True):
            for token, weight in self._tokens(text):
                code = zlib.crc32(token.encode())
                row[code % self.dim] += weight if code & 0x8000_0000 else -weight
            if not row.any():  # every token met its opposite: rare, and still no reason for a zero vector
                row[zlib.crc32(text.encode()) % self.dim] = 1.0
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)

    def _tokens(self, text: str) -> list[tuple[str, float]]:
        """Words and letter groups with their weights; a text without any letter or digit is one word."""
        words = _WORD.findall(text.casefold()) or [text]
        found = [(word, 1.0) for word in words]
        for word in words:
            framed = f"<{word}>"
            for size in self.groups:
                found += [(f"{size}{framed[i : i + size]}", self.group_weight) for i in range(len(framed) - size + 1)]
        return found
