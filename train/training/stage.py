"""One stage of training: its own optimiser and schedule, its best weights on the validation questions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bundlecache.errors import RecipeError

from ..inference.scoring import score_options
from .contrastive import contrastive_loss, draw_pairs

if TYPE_CHECKING:
    from bundlecache.questions.file import Questions

    from ..model.bundle_mllm import BundleMLLM
    from .log import Stop, TrainingLog
    from .sampler import QuestionSampler

LOG_EVERY = 10  # steps per line of history
Save = Callable[[dict[str, Any], dict[str, Tensor]], None]


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
    weights: dict[str, Tensor] = field(default_factory=dict)

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
    """Trains ``model`` through the stage ``name`` (text, fusion or joint) of its recipe.

    ``save`` is called with a snapshot of the stage (JSON, tensors) whenever one is due; every process calls it.
    """

    def __init__(
        self,
        name: str,
        model: BundleMLLM,
        questions: QuestionSampler,
        valid: Questions,
        accelerator: Any,
        history: TrainingLog,
        stop: Stop,
        progress: Callable[[Progress], None] | None,
        save: Save | None = None,
    ) -> None:
        self.name, self.mode = name, "text" if name == "text" else "mm"
        self.settings = model.recipe.stage(name)
        self.model, self.questions, self.valid = model, questions, valid
        self.accelerator, self.history, self.stop, self.progress = accelerator, history, stop, progress
        self.save, self.saved = save, time.monotonic()
        self.best = Best(model.recipe.run.select)
        self.hit1: float | None = None
        self.done, self.stale, self.seconds, self.stopped = 0, 0, 0.0, False
        self.total = torch.zeros((), device=accelerator.device)  # loss since the last line of history

    def run(
        self, state: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Run all steps, put the best weights back, and return the stage's row of the manifest.

        ``state`` and ``tensors`` are those of a snapshot to go on from; the stage begins without.
        """
        began = time.perf_counter()
        parameters = self.model.train_only(self.name)
        whole = bool(state) or self._warm_start()
        optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True
        )
        if state:
            self._restore(state, tensors or {}, optimizer)
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
        if self.stopped:
            self._evaluate(self.done)
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
            "steps": self.done,
            "best_step": self.best.step,
            "seconds": round(before + time.perf_counter() - began, 2),
            "best_valid_hit@1": self.best.hit1,
            "trainable_parameters": sum(p.numel() for p in parameters),
        }

    def advance(self, model: nn.Module, optimizer: Any, parameters: list[nn.Parameter]) -> None:
        """One step, and what is due behind it: a line of history, a look at the validation questions."""
        rate = self.settings.lr * self._rate(self.done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        self.total += self.step(model, optimizer, parameters, self.done)
        self.done += 1
        last = self.done == self.settings.steps
        if self.done % LOG_EVERY == 0 or last:
            self._report(float(self._mean_total()) / ((self.done - 1) % LOG_EVERY + 1), rate)
            self.total.zero_()
        if self.done % self.settings.evaluate_every == 0 or last:
            self.stale = 0 if self._evaluate(self.done) else self.stale + 1

    def _rate(self, step: int) -> float:
        """The share of the peak learning rate at ``step``: a rise, then a straight fall."""
        s = self.settings
        if step < s.warmup:
            return (step + 1) / s.warmup
        left = max(0, s.steps - step) / max(1, s.steps - s.warmup)
        return s.final_lr + (1 - s.final_lr) * left

    def step(self, model: nn.Module, optimizer: Any, parameters: list[nn.Parameter], step: int) -> Tensor:
        """One optimiser step over the questions of ``step``; returns this process's part of their mean loss.

        The mean over processes, of losses as of gradients, is that over all questions.
        """
        self._modes()
        self._seed(step)
        drawn = self.questions.batch(step)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = np.arange(len(drawn))[rank::processes]
        total = torch.zeros((), device=self.accelerator.device)
        pieces = [rows for rows in np.array_split(mine, self.model.recipe.data.accumulate) if len(rows)]
        for k, rows in enumerate(pieces):
            part = drawn.take(rows)
            batch = self.model.prompts.build(part.partial, list(part.options), self.mode, part.history)
            wait = k + 1 < len(pieces) and processes > 1  # processes exchange gradients once a step
            with self.accelerator.no_sync(model) if wait else nullcontext():
                loss = model(batch, part.truth, part.options.shape[1], self.mode) * (len(rows) * processes / len(drawn))
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.settings.clip > 0:
            self.accelerator.clip_grad_norm_(parameters, self.settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    def _seed(self, step: int) -> None:
        """Dropout of a step is drawn from the seed and the step's number, so that a training can go on anywhere."""
        key = [self.questions.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def _pause(self, optimizer: Any, *, whole: bool, new: bool) -> bool:
        """Write a snapshot if one is due; say whether to stop. All processes come to the same answer."""
        run = self.model.recipe.run
        due = run.save_every > 0 and self.done % run.save_every == 0
        due = due or 0 < run.save_minutes < (time.monotonic() - self.saved) / 60
        stopping = bool(self.stop.reason)
        if self.accelerator.num_processes > 1:
            votes = torch.tensor([float(due), float(stopping)], device=self.accelerator.device)
            due, stopping = (self.accelerator.reduce(votes, reduction="sum") > 0).tolist()
            if stopping:
                self.stop.heed("another process")
        if self.save is not None and whole and (stopping or (due and new)):
            self.save(*self._snapshot(optimizer))
            self.saved = time.monotonic()
        return stopping

    def _snapshot(self, optimizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Where the stage stands, as JSON and tensors."""
        self.total.copy_(self._mean_total())
        best = {"hit1": self.best.hit1, "loss": self.best.loss, "step": self.best.step}
        scaler = self.accelerator.scaler
        state = {
            "done": self.done,
            "stale": self.stale,
            "seconds": self.seconds,
            "hit1": self.hit1,
            "best": best,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        tensors = {"total": self.total, **{f"best.{name}": value for name, value in self.best.weights.items()}}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return state, tensors

    def _restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> None:
        """Stand where :meth:`_snapshot` stood."""
        self.done, self.stale, self.seconds, self.hit1 = (state[k] for k in ("done", "stale", "seconds", "hit1"))
        self.total.copy_(tensors["total"])
        self.best = Best(self.best.select, **state["best"])
        device = self.accelerator.device
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "best":
                self.best.weights[rest] = value.to(device)
            elif kind == "optimizer":
                index, _, moment = rest.partition(".")
                moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})

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
        logits, valid = self._answers()
        hit1 = float(((logits.argmax(1) == self.valid.truth) & valid).mean())  # an invalid answer is a miss
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(self.valid.truth)))
        self.hit1 = hit1
        self.history.add(self.name, step, **{"valid_hit@1": hit1, "valid_loss": loss})
        return self.best.offer(self.model, step, hit1, loss)

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Letter logits [q, n] and validity [q] of the validation questions; every process answers its share."""
        from accelerate.utils import gather_object

        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(rank, len(self.valid), processes)
        partial, options = [self.valid.partial[q] for q in mine], self.valid.options[rank::processes]
        history = self.model.history_of(self.valid)[rank::processes]
        answers = score_options(self.model, partial, options, history=history, mode=self.mode)
        if processes == 1:
            return answers.logits, answers.valid
        logits, valid = np.empty(self.valid.options.shape, np.float32), np.empty(len(self.valid), bool)
        for r, (some, sound) in enumerate(gather_object([(answers.logits, answers.valid)])):
            logits[r::processes], valid[r::processes] = some, sound
        return logits, valid

    def _mean_total(self) -> Tensor:
        mean: Tensor = self.accelerator.reduce(self.total, reduction="mean")
        return mean

    def _report(self, loss: float, rate: float) -> None:
        self.history.add(self.name, self.done, loss=loss, lr=rate)
        if self.progress is not None:
            self.progress(Progress(self.name, self.done, self.settings.steps, loss, rate, self.hit1))

    def _warm_start(self) -> bool:
        """Pull the tokens of bundled items together before any question is asked; False if it was stopped early."""
        if not self.settings.contrastive_steps or self.name == "text":
            return True
        parameters = [p for n, p in self.model.named_parameters() if p.requires_grad and n.startswith("tokens.")]
        rng = np.random.default_rng([self.questions.seed, 1])
        optimizer = torch.optim.AdamW(parameters, lr=self.settings.lr)
        self.model.train()
        for step in range(self.settings.contrastive_steps):
            if self.stop.reason and self.accelerator.num_processes == 1:  # several would have to agree
                return False
            left, right = draw_pairs(self.questions.bundles, rng)
            items, row = np.unique(np.concatenate([left, right]), return_inverse=True)
            tokens = self.model.item_tokens(items)[torch.from_numpy(row)]
            loss = contrastive_loss(tokens[: len(left)], tokens[len(left) :], left, right)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if (step + 1) % LOG_EVERY == 0:
                self.history.add("contrastive", step + 1, loss=float(loss.detach()))
        return True
