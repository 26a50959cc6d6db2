"""The prompts of UniMP as token ids: one builder for training, validation and answering, so that they are the same.

A history is a chunk per item, and the instruction stands behind it; what follows the last ``<|answer|>`` is the answer::

    recommend   [ <|image|> M <|answer|> item <|endofchunk|> ] ... What is the next item ...? <|answer|> item
    search      the same, and: Query: red mug What is the related item ...? <|answer|> item
    select      User history: [ <|image|> M <|endofchunk|> ] ... Select from: [ <|image|> Selection s_0 M <|endofchunk|> ] ...
                Can you select ...? <|answer|> s_2 s_0 <|endofchunk|>
    preference  [ <|image|> M <|answer|> rate_4 <|endofchunk|> ] ... <|image|> M What is the rating ...? <|answer|> rate_5
    explain     [ <|image|> M <|answer|> rate_4 why <|endofchunk|> ] ... <|image|> M What is the rating and ...?
                <|answer|> rate_5 why <|endofchunk|>
    draw        [ <|image|> M ID codes <|endofchunk|> ] ... Query: red mug What is the generated image ...? <|answer|> codes
                <|endofchunk|>

M is the text of an item. With ``prompt.id_place = "first"`` a chunk begins with ``<|answer|> item``, so that each item of a
history is predicted from those before it, and the instruction of recommend stands in front of all. The order of several
right selections is drawn, so that the first one is as likely to be any of them. The chunks of draw are the items that were
retrieved for the query (`bundlecache.train.unimp.drawing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bundlecache.errors import RecipeError

from ..prompts.tokens import Packed, Pieces, encode_many
from .batch import Batch
from .item_texts import ItemTexts, rate_places

if TYPE_CHECKING:
    from torch import Tensor

    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.recipes.unimp_recipe import UnimpRecipe
    from bundlecache.store.store import Matrix

    from .vocabulary import Vocabulary

WORDINGS = {
    "paper": {
        "recommend": " What is the next item recommended to the user?",
        "query": " Query:",
        "search": " What is the related item ID to the query based on the history?",
        "preference": " What is the rating for the item?",
        "explain": " What is the rating and explanation for the item?",
        "history": " User history:",
        "candidates": " Select from:",
        "candidate": " Selection",
        "select": " Can you select the suitable item from above for the user?",
        "codes": " ID",
        "draw": " What is the generated image ID to the query based on the history?",
    },
    "brief": {
        "recommend": " Next:",
        "query": " Query:",
        "search": " Item:",
        "preference": " Stars:",
        "explain": " Why:",
        "history": " Has:",
        "candidates": " From:",
        "candidate": "",
        "select": " Select:",
        "codes": "",
        "draw": " Picture:",
    },
}
"""The texts between histories and answers: those of UniMP's code, and few words for a base that has read little."""
Part = tuple[Any, Any]
"""Numbers of pieces, and whether their tokens are labels; one of each, or as many as a chunk is repeated."""


class _Asked(NamedTuple):
    """Question ``q`` of some; ``written`` is the number of the first piece of `Prompts._texts_of` them."""

    questions: TaskQuestions
    q: int
    written: int
    answered: bool


@dataclass
class _Row:
    """One prompt that is being put together: numbers of pieces, which of them are labels, and the pictured items."""

    chain: list[np.ndarray] = field(default_factory=list)
    marked: list[np.ndarray] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)

    def add(self, *parts: Part, times: int = 1) -> None:
        """``parts`` one after the other, ``times`` times: of an array the k-th number belongs to the k-th time."""
        for each, kind, made in ((0, np.int64, self.chain), (1, bool, self.marked)):
            columns = [np.broadcast_to(np.asarray(part[each], kind), times) for part in parts]
            made.append(np.stack(columns, axis=1).ravel())


