"""Question sets scored in one call, for tests that give the answers themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bundlecache.bench import benchmark
from bundlecache.bench.benchmark import BenchSetup, ModelAnswers

if TYPE_CHECKING:
    from bundlecache.bench.results import QuestionSetResult


def compare(
    rankers: Any,
    asked: Any,
    answers: dict[str, Any] | None = None,
    *,
    ablation: dict[str, Any] | None = None,
    seconds: dict[str, float] | None = None,
    **known: Any,
) -> QuestionSetResult:
    """`benchmark.compare` with answers by name; the first model is the one that others are compared with."""
    models = [ModelAnswers(name, given, (seconds or {}).get(name)) for name, given in (answers or {}).items()]
    setup = BenchSetup(rankers, **known)
    return benchmark.compare(setup, asked, models, model=next(iter(answers or {}), None), ablation=ablation)


def summarise(sets: Any, scored: Any, model: str | None = None, **known: Any) -> QuestionSetResult:
    """`benchmark.summarise` without rankers."""
    return benchmark.summarise(BenchSetup(**known), sets, scored, model=model)
