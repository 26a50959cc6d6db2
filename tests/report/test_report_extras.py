"""The prompt as it is read, free completions, the map, what fitting costs, and the headline of a comparison."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.evaluated_run import compare_runs, report_html, write_run, write_second_run
from helpers.html_page import HtmlPage
from helpers.shop import make_shop

from bundlecache.bench import completion_examples
from bundlecache.bench.slices import readable_categories
from bundlecache.report.catalogue_map import HEIGHT, WIDTH, project
from bundlecache.workspace import WorkspaceFolder


@pytest.fixture
def workspace(tmp_path):
    return WorkspaceFolder(make_shop(tmp_path))


def test_prompt_completions_map_and_cost_stand_on_the_page(workspace):
    folder = write_run(workspace)
    html = report_html(workspace, folder)
    assert "Free completions" not in html
    made = completion_examples.CompletionExample("b", ("item-02",), "item-05", ("item-04", "item-05"), (0.7, 0.3))
    completion_examples.save(folder, completion_examples.RunExamples("Bundle: N⟨separator⟩⟨item⟩; <b>", (made,)))
    assert completion_examples.load(folder).completions == (made,)
    html = report_html(workspace, folder)
    page = HtmlPage(html)
    assert page.crooked == page.open == []
    assert "Free completions" in page.text
    assert "Bundle: N" in page.text
    assert "⟨item⟩" not in page.text
    assert "<b>;" not in html
    assert "The catalogue on a map" in page.text
    assert html.count('<circle class="m-') > 10
    assert "to fit" in page.text


def test_damaged_examples_are_passed_over(workspace):
    folder = write_run(workspace)
    (folder / completion_examples.FILE).write_text('{"completions": 3')
    assert "Free completions" not in report_html(workspace, folder)


@pytest.mark.parametrize(
    ("right", "headline", "verdict"),
    [
        ((1.0, 1.0), "no clear difference", "cannot be told apart"),
        ((1.0, 0.0), "+", "points more"),
        ((0.0, 1.0), "\u2212", "points less"),
    ],
    ids=["level", "better", "worse"],
)
def test_a_comparison_has_a_number_as_headline_only_where_the_runs_differ(workspace, right, headline, verdict):
    write_run(workspace, right=right[0])
    write_second_run(workspace, "second", right=right[1])
    path, said = compare_runs(workspace)
    html = path.read_text("utf-8")
    (shown,) = re.findall(r'<div class="figure[^>]*>([^<]*)<', html)
    assert verdict in said[0]
    assert said[0] in html
    points = re.search(r"([\d.]+) points (?:more|less)", said[0])
    assert shown == headline + (points[1] if points else "")


def test_many_small_categories_are_shown_instead_of_one_large_rest():
    cells = ["Cases"] * 21 + [f"Kind {k}" for k in range(40) for _ in range(8)]
    number, names = readable_categories(cells)
    assert "other" not in names
    assert len(names) == 41
    assert (number >= 0).all()


def test_the_map_stays_in_its_frame_and_is_the_same_twice():
    vectors = np.random.default_rng(0).normal(size=(50, 6))
    places, share = project(vectors)
    assert places.min() >= 0
    assert (places.max(axis=0) <= (WIDTH, HEIGHT)).all()
    assert 0 < share < 1
    assert np.array_equal(places, project(vectors)[0])
