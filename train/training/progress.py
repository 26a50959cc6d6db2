"""Progress of a training: where it stands, and how many seconds are left over all of its stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bundlecache.recipes.recipe import Recipe

    from .validation import Figures

Phase = Literal["contrastive", "cache", "train", "validate"]
MEMORY = 0.9  # weight of the earlier units in the moving average of the seconds per unit


@dataclass(frozen=True)
class Progress:
    """Where a training stands; reported at every step of every phase.

    Units are optimiser steps (phases contrastive and train), rows (phase cache) or questions (phase validate).
    """

    stage: str  # text, fusion, joint; multitask, head
    phase: Phase
    step: int  # of the phase
    steps: int
    loss: float | None  # mean training loss of the latest steps; None before the first one
    lr: float
    found: Figures | None  # at the last validation of this stage
    best: float | None  # the best main figure of this stage
    seconds_left: float | None  # over the whole training; None until there is a first measurement

    @property
    def words(self) -> str:
        """What the last validation found; empty before the first."""
        return "" if self.found is None or self.best is None else self.found.words(self.best)


@dataclass
class TimeLeft:
    """Estimates the seconds that a training still takes, from moving averages of the seconds per unit.

    ``units`` are those still to do, by (stage, phase). A stage that has not begun is taken to be as fast as the last one.

    >>> left = TimeLeft({("text", "train"): 10, ("fusion", "train"): 5})
    >>> left.seconds is None
    True
    >>> left.done("text", "train", 4, seconds=2.0)
    >>> left.seconds  # 6 + 5 steps at 0.5 s
    5.5
    """

    units: dict[tuple[str, Phase], int]
    _rates: dict[tuple[str, Phase], float] = field(default_factory=dict)
    _last: dict[Phase, float] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, stages: Sequence[str], questions: int) -> TimeLeft:
        """All of ``stages`` (those to come), with ``questions`` validation questions."""
        units: dict[tuple[str, Phase], int] = {}
        for name in stages:
            settings = recipe.stage(name)
            looks = 1 + -(-settings.steps // settings.evaluate_every)
            units[name, "contrastive"] = 0 if name == "text" else settings.contrastive_steps
            units[name, "train"] = settings.steps
            units[name, "validate"] = looks * questions
        return cls(units)

    def done(self, stage: str, phase: Phase, units: int, seconds: float) -> None:
        """``units`` more are done, in ``seconds``."""
        if units <= 0:
            return
        key, rate = (stage, phase), seconds / units
        memory = MEMORY ** min(units, 20)
        self._rates[key] = memory * self._rates[key] + (1 - memory) * rate if key in self._rates else rate
        self._last[phase] = self._rates[key]
        self.units[key] = max(0, self.units.get(key, 0) - units)

    def set_left(self, stage: str, phase: Phase, units: int) -> None:
        """``units`` of a phase are left: fewer after a resume or an early stop."""
        self.units[stage, phase] = units

    @property
    def seconds(self) -> float | None:
        """The estimate; None while nothing is known about a phase that is still to come."""
        total = 0.0
        for (stage, phase), units in self.units.items():
            rate = self._rates.get((stage, phase), self._last.get(phase))
            if units and rate is None:
                return None
            total += units * (rate or 0.0)
        return total


class Reporter:
    """Reports the progress of one stage to ``receiver``; does nothing without one.

    The clock runs from unit to unit, so that time between phases is counted too.
    """

    def __init__(self, stage: str, time_left: TimeLeft, receiver: Callable[[Progress], None] | None) -> None:
        self.stage, self.time_left, self.receiver = stage, time_left, receiver
        self.found: Figures | None = None
        self.loss: float | None = None
        self.best: float | None = None
        self.lr = 0.0
        self._then = time.perf_counter()

    def start(self) -> None:
        """The clock starts now: what came before is no part of the next unit."""
        self._then = time.perf_counter()

    def tell(self, phase: Phase, step: int, steps: int, units: int = 1) -> None:
        """``units`` more are done; the phase stands at ``step`` of ``steps``."""
        now = time.perf_counter()
        self.time_left.done(self.stage, phase, units, now - self._then)
        self._then = now
        if self.receiver is None:
            return
        self.receiver(
            Progress(
                self.stage,
                phase,
                step,
                steps,
                self.loss,
                self.lr,
                self.found,
                self.best,
                self.time_left.seconds,
            )
        )
