"""The stage ``multitask`` of UniMP: rows of all tasks in one batch, one loss, and the best weights on validation questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..training.progress import Progress, TimeLeft
from ..training.stage import PEAK, Piece, Save, StageLoop
from .drawing import retrieve
from .figures import MAIN, TaskFigures, figures

if TYPE_CHECKING:
    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.recipes.unimp_recipe import UnimpStage
    from bundlecache.training_log import Stop, TrainingLog

    from ..training.validation import Figures
    from .batch import Batch
    from .model import UniMP
    from .prompts import Prompts
    from .samples import Samples


class UnimpStageLoop(StageLoop):
    """What both stages of UniMP have in common; ``valid`` are validation questions by task."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        model: UniMP,
        prompts: Prompts,
        seed: int,
        valid: Mapping[str, TaskQuestions],
        accelerator: Any,
        log: TrainingLog,
        stop: Stop,
        progress: Callable[[Progress], None] | None,
        save: Save | None,
        time_left: TimeLeft,
    ) -> None:
        """``module`` is what a step runs: the model, or a part of it."""
        self.unimp, self.prompts, self.valid = model, prompts, valid
        self.stage: UnimpStage = model.recipe.stage(name)
        asked = sum(map(len, valid.values()))
        run = model.recipe.run
        super().__init__(name, module, self.stage, run, seed, asked, accelerator, log, stop, progress, save, time_left)

    def figures_of(self, state: Mapping[str, Any]) -> TaskFigures:
        """Figures from a snapshot."""
        return TaskFigures(**state)

    def row_of(self, best: Figures) -> dict[str, Any]:
        """Loss, and the figures of all tasks."""
        assert isinstance(best, TaskFigures)  # noqa: S101 - as this stage made them
        return {"selected_by": best.name, "best_valid_loss": best.loss, "best_valid": best.figures}


class MultitaskStage(UnimpStageLoop):
    """Trains all that is ours on drawn rows of every task."""

    def __init__(self, name: str, model: UniMP, prompts: Prompts, samples: Samples, *rest: Any) -> None:
        """``rest`` are valid, accelerator, log, stop, progress, save and time_left of `UnimpStageLoop`."""
        self.samples = samples
        super().__init__(name, model, model, prompts, samples.seed, *rest)

    def trained(self) -> list[nn.Parameter]:
        """Resampler, blocks, rows and adapter."""
        return self.unimp.train_only("multitask")

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW over :func:`parameter_groups`."""
        return torch.optim.AdamW(parameter_groups(self.unimp, parameters, self.stage), lr=self.stage.lr, fused=True)

    def modes(self) -> None:
        """Dropout in the adapter alone; activation checkpointing needs the language model in training mode."""
        self.model.train()
        for name, module in self.unimp.llm.named_modules():
            if isinstance(module, nn.Dropout) and "lora_" not in name:
                module.eval()

    def pieces(self, step: int) -> Sequence[Piece]:
        """The rows of the step that this process computes; all processes know how many labels the whole step has.

        Rows are dealt by their length, so that processes have as much to do and pieces hold little padding.
        """
        parts = self.samples.batch(step)
        batch = self.prompts.train([self._retrieved(part) if part.task == "draw" else part for part in parts])
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        order = np.argsort(batch.there.sum(1).numpy(), kind="stable")
        mine = order[rank::processes]
        pieces = [rows for rows in np.array_split(mine, self.unimp.recipe.data.accumulate) if len(rows)]
        return [partial(_piece, batch, rows, batch.count / processes) for rows in pieces]

    def _retrieved(self, part: TaskQuestions) -> TaskQuestions:
        """Rows of ``draw`` with other items than the target, as the model finds them at this step."""
        return retrieve(self.unimp, self.prompts, part, without_target=True)

    def validate(self) -> TaskFigures:
        """The validation questions of all trained tasks; every process answers all of them."""
        told = [0]

        def tell(done: int) -> None:
            told[0] += done
            self.reporter.tell("validate", told[0], self.asked, done)

        return figures(self.unimp, self.prompts, self.valid, self.run_settings.select, tell=tell)


def _piece(batch: Batch, rows: np.ndarray, denominator: float) -> tuple[tuple[Any, ...], float]:
    return (batch.take(rows), denominator), 1.0


def parameter_groups(model: UniMP, parameters: Sequence[nn.Parameter], stage: UnimpStage) -> list[dict[str, Any]]:
    """The trained parameters by their rate and decay.

    Rows, and the resampler and gated blocks, have rates of their own; rows and the matrices of the blocks decay.
    """
    kinds = {
        "rows": (stage.rows_lr or stage.lr, stage.rows_decay),
        "matrices": (stage.vision_lr or stage.lr, stage.weight_decay),
        "vision": (stage.vision_lr or stage.lr, 0.0),
        "others": (stage.lr, 0.0),
    }
    found: dict[str, list[nn.Parameter]] = {kind: [] for kind in kinds}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in parameters:
        name = names[id(parameter)]
        sees = "matrices" if name.startswith("blocks.") and parameter.ndim > 1 else "vision"
        kind = sees if name.startswith(("blocks.", "sight.")) else "rows" if name.startswith("rows.") else "others"
        found[kind].append(parameter)
    return [
        {"params": found[kind], "weight_decay": decay, PEAK: rate}
        for kind, (rate, decay) in kinds.items()
        if found[kind]
    ]


def table_rows(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stages of a run for a table, a row for each task: its main figure on validation questions."""
    rows = []
    for stage in stages:
        about = {"stage": stage["name"], "steps": stage["steps"], "best step": stage["best_step"]}
        found = stage["best_valid"]
        for task, name in MAIN.items():
            if (value := found.get(f"{task} {name}")) is not None:
                rows.append({**about, "task": task, "figure": name, "validation": round(value, 4)})
    return rows
