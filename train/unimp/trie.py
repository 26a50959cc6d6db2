"""Ids of several tokens: which token may follow a beginning, as a prefix tree in arrays.

A beam search that keeps to it (`bundlecache.train.unimp.generate`) names items that exist and nothing else. As wide as the
catalogue, it is the exact ranking of all items by the probability of their tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Trie:
    """The prefix tree of I sequences of one length, which all differ.

    Node k of depth d is a beginning of d tokens; its children are nodes ``first[d][k]:first[d][k + 1]`` of depth d + 1, whose
    own tokens stand in ``token[d]``, ascending. Nodes of the last depth are the sequences.
    """

    first: tuple[np.ndarray, ...]  # int64 [nodes of depth d + 1]
    token: tuple[np.ndarray, ...]  # int64 [nodes of depth d + 1]

    @classmethod
    def of(cls, sequences: np.ndarray) -> Trie:
        """The tree of sequences int64 [I, L].

        >>> tree = Trie.of(np.array([[7, 1], [5, 2], [7, 0]]))
        >>> tree.allowed([]).tolist(), tree.allowed([7]).tolist(), tree.allowed([6]).tolist()
        ([5, 7], [0, 1], [])
        """
        order = np.lexsort(sequences.T[::-1])
        ordered = sequences[order]
        starts = np.zeros(1, np.int64)  # rows where a node of the depth above begins
        first, token = [], []
        new = np.zeros(len(ordered), bool)
        new[:1] = True
        for depth in range(sequences.shape[1]):
            new[1:] |= ordered[1:, depth] != ordered[:-1, depth]
            below = np.flatnonzero(new)
            first.append(np.append(np.searchsorted(below, starts), len(below)))
            token.append(ordered[below, depth])
            starts = below
        if len(starts) < len(ordered):
            raise ValueError("two sequences are equal")
        return cls(tuple(first), tuple(token))

    @property
    def depth(self) -> int:
        """Tokens of a sequence."""
        return len(self.token)

    def allowed(self, prefix: Sequence[int]) -> np.ndarray:
        """The tokens that may follow a beginning, ascending; none where no sequence begins so, or it is complete."""
        node = 0
        for depth, wanted in enumerate(prefix):
            low, high = self.first[depth][node : node + 2]
            node = int(low + np.searchsorted(self.token[depth][low:high], wanted))
            if node == high or self.token[depth][node] != wanted:
                return np.zeros(0, np.int64)
        if len(prefix) == self.depth:
            return np.zeros(0, np.int64)
        low, high = self.first[len(prefix)][node : node + 2]
        return self.token[len(prefix)][low:high]
