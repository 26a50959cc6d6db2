"""The stage ``head`` of UniMP: trains the output rows of items alone, on hidden states that are computed once.

Below the output rows nothing changes in this stage, so the language model runs once over a fixed set of rows and once over the
validation questions; a step is then a softmax regression on their states, and no forward of the language model. It is the
paper's "Multi-task + Efficient" with one difference: the rows of items change, and no other row of the head, so that
ratings, selections and words stay as the first stage left them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.errors import RecipeError
from bundlecache.questions.task_file import TASKS

from ..training.epochs import EpochOrder
from ..training.stage import PEAK, Piece
from .figures import TaskFigures, answer_states, figures
from .losses import Labels
from .stages import UnimpStageLoop

if TYPE_CHECKING:
    from bundlecache.questions.task_file import TaskName, TaskQuestions
    from bundlecache.recipes.unimp_recipe import HeadStage as Settings
    from bundlecache.recipes.unimp_recipe import UnimpRecipe

    from .batch import Batch
    from .model import UniMP
    from .prompts import Prompts
    from .samples import Samples

NAMING: tuple[TaskName, ...] = ("recommend", "search")
"""The tasks whose answers name an item of the catalogue."""
ROWS_AT_ONCE = 32
CACHE_STREAM = 3  # beside the seed


class Head(nn.Module):
    """The output rows of a model, with the loss on cached labels."""

    def __init__(self, model: UniMP) -> None:
        super().__init__()
        self.unimp = model

    def forward(self, labels: Labels, denominator: float) -> Tensor:
        """See `UniMP.head_loss`."""
        return self.unimp.head_loss(labels, denominator)


class HeadStage(UnimpStageLoop):
    """Trains the output rows of items; ``valid`` are the validation questions of its tasks."""

    def __init__(
        self,
        name: str,
        model: UniMP,
        prompts: Prompts,
        samples: Samples,
        valid: Mapping[str, TaskQuestions],
        *rest: Any,
    ) -> None:
        """``rest`` are accelerator, log, stop, progress, save and time_left of `UnimpStageLoop`."""
        self.samples = samples
        self.tasks = tasks_of(model.recipe)
        valid = {task: valid[task] for task in self.tasks}
        super().__init__(name, Head(model), model, prompts, samples.seed, valid, *rest)
        self.head: Settings = model.recipe.head_stage

    def trained(self) -> list[nn.Parameter]:
        """The output rows, of which all but those of items have no gradient; hidden states are computed here."""
        parameters = self.unimp.train_only("head")
        start = self.unimp.vocabulary.base_size
        items = self.unimp.vocabulary.items
        (rows,) = parameters
        names_item = torch.zeros(len(rows), 1, device=rows.device)
        names_item[items.start - start : items.stop - start] = 1
        self.hook = rows.register_hook(lambda gradient: gradient * names_item)
        self.labels = self._cached()
        self.order = EpochOrder(len(self.labels.truth), [self.seed, CACHE_STREAM])
        self.states = {task: answer_states(self.unimp, self.prompts, asked) for task, asked in self.valid.items()}
        return parameters

    def run(
        self, state: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """See `StageLoop.run`; afterwards all rows have gradients again."""
        try:
            return super().run(state, tensors)
        finally:
            self.hook.remove()

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Without decay of its own, as the rows of marks must stay."""
        group = {"params": parameters, PEAK: self.stage.rows_lr or self.stage.lr}
        return torch.optim.AdamW([group], lr=self.stage.lr, weight_decay=0.0, fused=True)

    def pieces(self, step: int) -> Sequence[Piece]:
        """The labels of the step that this process computes."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        size = min(self.head.batch, self.order.n)
        rows = torch.from_numpy(self.order.take(step * size, size)[rank::processes])
        labels = Labels(*(getattr(self.labels, name)[rows].to(self.accelerator.device) for name in LABELS))
        return [lambda: ((labels, size / processes), 1.0)]

    def validate(self) -> TaskFigures:
        """The validation questions, from their hidden states."""
        select = self.run_settings.select
        return figures(self.unimp, self.prompts, self.valid, select, states=self.states)

    def _cached(self) -> Labels:
        """The labels of `windows_per_user` rows of every user and task that name an item; each process computes its share."""
        from accelerate.utils import gather_object

        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        parts, of = [], 0
        batches = list(self._batches())
        self.unimp.eval()
        total = sum(len(rows) for _, rows in batches)
        for task, rows in batches[rank::processes]:
            drawn = self.samples.rows(task, rows, np.random.default_rng([self.seed, CACHE_STREAM]))
            parts.append(self._of_items(self.prompts.train([drawn])))
            of += len(rows)
            self.reporter.tell("cache", min(of * processes, total), total, len(rows) * processes)
        if processes > 1:
            shares = gather_object([parts])
            parts = [shares[k % processes][k // processes] for k in range(len(batches))]
        return Labels(*(torch.cat([getattr(part, name) for part in parts]) for name in LABELS))

    def _batches(self) -> list[tuple[TaskName, np.ndarray]]:
        """Tasks and interactions that are asked about, in the order in which they are cached."""
        made = []
        for task in self.tasks:
            targets = self.samples.targets[task]
            rng = np.random.default_rng([self.seed, CACHE_STREAM, TASKS.index(task)])
            users = np.tile(np.arange(len(targets)), self.head.windows_per_user)
            rows = np.unique(self.samples.picked(task, users, rng))
            made += [(task, rows[low : low + ROWS_AT_ONCE]) for low in range(0, len(rows), ROWS_AT_ONCE)]
        return made

    def _of_items(self, batch: Batch) -> Labels:
        """The labels of a batch that are items, in main memory."""
        found = self.unimp.labels(batch)
        kept = found.truth >= self.unimp.vocabulary.items.start
        return Labels(*(getattr(found, name)[kept].cpu() for name in LABELS))


LABELS = ("hidden", "truth", "weight", "total", "gold")


def tasks_of(recipe: UnimpRecipe) -> list[TaskName]:
    """The tasks of the stage: those of the recipe, or all trained ones whose answers name an item.

    Raises
    ------
    RecipeError
        When one is not trained, or none names an item.
    """
    trained, wanted = recipe.data.tasks, recipe.head_stage.tasks
    tasks = [task for task in wanted or trained if task in NAMING]
    if odd := [task for task in wanted if task not in trained or task not in NAMING]:
        raise RecipeError(
            f"The stage head cannot be trained for {odd[0]}: it takes trained tasks whose answers name an item,"
            f" {' or '.join(NAMING)}.",
            hint="--set head_stage.tasks=recommend",
        )
    if not tasks:
        raise RecipeError(
            "The stage head needs a task whose answers name an item, recommend or search.",
            hint="--set run.strategy=multitask",
        )
    return tasks
