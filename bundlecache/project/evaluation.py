"""What the evaluation of a run gives: a row per method and question set, and all results behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bench.results import QuestionSetResult


@dataclass(frozen=True)
class MethodScore:
    """How one method did on one question set; intervals are of 95 %, over bundles. An invalid answer is a miss."""

    questions: str
    method: str
    kind: str
    hit_1: float
    hit_1_low: float
    hit_1_high: float
    hit_3: float
    hit_5: float
    mrr: float
    valid_ratio: float
    seconds: float | None
    training_seconds: float | None


class Evaluation(Rows[MethodScore]):
    """A row per method and question set, best first in each; ``sets`` holds all there is, as it is saved in JSON."""

    def __init__(self, sets: Sequence[QuestionSetResult]) -> None:
        self.sets = list(sets)
        super().__init__(
            MethodScore(
                questions=made.questions.name,
                method=row.name,
                kind=row.kind,
                hit_1=row.hit1,
                hit_1_low=row.hit1_interval[0],
                hit_1_high=row.hit1_interval[1],
                hit_3=row.hit3,
                hit_5=row.hit5,
                mrr=row.mrr,
                valid_ratio=row.valid_ratio,
                seconds=row.seconds,
                training_seconds=row.training_seconds,
            )
            for made in self.sets
            for row in made.methods
        )

    def without_seconds(self) -> list[dict[str, Any]]:
        """``sets`` without what each method took: the same evaluation then prints the same digits."""
        return [made.to_dict(timed=False) for made in self.sets]
