"""What a run says of a few test bundles when any item of the catalogue may complete them, and the prompt that it reads.

``runs/RUN/examples.json``::

    {"format_version": 1, "prompt": "...", "completions": [{"bundle_id", "partial", "held_out", "items", "probabilities"}]}
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from ..questions.question_file import Questions

FORMAT_VERSION = 1
FILE = "examples.json"  # in the folder of a run
DRAWN = 6  # test bundles
SHOWN = 5  # completions of each


@dataclass(frozen=True)
class CompletionExample:
    """A test bundle without the item ``held_out``, and the ``items`` that complete it best, with their probabilities."""

    bundle_id: str
    partial: tuple[str, ...]
    held_out: str
    items: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class RunExamples:
    """The prompt of one question as the model reads it, and free completions of some test bundles."""

    prompt: str | None = None
    completions: tuple[CompletionExample, ...] = field(default_factory=tuple)


def draw(
    questions: Questions,
    complete: Callable[[np.ndarray], Sequence[tuple[int, float]]],
    item_ids: Sequence[str],
    count: int = DRAWN,
) -> tuple[CompletionExample, ...]:
    """Complete the bundles of ``count`` questions, drawn with a seed that comes from the questions' SHA-256.

    ``complete(partial)`` gives item indices with their probabilities, best first.
    """
    rows = random.Random(questions.sha256).sample(range(len(questions)), min(count, len(questions)))
    made = []
    for row in rows:
        found = list(complete(questions.partial[row]))[:SHOWN]
        made.append(
            CompletionExample(
                bundle_id=questions.bundle_ids[row],
                partial=tuple(item_ids[i] for i in questions.partial[row].tolist()),
                held_out=item_ids[int(questions.options[row, questions.truth[row]])],
                items=tuple(item_ids[i] for i, _ in found),
                probabilities=tuple(round(p, 4) for _, p in found),
            )
        )
    return tuple(made)


def save(run: Path, examples: RunExamples) -> None:
    """Write the examples into the folder of a run."""
    rows = [vars(example) for example in examples.completions]
    found = {"format_version": FORMAT_VERSION, "prompt": examples.prompt, "completions": rows}
    write_text(run / FILE, json.dumps(found, indent=1) + "\n")


def load(run: Path) -> RunExamples:
    """The examples of a run; none where none were kept, or where the file cannot be read."""
    try:
        found = json.loads((run / FILE).read_text("utf-8"))
        rows: list[dict[str, Any]] = [
            {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()} for row in found["completions"]
        ]
        return RunExamples(found["prompt"], tuple(CompletionExample(**row) for row in rows))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return RunExamples()
