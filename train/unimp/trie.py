"""Ids of several tokens: which token may follow a beginning (a prefix tree in arrays), and a beam search that keeps to it.

With one token per item, or a beam as wide as the catalogue, the beam is the exact ranking of all items by the probability
of their tokens. Its width bounds the work otherwise: each level is one call for all questions together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    Step: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Question of each row int64 [n], and the tokens before int64 [n, depth], to log-probabilities of the next [n, tokens]."""


@dataclass(frozen=True)
class Trie:
    """The prefix tree of I sequences of one length, which all differ.

    Node k of depth d is a beginning of d tokens; its children are nodes ``first[d][k]:first[d][k + 1]`` of depth d + 1, whose
    own tokens stand in ``token[d]``, ascending. Nodes of the last depth are sequences; ``sequence`` says which.
    """

    first: tuple[np.ndarray, ...]  # int64 [nodes of depth d + 1]
    token: tuple[np.ndarray, ...]  # int64 [nodes of depth d + 1]
    sequence: np.ndarray  # int64 [I]

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
        return cls(tuple(first), tuple(token), order)

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


@dataclass(frozen=True)
class Beams:
    """What a beam search found: sequences by question, best first; ``question`` is ascending."""

    question: np.ndarray  # int64 [n]
    sequence: np.ndarray  # int64 [n]
    log_probability: np.ndarray  # float64 [n], of all its tokens together


def beam_search(step: Step, trie: Trie, questions: int, width: int) -> Beams:
    """The ``width`` likeliest sequences of each question that the tree holds; all of them where it is that small.

    Log-probabilities are added as they are, not made to sum to one again among the allowed tokens, so a sequence has the
    probability that the model gives it.
    """
    question = np.arange(questions)
    node, score = np.zeros(questions, np.int64), np.zeros(questions)
    tokens = np.zeros((questions, 0), np.int64)
    for depth in range(trie.depth):
        logs = step(question, tokens)  # [n, V]
        low, count = trie.first[depth][node], np.diff(trie.first[depth])[node]
        row = np.repeat(np.arange(len(node)), count)  # [children]
        child = np.arange(len(row)) + np.repeat(low - (count.cumsum() - count), count)
        found = score[row] + logs[row, trie.token[depth][child]].astype(np.float64)
        order = np.lexsort((child, -found, question[row]))  # of equal ones, the smaller tokens first
        by_question = question[row][order]
        rank = np.arange(len(order)) - np.searchsorted(by_question, by_question)
        kept = order[rank < width]
        row, node, score = row[kept], child[kept], found[kept]
        question = question[row]
        tokens = np.concatenate([tokens[row], trie.token[depth][node][:, None]], axis=1)
    return Beams(question, trie.sequence[node], score)
