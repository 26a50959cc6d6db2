"""Scores questions with a trained model, in its answer form; letters in several orders or in a tournament.

What follows is about letters; in the other forms (`bundlecache.train.answers`) one prompt asks about any number of
options. The letters' logits rank the options, and an answer is *valid* when the most likely token of the whole vocabulary is
one of the question's letters. A question with more options than the model was trained on becomes a tournament of smaller
questions (`bundlecache.train.inference.tournament`), because letters that were never trained are not comparable.
``at_once`` sets another limit, at most the number of letters that are one token.

A language model may prefer a letter whatever option it stands for. ``permutations`` asks each question in several
orders, so that every option stands at several letters, and averages the probabilities.

Notation: q questions, n options, m modalities, u distinct items, b questions in a batch, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from bundlecache.bench.result_rows import ZERO_SHOT
from bundlecache.errors import RecipeError
from bundlecache.limits import MAX_PERMUTATIONS

from ..model.bundle_mllm import EVIDENCE, MODES, BundleMLLM
from ..model.embeddings import to_device
from ..prompts.builder import NO_ITEMS
from .item_tokens import fuse
from .tournament import Ask, play

if TYPE_CHECKING:
    from bundlecache.questions.question_file import Questions


@dataclass(frozen=True)
class Answers:
    """The model's answers to q questions of n options.

    After a tournament or with several orders, ``logits`` are log-probabilities, and an answer is valid when it was valid
    in the final and in at least half of the orders.
    """

    logits: np.ndarray  # float32 [q, n] of the option letters
    valid: np.ndarray  # bool [q]

    def probabilities(self) -> np.ndarray:
        """[q, n] softmax of the logits over the options."""
        e = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ModelVariants:
    """Answers of one run's model and of its variants to the same questions; ``seconds`` by the same names."""

    answers: dict[str, Answers] = field(default_factory=dict)  # the trained model first
    ablation: dict[str, Answers] = field(default_factory=dict)  # name of a left-out part -> the model without it
    seconds: dict[str, float] = field(default_factory=dict)


def score(
    model: BundleMLLM,
    questions: Questions,
    *,
    batch_size: int = 32,
    without: Sequence[str] = (),
    mode: str | None = None,
    permutations: int = 1,
    at_once: int | None = None,
    with_history: bool = True,
) -> Answers:
    """Answer frozen questions; see :func:`score_options`. ``with_history=False`` leaves the users' histories out."""
    how: dict[str, Any] = {"batch_size": batch_size, "without": without, "mode": mode}
    how |= {"permutations": permutations, "at_once": at_once}
    history = model.history_of(questions) if with_history else None
    return score_options(model, questions.partial, questions.options, history=history, **how)


