"""The model's answers to one frozen question set, as ``evaluate`` stored them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bench import result_files
from ..errors import BundlecacheError, CheckpointError, Command

if TYPE_CHECKING:
    from pathlib import Path

    from ..bench.results import QuestionSetResult

PER_MODALITY = ("names", "present", "weight", "even")
COLUMNS = ("bundle_id", "partial", "options", "truth", "probabilities", "valid", "predicted")


@dataclass(frozen=True)
class Answered:
    """q questions of n options: ids as lists, ``probabilities`` [q, n], ``truth``, ``valid`` and ``predicted`` [q]."""

    bundle_ids: list[str]
    partial: list[list[str]]
    options: list[list[str]]
    probabilities: np.ndarray
    truth: np.ndarray
    valid: np.ndarray
    predicted: np.ndarray
    prompts: list[str] | None = None  # [q] texts that the model read; not in files of earlier versions

    def __len__(self) -> int:
        return len(self.bundle_ids)

    @cached_property
    def right(self) -> np.ndarray:
        """[q] bool, strict: an answer that is no letter is wrong."""
        return self.valid & (self.predicted == self.truth)

    @cached_property
    def sure(self) -> np.ndarray:
        """[q] the highest probability."""
        return self.probabilities.max(axis=1)

    @cached_property
    def lead(self) -> np.ndarray:
        """[q] by how much the first option leads the second."""
        top = np.sort(self.probabilities, axis=1)
        return top[:, -1] - (top[:, -2] if top.shape[1] > 1 else 0.0)

    def truth_ids(self) -> list[str]:
        """[q] the right items."""
        return [options[t] for options, t in zip(self.options, self.truth, strict=True)]


def letter(k: int) -> str:
    """What option ``k`` is called: A to Z, then its number."""
    return chr(ord("A") + k) if k < 26 else str(k + 1)


def read(run: Path, results: QuestionSetResult) -> Answered | None:
    """The answers that belong to ``results`` of a run; None when no model's answers are kept.

    Raises
    ------
    CheckpointError
        When the answers are damaged.
    BundlecacheError
        When they belong to other questions than the results.
    """
    name, sha256 = results.questions.name, results.questions.sha256
    table = result_files.load_answers(run, name)
    if table is None or not len(table):
        return None
    if (table.schema.metadata or {}).get(b"sha256", b"").decode() != sha256:
        raise BundlecacheError(
            f"{name}.parquet of {run.name} answers other questions.", hint=Command("evaluate", "--run", run.name)
        )
    try:
        columns = {column: table.column(column).to_pylist() for column in COLUMNS}
        arrays = {
            "probabilities": np.array(columns["probabilities"], np.float64),
            "truth": np.array(columns["truth"], np.int64),
            "valid": np.array(columns["valid"], bool),
            "predicted": np.array(columns["predicted"], np.int64),
        }
        shape = (len(table), results.questions.n_options)
        whole = arrays["probabilities"].shape == shape and all(len(row) == shape[1] for row in columns["options"])
        within = whole and all(arrays[k].min() >= 0 and arrays[k].max() < shape[1] for k in ("truth", "predicted"))
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(run, name) from error
    if not within:
        raise _damaged(run, name)
    prompts = table.column("prompt").to_pylist() if "prompt" in table.column_names else None
    if prompts is not None and not all(isinstance(prompt, str) for prompt in prompts):
        raise _damaged(run, name)
    return Answered(columns["bundle_id"], columns["partial"], columns["options"], **arrays, prompts=prompts)


def attention(results: QuestionSetResult) -> dict[str, Any] | None:
    """The mean attention over modalities in ``results``, as `bundlecache.train.inference.item_tokens.attention` gives it; None where it is not whole."""
    found = results.attention
    if not isinstance(found, dict) or not {*PER_MODALITY, "matrix", "items", "residual"} <= found.keys():
        return None
    m = len(found["names"])
    whole = all(len(found[part]) == m for part in (*PER_MODALITY, "matrix")) and all(
        len(r) == m for r in found["matrix"]
    )
    return {**found, "questions": results.questions.name} if whole else None


def _damaged(run: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{name}.parquet of {run.name} is damaged.", hint=Command("evaluate", "--run", run.name))
