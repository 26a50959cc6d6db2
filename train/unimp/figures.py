"""What UniMP finds on frozen validation questions: the figures by which its best weights are chosen.

Every question is asked by its prompt once; what stands at its ``<|answer|>`` decides. Hidden states can be given instead, where
they do not change (`bundlecache.train.unimp.head_only`). With semantic ids some of the questions are asked again, by the beam
search that also answers them later (`bundlecache.train.unimp.item_scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bundlecache.bench.task_bench import places_of

from ..training.validation import Figures
from .drawing import retrieve
from .item_scores import item_scores
from .item_texts import rate_places
from .vocabulary import AtomicIds

if TYPE_CHECKING:
    from bundlecache.questions.task_file import TaskQuestions

    from .model import UniMP
    from .prompts import Prompts

ROWS_AT_ONCE = 64
BEAM_QUESTIONS = 256  # of a task that names items by semantic ids, always the same ones: a beam search takes long
MAIN = {
    "recommend": "NDCG@10",
    "search": "NDCG@10",
    "select": "first",
    "preference": "1 - MAE / 4",
    "explain": "likelihood per token",
    "draw": "likelihood per token",
}
"""The figure of each task that is compared; larger is better, and all lie in 0..1."""
Tell = Callable[[int], None]


@dataclass(frozen=True)
class TaskFigures(Figures):
    """Figures by ``task name``; ``scores`` are the main ones by task, ``select`` is what the recipe says of them."""

    loss: float  # mean over tasks of -log p of what is right at <|answer|>, of a semantic id its first code
    scores: dict[str, float]
    figures: dict[str, float]
    select: str

    def order(self, select: str) -> tuple[float, ...]:
        """The main figure of a task or their mean, and then loss; or loss alone."""
        return (-self.loss,) if select == "loss" else (self._chosen(select), -self.loss)

    def _chosen(self, select: str) -> float:
        return self.scores[select] if select in self.scores else sum(self.scores.values()) / len(self.scores)

    @property
    def main(self) -> float:
        """The one that the recipe selects by; of the loss, the mean of all tasks."""
        return self._chosen(self.select)

    @property
    def name(self) -> str:
        """What :attr:`main` is called."""
        return f"{self.select} {MAIN[self.select]}" if self.select in self.scores else "mean of all tasks"

    def words(self, best: float) -> str:
        """The main figure, and those of the other tasks."""
        others = [f"{task} {value:.3f}" for task, value in self.scores.items() if task != self.select]
        return ", ".join([f"valid {self.name} {self.main:.3f}", f"best {best:.3f}", *others])

    def to_dict(self) -> dict[str, float]:
        """Under the names of the training log."""
        return {f"valid_{name}": value for name, value in {"loss": self.loss, **self.figures}.items()}


def figures(
    model: UniMP,
    prompts: Prompts,
    questions: Mapping[str, TaskQuestions],
    select: str,
    states: Mapping[str, Tensor] | None = None,
    tell: Tell = lambda _done: None,
) -> TaskFigures:
    """The figures of ``model`` on validation questions by task; ``tell`` hears how many more questions are answered.

    ``states`` [q, h] by task are hidden states at the answers, where they are known already.
    """
    was_training = model.training
    model.eval()
    found: dict[str, float] = {}
    scores, losses = {}, []
    with torch.inference_mode():
        for task, asked in questions.items():
            if task == "draw":
                made, loss = _drawn(model, prompts, asked, tell)
            else:
                hidden = answer_states(model, prompts, asked, tell) if states is None else states[task]
                made, loss = _of_task(model, prompts, asked, hidden)
            scores[task] = made[MAIN[task]]
            found |= {f"{task} {name}": value for name, value in made.items()}
            losses.append(loss)
    model.train(was_training)
    return TaskFigures(sum(losses) / len(losses), scores, found, select)


@torch.inference_mode()
def answer_states(model: UniMP, prompts: Prompts, asked: TaskQuestions, tell: Tell = lambda _done: None) -> Tensor:
    """Hidden states [q, h] at the ``<|answer|>`` that ends each prompt; prompts of similar lengths go together."""
    order = np.argsort(asked.history.lengths, kind="stable")
    parts = []
    for low in range(0, len(order), ROWS_AT_ONCE):
        rows = order[low : low + ROWS_AT_ONCE]
        batch = prompts.ask(asked.take(rows))
        parts.append(model.hidden(batch, batch.last))
        tell(len(rows))
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return torch.cat(parts)[torch.from_numpy(back)]


def _of_task(model: UniMP, prompts: Prompts, asked: TaskQuestions, hidden: Tensor) -> tuple[dict[str, float], float]:
    """The figures of one task, and its mean -log p of what is right."""
    truth, shown = _right(model, prompts, asked), _shown(model, prompts, asked)
    losses, values = [], []
    for low in range(0, len(hidden), ROWS_AT_ONCE):
        part = slice(low, low + ROWS_AT_ONCE)
        logits, right = model.logits(hidden[part]), truth[part].to(hidden.device)
        likely = logits.log_softmax(-1).gather(1, right.clamp_min(0)).masked_fill(right < 0, -torch.inf)
        losses.append(-likely.logsumexp(-1))
        ours = logits[:, shown] if isinstance(shown, slice) else logits.gather(1, shown[part].to(logits.device))
        values.append(ours.cpu())
    loss = float(torch.cat(losses).mean())
    made = torch.cat(values).float()
    if asked.task in ("recommend", "search"):
        if not isinstance(model.vocabulary.item_ids, AtomicIds):
            return _ranked(*_by_beams(model, prompts, sampled(asked, BEAM_QUESTIONS))), loss
        return _ranked(asked, made.numpy()), loss
    if asked.task == "select":
        first = made.argmax(1).numpy()
        return {"first": float(asked.right[np.arange(len(asked)), first].mean())}, loss
    stars = torch.arange(1, made.shape[1] + 1, dtype=torch.float32)
    error = (made.softmax(-1) @ stars).numpy() - asked.rating
    found = {"MAE": float(np.abs(error).mean()), "RMSE": float(np.sqrt((error**2).mean()))}
    if asked.task == "preference":
        return {MAIN["preference"]: 1 - found["MAE"] / 4, **found}, loss
    written = _written(model, prompts, asked)
    return {MAIN["explain"]: float(np.exp(-written)), **found}, written


def _drawn(model: UniMP, prompts: Prompts, asked: TaskQuestions, tell: Tell) -> tuple[dict[str, float], float]:
    """How likely each code of the right pictures is, behind other items that were retrieved; and its mean -log p."""
    parts = np.split(np.arange(len(asked)), range(ROWS_AT_ONCE, len(asked), ROWS_AT_ONCE))
    total = 0.0
    for rows in parts:
        total += len(rows) * _written(model, prompts, retrieve(model, prompts, asked.take(rows), without_target=True))
        tell(len(rows))
    loss = total / len(asked)  # each picture has as many codes
    return {MAIN["draw"]: float(np.exp(-loss))}, loss


def sampled(asked: TaskQuestions, most: int) -> TaskQuestions:
    """At most so many questions, always the same ones; all of them where ``most`` is 0."""
    if not 0 < most < len(asked):
        return asked
    return asked.take(np.sort(np.random.default_rng(0).permutation(len(asked))[:most]))


def _by_beams(model: UniMP, prompts: Prompts, asked: TaskQuestions) -> tuple[TaskQuestions, np.ndarray]:
    """The questions, those of like length together, and the scores [q, I] of their items."""
    asked = asked.take(np.argsort(asked.history.lengths, kind="stable"))
    parts = [
        asked.take(rows) for rows in np.split(np.arange(len(asked)), range(ROWS_AT_ONCE, len(asked), ROWS_AT_ONCE))
    ]
    return asked, np.concatenate([item_scores(model, prompts.ask(part)) for part in parts])


def _ranked(asked: TaskQuestions, scores: np.ndarray) -> dict[str, float]:
    """The figures of scores [q, I] among all items that the history does not hold."""
    places = places_of(asked, scores)
    return {
        "NDCG@10": float(places.ndcg(10).mean()),
        "HR@10": float(places.within(10).mean()),
        "MRR": float(places.reciprocal().mean()),
    }


def _shown(model: UniMP, prompts: Prompts, asked: TaskQuestions) -> slice | Tensor:
    """The ids among which questions of a task choose at ``<|answer|>``: the same for all, or int64 [q, n]."""
    if asked.task == "select":
        return torch.from_numpy(prompts.names_of(asked).copy())
    ours = model.vocabulary
    names = ours.items if asked.task in ("recommend", "search") else ours.rates
    return slice(names.start, names.stop)


def _right(model: UniMP, prompts: Prompts, asked: TaskQuestions) -> Tensor:
    """int64 [q, r]: the ids that are right at ``<|answer|>``, with -1 behind the last one."""
    ours = model.vocabulary
    if asked.task in ("recommend", "search"):
        return torch.from_numpy(ours.of_items(asked.target)[:, :1].copy())
    if asked.task == "select":
        return torch.from_numpy(np.where(asked.right, prompts.names_of(asked), -1))
    return torch.from_numpy(ours.rates.start + rate_places(asked.rating, len(ours.rates)))[:, None]


def _written(model: UniMP, prompts: Prompts, asked: TaskQuestions) -> float:
    """-log p per token of the answers to ``explain`` or ``draw``, rating and end included."""
    total, count = 0.0, 0
    for low in range(0, len(asked), ROWS_AT_ONCE):
        rows = np.arange(low, min(low + ROWS_AT_ONCE, len(asked)))
        entropy, _, _ = model.entropies(prompts.train([asked.take(rows)], context=False))
        total, count = total + float(entropy.sum()), count + len(entropy)
    return total / max(1, count)
