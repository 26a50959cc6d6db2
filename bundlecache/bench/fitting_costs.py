"""What it costs to fit a ranker, with everything it stands on: measured once, counted for each that needs it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..baselines import saved_ranker
from ..baselines.rankers import ModelRanker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ..baselines.rankers import Ranker
    from ..baselines.sources import Sources
    from ..questions.question_file import Questions


@dataclass
class FittingCosts:
    """Seconds of fitting by ranker; one object serves all question sets, because a ranker is fitted once."""

    _own: dict[int, tuple[Ranker, float]] = field(default_factory=dict)  # by id; the ranker is held, so ids stay theirs

    def fit_all(
        self,
        rankers: Sequence[Ranker],
        questions: Questions,
        progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
    ) -> None:
        """Fit all rankers and what they stand on, each once; ``progress`` is told (steps done, of all, what is fitted)."""
        used = {id(each): each for ranker in rankers for each in (*parts_of(ranker), ranker)}
        total = sum(_steps(each) for each in used.values())
        done = 0
        for each in used.values():
            progress(done, total, each.name)
            with _listening(each, done, total, progress):
                self.fit(each, questions)
            done += _steps(each)
        progress(done, total, "")

    def fit(self, ranker: Ranker, questions: Questions) -> float:
        """Fit a ranker and what it stands on, by having it answer one question; seconds of all of them together.

        What a trained model took is not in it: it answers questions that others time.
        """
        used = _used(ranker)
        for key, each in used.items():
            if key not in self._own:
                start = time.perf_counter()
                if not isinstance(each, ModelRanker):
                    each.scores(_first(questions))
                spent_before = saved_ranker.seconds_of(each) or 0.0  # what was kept from then is not fitted now
                self._own[key] = each, spent_before + time.perf_counter() - start
        return self.of(ranker)

    def own(self, ranker: Ranker) -> float:
        """Seconds that were spent on fitting a ranker alone, so far."""
        return self._own[id(ranker)][1] if id(ranker) in self._own else 0.0

    def of(self, ranker: Ranker) -> float:
        """Seconds that were spent on fitting a ranker and what it stands on, so far."""
        return sum(self._own[key][1] for key in _used(ranker) if key in self._own)


def parts_of(ranker: Ranker) -> Iterator[Ranker]:
    """The rankers that a ranker stands on, those deepest down first."""
    named = [getattr(ranker, name, None) for name in ("model", "ranker", "first", "second")]
    for part in [*getattr(ranker, "parts", ()), *(each for each in named if hasattr(each, "scores"))]:
        yield from parts_of(part)
        yield part


def models_of(ranker: Ranker) -> list[ModelRanker]:
    """The trained models that a ranker stands on, itself among them."""
    found = {id(each): each for each in (*parts_of(ranker), ranker) if isinstance(each, ModelRanker)}
    return list(found.values())


def of_models(ranker: Ranker, seconds: Mapping[str, float | None]) -> float:
    """The seconds, by name, of the trained models that a ranker stands on."""
    return sum(seconds.get(model.name) or 0.0 for model in models_of(ranker))


def _first(questions: Questions) -> Questions:
    """The first question alone, under a hash of its own."""
    return replace(
        questions,
        bundle_ids=questions.bundle_ids[:1],
        partial=questions.partial[:1],
        options=questions.options[:1],
        truth=questions.truth[:1],
        sha256=f"{questions.sha256}/first",
    )


def _used(ranker: Ranker) -> dict[int, Ranker]:
    return {id(each): each for each in (*parts_of(ranker), ranker)}


def _steps(ranker: Ranker) -> int:
    """How many steps a fit has."""
    return int(getattr(ranker, "fit_steps", 1))


def _listening(
    ranker: Ranker, done: int, total: int, progress: Callable[[int, int, str], None]
) -> AbstractContextManager[None]:
    """Pass on the steps of a ranker that tells its sources of them (`bundlecache.baselines.sources.Sources.tell`)."""
    sources: Sources | None = getattr(ranker, "sources", None)
    if sources is None:
        return nullcontext()
    steps = _steps(ranker)
    return sources.heard(lambda number, what: progress(done + min(number, steps), total, f"{ranker.name}: {what}"))
