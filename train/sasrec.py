"""The baseline SASRec: a causal transformer over the items of a history (Kang and McAuley, ICDM 2018).

Architecture as in the paper: item and position embeddings, blocks of self-attention and a point-wise feed-forward
network, each around a layer norm with dropout and a residual, and scores by the input embeddings. Trained with the softmax
over the catalogue (a sample of it where it is large) instead of one sampled negative, which makes it much stronger (Klenitskiy and
Vasilev, RecSys 2023); the best epoch on the validation questions is kept. Positions count from the latest item.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bundlecache.baselines.next_item import HistoryRanker, below_known
from bundlecache.bench.task_bench import places_of

if TYPE_CHECKING:
    from bundlecache.baselines.next_item import Learnt, Score, Training
    from bundlecache.catalogue.columns import Lists
    from bundlecache.questions.task_file import TaskQuestions

# Fixed on the validation questions of the demo; the same for every catalogue.
DIM, BLOCKS, HEADS, MAX_HISTORY, DROPOUT = 64, 2, 2, 50, 0.2
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 5e-3, 1e-4
MAX_EPOCHS, PATIENCE = 40, 6  # epochs without a better validation
MAX_SCORED_ITEMS = 8_192  # of the softmax in training; of a larger catalogue so many are drawn each step
SCORED_AT_ONCE = 256  # questions
MAX_VALIDATED = 2_000  # questions after each epoch


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Vectors [b, L, d] to the same shape; ``allowed`` bool [b, 1, L, L] says which positions each position attends to."""
        b, length, dim = x.shape
        h = self.norm(x)
        q, k, v = (
            part(h).view(b, length, self.heads, dim // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )  # [b, heads, L, d / heads]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, length, dim)))
        return x + self.dropout(self.outer(self.dropout(torch.relu(self.inner(self.norm_forward(x))))))


class SasRec(nn.Module):
    """Item sequences [b, L], padded in front by ``n_items``, to one vector per position [b, L, d]."""

    def __init__(
        self, n_items: int, dim: int = DIM, blocks: int = BLOCKS, heads: int = HEADS, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.positions = nn.Embedding(MAX_HISTORY, dim)  # 0 is the latest
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(blocks))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=dim**-0.5)
        with torch.no_grad():
            self.items.weight[n_items] = 0

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """[b, L] item numbers to [b, L, d]: what follows each position; of padding it means nothing."""
        length = sequences.shape[1]
        there = sequences != self.items.padding_idx  # [b, L]
        x = self.dropout(self.items(sequences) + self.positions(torch.arange(length - 1, -1, -1)))
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        # Padding attends to itself alone, so that no row is without a place to look at.
        allowed = (causal & there[:, None, :]) | torch.eye(length, dtype=torch.bool)  # [b, L, L]
        for block in self.blocks:
            x = block(x, allowed[:, None])
        vectors: torch.Tensor = self.norm(x)
        return vectors


def sasrec(training: Training) -> HistoryRanker:
    """SASRec as a ranker; it is trained when it is first asked."""
    return HistoryRanker("SASRec", partial(_weights, training), partial(_reader, training))


def _weights(training: Training) -> Learnt:
    return {name: value.numpy() for name, value in train(training).state_dict().items()}


def _reader(training: Training, learnt: Learnt) -> Score:
    model, known = SasRec(len(training.catalogue)), training.known
    model.load_state_dict({name: torch.from_numpy(value) for name, value in learnt.items()})

    def score(asked: TaskQuestions) -> np.ndarray:
        return below_known(_scores(model, asked.history), known)

    return score


def train(training: Training) -> SasRec:
    """SASRec, trained on the seen sequences, of the epoch that answers the validation questions best (NDCG@10)."""
    n_items, sequences = len(training.catalogue), training.seen.sequences()
    usable = np.flatnonzero(sequences.lengths > 1)
    rng, best, best_value, bad = np.random.default_rng(training.seed), None, -1.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = SasRec(n_items)
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, (0.9, 0.98), weight_decay=WEIGHT_DECAY)
        for _ in range(MAX_EPOCHS):
            model.train()
            order = rng.permutation(usable)
            for low in range(0, len(order), BATCH_SIZE):
                rows = padded(sequences.take(order[low : low + BATCH_SIZE]), n_items, MAX_HISTORY + 1)
                loss = next_item_loss(model, torch.from_numpy(rows), _scored(rows, n_items, rng))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            value = _ndcg(model, training.validation)
            if value > best_value:
                best, best_value, bad = copy.deepcopy(model.state_dict()), value, 0
            else:
                bad += 1
            if bad == PATIENCE:
                break
    model.load_state_dict(best or model.state_dict())
    return model.eval()


def next_item_loss(model: SasRec, rows: torch.Tensor, scored: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cross-entropy of the item that follows each position of ``rows`` [b, L + 1], among all or the ``scored`` items.

    ``scored`` [s], ascending and distinct, holds every item of the rows.
    """
    given, target = rows[:, :-1], rows[:, 1:]
    kept = given != model.items.padding_idx  # padding stands in front, so what follows is an item
    vectors, wanted = model(given)[kept], target[kept]  # [t, d], [t]
    if scored is None:
        return nn.functional.cross_entropy(vectors @ model.items.weight[:-1].T, wanted)
    return nn.functional.cross_entropy(vectors @ model.items(scored).T, torch.searchsorted(scored, wanted))


def padded(sequences: Lists, padding: int, longest: int) -> np.ndarray:
    """int64 [b, L]: the latest items of each list, at most ``longest``, with ``padding`` in front."""
    lengths = np.minimum(sequences.lengths, longest)
    width = int(lengths.max(initial=1))
    place = np.arange(width) - width  # from the end
    at = sequences.offsets[1:, None] + place  # [b, L]
    there = place >= -lengths[:, None]
    return np.where(there, sequences.values[np.where(there, at, 0)], padding).astype(np.int64)


def _scored(rows: np.ndarray, n_items: int, rng: np.random.Generator) -> torch.Tensor | None:
    if n_items <= MAX_SCORED_ITEMS:
        return None
    drawn = np.unique(np.concatenate([rows[rows < n_items], rng.integers(n_items, size=MAX_SCORED_ITEMS)]))
    return torch.from_numpy(drawn)


@torch.inference_mode()
def _scores(model: SasRec, history: Lists) -> np.ndarray:
    """float32 [q, I]: the logits of what follows each history."""
    model.eval()
    n_items = len(model.items.weight) - 1
    out = np.empty((len(history), n_items), np.float32)
    for low in range(0, len(history), SCORED_AT_ONCE):
        rows = np.arange(low, min(low + SCORED_AT_ONCE, len(history)))
        given = torch.from_numpy(padded(history.take(rows), n_items, MAX_HISTORY))
        out[rows] = (model(given)[:, -1] @ model.items.weight[:-1].T).numpy()
    return out


def _ndcg(model: SasRec, asked: TaskQuestions) -> float:
    """NDCG@10 on at most `MAX_VALIDATED` questions, always the same ones."""
    rows = np.random.default_rng(0).permutation(len(asked))[:MAX_VALIDATED]
    parts = [asked.take(rows[low : low + SCORED_AT_ONCE]) for low in range(0, len(rows), SCORED_AT_ONCE)]
    return float(np.concatenate([places_of(part, _scores(model, part.history)).ndcg(10) for part in parts]).mean())
