"""Answers of a trained UniMP: exact ranks of the whole catalogue, selections, ratings and explanations, in batches.

Every prompt is computed once, up to <|answer|>. With one token per item, the scores of all items are one softmax there; with
semantic ids a beam search keeps to the ids that exist. Notation: q questions, b of them in a batch, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import drawing
from .batch import Batch
from .item_scores import item_scores
from .trie import Trie
from .vocabulary import RATES, AtomicIds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.recipes.unimp_recipe import UnimpData

    from .generate import Allowed
    from .model import UniMP
    from .prompts import Prompts

ROWS_AT_ONCE = 64
EXPLANATION_TOKENS = 64  # of an explanation, at most


@dataclass(frozen=True)
class UnimpAnswers:
    """A model and its prompts, under the ``name`` by which tables call them; the methods take questions of their task.

    Answers do not depend on which questions are asked together (to about 1e-5).
    """

    model: UniMP
    prompts: Prompts
    name: str = "UniMP"
    rows_at_once: int = ROWS_AT_ONCE
    explanation_tokens: int = EXPLANATION_TOKENS
    progress: Callable[[int, int], None] = lambda _done, _total: None  # questions answered, of how many

    def __post_init__(self) -> None:
        """Compute the latents of all pictures once, where they are few enough."""
        self.model.eval().keep_latents()

    @property
    def data(self) -> UnimpData:
        """The tasks that the model was trained for, and the questions beside which it was."""
        return self.model.recipe.data

    def scores(self, asked: TaskQuestions, among: np.ndarray | None = None) -> np.ndarray:
        """float32 [q, I] log-probabilities of all items for questions of ``recommend`` and ``search``, see `item_scores`.

        The beams of semantic ids keep to the items ``among`` (bool [I]) where that is given.
        """
        words, trie = self.model.vocabulary, None
        if among is not None and not isinstance(words.item_ids, AtomicIds):
            trie = Trie.of(words.of_items(np.flatnonzero(among)))
        made = np.empty((len(asked), words.item_ids.count), np.float32)
        for rows, batch in self._batches(asked):
            made[rows] = item_scores(self.model, batch, trie)
        return made

    def choose(self, asked: TaskQuestions) -> tuple[np.ndarray, np.ndarray]:
        """Of questions of ``select``: log-probabilities float32 [q, 3] of the candidates, and which it names, bool [q, 3].

        It names one after the other, until it ends its answer.
        """
        names, n = self.prompts.names_of(asked), asked.candidates.shape[1]
        ends = [self.model.vocabulary.end_of_chunk, *self._base_ends]

        def allowed(row: int) -> Allowed:
            def next_ids(before: tuple[int, ...]) -> list[int]:
                if len(before) == n:
                    return []
                return [*(each for each in names[row].tolist() if each not in before), *(ends if before else ())]

            return next_ids

        scores, chosen = np.empty((len(asked), n), np.float32), np.zeros((len(asked), n), bool)
        for rows, batch in self._batches(asked):
            logits = self.model.logits(self.model.hidden(batch, batch.last)).float()
            ours = torch.from_numpy(names[rows]).to(logits.device)
            scores[rows] = logits.gather(1, ours).log_softmax(-1).cpu().numpy()
            made = self.model.generate(batch, n, [allowed(row) for row in rows.tolist()])
            for row, (best,) in zip(rows.tolist(), made, strict=True):
                chosen[row] = np.isin(names[row], best.ids)
        return scores, chosen

    def rate(self, asked: TaskQuestions) -> tuple[np.ndarray, np.ndarray]:
        """Of questions of ``preference`` and ``explain``: the expected stars, and the likeliest ones, float64 [q] each."""
        stars = np.arange(1, RATES + 1)
        expected, likeliest = np.empty(len(asked)), np.empty(len(asked))
        for rows, batch in self._batches(asked):
            likely = self._stars(batch).cpu().numpy()
            expected[rows], likeliest[rows] = likely @ stars, stars[likely.argmax(axis=1)]
        return expected, likeliest

    def explain(self, asked: TaskQuestions) -> list[str]:
        """What the user says of each target, generated word by word behind the likeliest rating; of ``explain``."""
        made = [""] * len(asked)
        for rows, batch in self._batches(asked):
            rating = self.model.vocabulary.rates.start + self._stars(batch).argmax(-1).cpu().numpy()
            told = self.model.generate(followed_by(batch, rating), self.explanation_tokens)
            for row, (best,) in zip(rows.tolist(), told, strict=True):
                made[row] = self._text(best.ids)
        return made

    def draw(self, asked: TaskQuestions) -> tuple[np.ndarray, np.ndarray]:
        """Of ``draw``: the items that are shown, int32 [q, 2], and the likeliest codes, as they are stored, int64 [q, t].

        Items are retrieved, where the questions do not say which. Codes are generated one after the other, among the codes alone.
        """
        every, count = list(self.model.vocabulary.codes), self.prompts.codes_per_picture
        if not len(asked.candidates):
            shown = [np.zeros((0, drawing.RETRIEVED), np.int32)]
            for low in range(0, len(asked), self.rows_at_once):
                part = asked.take(np.arange(low, min(low + self.rows_at_once, len(asked))))
                shown.append(drawing.retrieve(self.model, self.prompts, part).candidates)
            asked = replace(asked, candidates=np.concatenate(shown))
        codes = np.empty((len(asked), count), np.int64)
        for rows, batch in self._batches(asked):
            made = self.model.generate(batch, count, lambda ids: every if len(ids) < count else [])
            codes[rows] = [best.ids for best, *_ in made]
        return asked.candidates, codes - self.model.vocabulary.codes.start + 1

    def _text(self, ids: tuple[int, ...]) -> str:
        words = [each for each in ids if each < self.model.vocabulary.base_size]
        text: str = self.model.base.tokenizer.decode(words, skip_special_tokens=True)
        return " ".join(text.split())

    def _stars(self, batch: Batch) -> torch.Tensor:
        """float64 [b, 5] the probability of each rating among the ratings."""
        rates = self.model.vocabulary.rates
        logits = self.model.logits(self.model.hidden(batch, batch.last))[:, rates.start : rates.stop]
        return logits.double().softmax(-1)

    def _batches(self, asked: TaskQuestions) -> Iterator[tuple[np.ndarray, Batch]]:
        """Rows of the questions, and their prompts; prompts of similar lengths are in one batch."""
        order = np.argsort(asked.history.lengths, kind="stable")
        with torch.inference_mode():
            for low in range(0, len(order), self.rows_at_once):
                rows = order[low : low + self.rows_at_once]
                yield rows, self.prompts.ask(asked.take(rows))
                self.progress(min(low + self.rows_at_once, len(order)), len(order))

    @property
    def _base_ends(self) -> list[int]:
        """The ids with which texts of the base end."""
        ends = self.model.core.config.get_text_config().eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]


def followed_by(batch: Batch, tokens: np.ndarray) -> Batch:
    """The batch with one more token [b] at the end of every row."""
    rows = [ids[there].tolist() for ids, there in zip(batch.ids, batch.there, strict=True)]
    ids = [np.array([*row, token]) for row, token in zip(rows, tokens.tolist(), strict=True)]
    images = [row[row >= 0].numpy() for row in batch.images]
    return Batch.of(ids, [np.zeros(len(row), bool) for row in ids], images)
