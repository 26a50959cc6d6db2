"""The scores of all items at the end of a prompt: one softmax with a token per item, a beam search with semantic ids.

Validation, answers and drawing rank by the same scores. Notation: b rows, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .vocabulary import AtomicIds

if TYPE_CHECKING:
    from .batch import Batch
    from .model import UniMP
    from .trie import Trie

BEAMS = 50  # of semantic ids: so many items of each question get a score, the others none
BEAM_ROWS = 8  # prompts whose beams are lengthened together: each of them holds a prompt's keys and values


@torch.inference_mode()
def item_scores(model: UniMP, batch: Batch, trie: Trie | None = None) -> np.ndarray:
    """float32 [b, I] log-probabilities of all items behind the prompts of a batch.

    Among all items that is with one token per item. With semantic ids it is among all words, and -inf beyond the beams, which
    keep to the ids in ``trie``; to all that exist where it is None.
    """
    words = model.vocabulary
    if isinstance(words.item_ids, AtomicIds):
        logits = model.item_logits(model.hidden(batch, batch.last)).float()
        scores: np.ndarray = logits.log_softmax(-1).cpu().numpy()
        return scores
    trie = words.trie if trie is None else trie
    made = np.full((len(batch), words.item_ids.count), -np.inf, np.float32)
    for low in range(0, len(batch), BEAM_ROWS):
        rows = range(low, min(low + BEAM_ROWS, len(batch)))
        found = model.generate(batch.take(rows), trie.depth, lambda ids: trie.allowed(ids).tolist(), BEAMS)
        for row, beams in zip(rows, found, strict=True):
            for beam in beams:
                made[row, words.items_by_ids[beam.ids]] = beam.score
    return made
