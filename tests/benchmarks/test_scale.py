"""The growth of costs: exponents and bars with known numbers, and one run of the script at tiny sizes."""

from __future__ import annotations

import json
import math
import sys

import pytest
from helpers.forked import start
from helpers.paths import TOP

sys.path.insert(0, str(TOP / "benchmarks"))

from scale import LARGE, LIMITS, Cost, exponent, missed


def costs(step: str, *rows: tuple[int, float, float]) -> list[Cost]:
    """Costs of one step, of (items, processor seconds, megabytes)."""
    return [Cost(step, items, seconds, seconds, megabytes) for items, seconds, megabytes in rows]


def test_the_exponent_is_that_of_the_two_largest_sizes_in_any_order():
    rows = costs("encode text", (10_000, 2.0, 100.0), (100_000, 40.0, 200.0), (100, 1.0, 100.0))
    assert exponent(rows, "processor_seconds") == pytest.approx(math.log10(20))
    assert exponent(rows, "megabytes") == pytest.approx(math.log10(2))
    assert exponent(costs("encode text", (1_000, 1.0, 50.0), (4_000, 4.0, 100.0)), "processor_seconds") == 1
    assert exponent(costs("encode text", (1_000, 1.0, 50.0), (4_000, 4.0, 100.0)), "megabytes") == 0.5


def test_bars_of_growth_that_are_met_and_missed():
    assert missed(costs("encode text", (10_000, 2.0, 100.0), (100_000, 25.0, 999.0))) == []  # 1.097 and 0.9996
    assert missed(costs("encode text", (10_000, 2.0, 100.0), (100_000, 40.0, 2_000.0))) == [
        "encode text: processor seconds grow with an exponent of 1.30 (bar 1.1)",
        "encode text: megabytes grow with an exponent of 1.30 (bar 1.0)",
    ]


def test_limits_hold_at_the_large_size_alone():
    seconds, megabytes = LIMITS["import"]
    assert missed(costs("import", (LARGE, seconds, megabytes))) == []
    assert missed(costs("import", (LARGE // 2, seconds + 1, megabytes + 1))) == []
    assert missed(costs("import", (LARGE, seconds + 1, megabytes + 1))) == [
        "import: 61.0 processor seconds at 1,000,000 items (bar 60)",
        "import: 1,501.0 megabytes at 1,000,000 items (bar 1,500)",
    ]
    assert missed(costs("start of training", (LARGE, 1.0, 1e6))) == [], "it has no limit of memory"


def test_one_size_has_no_exponent_and_no_sentence():
    rows = costs("encode text", (10_000, 1e6, 1e6))
    assert math.isnan(exponent(rows, "processor_seconds"))
    assert missed(rows) == []


@pytest.mark.slow
def test_the_script_measures_each_step_at_each_size_and_its_exit_code_follows_the_bars():
    asked = ["import", "status"]
    script = start(TOP / "benchmarks" / "scale.py", "--sizes", "300,900", "--steps", ",".join(asked), "--json")
    printed, said = script.communicate()
    made = json.loads(printed)
    rows = [Cost(**row) for row in made["costs"]]
    assert [(row.step, row.items) for row in rows] == [(step, items) for step in asked for items in (300, 900)]
    assert all(row.processor_seconds > 0 and row.seconds > 0 and row.megabytes > 10 for row in rows)
    assert made["missed"] == [
        sentence for step in asked for sentence in missed([row for row in rows if row.step == step])
    ]
    assert script.wait() == bool(made["missed"]), said
