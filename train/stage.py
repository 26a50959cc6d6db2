"""One stage of training: its own optimiser and schedule, its best weights on the validation questions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bundlecache.errors import RecipeError

from .scoring import score
from .warm import contrastive_loss, draw_pairs

if TYPE_CHECKING:
    from bundlecache.questions import Questions

    from .data import TrainingQuestions
    from .history import History, Stop
    from .model import BundleMLLM

LOG_EVERY = 10  # steps per line of history


@dataclass(frozen=True)
class Progress:
    """Where training stands: ``loss`` is the mean since the last report, ``hit1`` the last look at validation."""

    stage: str
    step: int
    steps: int
    loss: float
    lr: float
    hit1: float | None


@dataclass
class Best:
    """The best trainable weights so far: by strict HitRate@1 and then loss on the validation questions, or by loss alone."""

    select: str = "hit@1"
    hit1: float = -1.0
    loss: float = math.inf
    step: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def offer(self, model: nn.Module, step: int, hit1: float, loss: float) -> bool:
        """Keep the model's weights if they are better."""
        # Not a number compares as false with everything: weights that diverged are never the best.
        better = loss < self.loss if self.select == "loss" else (hit1, -loss) > (self.hit1, -self.loss)
        if math.isnan(loss) or not better:
            return False
        self.hit1, self.loss, self.step = hit1, loss, step
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        return True

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Put the kept weights back."""
        parameters = dict(model.named_parameters())
        for name, value in self.weights.items():
            parameters[name].copy_(value)


class StageLoop:
    """Trains ``model`` through the stage ``name`` (text, fusion or joint) of its recipe."""

    def __init__(
        self,
        name: str,
        model: BundleMLLM,
        questions: TrainingQuestions,
        valid: Questions,
        accelerator: Any,
        history: History,
        stop: Stop,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.name, self.mode = name, "text" if name == "text" else "mm"
        self.settings = model.recipe.stage(name)
        self.model, self.questions, self.valid = model, questions, valid
        self.accelerator, self.history, self.stop, self.progress = accelerator, history, stop, progress
        self.best = Best(model.recipe.run.select)
        self.hit1: float | None = None

    def run(self) -> dict[str, Any]:
        """Run all steps, put the best weights back, and return the stage's row of the manifest."""
        began = time.perf_counter()
        parameters = self.model.train_only(self.name)
        if self.settings.contrastive_steps and self.name != "text":
            self._warm_start(
                [p for n, p in self.model.named_parameters() if p.requires_grad and n.startswith("tokens.")]
            )
        optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True
        )
        model, optimizer = self.accelerator.prepare(self.model, optimizer)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        self._evaluate(0)
        done, stale, total = 0, 0, torch.zeros((), device=self.accelerator.device)
        while done < self.settings.steps and not self.stop.reason:
            total += self.step(model, optimizer, parameters, done)
            done += 1
            rate = schedule.get_last_lr()[0]
            schedule.step()
            last = done == self.settings.steps
            if done % LOG_EVERY == 0 or last:
                mean = self.accelerator.reduce(total, reduction="mean") / ((done - 1) % LOG_EVERY + 1)
                self._report(done, float(mean), rate)
                total.zero_()
            if done % self.settings.evaluate_every == 0 or last:
                stale = 0 if self._evaluate(done) else stale + 1
                if 0 < self.settings.patience <= stale:
                    break
        if self.stop.reason:
            self._evaluate(done)
        self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        if not self.best.weights:
            raise RecipeError(
                f"The stage {self.name} diverged: its loss on the validation questions was never a number.",
                hint=f"--set {self.name}_stage.lr={self.settings.lr / 10:g}",
            )
        self.best.restore(self.model)
        self.model.eval()
        return {
            "name": self.name,
            "steps": done,
            "best_step": self.best.step,
            "seconds": round(time.perf_counter() - began, 2),
            "best_valid_hit@1": self.best.hit1,
            "trainable_parameters": sum(p.numel() for p in parameters),
        }

    def _rate(self, step: int) -> float:
        """The share of the peak learning rate at ``step``: a rise, then a straight fall."""
        s = self.settings
        if step < s.warmup:
            return (step + 1) / s.warmup
        left = max(0, s.steps - step) / max(1, s.steps - s.warmup)
        return s.final_lr + (1 - s.final_lr) * left

    def step(self, model: nn.Module, optimizer: Any, parameters: list[nn.Parameter], step: int) -> torch.Tensor:
        """One optimiser step over the questions of ``step``; returns their mean loss, on this process."""
        self._modes()
        drawn = self.questions.batch(step)
        mine = np.arange(len(drawn))[self.accelerator.process_index :: self.accelerator.num_processes]
        total = torch.zeros((), device=self.accelerator.device)
        for rows in np.array_split(mine, self.model.recipe.data.accumulate):
            if not len(rows):
                continue
            part = drawn.take(rows)
            batch = self.model.prompts.build(part.given, list(part.options), self.mode)
            loss = model(batch, part.truth, part.options.shape[1], self.mode) * (len(rows) / len(mine))
            self.accelerator.backward(loss)
            total += loss.detach()
        if self.settings.clip > 0:
            self.accelerator.clip_grad_norm_(parameters, self.settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    def _modes(self) -> None:
        """Dropout acts in what is trained only; checkpointing of activations needs the LLM in training mode."""
        self.model.train()
        if self.name == "fusion":
            self.model.llm.train(self.model.recipe.base.gradient_checkpointing)
            for module in self.model.llm.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()

    def _evaluate(self, step: int) -> bool:
        """Look at the validation questions and keep the weights if they are the best so far."""
        answers = score(self.model, self.valid, mode=self.mode)
        hit1 = float(
            ((answers.logits.argmax(1) == self.valid.truth) & answers.valid).mean()
        )  # an invalid answer is a miss
        loss = float(F.cross_entropy(torch.from_numpy(answers.logits), torch.from_numpy(self.valid.truth)))
        self.hit1 = hit1
        self.history.add(self.name, step, **{"valid_hit@1": hit1, "valid_loss": loss})
        return self.best.offer(self.model, step, hit1, loss)

    def _report(self, step: int, loss: float, rate: float) -> None:
        self.history.add(self.name, step, loss=loss, lr=rate)
        if self.progress is not None:
            self.progress(Progress(self.name, step, self.settings.steps, loss, rate, self.hit1))

    def _warm_start(self, parameters: list[nn.Parameter]) -> None:
        """Pull the tokens of bundled items together before any question is asked."""
        rng = np.random.default_rng([self.questions.seed, 1])
        optimizer = torch.optim.AdamW(parameters, lr=self.settings.lr)
        self.model.train()
        for step in range(self.settings.contrastive_steps):
            if self.stop.reason:
                return
            left, right = draw_pairs(self.questions.bundles, rng)
            items, row = np.unique(np.concatenate([left, right]), return_inverse=True)
            tokens = self.model.item_tokens(items)[torch.from_numpy(row)]
            loss = contrastive_loss(tokens[: len(left)], tokens[len(left) :], left, right)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if (step + 1) % LOG_EVERY == 0:
                self.history.add("contrastive", step + 1, loss=float(loss.detach()))