def score_options(
    model: BundleMLLM,
    partial: Sequence[np.ndarray],
    options: np.ndarray,
    *,
    history: Sequence[np.ndarray] | None = None,
    batch_size: int = 32,
    without: Sequence[str] = (),
    mode: str | None = None,
    permutations: int = 1,
    at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Choose among ``options`` [q, n] for each partial bundle (item indices).

    Parameters
    ----------
    history
        The users' histories, latest last; the prompt contains as many items of them as in training.
    mode
        ``"mm"`` or ``"text"``; by default what the model was trained for.
    without
        Names in the embedding table that count as missing for every item; ``evidence``, that of `fusion.evidence`.
    permutations
        In how many orders of its options a question is asked.
    at_once
        How many options one prompt holds; by default as in training.
    progress
        ``progress(done, of)`` is called after every batch with the number of prompts; a tournament begins anew each round.

    Raises
    ------
    RecipeError
        When ``mode`` or vectors are unknown, or ``at_once`` is less than 2 or more than there are letters.
    """
    if not len(options):
        return Answers(np.zeros(options.shape, np.float32), np.zeros(0, bool))
    history = [NO_ITEMS] * len(options) if history is None else history
    known = [*(() if model.embeddings is None else model.embeddings.names), *([EVIDENCE] if model.evidence else [])]
    if unknown := [name for name in without if name not in known]:
        raise RecipeError(f"This model fuses no {unknown[0]!r}; it fuses {', '.join(known) or 'nothing'}.")
    reader = _Reader(model, history, partial, options, mode or model.mode, without, batch_size, progress)
    if not model.answer.at_once:
        _check_letters_only(model.answer.name, permutations, at_once)
        ((scores, sound),) = reader.ask([np.tile(np.arange(options.shape[1]), (len(options), 1))])
        return Answers(scores, sound)
    letters = len(model.prompts.letters)
    if at_once is not None and not 2 <= at_once <= letters:
        raise RecipeError(
            f"{at_once} options at once were asked for; this base model's tokenizer has letters for 2 to {letters}.",
            hint=f"--at-once {letters}",
        )
    size = at_once or min(letters, model.max_options)

    def ask(groups: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        return _averaged(reader.ask, groups, permutations)

    count, n = options.shape
    logits, valid = play(ask, count, n, size)
    return Answers(logits.astype(np.float32), valid)


def _check_letters_only(form: str, permutations: int, at_once: int | None) -> None:
    if permutations == 1 and at_once is None:
        return
    option = "--permutations" if permutations != 1 else "--at-once"
    raise RecipeError(
        f"{option} is for answers by letter. This run has the answer form {form}: every option is scored by itself, so"
        " neither the order of the options nor their number matters.",
        hint=f"leave {option} out",
    )


def orders(n: int, count: int) -> list[np.ndarray]:
    """``count`` orders of n options; the first is theirs, and every n of them put each option at each place once.

    >>> [order.tolist() for order in orders(4, 2)]
    [[0, 1, 2, 3], [2, 3, 0, 1]]

    Raises
    ------
    RecipeError
        When ``count`` is below 1 or above `MAX_PERMUTATIONS`.
    """
    if not 1 <= count <= MAX_PERMUTATIONS:
        raise RecipeError(f"A question is answered in 1 to {MAX_PERMUTATIONS:,} orders.", hint="--permutations 4")
    rng = np.random.default_rng(n)
    made: list[np.ndarray] = []
    base = np.arange(n)
    for k in range(count):
        if k and k % n == 0:
            base = rng.permutation(n)
        made.append(np.roll(base, -((k % n) * n // min(count, n))))
    return made


def _averaged(ask: Ask, groups: Sequence[np.ndarray], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """``ask`` in ``count`` orders of every group: the logarithm of the mean probabilities."""
    if count == 1:
        return ask(groups)
    turned = [(k, order) for k, group in enumerate(groups) for order in orders(group.shape[1], count)]
    answers = ask([groups[k][:, order] for k, order in turned])
    probability = [np.zeros(group.shape) for group in groups]
    valid = [np.zeros(len(group)) for group in groups]
    for (k, order), (logits, was_valid) in zip(turned, answers, strict=True):
        probability[k][:, order] += softmax(logits, axis=1) / count
        valid[k] += was_valid / count
    return [(np.log(np.maximum(p, 1e-30)), v >= 0.5) for p, v in zip(probability, valid, strict=True)]


class _Reader:
    """Asks a model about options of the given questions; the token of every item is computed once."""

    def __init__(
        self,
        model: BundleMLLM,
        history: Sequence[np.ndarray],
        partial: Sequence[np.ndarray],
        options: np.ndarray,
        mode: str,
        masked: Sequence[str],
        batch_size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if mode not in MODES or (mode == "mm" and model.embeddings is None):
            raise RecipeError(
                f"This model cannot answer in the mode {mode!r}.", hint=f"modes are {' and '.join(MODES)}"
            )
        self.model, self.options, self.mode, self.batch_size = model, options, mode, batch_size
        self.history, self.partial = history, partial
        self.masked, self.with_evidence = [name for name in masked if name != EVIDENCE], EVIDENCE not in masked
        self.items = np.unique(np.concatenate([*history, *partial, options.ravel()])).astype(np.int64)
        self.fused: Tensor | None = None
        self.progress = progress

    @torch.inference_mode()
    def ask(self, groups: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Groups of options by position [q, k] -> per group: letter logits [q, k] and validity [q]."""
        model, was_training = self.model, self.model.training
        if was_training:  # setting it visits every module, which takes longer than a small model's forward pass
            model.eval()
        model.answer.start()
        if self.mode == "mm" and self.fused is None:
            self.fused = fuse(model, self.items, self.masked)
        history, partial = ([items for _ in groups for items in some] for some in (self.history, self.partial))
        options = [row for group in groups for row in np.take_along_axis(self.options, group, 1)]
        logits = np.full((len(partial), max(group.shape[1] for group in groups)), -np.inf, np.float32)
        valid = np.zeros(len(partial), bool)
        done = 0
        for rows in self._batches(model.prompts.lengths(partial, options, self.mode, history), len(groups)):
            past, given, offered = ([some[r] for r in rows] for some in (history, partial, options))
            batch = model.ask(given, offered, self.mode, past, with_evidence=self.with_evidence)
            tokens = None
            if self.fused is not None:
                tokens = self.fused[to_device(np.searchsorted(self.items, batch.items), self.fused.device)]
            counts = [len(row) for row in offered]
            said, valid[rows] = model.answer.read(model, batch, tokens, counts)
            for row, r, count in zip(said, rows, counts, strict=True):
                logits[r, :count] = row[:count]
            done += len(rows)
            if self.progress is not None:
                self.progress(done, len(partial))
        if was_training:
            model.train()
        stops = np.cumsum([len(group) for group in groups])
        return [
            (logits[stop - len(group) : stop, : group.shape[1]], valid[stop - len(group) : stop])
            for group, stop in zip(groups, stops, strict=True)
        ]

    def _batches(self, lengths: np.ndarray, groups: int) -> Iterator[np.ndarray]:
        """Rows of one forward pass: of similar length, or of one question, whose common prefix is then computed once."""
        size, count = self.batch_size, len(lengths) // groups
        if 2 * groups < size:
            order = np.argsort(lengths, kind="stable")
            yield from (order[k : k + size] for k in range(0, len(order), size))
            return
        for question in range(count):
            rows = np.arange(question, len(lengths), count)
            yield from (rows[k : k + size] for k in range(0, groups, size))


def complete(
    model: BundleMLLM,
    partial: np.ndarray,
    candidates: Sequence[int],
    *,
    history: np.ndarray = NO_ITEMS,
    permutations: int = 1,
    at_once: int | None = None,
) -> list[tuple[int, float]]:
    """Rank ``candidates`` (item indices, best guess first) for one partial bundle: (item, probability), highest first.

    ``history`` is the user's, latest last.
    """
    options = np.asarray([int(c) for c in candidates], np.int32)[None]
    how: dict[str, Any] = {"permutations": permutations, "at_once": at_once}
    answers = score_options(model, [np.asarray(partial)], options, history=[history], **how)
    probabilities = answers.probabilities()[0]
    order = np.argsort(-probabilities, kind="stable")
    return [(int(options[0, k]), float(probabilities[k])) for k in order]


def score_variants(
    model: BundleMLLM,
    questions: Questions,
    *,
    batch_size: int = 32,
    ablation: bool = True,
    permutations: int = 1,
    at_once: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ModelVariants:
    """Score the trained model, the same without fused tokens, and the zero-shot LLM (adapter off, titles only).

    ``ablation`` adds the model without each modality, without its evidence and, when the prompt contains them, without
    users' histories. After the strategy text -> fusion, the variant without fused tokens is called stage 1 where stage 2
    changed nothing that it needs: not the LLM, and no weights of the answer form or the evidence. An answer form that
    only training makes able to answer has no zero-shot row. ``progress(done, of)`` is called after each variant.
    """
    variants = ModelVariants()
    how: dict[str, Any] = {"batch_size": batch_size, "permutations": permutations, "at_once": at_once}
    names = list(model.embeddings.names) if model.embeddings is not None and model.mode == "mm" and ablation else []
    jobs: list[tuple[str, dict[str, Any]]] = [("Bundle-MLLM", {"mode": model.mode})]
    if model.mode == "mm":
        is_stage_1 = model.recipe.run.strategy[:1] == ("text",) and not model.own_state()
        first = "Bundle-MLLM, titles only" + (" (stage 1)" if is_stage_1 else "")
        jobs.append((first, {"mode": "text"}))
    whole = len(jobs)  # the jobs from here on are ablations
    if ablation and any(len(items) for items in model.history_of(questions)):
        jobs.append(("history", {"mode": model.mode, "with_history": False}))
    jobs += [(name, {"without": [name]}) for name in names if len(names) > 1]
    bare = [EVIDENCE] if model.evidence is not None else []
    if ablation and bare:
        jobs.append((EVIDENCE, {"without": bare}))
    total = len(jobs) + model.answer.untrained
    for done, (name, change) in enumerate(jobs):
        start = time.perf_counter()
        answers = score(model, questions, **how, **change)
        variants.seconds[name] = time.perf_counter() - start
        (variants.answers if done < whole else variants.ablation)[name] = answers
        if progress is not None:
            progress(done + 1, total)
    if not model.answer.untrained:
        return variants
    with model.llm.disable_adapter():
        start = time.perf_counter()
        variants.answers[ZERO_SHOT] = score(model, questions, **how, mode="text", with_history=False, without=bare)
        variants.seconds[ZERO_SHOT] = time.perf_counter() - start
    if progress is not None:
        progress(total, total)
    return variants
