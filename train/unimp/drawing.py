"""Experimental: draws the picture of what a user searches for, as the codes of a VQ model (`vqgan:` in the store).

As in the paper's eq. 9, items are retrieved first, by the model's own scores of ``search``; the prompt shows picture, text
and codes of the best of them::

    [ <|image|> M ID codes <|endofchunk|> ] ... Query: red mug What is the generated image ID ...? <|answer|> codes

Codes are ids behind those of the items (`Vocabulary.codes`), so a model that draws is built with as many of them as the VQ
model has. Notation: t codes of a picture, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bundlecache.errors import StoreError

from ..prompts.tokens import encode_many
from .batch import Batch

if TYPE_CHECKING:
    from bundlecache.store.store import Matrix

    from .item_texts import ItemTexts
    from .model import UniMP

NAMED, QUERY = " ID", " Query:"
ASKED = " What is the generated image ID to the query based on the history?"
RETRIEVED = 2
QUERY_WORDS = 20


class Drawing:
    """Prompts of the task, and its answers. ``codes`` are stored ones, [I, t, 1], which begin with 1.

    Raises
    ------
    StoreError
        When the codes are more than the model's vocabulary has.
    """

    def __init__(self, model: UniMP, texts: ItemTexts, codes: Matrix) -> None:
        self.model, self.texts, self.codes = model, texts, codes
        self.ours = model.vocabulary.codes
        most = int(codes.vectors.max(initial=0))
        if most > len(self.ours):
            raise StoreError(
                f"The store has picture codes up to {most:,}, and the model was built for {len(self.ours):,}."
            )
        self._named, self._query, self._asked = encode_many(texts.tokenizer, [NAMED, QUERY, ASKED])

    def retrieved(self, scores: np.ndarray) -> np.ndarray:
        """The `RETRIEVED` best items with codes by scores [q, I] of ``search``, best first, int64 [q, RETRIEVED]."""
        known = np.where(self.codes.mask, scores, -np.inf)
        return np.argsort(-known, axis=1, kind="stable")[:, :RETRIEVED]

    def train(self, retrieved: Sequence[np.ndarray], queries: Sequence[str], targets: Sequence[int]) -> Batch:
        """Rows whose labels are the codes of the pictures of ``targets`` and the end."""
        return self._batch(retrieved, queries, targets)

    def draw(self, retrieved: Sequence[np.ndarray], queries: Sequence[str]) -> np.ndarray:
        """The likeliest codes, one after the other, as they are stored: int64 [q, t]."""
        every, count = list(self.ours), self.codes.vectors.shape[1]
        batch = self._batch(retrieved, queries, None)
        found = self.model.generate(batch, count, lambda ids: every if len(ids) < count else [])
        return np.array([best.ids for best, *_ in found]) - self.ours.start + 1

    def _of(self, item: int) -> np.ndarray:
        """The ids of an item's codes [t]."""
        if not self.codes.mask[item]:
            raise StoreError(f"Item {item} has no picture codes.")
        return self.codes.vectors[item, :, 0].astype(np.int64) - 1 + self.ours.start

    def _batch(self, retrieved: Sequence[np.ndarray], queries: Sequence[str], targets: Sequence[int] | None) -> Batch:
        words, asked = self.model.vocabulary, self.texts.encode(list(queries), QUERY_WORDS)
        begin = self.texts.tokenizer.bos_token_id
        rows, labels = [], []
        for q, items in enumerate(retrieved):
            parts: list[Sequence[int] | np.ndarray] = [[] if begin is None else [begin]]
            for item in items:
                text = self.texts.ids.ids[self.texts.ids.bounds[item] : self.texts.ids.bounds[item + 1]]
                parts += [[words.image], text, self._named, self._of(item), [words.end_of_chunk]]
            query = asked.ids[asked.bounds[q] : asked.bounds[q + 1]]
            parts += [self._query, query, self._asked, [words.answer]]
            prompt = sum(map(len, parts))
            if targets is not None:
                parts += [self._of(targets[q]), [words.end_of_chunk]]
            rows.append(np.concatenate([np.asarray(part, np.int64) for part in parts]))
            labels.append(np.arange(len(rows[-1])) >= prompt)
        return Batch.of(rows, labels, [np.asarray(items, np.int64) for items in retrieved])
