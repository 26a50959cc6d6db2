"""`descriptor:text` computes a batch at once: the vectors are those of adding up token after token, to the last bit."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from bundlecache.features import text_descriptor


def by_token(encoder: text_descriptor.TextDescriptor, texts: list[str]) -> np.ndarray:
    """What the encoder's description says, one token after the other."""
    out = np.zeros((len(texts), encoder.dim))
    for row, text in zip(out, texts, strict=True):
        words = text_descriptor._WORD.findall(text.casefold()) or [text]
        tokens = [(word, 1.0) for word in words]
        for word in words:
            for size in encoder.groups:
                groups = (f"<{word}>"[i : i + size] for i in range(len(word) + 3 - size))
                tokens += [(f"{size}{group}", encoder.group_weight) for group in groups]
        for token, weight in tokens:
            code = zlib.crc32(token.encode())
            row[code % encoder.dim] += weight if code & 0x8000_0000 else -weight
        if not row.any():
            row[zlib.crc32(text.encode()) % encoder.dim] = 1.0
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("letters", ["abc ", "aßéÄ日本語ก\u0e33x0 -_!?\U0001f600Ωﬁ ", "!… "])
def test_a_batch_gives_the_bits_of_its_tokens_one_by_one(letters: str) -> None:
    rng = random.Random(0)
    encoder = text_descriptor.TextDescriptor("descriptor:text", "float16", 1024)
    texts = [encoder.prepare("".join(rng.choices(letters, k=rng.randint(1, 40)))) for _ in range(500)]
    texts = [text for text in texts if text]
    assert np.array_equal(encoder.encode(texts).view(np.uint32), by_token(encoder, texts).view(np.uint32))
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_more_words_than_are_remembered_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = text_descriptor.TextDescriptor("descriptor:text", "float16", 1024)
    texts = [f"lamp number {i}" for i in range(300)]
    before = encoder.encode(texts)
    monkeypatch.setattr(
        text_descriptor, "_word_codes", text_descriptor.lru_cache(4)(text_descriptor._word_codes.__wrapped__)
    )
    assert np.array_equal(encoder.encode(texts).view(np.uint32), before.view(np.uint32))
