"""Runs one stage of training: optimiser, schedule, validation, and the choice of the best weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bundlecache.bench.metrics import strict_hits
from bundlecache.errors import RecipeError

from ..inference.scoring import score_options
from .averaging import Averages
from .contrastive import contrastive_loss, draw_pairs
from .progress import Progress, Reporter, TimeLeft
from .validation import Best, Validation

if TYPE_CHECKING:
    from bundlecache.questions.question_file import Questions
    from bundlecache.training_log import Stop, TrainingLog

    from ..model.bundle_mllm import BundleMLLM
    from .sampler import QuestionSampler

LOG_EVERY = 10  # steps per line of the training log
Save = Callable[[dict[str, Any], dict[str, Tensor]], None]


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
        log: TrainingLog,
        stop: Stop,
        progress: Callable[[Progress], None] | None,
        save: Save | None = None,
        time_left: TimeLeft | None = None,
    ) -> None:
        self.name, self.mode = name, "text" if name == "text" else "mm"
        self.settings = model.recipe.stage(name)
        self.model, self.questions, self.valid = model, questions, valid
        self.accelerator, self.log, self.stop = accelerator, log, stop
        self.save, self.saved = save, time.monotonic()
        self.best = Best(model.recipe.run.select)
        self.hit1: float | None = None
        self.done, self.stale, self.seconds, self.stopped = 0, 0, 0.0, False
        self.total = torch.zeros((), device=accelerator.device)  # loss since the last line of the log
        self.averages: Averages | None = None
        self.judged = -1  # the step of the latest validation
        left = TimeLeft.of(model.recipe, [name], 0 if valid is None else len(valid)) if time_left is None else time_left
        self.reporter = Reporter(name, left, progress)

    def run(
        self, state: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any]:
        """Run all steps, put the best weights back, and return the stage's row of the manifest.

        ``state`` and ``tensors`` are those of a snapshot to resume from.
        """
        began = time.perf_counter()
        self.reporter.start()
        parameters = self.model.train_only(self.name)
        whole = bool(state) or self._contrastive()
        optimizer = torch.optim.AdamW(
            parameters, lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True
        )
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
        for phase in ("contrastive", "train", "validate"):
            self.reporter.time_left.set_left(self.name, phase, 0)
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
            "best_valid_hit@1_letters": self.best.hit1_letters,
            "best_valid_ratio": self.best.valid_ratio,
            "trainable_parameters": sum(p.numel() for p in parameters),
        }

    def advance(self, model: nn.Module, optimizer: Any, parameters: list[nn.Parameter]) -> None:
        """One step, and after it a line of the log and a validation where they are due."""
        rate = self.settings.lr * self._rate(self.done)
        for group in optimizer.param_groups:
            group["lr"] = rate
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
        left.set_left(self.name, "validate", -(-(s.steps - self.done) // s.evaluate_every) * len(self.valid))

    def _rate(self, step: int) -> float:
        """The share of the peak learning rate at ``step``: linear warm-up, then linear decay to ``final_lr``."""
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
            batch = self.model.ask(part.partial, list(part.options), self.mode, part.history, part.bundle)
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
        """Seed torch from the seed and the number of the step, so that a resumed training draws the same dropout."""
        key = [self.questions.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def _pause(self, optimizer: Any, *, whole: bool, new: bool) -> bool:
        """Write a snapshot if one is due; whether to stop. All processes get the same answer."""
        run = self.model.recipe.run
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
        best = {name: value for name, value in vars(self.best).items() if name not in ("select", "weights")}
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
        if self.averages is not None:
            tensors |= {f"average.{k}": value for k, value in enumerate(self.averages.values)}
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return state, tensors

    def _restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], optimizer: torch.optim.AdamW) -> None:
        """Restore the state that :meth:`_snapshot` returned."""
        self.done, self.stale, self.seconds, self.hit1 = (state[k] for k in ("done", "stale", "seconds", "hit1"))
        self.total.copy_(tensors["total"])
        self.best = Best(self.best.select, **state["best"])
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

    def _modes(self) -> None:
        """Enable dropout in trained modules only; activation checkpointing needs the LLM in training mode."""
        self.model.train()
        if self.name == "fusion":
            self.model.llm.train(self.model.recipe.base.gradient_checkpointing)
            for module in self.model.llm.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()

    def _evaluate(self, step: int) -> bool:
        """Answer the validation questions and keep the weights if they are the best so far; whether they are."""
        with nullcontext() if self.averages is None else self.averages.in_place():
            return self._judge(step)

    def _judge(self, step: int) -> bool:
        self.judged = step
        logits, valid = self._answers()
        truth = self.valid.truth
        found = Validation(
            hit1=float(strict_hits(logits, truth, valid).mean()),
            loss=float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth))),
            hit1_letters=float(strict_hits(logits, truth).mean()),
            valid_ratio=float(valid.mean()),
        )
        self.hit1 = found.hit1
        self.log.add(self.name, step, **found.to_dict())
        better = self.best.offer(self.model, step, found)
        self.reporter.figures, self.reporter.best = vars(found), max(self.best.hit1, 0.0)
        self.reporter.tell("validate", len(self.valid), len(self.valid), units=0)
        return better

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Letter logits [q, n] and validity [q] of the validation questions; every process answers its share."""
        from accelerate.utils import gather_object

        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(rank, len(self.valid), processes)
        partial, options = [self.valid.partial[q] for q in mine], self.valid.options[rank::processes]
        history = self.model.history_of(self.valid)[rank::processes]
        known = [0]

        def progress(done: int, of: int) -> None:  # of this process's share
            self.reporter.tell("validate", done * processes, of * processes, (done - known[0]) * processes)
            known[0] = done

        answers = score_options(self.model, partial, options, history=history, mode=self.mode, progress=progress)
        if processes == 1:
            return answers.logits, answers.valid
        logits, valid = np.empty(self.valid.options.shape, np.float32), np.empty(len(self.valid), bool)
        for r, (some, sound) in enumerate(gather_object([(answers.logits, answers.valid)])):
            logits[r::processes], valid[r::processes] = some, sound
        return logits, valid

    def _mean_total(self) -> Tensor:
        mean: Tensor = self.accelerator.reduce(self.total, reduction="mean")
        return mean

    def _contrastive(self) -> bool:
        """The contrastive phase: tokens of items of one bundle move together; False if it was stopped early."""
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
                self.reporter.loss = float(loss.detach())
                self.log.add("contrastive", step + 1, loss=self.reporter.loss)
            self.reporter.tell("contrastive", step + 1, self.settings.contrastive_steps)
        self.reporter.loss = None  # the contrastive loss is on another scale
        return True