class Prompts:
    """Builds batches of prompts. ``longest`` is how many tokens the base model can read, where it says so.

    ``codes`` are the stored picture codes [I, t, 1] of the task draw, which begin with 1.

    Raises
    ------
    RecipeError
        When a prompt is longer than that.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        texts: ItemTexts,
        recipe: UnimpRecipe,
        longest: int | None = None,
        codes: Matrix | None = None,
    ) -> None:
        self.vocabulary, self.texts, self.recipe, self.longest = vocabulary, texts, recipe, longest
        tokenizer, ours = texts.tokenizer, vocabulary
        wording = WORDINGS[recipe.prompt.template]
        singles: list[Sequence[int]] = [[], [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]]
        singles += [[ours.image], [ours.answer], [ours.end_of_chunk]]
        self._nothing, self._begin, self._image, self._answer, self._end = range(5)
        self._rates, self._selections = len(singles), len(singles) + len(ours.rates)
        singles += [[token] for token in (*ours.rates, *ours.selections)]
        self._say = {name: len(singles) + k for k, name in enumerate(wording)}
        singles += encode_many(tokenizer, list(wording.values()))
        ids = ours.of_items(np.arange(len(texts)))  # [I, levels]
        bounds = np.arange(len(texts) + 1, dtype=np.int64) * ids.shape[1]
        self.drawable, self.codes_per_picture = np.zeros(len(texts), bool), 0
        drawn = Packed(np.zeros(0, np.int32), np.zeros(len(texts) + 1, np.int64))
        if codes is not None:
            self.drawable, self.codes_per_picture = codes.mask, codes.vectors.shape[1]
            rows = codes.vectors[codes.mask].reshape(-1).astype(np.int32) - 1 + ours.codes.start
            drawn = Packed(rows, np.append(0, np.cumsum(codes.mask, dtype=np.int64)) * self.codes_per_picture)
        self._pools = [Packed.of(singles), texts.ids, Packed(ids.ravel(), bounds), drawn]
        self._texts = len(singles)  # the number of the first item's text
        self._ids = self._texts + len(texts)
        self._codes = self._ids + len(texts)
        self._written = self._codes + len(texts)  # of the first text of the batch

    def ask(self, questions: TaskQuestions) -> Batch:
        """The prompts of q questions of one task, up to and including ``<|answer|>``; nothing in them is a label."""
        return self._built([questions], answered=False)

    def train(self, samples: Sequence[TaskQuestions], *, context: bool = True) -> Batch:
        """The prompts of training rows with their answers, labelled as ``data.context`` says; rows in the given order.

        Without ``context`` the answers alone are labels.
        """
        batch = self._built(samples, answered=True)
        return batch if context else replace(batch, labels=self._answers_alone(batch))

    def _answers_alone(self, batch: Batch) -> Tensor:
        """Of the labels those behind the last ``<|answer|>``, bool [b, L]."""
        places = torch.arange(batch.ids.shape[1])
        last = torch.where(batch.ids == self.vocabulary.answer, places, -1).amax(1, keepdim=True)
        return batch.labels & (places > last)

    def names_of(self, questions: TaskQuestions) -> np.ndarray:
        """int64 [q, n]: the token that names each candidate in an answer to ``select``."""
        if self.recipe.prompt.selections == "ids":
            return self.vocabulary.of_items(questions.candidates.ravel()).reshape(questions.candidates.shape)
        slots = self.vocabulary.selections.start + np.arange(questions.candidates.shape[1])
        return np.broadcast_to(slots, questions.candidates.shape)

    def lengths(self, questions: TaskQuestions) -> np.ndarray:
        """int64 [q]: the tokens of each prompt of :meth:`ask`."""
        length: np.ndarray = self.ask(questions).there.sum(1).numpy()
        return length

    def spell(self, ids: Sequence[int]) -> str:
        """A prompt as people read it, our own tokens by their names."""
        words, plain = [], list[int]()
        for token in [*ids, None]:
            if token is not None and token < self.vocabulary.base_size:
                plain.append(int(token))
                continue
            if plain:
                words.append(self.texts.tokenizer.decode(plain).strip())
                plain = []
            if token is not None:
                words.append(self.vocabulary.name(int(token)))
        return " ".join(words)

    def _built(self, samples: Sequence[TaskQuestions], *, answered: bool) -> Batch:
        rows: list[_Row] = []
        weight: list[float] = []
        lists: list[Packed] = []
        count = self._written
        for questions in samples:
            written = self._texts_of(questions, answered)
            rows += [self._row(_Asked(questions, q, count, answered)) for q in range(len(questions))]
            weight += [self.recipe.weight(questions.task) if answered else 1.0] * len(questions)
            lists.append(written)
            count += len(written)
        pieces = Pieces([*self._pools, *lists])
        ids, labels = [], []
        for row in rows:
            chain, marked = np.concatenate(row.chain), np.concatenate(row.marked)
            ids.append(pieces.gather(chain))
            labels.append(np.repeat(marked & answered, pieces.lengths(chain)))
        self._check(max(map(len, ids), default=0))
        images = [np.concatenate([np.zeros(0, np.int64), *row.images]) for row in rows]
        return Batch.of(ids, labels, images, weight)

    def _check(self, length: int) -> None:
        if self.longest is not None and length > self.longest:
            raise RecipeError(
                f"A prompt has {length:,} tokens, but this base model reads at most {self.longest:,}.",
                hint="--set data.history=5 --set data.other_history=4, or fewer prompt.attributes",
            )

    def _texts_of(self, questions: TaskQuestions, answered: bool) -> Packed:
        """The ids of what people wrote: the queries, or the explanations of history and then answers."""
        if questions.task in ("search", "draw"):
            return self.texts.encode(list(questions.query), self.recipe.prompt.attribute_words)
        if questions.task == "explain":
            answers = list(questions.explanation) if answered else []
            return self.texts.encode([*questions.history_explanation, *answers], self.recipe.prompt.explanation_words)
        return Packed.of([])

    def _row(self, asked: _Asked) -> _Row:
        row = _Row()
        row.add((self._begin, False))
        build = {"recommend": self._next_item, "search": self._next_item, "select": self._select, "draw": self._draw}
        build.get(asked.questions.task, self._rated)(row, asked)
        return row

    def _pictured(self, row: _Row, task: str, items: np.ndarray) -> list[Part]:
        """The parts of a chunk that show picture and text of each of ``items``."""
        text: Part = (self._texts + items, self.recipe.data.context == "attributes")
        if not self.recipe.shows_pictures(task):
            return [(self._nothing, False), text]
        row.images.append(items.astype(np.int64))
        return [(self._image, False), text]

    def _known(self, row: _Row, task: str, items: np.ndarray) -> list[Part]:
        """The same with the item's id between them where ids stand in front of attributes; it is not predicted."""
        image, text = self._pictured(row, task, items)
        return [image, (self._ids + items, False), text] if self.recipe.prompt.id_place == "first" else [image, text]

    def _context(self, task: str) -> bool:
        """Whether what a history says is predicted too."""
        return self.recipe.data.context != "none" and task not in self.recipe.data.no_context

    def _told(self, questions: TaskQuestions, q: int) -> tuple[np.ndarray, slice]:
        """The latest items of a history, as many as the recipe says, and their places among the values of all histories."""
        data, offsets = self.recipe.data, questions.history.offsets
        most = data.history if questions.task in ("recommend", "search") else data.other_history
        stop = int(offsets[q + 1])
        where = slice(max(int(offsets[q]), stop - most), stop)
        return questions.history.values[where], where

    def _next_item(self, row: _Row, asked: _Asked) -> None:
        questions, q, written, answered = asked
        first, context = self.recipe.prompt.id_place == "first", self._context(questions.task)
        items, _ = self._told(questions, q)
        instruction: Part = (self._say[questions.task], False)
        if first and questions.task == "recommend":
            row.add(instruction)
        shown, end = self._pictured(row, questions.task, items), (self._end, False)
        named: list[Part] = [(self._answer, False), (self._ids + items, context)]
        row.add(*named, *shown, end, times=len(items)) if first else row.add(*shown, *named, end, times=len(items))
        if first:
            self._unmark_first(row)
        if questions.task == "search":
            row.add((self._say["query"], False), (written + q, False), instruction)
        elif not first:
            row.add(instruction)
        row.add((self._answer, False))
        if answered:
            row.add((self._ids + int(questions.target[q]), True))

    def _unmark_first(self, row: _Row) -> None:
        """Nothing stands before the first item of a history, so it is not predicted."""
        if len(row.marked[-1]):
            row.marked[-1][1] = False

    def _rated(self, row: _Row, asked: _Asked) -> None:
        questions, q, written, answered = asked
        explains, context = questions.task == "explain", self._context(questions.task)
        items, where = self._told(questions, q)
        stars = rate_places(questions.history_rating[where], len(self.vocabulary.rates))
        rated = stars >= 0
        rate = np.where(rated, self._rates + stars, self._nothing)
        why, told = np.full(len(items), self._nothing), np.zeros(len(items), bool)
        if explains:
            told = rated & questions.history_explanation[where].filled
            why = np.where(told, written + np.arange(where.start, where.stop), self._nothing)
        shown = self._known(row, questions.task, items)
        said: list[Part] = [(np.where(rated, self._answer, self._nothing), False), (rate, context), (why, context)]
        # Where nothing is told the end is no label: an explanation must not be learnt to be empty.
        row.add(*shown, *said, (self._end, told & context), times=len(items))
        row.add(*self._known(row, questions.task, questions.target[q : q + 1]), (self._say[questions.task], False))
        row.add((self._answer, False))
        if answered:
            (star,) = rate_places(questions.rating[q : q + 1], len(self.vocabulary.rates))
            row.add((self._rates + star, True))
        if answered and explains:
            row.add((written + len(questions.history_explanation) + q, True), (self._end, True))

    def _select(self, row: _Row, asked: _Asked) -> None:
        questions, q, _, answered = asked
        items, _ = self._told(questions, q)
        offered = questions.candidates[q]
        slots = self._selections + np.arange(len(offered))
        row.add((self._say["history"], False))
        row.add(*self._known(row, "select", items), (self._end, False), times=len(items))
        row.add((self._say["candidates"], False))
        image, *shown = self._known(row, "select", offered)
        row.add(image, (self._say["candidate"], False), (slots, False), *shown, (self._end, False), times=len(offered))
        row.add((self._say["select"], False), (self._answer, False))
        if answered:
            named = self._ids + offered if self.recipe.prompt.selections == "ids" else slots
            right = named[questions.right[q]]
            key = [*offered.tolist(), *items.tolist()]  # the same row is always in the same order
            row.add((np.random.default_rng(key).permutation(right), True), times=len(right))
            row.add((self._end, True))

    def _draw(self, row: _Row, asked: _Asked) -> None:
        questions, q, written, answered = asked
        items = questions.candidates[q].astype(np.int64)
        codes: list[Part] = [(self._say["codes"], False), (self._codes + items, False), (self._end, False)]
        row.add(*self._pictured(row, "draw", items), *codes, times=len(items))
        row.add((self._say["query"], False), (written + q, False), (self._say["draw"], False), (self._answer, False))
        if answered:
            row.add((self._codes + int(questions.target[q]), True), (self._end, True))
