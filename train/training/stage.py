"""Runs one stage of training, of whatever model: optimiser, schedule, validation, snapshots, and the choice of the best weights.

What is trained on what is said by subclasses: `bundlecache.train.training.question_stage` (Bundle-MLLM on bundle
questions) and `bundlecache.train.unimp.stages` (UniMP).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.errors import RecipeError

from .averaging import Averages
from .progress import Progress, Reporter, TimeLeft
from .validation import Best, Figures, has_figures

if TYPE_CHECKING:
    from bundlecache.training_log import Stop, TrainingLog

LOG_EVERY = 10  # steps per line of the training log
PEAK = "peak_lr"
"""The peak learning rate of a group of parameters that has one of its own, among the group's settings."""
Save = Callable[[dict[str, Any], dict[str, Tensor]], None]
Piece = Callable[[], tuple[tuple[Any, ...], float]]
"""Gives the arguments of the model for a part of a step's rows, and the factor of its loss."""


class StageSettings(Protocol):
    """What every stage of a recipe says of itself."""

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def final_lr(self) -> float: ...  # noqa: D102
    @property
    def warmup(self) -> int: ...  # noqa: D102
    @property
    def clip(self) -> float: ...  # noqa: D102
    @property
    def evaluate_every(self) -> int: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102
    @property
    def average(self) -> float: ...  # noqa: D102


class RunSettings(Protocol):
    """What a recipe says of all its stages."""

    @property
    def select(self) -> str: ...  # noqa: D102
    @property
    def save_every(self) -> int: ...  # noqa: D102
    @property
    def save_minutes(self) -> float: ...  # noqa: D102


