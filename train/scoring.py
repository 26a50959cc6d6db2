"""Scoring: one forward pass per question, the first-step logits of the option letters.

The whole ranking of the options comes from these logits. An answer is *valid* when the most likely token
of the whole vocabulary is one of the question's letters.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bundlecache.errors import CheckpointError, RecipeError
from bundlecache.store import Matrix

from .model import MODES, BundleMLLM

if TYPE_CHECKING:
    from bundlecache.questions import Questions

ITEM_CHUNK = 8192  # items fused at once


@dataclass(frozen=True)
class Answers:
    """What the model gave to q questions of n options: letter logits [q, n], and whether each answer was valid [q]."""

    logits: np.ndarray
    valid: np.ndarray

    def probabilities(self) -> np.ndarray:
        """[q, n] softmax of the logits over the options."""
        e = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Ladder:
    """The same questions answered by every rung of one run; ``seconds`` says what each rung took."""

    answers: dict[str, Answers] = field(default_factory=dict)  # the trained model first
    ablation: dict[str, Answers] = field(default_factory=dict)  # modality -> the model without it
    seconds: dict[str, float] = field(default_factory=dict)


def score(
    model: BundleMLLM,
    questions: Questions,
    *,
    batch_size: int = 32,
    modalities: Sequence[str] | None = None,
    mode: str | None = None,
) -> Answers:
    """Answer frozen questions; see :func:`score_options`."""
    return score_options(
        model, questions.partial, questions.options, batch_size=batch_size, modalities=modalities, mode=mode
    )


@torch.inference_mode()
def score_options(
    model: BundleMLLM,
    given: Sequence[np.ndarray],
    options: np.ndarray,
    *,
    batch_size: int = 32,
    modalities: Sequence[str] | None = None,
    mode: str | None = None,
) -> Answers:
    """Choose among ``options`` [q, n] for each partial bundle in ``given`` (item indices).

    ``mode`` is ``"mm"`` or ``"text"``, by default what the model was trained for. ``modalities`` names the
    vectors that may be used; the others count as missing for every item.

    Raises
    ------
    RecipeError
        When ``mode`` or a modality is unknown, or there are more options than letters.
    """
    mode = mode or model.mode
    if mode not in MODES or (mode == "mm" and model.bank is None):
        raise RecipeError(f"This model cannot answer in the mode {mode!r}.", hint=f"modes are {' and '.join(MODES)}")
    hidden = _hidden(model, modalities)
    n = options.shape[1]
    logits, valid = np.zeros(options.shape, np.float32), np.zeros(len(options), bool)
    if not len(options):
        return Answers(logits, valid)
    order = np.argsort(model.prompts.lengths(given, list(options), mode), kind="stable")
    was_training = model.training
    model.eval()
    items = np.unique(np.concatenate([*given, options.ravel()])).astype(np.int64)
    fused = _fuse(model, items, hidden) if mode == "mm" else None  # every item once, however often it is shown
    letters = model.get_buffer("letters")[:n]
    for rows in (order[k : k + batch_size] for k in range(0, len(order), batch_size)):
        batch = model.prompts.build([given[r] for r in rows], list(options[rows]), mode)
        tokens = None if fused is None else fused[torch.from_numpy(np.searchsorted(items, batch.items))]
        full = model.logits(batch, tokens)  # [b, V]
        logits[rows] = full[:, letters].cpu().numpy()
        valid[rows] = torch.isin(full.argmax(dim=1), letters).cpu().numpy()
    model.train(was_training)
    return Answers(logits, valid)


@torch.inference_mode()
def fused(model: BundleMLLM, run: Path) -> Matrix:
    """The fused token of every item of the catalogue as vectors [I, h], to be searched like those of an encoder.

    Raises
    ------
    CheckpointError
        When ``run`` was trained on titles alone.
    """
    if model.bank is None or model.tokens is None:
        raise CheckpointError(
            f"{run.name} was trained on titles alone, so it has no fused tokens.", hint="bundlecache train"
        )
    mask = model.bank.mask.any(dim=1).cpu().numpy()
    vectors = _fuse(model, np.arange(len(mask)), ()).float().cpu().numpy()
    cause = hashlib.blake2b((run / "fusion.safetensors").read_bytes(), digest_size=16)
    cause.update(repr([(matrix.table, matrix.version) for matrix in model.bank.matrices]).encode())
    return Matrix("fused", f"run:{run.name}", f"runs/{run.name}", cause.hexdigest(), 1, vectors, mask)


def complete(model: BundleMLLM, partial: np.ndarray, candidates: Sequence[int]) -> list[tuple[int, float]]:
    """``candidates`` (at most ``model.max_options`` item indices) by probability, highest first."""
    options = np.asarray([int(c) for c in candidates], np.int32)[None]
    probabilities = score_options(model, [np.asarray(partial)], options).probabilities()[0]
    order = np.argsort(-probabilities, kind="stable")
    return [(int(options[0, k]), float(probabilities[k])) for k in order]


def ladder(
    model: BundleMLLM,
    questions: Questions,
    *,
    batch_size: int = 32,
    ablation: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Ladder:
    """The trained model, the same without fused tokens, the untrained base; and, on request, without each modality.

    After the strategy text -> fusion, the row without fused tokens is stage 1: stage 2 left the LLM as it was.
    ``progress(done, of)`` is called after each rung.
    """
    rungs = Ladder()
    names = list(model.bank.names) if model.bank is not None and model.mode == "mm" and ablation else []
    jobs: list[tuple[str, str, list[str] | None]] = [("Bundle-MLLM", model.mode, None)]
    if model.mode == "mm":
        first = "Bundle-MLLM, titles only" + (" (stage 1)" if model.recipe.run.strategy[:1] == ("text",) else "")
        jobs.append((first, "text", None))
    jobs += [(name, "mm", [other for other in names if other != name]) for name in names if len(names) > 1]
    for done, (name, mode, kept) in enumerate(jobs):
        start = time.perf_counter()
        answers = score(model, questions, batch_size=batch_size, modalities=kept, mode=mode)
        rungs.seconds[name] = time.perf_counter() - start
        (rungs.answers if kept is None else rungs.ablation)[name] = answers
        if progress is not None:
            progress(done + 1, len(jobs) + 1)
    with model.llm.disable_adapter():
        start = time.perf_counter()
        rungs.answers["base model, untrained"] = score(model, questions, batch_size=batch_size, mode="text")
        rungs.seconds["base model, untrained"] = time.perf_counter() - start
    if progress is not None:
        progress(len(jobs) + 1, len(jobs) + 1)
    return rungs


def _hidden(model: BundleMLLM, modalities: Sequence[str] | None) -> list[str]:
    """Names of the matrices that are not to be used; a modality stands for all of its matrices."""
    if modalities is None or model.bank is None:
        return []
    known = dict(zip(model.bank.names, model.bank.modalities, strict=True))
    unknown = [name for name in modalities if name not in known and name not in known.values()]
    if unknown:
        raise RecipeError(f"This model fuses no {unknown[0]!r}; it fuses {', '.join(known)}.")
    return [name for name, modality in known.items() if name not in modalities and modality not in modalities]


def _fuse(model: BundleMLLM, items: np.ndarray, hidden: Sequence[str]) -> Tensor:
    chunks = [items[k : k + ITEM_CHUNK] for k in range(0, len(items), ITEM_CHUNK)]
    return torch.cat([model.item_tokens(chunk, hidden) for chunk in chunks])
