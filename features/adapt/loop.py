"""The training loop of an adaptation: one path for stored vectors, towers, small pieces and several processes.

Every step computes the vectors of its batch, the gradient of the loss for these vectors, and from it the gradient of the
weights. Where a batch is larger than memory (``micro_batch``), or spread over processes, vectors are computed in pieces
first and once more for their gradients (Gao et al., "Scaling Deep Contrastive Learning Batch Size", 2021), so that
every pair still has the whole batch as its negatives. All that is random follows from the seed and the number of the step
or epoch, so a training that is resumed ends with exactly the same weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .retrieval import Retrieval, lost, measure
from .sampling import Batches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bundlecache.recipes.adapt_recipe import AdaptRecipe
    from bundlecache.training_log import Stop, TrainingLog

    from .pair import Pair
    from .pairs import Pairs

EVALUATED_AT_ONCE = 64
MAX_VALID = 2000  # held-out pairs that choose the epoch


@dataclass
class Epoch:
    """The figures of an epoch; epoch 0 is zero-shot."""

    epoch: int
    loss: float | None
    valid: Retrieval
    probes: dict[str, float] = field(default_factory=dict)  # figures beside the pairs: similar items, other catalogues

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"epoch": self.epoch, "loss": self.loss, **self.valid.to_dict(), **self.probes}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Epoch:
        """What `to_dict` gave."""
        known = {name: row[name] for name in Retrieval.__dataclass_fields__}
        rest = {name: row[name] for name in row if name not in known and name not in ("epoch", "loss")}
        return cls(row["epoch"], row["loss"], Retrieval(**known), rest)


class Adaptation:
    """Trains a pair over the epochs of its recipe, evaluates after each, and keeps the best weights.

    Parameters
    ----------
    probe
        More figures of the vectors as they are now; called after every epoch.
    save
        Called with a snapshot (JSON, tensors) whenever one is due; every process calls it.
    progress
        Called with the steps done, all steps, and a note.
    """

    def __init__(
        self,
        pair: Pair,
        pairs: Pairs,
        recipe: AdaptRecipe,
        accelerator: Any,
        log: TrainingLog,
        stop: Stop,
        *,
        neighbours: np.ndarray | None = None,
        probe: Callable[[Adaptation], dict[str, float]] = lambda _: {},
        save: Callable[[dict[str, Any], dict[str, Tensor]], None] | None = None,
        progress: Callable[[int, int, str], None] = lambda *_: None,
    ) -> None:
        self.pair, self.pairs, self.recipe, self.accelerator = pair, pairs, recipe, accelerator
        self.log, self.stop, self.probe, self.save, self.progress = log, stop, probe, save, progress
        t = recipe.training
        self.batches = Batches(pairs, t.batch, accelerator.num_processes, t.seed, t.hard_negatives, neighbours)
        self.steps = t.epochs * self.batches.per_epoch
        self.done, self.total, self.in_total = 0, 0.0, 0
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.collapse = ""  # why the training ended early, in words
        self.optimizer = torch.optim.AdamW(list(pair.groups(recipe)), fused=True)
        self.saved = time.monotonic()

    def run(self) -> bool:
        """Train to the end, a collapse or a stop; whether it was stopped. The best weights are in the pair afterwards."""
        if not self.epochs:
            self.evaluate(0, None)
        while self.done < self.steps and not self.collapse:
            if self._pause():
                return True
            loss = self.step(self.batches.of_step(self.done))
            self.total, self.in_total, self.done = self.total + loss, self.in_total + 1, self.done + 1
            epoch, within = divmod(self.done, self.batches.per_epoch)
            self.progress(self.done, self.steps, f"epoch {epoch + bool(within)}, loss {loss:.3f}")
            if not math.isfinite(loss):
                self.collapse = f"its loss was no number at step {self.done}"
            elif within == 0:
                self.log.add("adapt", self.done, loss=self.total / self.in_total, lr=self._lr(self.done - 1))
                self.evaluate(epoch, self.total / self.in_total)
                self.total, self.in_total = 0.0, 0
        self.restore_best()
        return False

    @property
    def best_epoch(self) -> Epoch:
        """The epoch with the best MRR of held-out pairs; zero-shot where nothing beats it."""
        return max(self.epochs, key=lambda epoch: (not epoch.valid.collapsed, epoch.valid.mrr, -epoch.epoch))

    def evaluate(self, epoch: int, loss: float | None) -> None:
        """Measure the pairs of the side ``valid``, and keep the weights if they are the best so far."""
        items = self.pairs.valid[:MAX_VALID]
        found = measure(self.vectors(self.pair.image, items), self.vectors(self.pair.text, items))[0]
        self.epochs.append(Epoch(epoch, loss, found, self.probe(self)))
        self.log.add("adapt", self.done, **{n: v for n, v in self.epochs[-1].to_dict().items() if n != "loss"})
        if self.best_epoch.epoch == epoch:
            self.best = {name: value.detach().clone() for name, value in self.pair.learning().items()}
        zero_shot = self.epochs[0].valid
        # New words may pull all vectors together for one epoch; a collapse does not come apart again.
        again = (len(self.epochs) > 2 and self.epochs[-2].valid.collapsed) or epoch == self.recipe.training.epochs
        if epoch and found.collapsed and again and not zero_shot.collapsed:
            self.collapse = f"all items had almost the same vector after epoch {epoch}"
        elif epoch and lost(found, zero_shot):
            self.collapse = f"the towers found less than half of what they found untrained after epoch {epoch}"

    @torch.no_grad()
    def vectors(self, side: Any, items: np.ndarray) -> np.ndarray:
        """float32 [n, k] of a side as it is now; every process computes its share."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        side.eval()
        mine = items[rank::processes]
        pieces = [
            side(self._to_device(side.inputs(mine[k : k + EVALUATED_AT_ONCE]))).float().cpu().numpy()
            for k in range(0, len(mine), EVALUATED_AT_ONCE)
        ]
        own = np.concatenate(pieces) if pieces else np.zeros((0, 1), np.float32)
        if processes == 1:
            return own
        from accelerate.utils import gather_object

        out: np.ndarray | None = None
        for r, some in enumerate(gather_object([own])):
            if len(some):
                out = np.empty((len(items), some.shape[1]), np.float32) if out is None else out
                out[r::processes] = some
        assert out is not None  # noqa: S101 - some process had an item
        return out

    def step(self, items: np.ndarray) -> float:
        """One optimiser step over the pairs of these items [b]; the loss before it."""
        self.pair.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate(self.done)
        value = self.gradients(items)
        learning = list(self.pair.learning().values())
        if self.recipe.training.clip > 0:
            torch.nn.utils.clip_grad_norm_(learning, self.recipe.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pair.bound_scale()
        return value

    def gradients(self, items: np.ndarray) -> float:
        """The gradients of the mean loss over a batch, in every process those of the whole batch; the loss."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = len(items) // processes
        mine = items[rank * share : (rank + 1) * share]
        size = self.recipe.training.micro_batch or len(mine)
        pieces = [mine[k : k + size] for k in range(0, len(mine), size)]
        epoch = self.done // self.batches.per_epoch
        sides = (self.pair.image, self.pair.text)
        inputs = [[self._to_device(side.inputs(piece, epoch)) for piece in pieces] for side in sides]
        graphs: list[list[Tensor]] = []
        for which, (side, given) in enumerate(zip(sides, inputs, strict=True)):
            with torch.set_grad_enabled(len(pieces) == 1):
                graphs.append([self._forward(side, one, which, k) for k, one in enumerate(given)])
        own = [torch.cat(out).detach() for out in graphs]  # [b / processes, k] each
        whole = [self._gather(vectors).requires_grad_() for vectors in own]  # [b, k] each
        group = torch.from_numpy(self.pairs.group[items]).to(whole[0].device)
        loss = self.pair.loss(self.recipe.training.loss, whole[0], whole[1], group)
        loss.backward()
        for which, (side, given) in enumerate(zip(sides, inputs, strict=True)):
            if not any(parameter.requires_grad for parameter in side.parameters()):
                continue
            assert whole[which].grad is not None  # noqa: S101 - the loss depends on both
            gradient = whole[which].grad[rank * share : (rank + 1) * share].split(size)
            for k, one in enumerate(given):
                out = graphs[which][k] if len(pieces) == 1 else self._forward(side, one, which, k)
                out.backward(gradient[k])
        if processes > 1:  # temperature and bias have the whole gradient already
            for side in sides:
                for parameter in side.parameters():
                    if parameter.grad is not None:
                        parameter.grad = self.accelerator.reduce(parameter.grad, reduction="sum")
        return float(loss.detach())

    def _forward(self, side: Any, inputs: Any, which: int, piece: int) -> Tensor:
        """The vectors of a piece; dropout is the same whenever a piece of a step is computed."""
        key = [self.recipe.training.seed, self.done, which, piece, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
        out: Tensor = side(inputs)
        return out

    def _gather(self, vectors: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return vectors.clone()
        gathered: Tensor = self.accelerator.gather(vectors.contiguous())
        return gathered.clone()

    def _to_device(self, inputs: Any) -> Any:
        if isinstance(inputs, Tensor):
            return inputs.to(self.accelerator.device, non_blocking=True)
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in inputs.items()}

    def _rate(self, step: int) -> float:
        """The share of the peak rate at ``step``: linear warm-up, then a cosine down to 0."""
        warmup = round(self.recipe.training.warmup * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def _lr(self, step: int) -> float:
        return max(float(group["peak"]) for group in self.optimizer.param_groups) * self._rate(step)

    def _pause(self) -> bool:
        """Write a snapshot if one is due; whether to stop. All processes get the same answer."""
        minutes = self.recipe.training.save_minutes
        due = 0 < minutes < (time.monotonic() - self.saved) / 60
        stopping = bool(self.stop.reason)
        if self.accelerator.num_processes > 1:
            votes = torch.tensor([float(due), float(stopping)], device=self.accelerator.device)
            due, stopping = (self.accelerator.reduce(votes, reduction="sum") > 0).tolist()
            if stopping:
                self.stop.request("another process")
        if self.save is not None and (due or stopping):
            self.save(*self.snapshot())
            self.saved = time.monotonic()
        return stopping

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that a resumed training needs, as JSON and tensors."""
        state = {
            "done": self.done,
            "total": self.total,
            "in_total": self.in_total,
            "epochs": [epoch.to_dict() for epoch in self.epochs],
            "lines": self.log.lines,
        }
        tensors = {f"now.{name}": value.detach() for name, value in self.pair.learning().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return state, tensors

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `snapshot` gave."""
        self.done, self.total, self.in_total = state["done"], state["total"], state["in_total"]
        self.epochs = [Epoch.from_dict(row) for row in state["epochs"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, parameter in self.pair.learning().items():
            parameter.copy_(tensors[f"now.{name}"])
            self.best[name] = tensors[f"best.{name}"].to(parameter.device)
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, moment = rest.partition(".")
                moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best weights into the pair."""
        for name, parameter in self.pair.learning().items():
            parameter.copy_(self.best[name])


def shown(epochs: Sequence[Epoch], best: Epoch) -> list[dict[str, Any]]:
    """The epochs as rows of a table; epoch 0 is zero-shot, a star marks the best."""
    return [
        {
            "epoch": f"{row.epoch} *" if row.epoch == best.epoch else str(row.epoch),
            "loss": row.loss,
            "t->i R@1": row.valid.text_to_image_r1,
            "t->i R@10": row.valid.text_to_image_r10,
            "i->t R@1": row.valid.image_to_text_r1,
            "i->t R@10": row.valid.image_to_text_r10,
            "MRR": row.valid.mrr,
            **row.probes,
        }
        for row in epochs
    ]