class StageLoop(ABC):
    """Trains ``model`` through the stage ``name`` of a recipe.

    ``settings`` are those of the stage, ``run`` those of all stages; ``seed`` with the number of a step determines what is
    drawn; ``asked`` is the number of validation questions. ``save`` is called with a snapshot of the stage (JSON, tensors)
    whenever one is due; every process calls it.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        settings: StageSettings,
        run: RunSettings,
        seed: int,
        asked: int,
        accelerator: Any,
        log: TrainingLog,
        stop: Stop,
        progress: Callable[[Progress], None] | None,
        save: Save | None,
        time_left: TimeLeft,
    ) -> None:
        self.name, self.model, self.settings, self.run_settings = name, model, settings, run
        self.seed, self.asked = seed, asked
        self.accelerator, self.log, self.stop = accelerator, log, stop
        self.save, self.saved = save, time.monotonic()
        self.best = Best(run.select)
        self.hit1: float | None = None  # the main figure of the last validation
        self.done, self.stale, self.seconds, self.stopped = 0, 0, 0.0, False
        self.total = torch.zeros((), device=accelerator.device)  # loss since the last line of the log
        self.averages: Averages | None = None
        self.judged = -1  # the step of the latest validation
        self.reporter = Reporter(name, time_left, progress)

    @abstractmethod
    def trained(self) -> list[nn.Parameter]:
        """Make exactly the parameters of this stage trainable and return them."""

    @abstractmethod
    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW over ``parameters``; groups with a peak learning rate of their own say so under `PEAK`."""

    @abstractmethod
    def pieces(self, step: int) -> Sequence[Piece]:
        """The rows of a step that this process computes, in pieces that are computed one after the other."""

    @abstractmethod
    def validate(self) -> Figures:
        """Answer the validation questions; every process gets the same figures."""

    @abstractmethod
    def figures_of(self, state: Mapping[str, Any]) -> Figures:
        """Figures from what `Figures.state` gave."""

    @abstractmethod
    def row_of(self, best: Figures) -> dict[str, Any]:
        """The best figures as the manifest of a run holds them."""

    def warm_up(self) -> bool:
        """What comes before the first step and is not resumed in its middle; False if it was stopped early."""
        return True

    def modes(self) -> None:
        """Enable dropout in trained modules only."""
        self.model.train()

    def run(
        self, state: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Run all steps, put the best weights back, and return the stage's row of the manifest.

        ``state`` and ``tensors`` are those of a snapshot to resume from.
        """
        began = time.perf_counter()
        self.reporter.start()
        parameters = self.trained()
        whole = bool(state) or self.warm_up()
        optimizer: Any = self.optimizer(parameters)
        if self.settings.average:
            self.averages = Averages(parameters, self.settings.average)
        if state:
            self._restore(state, tensors or {}, optimizer)
            self._set_time_left()
        model, optimizer = self.accelerator.prepare(self.model, optimizer)
        if state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if not state:
            self._evaluate(0)
        before, first = self.seconds, self.done
        while self.done < self.settings.steps and not (0 < self.settings.patience <= self.stale):
            self.seconds = before + time.perf_counter() - began
            if self._pause(optimizer, whole=whole, new=self.done > first):
                self.stopped = True
                break
            self.advance(model, optimizer, parameters)
        if self.stopped and self.judged != self.done:
            self._evaluate(self.done)
        for phase in ("contrastive", "cache", "train", "validate"):
            self.reporter.time_left.set_left(self.name, phase, 0)
        self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        if self.best.found is None:
            raise RecipeError(
                f"The stage {self.name} diverged: its loss on the validation questions was never a number.",
                hint=f"--set {self.name}_stage.lr={self.settings.lr / 10:g}",
            )
        self.best.restore(self.model)
        self.model.eval()
        return {
            "name": self.name,
            "steps": self.done,
            "best_step": self.best.step,
            "seconds": round(before + time.perf_counter() - began, 2),
            **self.row_of(self.best.found),
            "trainable_parameters": sum(p.numel() for p in parameters),
        }

    def advance(self, model: nn.Module, optimizer: Any, parameters: list[nn.Parameter]) -> None:
        """One step, and after it a line of the log and a validation where they are due."""
        share = self._rate(self.done)
        rate = self.settings.lr * share
        for group in optimizer.param_groups:
            group["lr"] = group[PEAK] * share if PEAK in group else rate
        self.total += self.step(model, optimizer, parameters, self.done)
        self.done += 1
        if self.averages is not None:
            self.averages.update(self.done)
        last = self.done == self.settings.steps
        if self.done % LOG_EVERY == 0 or last:
            loss = float(self._mean_total()) / self._logged_steps
            self.log.add(self.name, self.done, loss=loss, lr=rate)
            self.total.zero_()
            self.reporter.loss = loss
        elif self.total.device.type == "cpu":  # on a GPU this would wait for the step
            self.reporter.loss = float(self.total) / self._logged_steps
        self.reporter.lr = rate
        self.reporter.tell("train", self.done, self.settings.steps)
        if self.done % self.settings.evaluate_every == 0 or last:
            self.stale = 0 if self._evaluate(self.done) else self.stale + 1

    @property
    def _logged_steps(self) -> int:
        """How many steps are in ``total``."""
        return (self.done - 1) % LOG_EVERY + 1

    def _set_time_left(self) -> None:
        """What a resumed stage still has to do."""
        s, left = self.settings, self.reporter.time_left
        left.set_left(self.name, "contrastive", 0)
        left.set_left(self.name, "train", s.steps - self.done)
        left.set_left(self.name, "validate", -(-(s.steps - self.done) // s.evaluate_every) * self.asked)

    def _rate(self, step: int) -> float:
        """The share of the peak learning rate at ``step``: linear warm-up, then decay to ``final_lr``, linear or by a cosine."""
        s = self.settings
        if step < s.warmup:
            return (step + 1) / s.warmup
        left = max(0, s.steps - step) / max(1, s.steps - s.warmup)
        if getattr(s, "schedule", "linear") == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return s.final_lr + (1 - s.final_lr) * left

    def step(self, model: nn.Module, optimizer: Any, parameters: list[nn.Parameter], step: int) -> Tensor:
        """One optimiser step over the rows of ``step``; returns this process's part of their mean loss.

        The mean over processes, of losses as of gradients, is that over all rows.
        """
        self.modes()
        self._seed(step)
        total = torch.zeros((), device=self.accelerator.device)
        pieces = self.pieces(step)
        for k, piece in enumerate(pieces):
            arguments, share = piece()
            wait = (
                k + 1 < len(pieces) and self.accelerator.num_processes > 1
            )  # processes exchange gradients once a step
            with self.accelerator.no_sync(model) if wait else nullcontext():
                loss = model(*arguments) * share
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.settings.clip > 0:
            self.accelerator.clip_grad_norm_(parameters, self.settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    def _seed(self, step: int) -> None:
        """Seed torch from the seed and the number of the step, so that a resumed training draws the same dropout."""
        key = [self.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def _pause(self, optimizer: Any, *, whole: bool, new: bool) -> bool:
        """Write a snapshot if one is due; whether to stop. All processes get the same answer."""
        run = self.run_settings
        due = run.save_every > 0 and self.done % run.save_every == 0
        due = due or 0 < run.save_minutes < (time.monotonic() - self.saved) / 60
        stopping = bool(self.stop.reason)
        if self.accelerator.num_processes > 1:
            votes = torch.tensor([float(due), float(stopping)], device=self.accelerator.device)
            due, stopping = (self.accelerator.reduce(votes, reduction="sum") > 0).tolist()
            if stopping:
                self.stop.request("another process")
        if self.save is not None and whole and (stopping or (due and new)):
            self.save(*self._snapshot(optimizer))
            self.saved = time.monotonic()
        return stopping

    def _snapshot(self, optimizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state of the stage, as JSON and tensors."""
        self.total.copy_(self._mean_total())
        scaler = self.accelerator.scaler
        state = {
            "done": self.done,
            "stale": self.stale,
            "seconds": self.seconds,
            "hit1": self.hit1,
            "best": self.best.state(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        tensors = {"total": self.total, **{f"best.{name}": value for name, value in self.best.weights.items()}}
        if self.averages is not None:
            tensors |= {f"average.{k}": value for k, value in enumerate(self.averages.values)}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return state, tensors

    def _restore(
        self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Restore the state that :meth:`_snapshot` returned."""
        self.done, self.stale, self.seconds, self.hit1 = (state[k] for k in ("done", "stale", "seconds", "hit1"))
        self.total.copy_(tensors["total"])
        best = dict(state["best"])
        self.best = Best(self.best.select, best.pop("step"), self.figures_of(best) if has_figures(best) else None)
        device = self.accelerator.device
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "best":
                self.best.weights[rest] = value.to(device)
            elif kind == "average" and self.averages is not None:
                self.averages.values[int(rest)].copy_(value)
            elif kind == "optimizer":
                index, _, moment = rest.partition(".")
                moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})

    def _evaluate(self, step: int) -> bool:
        """Answer the validation questions and keep the weights if they are the best so far; whether they are."""
        with nullcontext() if self.averages is None else self.averages.in_place():
            return self._judge(step)

    def _judge(self, step: int) -> bool:
        self.judged = step
        found = self.validate()
        self.hit1 = found.main
        self.log.add(self.name, step, **found.to_dict())
        better = self.best.offer(self.model, step, found)
        best = 0.0 if self.best.found is None else self.best.found.main
        self.reporter.found, self.reporter.best = found, max(best, 0.0)
        self.reporter.tell("validate", self.asked, self.asked, units=0)
        return better

    def _mean_total(self) -> Tensor:
        mean: Tensor = self.accelerator.reduce(self.total, reduction="mean")
        return mean
