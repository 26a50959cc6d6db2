"""The fused tokens of items: computed in chunks, as vectors to search, and what the fusion attends to.

Notation: u items, m modalities, I items of the catalogue, h hidden width of the language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bundlecache.errors import CheckpointError, Command
from bundlecache.store.store import Matrix

if TYPE_CHECKING:
    from bundlecache.questions.question_file import Questions

    from ..model.bundle_mllm import BundleMLLM

ITEM_CHUNK = 8192  # items fused at once
KEPT_BYTES = 1 << 28  # of fused tokens that stay in memory


@torch.inference_mode()
def fused(model: BundleMLLM, run: Path) -> Matrix:
    """The fused token of every item of the catalogue as a `Matrix` [I, h], for searching.

    Raises
    ------
    CheckpointError
        When ``run`` was trained on titles alone.
    """
    if model.embeddings is None or model.tokens is None:
        raise CheckpointError(
            f"{run.name} was trained on titles alone, so it has no fused tokens.", hint=Command("train")
        )
    mask = model.embeddings.mask.any(dim=1).cpu().numpy()
    parts = [model.item_tokens(items).float().cpu() for items in _chunks(np.arange(len(mask)))]
    vectors = torch.cat(parts).numpy()
    cause = hashlib.blake2b((run / "fusion.safetensors").read_bytes(), digest_size=16)
    cause.update(repr([(matrix.table, matrix.version) for matrix in model.embeddings.matrices]).encode())
    return Matrix("fused", f"run:{run.name}", f"runs/{run.name}", cause.hexdigest(), 1, vectors, mask)


@torch.inference_mode()
def attention(model: BundleMLLM, questions: Questions) -> dict[str, Any] | None:
    """Mean attention of the fusion over the m modalities of the options; None when the model fuses nothing.

    ``weight`` [m] is each modality's share of attention (sum 1), ``even`` [m] the share under uniform attention,
    ``present`` [m] the share of items that have the modality, ``matrix`` [m, m] the attention of each modality's row
    to each modality, over the items that have it. Items without any vector are left out. ``residual`` says
    whether every vector is also added to its own row.
    """
    if model.embeddings is None or model.tokens is None or model.mode != "mm":
        return None
    m = len(model.embeddings.names)
    count, here, weight, even, matrix = 0, np.zeros(m), np.zeros(m), np.zeros(m), np.zeros((m, m))
    items, was_training = np.unique(questions.options).astype(np.int64), model.training
    model.eval()
    for chunk in _chunks(items):
        vectors, mask = model.embeddings.rows(chunk)
        some = mask.any(dim=1)
        found = model.tokens.fusion.attention(vectors, mask, model.tokens.separator)
        rows, pool = (each[some].double().cpu().numpy() for each in found)  # [u, m, m], [u, m]
        known = mask[some].double().cpu().numpy()  # [u, m]
        count, here = count + len(known), here + known.sum(axis=0)
        even += (known / known.sum(axis=1, keepdims=True)).sum(axis=0)
        weight += np.einsum("ui,uij->j", pool, rows)
        matrix += np.einsum("ui,uij->ij", known, rows)
    model.train(was_training)
    if not count:
        return None
    return {
        "names": list(model.embeddings.names),
        "items": count,
        "present": (here / count).round(6).tolist(),
        "weight": (weight / count).round(6).tolist(),
        "even": (even / count).round(6).tolist(),
        "matrix": (matrix / np.maximum(here, 1)[:, None]).round(6).tolist(),
        "residual": model.recipe.fusion.residual,
    }


@torch.inference_mode()
def attention_of(model: BundleMLLM, items: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of the m modalities, and each one's share of the fusion's attention in every item: float64 [u, m].

    A row of zeros where an item has no vector; no names where the model fuses nothing.
    """
    if model.embeddings is None or model.tokens is None or model.mode != "mm":
        return [], np.zeros((len(items), 0))
    vectors, mask = model.embeddings.rows(items.astype(np.int64))
    rows, pool = model.tokens.fusion.attention(vectors, mask, model.tokens.separator)  # [u, m, m], [u, m]
    weight = torch.einsum("ui,uij->uj", pool, rows) * mask.any(dim=1, keepdim=True)
    return list(model.embeddings.names), weight.double().cpu().numpy()


@torch.inference_mode()
def keep(model: BundleMLLM, max_bytes: int = KEPT_BYTES) -> None:
    """Compute the fused token of every item once, for a model that answers without end and is not trained any more.

    Nothing is kept where they would take more than ``max_bytes``.
    """
    if model.embeddings is None or model.tokens is None or model.mode != "mm":
        return
    count = len(model.embeddings.mask)
    width = model.llm.get_input_embeddings().weight.shape[1]
    if count * width * 4 <= max_bytes:
        model.kept_tokens = fuse(model, np.arange(count), ())


def fuse(model: BundleMLLM, items: np.ndarray, masked: Sequence[str]) -> Tensor:
    """Fused tokens [u, h] of ``items`` [u]; ``masked`` names matrices that count as missing."""
    kept = model.kept_tokens
    if kept is not None and not masked:
        known = items < len(kept)  # all but those that a request brought along
        found = kept[torch.from_numpy(items[known]).to(kept.device)]
        return found if known.all() else torch.cat([found, _fused(model, items[~known], masked)])
    return _fused(model, items, masked)


def _fused(model: BundleMLLM, items: np.ndarray, masked: Sequence[str]) -> Tensor:
    return torch.cat([model.item_tokens(chunk, masked) for chunk in _chunks(items)])


def _chunks(items: np.ndarray) -> list[np.ndarray]:
    return [items[k : k + ITEM_CHUNK] for k in range(0, len(items), ITEM_CHUNK)]
