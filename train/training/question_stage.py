"""A stage of Bundle-MLLM: the model learns from drawn bundle questions, and its best weights are those on frozen ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bundlecache.bench.metrics import strict_hits

from ..inference.scoring import score_options
from .contrastive import drawn_loss
from .progress import Progress, TimeLeft
from .stage import LOG_EVERY, Piece, Save, StageLoop
from .validation import Validation

if TYPE_CHECKING:
    from bundlecache.questions.question_file import Questions
    from bundlecache.training_log import Stop, TrainingLog

    from ..model.bundle_mllm import BundleMLLM
    from .sampler import Drawn, QuestionSampler
    from .validation import Figures


class QuestionStage(StageLoop):
    """Trains a Bundle-MLLM through the stage ``name`` (text, fusion or joint) of its recipe; see `StageLoop`."""

    model: BundleMLLM

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
        self.mode = "text" if name == "text" else "mm"
        self.stage = model.recipe.stage(name)
        self.questions, self.valid = questions, valid
        asked = 0 if valid is None else len(valid)
        left = TimeLeft.of(model.recipe, [name], asked) if time_left is None else time_left
        run, seed = model.recipe.run, questions.seed
        super().__init__(name, model, self.stage, run, seed, asked, accelerator, log, stop, progress, save, left)

    def trained(self) -> list[nn.Parameter]:
        """Those of the stage, see `BundleMLLM.train_only`."""
        return self.model.train_only(self.name)

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """One rate and one weight decay for all."""
        return torch.optim.AdamW(parameters, lr=self.stage.lr, weight_decay=self.stage.weight_decay, fused=True)

    def pieces(self, step: int) -> Sequence[Piece]:
        """The questions of the step that this process computes; weighted so that their mean over processes is that over all questions."""
        drawn = self.questions.batch(step)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        mine = np.arange(len(drawn))[rank::processes]
        parts = [rows for rows in np.array_split(mine, self.model.recipe.data.accumulate) if len(rows)]
        return [partial(self._arguments, drawn, rows) for rows in parts]

    def _arguments(self, drawn: Drawn, rows: np.ndarray) -> tuple[tuple[Any, ...], float]:
        part = drawn.take(rows)
        batch = self.model.ask(part.partial, list(part.options), self.mode, part.history, part.bundle)
        share = len(rows) * self.accelerator.num_processes / len(drawn)
        return (batch, part.truth, part.options.shape[1], self.mode), share

    def figures_of(self, state: Mapping[str, Any]) -> Validation:
        """Figures from a snapshot; those of earlier versions had fewer."""
        return Validation(state["hit1"], state["loss"], state.get("hit1_letters"), state.get("valid_ratio"))  # type: ignore[arg-type]

    def row_of(self, best: Figures) -> dict[str, Any]:
        """HitRate@1, strict and among letters, and the share of answers that are letters."""
        found = best.state()
        names = {"hit1": "hit@1", "hit1_letters": "hit@1_letters", "valid_ratio": "ratio"}
        return {f"best_valid_{shown}": found[name] for name, shown in names.items()}

    def modes(self) -> None:
        """Enable dropout in trained modules only; activation checkpointing needs the LLM in training mode."""
        self.model.train()
        if self.name == "fusion":
            self.model.llm.train(self.model.recipe.base.gradient_checkpointing)
            for module in self.model.llm.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()

    def validate(self) -> Validation:
        """The validation questions; every process answers its share."""
        logits, valid = self._answers()
        truth = self.valid.truth
        return Validation(
            hit1=float(strict_hits(logits, truth, valid).mean()),
            loss=float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth))),
            hit1_letters=float(strict_hits(logits, truth).mean()),
            valid_ratio=float(valid.mean()),
        )

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

    def warm_up(self) -> bool:
        """The contrastive phase: tokens of like items move together; False if it was stopped early."""
        if not self.stage.contrastive_steps or self.name == "text":
            return True
        parameters = [p for n, p in self.model.named_parameters() if p.requires_grad and n.startswith("tokens.")]
        pairs = [self.questions.pairs(kind) for kind in self.stage.contrastive_pairs]
        rng = np.random.default_rng([self.questions.seed, 1])
        optimizer = torch.optim.AdamW(parameters, lr=self.stage.lr)
        self.model.train()
        for step in range(self.stage.contrastive_steps):
            if self.stop.reason and self.accelerator.num_processes == 1:  # several would have to agree
                return False
            loss = drawn_loss(pairs, rng, self.model.item_tokens)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if (step + 1) % LOG_EVERY == 0:
                self.reporter.loss = float(loss.detach())
                self.log.add("contrastive", step + 1, loss=self.reporter.loss)
            self.reporter.tell("contrastive", step + 1, self.stage.contrastive_steps)
        self.reporter.loss = None  # the contrastive loss is on another scale
        return True
