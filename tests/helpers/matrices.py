"""Matrices of given vectors, and those of the small shop."""

from __future__ import annotations

import numpy as np

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.store.store import Matrix


def matrix(vectors, mask=None, modality="text", version=1) -> Matrix:
    vectors = np.asarray(vectors, np.float32)
    mask = np.ones(len(vectors), bool) if mask is None else np.asarray(mask)
    return Matrix(modality, f"test:{modality}", f"{modality}--x", "f00", version, vectors, mask)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def catalogue_and_matrices(workspace):
    catalogue = Catalogue.read(workspace)
    even = np.array([int(item_id[-2:]) % 2 == 0 for item_id in catalogue.item_ids])
    rng = np.random.default_rng(0)
    vectors = np.where(even[:, None], [1.0, 0, 0], [0, 1.0, 0]) + 0.05 * rng.normal(size=(24, 3))
    return catalogue, {"text": matrix(vectors)}, even
