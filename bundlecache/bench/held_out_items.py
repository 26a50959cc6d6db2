"""The held-out items that frozen questions ask about, each with the whole catalogue as its options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..questions.question_file import Questions
from ..questions.sample import SampleInfo, info

if TYPE_CHECKING:
    from ..catalogue.catalogue import Catalogue
    from ..questions.user_history import UserHistories

MAX_SCORES = 2**22  # computed at once, [questions, items]


@dataclass(frozen=True)
class HeldOut:
    """q distinct (bundle, held-out item): ``partial`` holds the rest of each bundle, ``truth`` [q] the item's index.

    ``history`` is what the bundle's user took elsewhere; empty where no method looks at that.
    """

    sets: list[str]
    split: str
    bundle_ids: list[str]
    partial: list[np.ndarray]
    truth: np.ndarray
    sha256: str
    history: list[np.ndarray]
    samples: tuple[SampleInfo, ...] = ()  # of the question sets that were not asked as a whole

    def __len__(self) -> int:
        return len(self.bundle_ids)

    @classmethod
    def of(cls, sets: Sequence[Questions], catalogue: Catalogue, histories: UserHistories | None = None) -> HeldOut:
        """What frozen questions ask about, each bundle and item once, whatever the options were."""
        found = {
            (bundle_id, int(options[truth])): partial
            for asked in sets
            for bundle_id, partial, options, truth in zip(
                asked.bundle_ids, asked.partial, asked.options, asked.truth, strict=True
            )
        }
        ids, total = catalogue.item_ids, hashlib.sha256()
        for (bundle_id, item), given in found.items():
            total.update(json.dumps([bundle_id, [ids[i] for i in given], ids[item]]).encode())
        bundle_ids, partial = [bundle_id for bundle_id, _ in found], list(found.values())
        truth = np.array([item for _, item in found], np.int64)
        history = [np.zeros(0, np.int32)] * len(truth)
        if histories is not None:
            history = histories.besides(bundle_ids, partial, truth[:, None])
        return cls(
            sets=[asked.name for asked in sets],
            split=" and ".join(sorted({asked.split for asked in sets})),
            bundle_ids=bundle_ids,
            partial=partial,
            truth=truth,
            sha256=total.hexdigest(),
            history=history,
            samples=tuple(drawn for asked in sets if (drawn := info(asked)) is not None),
        )

    @property
    def length(self) -> np.ndarray:
        """[q] items of each bundle, the held-out one among them."""
        return np.array([len(items) for items in self.partial]) + 1

    @property
    def unit(self) -> np.ndarray:
        """[q] a number for each bundle."""
        return np.unique(self.bundle_ids, return_inverse=True)[1]

    @property
    def banned(self) -> list[np.ndarray]:
        """Per question the items that are no options: its partial bundle and its history."""
        return [np.concatenate(pair) for pair in zip(self.partial, self.history, strict=True)]

    def take(self, rows: np.ndarray) -> HeldOut:
        """These rows alone."""
        return replace(
            self,
            bundle_ids=[self.bundle_ids[row] for row in rows.tolist()],
            partial=[self.partial[row] for row in rows.tolist()],
            truth=self.truth[rows],
            history=[self.history[row] for row in rows.tolist()],
            sha256=f"{self.sha256}/rows {rows.tolist()}",
        )

    def chunks(self, n_items: int, max_scores: int | None = None) -> Iterator[tuple[np.ndarray, Questions]]:
        """(rows [c], those questions with the whole catalogue as options): together all questions, each once.

        The options of a question are all ``n_items`` items less its partial bundle and its history, for methods that
        look at no history too: the truth never stands there, so an option that does would be known to be wrong. They
        are in the order of the catalogue; questions that have equally many share a chunk.
        """
        taken = [len(items) + len(history) for items, history in zip(self.partial, self.history, strict=True)]
        for size in np.unique(taken).tolist():
            rows = np.flatnonzero(np.array(taken) == size)
            step = max(1, (max_scores or MAX_SCORES) // n_items)
            for part in (rows[low : low + step] for low in range(0, len(rows), step)):
                yield part, self._among_all(part, n_items)

    def _among_all(self, rows: np.ndarray, n_items: int) -> Questions:
        kept = np.ones((len(rows), n_items), bool)
        for line, row in enumerate(rows.tolist()):
            kept[line, self.partial[row]] = False
            kept[line, self.history[row]] = False
        options = np.nonzero(kept)[1].astype(np.int32).reshape(len(rows), -1)
        return Questions(
            name="full",
            split=self.split,
            negatives="all",
            seed=0,
            bundle_ids=[self.bundle_ids[row] for row in rows],
            partial=[self.partial[row] for row in rows],
            options=options,
            truth=(options < self.truth[rows][:, None]).sum(axis=1),
            sha256=f"{self.sha256}/{n_items}/{rows[0]}+{len(rows)}",
            header={},
        )
