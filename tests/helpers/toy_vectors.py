"""Item ids, random vectors of small width, and the identities of their tables."""

from __future__ import annotations

import numpy as np

from bundlecache.store.table_schema import Identity

PICTURES = Identity("image", "toy:pictures", "f" * 64, "none", "float16", 6)


TOKENS = Identity("image", "toy:patches", "f" * 64, "none", "float16", 6, tokens=3)


def names(count: int) -> list[str]:
    return [f"item-{i}" for i in range(count)]


def vectors(count: int, seed: int = 0, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float16)


def patches(count: int, seed: int = 0) -> np.ndarray:
    return vectors(count * 3, seed).reshape(count, 3, 6)
