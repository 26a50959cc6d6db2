"""How often a method is right at a given margin: measured on validation questions, and kept in a file.

The margin is the first probability less the second, among as many candidates as the questions have options. A question
has one right answer, while several items may complete a cart, so the figure is a careful one.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BundlecacheError
from ...files import read_json, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ...baselines.rankers import Ranker
    from ...questions.question_file import Questions

FILE = "confidence.json"
MAX_QUESTIONS = 500  # of each kind of wrong options, always the same ones
ASKED_AT_ONCE = 16  # so that requests come in between
NEIGHBOURS = 100  # questions of a similar margin that are counted


@dataclass(frozen=True)
class Confidence:
    """Of ``questions`` with a margin from ``margin_low`` to ``margin_high``, the share ``right`` was answered right."""

    right: float
    questions: int
    margin_low: float
    margin_high: float


@dataclass(frozen=True)
class Calibration:
    """The margins [q] of validation questions of ``options`` options, ascending, and how right each was (0 to 1)."""

    options: int
    margins: np.ndarray
    right: np.ndarray

    def margin(self, probabilities: np.ndarray) -> float | None:
        """The margin of an answer: its ``probabilities`` [n] are of the candidates, best first."""
        return margin_of(probabilities, self.options)

    def at(self, margin: float) -> Confidence | None:
        """What the questions nearest in margin say.

        >>> Calibration(2, np.array([0.1, 0.2, 0.9]), np.array([0.0, 1.0, 1.0])).at(0.9)
        Confidence(right=0.6667, questions=3, margin_low=0.1, margin_high=0.9)
        """
        count = min(NEIGHBOURS, len(self.margins))
        if not count:
            return None
        low = int(np.searchsorted(self.margins, margin)) - count // 2
        low = min(max(low, 0), len(self.margins) - count)
        part = slice(low, low + count)
        margins = self.margins[part]
        right = round(float(self.right[part].mean()), 4)
        return Confidence(right, count, round(float(margins[0]), 4), round(float(margins[-1]), 4))


def margin_of(probabilities: np.ndarray, options: int) -> float | None:
    """The first probability less the second, among the ``options`` best candidates; None for one candidate alone."""
    best = np.asarray(probabilities[:options], np.float64)
    if len(best) < 2 or not np.isfinite(best).all():
        return None
    return float((best[0] - best[1]) / best.sum())


def calibration(
    path: Path, about: Sequence[str], questions: Sequence[Questions], ranker: Ranker, ended: Callable[[], bool]
) -> Calibration | None:
    """What ``ranker`` answers to validation questions: read from ``path`` where it is of the same cause, else asked.

    Parameters
    ----------
    about
        What the answers follow from, beside the questions: method, run, versions of vectors.
    ended
        Asked between batches, whether nobody needs the answer any more; it is None then.
    """
    from ...bench.metrics import hits
    from ...questions.sample import sample

    asked = [sample(each, MAX_QUESTIONS) for each in questions]
    asked = [each for each in asked if len(each)]
    if not asked:
        return None
    cause = hashlib.sha256(json.dumps([*about, *(each.sha256 for each in asked)]).encode()).hexdigest()
    options = max(each.n_options for each in asked)
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_json(path)
        if kept["cause"] == cause:
            return Calibration(options, np.array(kept["margins"], float), np.array(kept["right"], float))
    margins: list[float] = []
    right: list[float] = []
    for each in asked:
        for low in range(0, len(each), ASKED_AT_ONCE):
            if ended():
                return None
            part = _part(each, low, low + ASKED_AT_ONCE)
            scores = ranker.scores(part)
            ordered = -np.sort(-scores, axis=1)
            shares = np.exp(ordered - ordered[:, :1])
            margins += ((shares[:, 0] - shares[:, 1]) / shares.sum(axis=1)).tolist()
            right += hits(scores, part.truth).tolist()
    order = np.argsort(margins, kind="stable")
    found = Calibration(options, np.array(margins)[order], np.array(right)[order])
    with suppress(BundlecacheError):  # a folder that cannot be written: asked again next time
        lines = {"cause": cause, "margins": found.margins.round(6).tolist(), "right": found.right.tolist()}
        write_text(path, json.dumps(lines) + "\n")
    return found


def _part(questions: Questions, low: int, high: int) -> Questions:
    from dataclasses import replace

    return replace(
        questions,
        bundle_ids=questions.bundle_ids[low:high],
        partial=questions.partial[low:high],
        options=questions.options[low:high],
        truth=questions.truth[low:high],
        sha256=f"{questions.sha256} {low}",
    )
