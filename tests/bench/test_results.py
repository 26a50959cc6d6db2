"""Typed results: their JSON is that of earlier versions, old files are read, and costs count all that was fitted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from helpers.bench_setup import summarise
from helpers.parity_catalogue import parity_catalogue, parity_questions

from bundlecache.baselines import registry
from bundlecache.bench import benchmark
from bundlecache.bench.benchmark import BenchSetup
from bundlecache.bench.method_rows import MethodScores
from bundlecache.bench.metrics import mcnemar
from bundlecache.bench.result_files import load, save
from bundlecache.bench.result_rows import OLD_ZERO_SHOT, ZERO_SHOT

OLD_KEYS = [
    "name", "kind", "n", "hit@1", "hit@3", "hit@5", "mrr", "hit@1_interval", "valid_ratio", "hit@1_valid_only", "seconds",
    "training_seconds", "versus_model",
]  # fmt: skip


@dataclass(frozen=True)
class SlowRanker:
    """Takes its time to fit, once."""

    name: str
    parts: tuple[SlowRanker, ...] = ()
    kind: str = "content"

    @cached_property
    def fitted(self) -> float:
        time.sleep(0.05)
        return sum(part.fitted for part in self.parts)

    def scores(self, asked):
        return np.full(asked.options.shape, self.fitted)


def test_a_result_is_the_json_it_was_before_and_comes_back(tmp_path):
    asked = parity_questions()
    model = MethodScores("LLM", "model", np.eye(asked.n_options)[asked.truth], 1.0, 2.0)
    other = MethodScores("cosine text", "content", np.zeros(asked.options.shape), 0.5)
    result = summarise([asked], [[model, other]], model="LLM")
    (tmp_path / "results").mkdir()
    path = save(tmp_path, result, asked)
    found = json.loads(path.read_text())
    assert list(found["methods"][1]) == OLD_KEYS
    assert list(found) == [
        "format_version", "questions", "model", "how", "methods", "ablation", "probes", "leaks", "verdict", "worth",
    ]  # fmt: skip
    assert load(tmp_path)[asked.name] == result


def test_old_files_call_the_zero_shot_row_by_its_name_of_today(tmp_path):
    asked = parity_questions()
    model = MethodScores("LLM", "model", np.eye(asked.n_options)[asked.truth])
    base = MethodScores(ZERO_SHOT, "model", np.zeros(asked.options.shape))
    result = summarise([asked], [[model, base]], model="LLM")
    (tmp_path / "results").mkdir()
    path = save(tmp_path, result, asked)
    path.write_text(path.read_text().replace(ZERO_SHOT, OLD_ZERO_SHOT))
    assert load(tmp_path)[asked.name] == result


def test_fitting_counts_for_every_set_and_for_all_that_stand_on_it():
    part = SlowRanker("part")
    setup = BenchSetup([part, SlowRanker("learned ranker", (part,))])
    asked = parity_questions()
    for _ in range(2):  # the second set is answered by what was fitted for the first one
        rows = benchmark.compare(setup, asked).by_name()
        assert 0.05 <= rows["part"].training_seconds < 0.1 <= rows["learned ranker"].training_seconds
        assert rows["learned ranker"].seconds < 0.05
        assert rows["learned ranker"].cost_seconds >= 0.1


def test_mcnemar_of_two_methods_that_never_differ_is_one():
    assert mcnemar(np.ones(5), np.ones(5)) == 1.0


def test_a_baseline_of_an_installed_package_takes_part(monkeypatch):
    class Point:
        name, value = "mine", "mine:maker"

        def load(self):
            return lambda _sources: [SlowRanker("mine")]

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "bundlecache.baselines" else [])
    registry.all_makers.cache_clear()
    try:
        assert registry.all_baselines(parity_catalogue(), {})[-1].name == "mine"
    finally:
        registry.all_makers.cache_clear()
