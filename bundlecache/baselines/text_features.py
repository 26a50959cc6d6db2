"""Words of items as numbers: documents, and their TF-IDF rows.

Items are read one after the other and words become numbers at once, so that a catalogue of a million titles is never held
as lists of words.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Documents:
    """I documents: the words of document i are ``vocabulary[codes[offsets[i] : offsets[i + 1]]]``, in their order.

    ``codes`` int32 [total] number the words by their first occurrence, ``offsets`` int64 [I + 1].
    """

    codes: np.ndarray
    offsets: np.ndarray
    vocabulary: list[str]

    @classmethod
    def of(cls, documents: Iterable[Sequence[str]]) -> Documents:
        """Number the words of documents, given one after the other.

        >>> made = Documents.of([["red", "mug"], [], ["mug"]])
        >>> made.codes.tolist(), made.offsets.tolist(), made.vocabulary
        ([0, 1, 1], [0, 2, 2, 3], ['red', 'mug'])
        """
        number: dict[str, int] = {}
        codes, lengths = array("i"), array("q")
        for words in documents:
            codes.extend([number.setdefault(word, len(number)) for word in words])
            lengths.append(len(words))
        ends = np.cumsum(np.frombuffer(lengths, np.int64)) if len(lengths) else np.zeros(0, np.int64)
        return cls(np.array(codes, np.int32), np.concatenate([[0], ends]), list(number))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [I] words of each document."""
        return np.diff(self.offsets)

    def differ(self) -> bool:
        """Whether two documents with a word are not the same words."""
        lengths, starts = self.lengths, self.offsets[:-1]
        filled = np.flatnonzero(lengths)
        if not len(filled) or (lengths[filled] != lengths[filled[0]]).any():
            return bool(len(filled))
        words = self.codes.reshape(len(filled), -1)  # all are equally long, and empty ones take no room
        return bool((words != self.codes[starts[filled[0]] : starts[filled[0]] + lengths[filled[0]]]).any())

    def cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every document's distinct words: (document, word, how often) int64 [cells], in the order of first occurrences."""
        row = np.repeat(np.arange(len(self)), self.lengths)
        key = row * max(len(self.vocabulary), 1) + self.codes
        _, first, count = np.unique(key, return_index=True, return_counts=True)
        order = np.argsort(first)
        at = first[order]
        return row[at], self.codes[at].astype(np.int64), count[order]

    def tf_idf(self) -> csr_array:
        """[I, words] rows of length 1: (1 + log count) * log(I / number of items with the word); empty rows stay empty."""
        rows, columns, count = self.cells()
        weights = np.log(len(self) / np.bincount(columns))
        values = (1 + np.log(count)) * weights[columns]
        length = np.sqrt(np.bincount(rows, values**2, minlength=len(self)))
        values = values / np.maximum(length, 1e-12)[rows]
        return csr_array((values, (rows, columns)), shape=(len(self), len(self.vocabulary)))
