"""The baseline "set encoder": an attention over cached vectors, trained on the training bundles in seconds.

After CLHE (Ma et al., WSDM 2024): the modalities of an item become one vector, a bundle is encoded by attention
over its items, and a contrastive loss separates the held-out item from other items. Two changes make about 1,200
bundles enough: an item keeps its cached vectors and only a low-rank update is learned, and the option attends to the
partial bundle, so that the untrained encoder equals the cosine.

The baselines of floor 0 train nothing with torch, so callers pass this one in: ``Sources(..., learners=LEARNERS)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bundlecache.baselines.rankers import Kind, pooled_cosines
from bundlecache.vector_math import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bundlecache.baselines.rankers import Ranker
    from bundlecache.baselines.sources import Sources
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.question_file import Questions

# Chosen on validation questions of public data; the same for every catalogue.
RANK, EPOCHS, BATCH_SIZE, SAMPLED_NEGATIVES, LEARNING_RATE, DROPOUT = 64, 3, 128, 256, 1e-3, 0.1
MAX_PARTIAL_ITEMS = 16  # items of a partial bundle that training reads
MAX_PAIRS = 20_000  # held-out items of an epoch
ENCODED_ITEMS = 8_192  # at once, after training


@dataclass(frozen=True)
class SetEncoder:
    """Ranks options by their cosines to the partial bundle, the nearer ones weighing more, in a learned space.

    ``vectors`` float32 [I, D] are all content vectors of an item side by side, of length 1 or 0 (missing).
    """

    name: str
    kind: Kind
    catalogue: Catalogue  # as training may see it
    vectors: np.ndarray
    seed: int

    @cached_property
    def fitted(self) -> tuple[np.ndarray, float]:
        """Item vectors [I, D] of length 1 or 0, and the sharpness of the attention."""
        return _train(self.catalogue, self.vectors, self.seed)

    def scores(self, questions: Questions) -> np.ndarray:
        """[q, n] cosines in -1..1; options without a vector get the mean of those that have one."""
        items, sharpness = self.fitted

        def pool(cosine: np.ndarray) -> np.ndarray:
            weight = np.exp(sharpness * (cosine - 1))
            return (weight * cosine).sum(axis=1) / weight.sum(axis=1)

        return pooled_cosines(items, np.asarray(items.any(axis=1)), questions, pool)


def set_encoder(sources: Sources) -> Iterator[Ranker]:
    """The set encoder over all content vectors of the store."""
    matrices = sources.of(graph=False)
    if matrices and "bundles" in sources.graphs:

        def side_by_side() -> np.ndarray:
            return unit_rows(np.concatenate([unit_rows(np.where(m.mask[:, None], m.vectors, 0)) for m in matrices], 1))

        vectors = sources.of_items("set encoder vectors", side_by_side)
        yield SetEncoder("set encoder", "content", sources.training, vectors, sources.seed)


def _train(catalogue: Catalogue, vectors: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, gelu, normalize

    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        down, up = nn.Linear(vectors.shape[1], RANK, bias=False), nn.Linear(RANK, vectors.shape[1], bias=False)
    nn.init.zeros_(up.weight)
    scale = nn.Parameter(torch.ones(vectors.shape[1]))
    sharpness, heat = nn.Parameter(torch.tensor(3.0)), nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))
    parameters = [*down.parameters(), *up.parameters(), scale, sharpness, heat]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    x = torch.from_numpy(vectors)

    def encode(items: torch.Tensor) -> torch.Tensor:
        return normalize(scale * items + up(gelu(down(items))), dim=-1)

    keep = torch.Generator().manual_seed(seed)
    batches = [batch for _ in range(EPOCHS) for batch in _batches(catalogue, rng)]
    for step, (partial, truth, group) in enumerate(batches):
        shown = np.concatenate([truth, rng.integers(len(vectors), size=SAMPLED_NEGATIVES)])  # [k]
        unique, place = np.unique(np.concatenate([shown, partial.ravel()]), return_inverse=True)
        rows = x[torch.from_numpy(np.maximum(unique, 0))]
        rows = rows * (torch.rand(rows.shape, generator=keep) >= DROPOUT) / (1 - DROPOUT)
        z = encode(rows)  # [unique, D]
        options = z[torch.from_numpy(place[: len(shown)])]  # [k, D]
        given = z[torch.from_numpy(place[len(shown) :])].view(*partial.shape, -1)  # [b, l, D]
        cosine = torch.einsum("kd,bld->bkl", options, given)
        weight = (sharpness * cosine).masked_fill(torch.from_numpy(partial < 0)[:, None], -1e9).softmax(dim=-1)
        score = (weight * cosine).sum(dim=-1) * heat.exp()  # [b, k]
        false = np.concatenate([group[:, None] == group, np.zeros((len(truth), SAMPLED_NEGATIVES), bool)], axis=1)
        false |= shown == truth[:, None]
        np.fill_diagonal(false, val=False)  # all else of a session may be right too
        loss = cross_entropy(score.masked_fill(torch.from_numpy(false), -1e9), torch.arange(len(truth)))
        for settings in optimizer.param_groups:
            settings["lr"] = LEARNING_RATE * (1 - step / len(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        items = np.zeros_like(vectors)  # [I, D]
        for low in range(0, len(vectors), ENCODED_ITEMS):
            block = slice(low, low + ENCODED_ITEMS)
            items[block] = np.where(vectors[block].any(axis=1, keepdims=True), encode(x[block]).numpy(), 0)
    return items, float(sharpness.detach())


def _batches(catalogue: Catalogue, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every item of every bundle held out once: partial [b, l] filled up with -1, truth [b], group [b]."""
    bundles = catalogue.bundles
    group = bundles.group.codes()[0]
    pairs = [(b, at) for b, items in enumerate(bundles.items) if len(items) > 1 for at in range(len(items))]
    order = rng.permutation(len(pairs))[:MAX_PAIRS]
    for low in range(0, len(order), BATCH_SIZE):
        chosen = [pairs[i] for i in order[low : low + BATCH_SIZE]]
        partial = np.full((len(chosen), MAX_PARTIAL_ITEMS), -1, np.int64)
        for row, (b, at) in enumerate(chosen):
            given = rng.permutation(np.delete(bundles.items[b], at))[:MAX_PARTIAL_ITEMS]
            partial[row, : len(given)] = given
        width = max(1, int((partial >= 0).sum(axis=1).max()))
        truth = np.array([bundles.items[b][at] for b, at in chosen], np.int64)
        yield partial[:, :width], truth, group[[b for b, _ in chosen]]


LEARNERS = (set_encoder,)
"""The baselines that need torch for training; see ``bundlecache.baselines.sources.Sources.learners``."""
