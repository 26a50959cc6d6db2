"""The report in a real browser, clicked through at the widths and in the themes that people have.

Without Chromium these tests are skipped; what a page says is tested in test_report.py, without a browser.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers.browser import OUTSIDE, READABLE, browser, find, tab
from helpers.evaluated_run import (
    add_attention,
    compare_runs,
    report_html,
    rewrite_items,
    write_run,
    write_second_run,
)
from helpers.random_catalogue import random_catalogue

from bundlecache.baselines.rankers import ItemScoreRanker
from bundlecache.bench import benchmark as bench
from bundlecache.bench import full_catalogue
from bundlecache.bench.held_out_items import HeldOut
from bundlecache.bench.slices import Slicer
from bundlecache.questions import freeze as questions
from bundlecache.report import bench_pages
from bundlecache.workspace import WorkspaceFolder

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium here: apt-get install chromium")
WIDTHS = {"phone": 390, "laptop": 1280}
CONTRAST = 4.5  # WCAG AA for text
LONG = "a-name-in-one-piece-that-no-phone-has-room-for-on-a-single-line"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run, and of two runs."""
    from helpers.shop import make_shop

    workspace = WorkspaceFolder(make_shop(tmp_path_factory.mktemp("pages")))
    rewrite_items(workspace, lambda table: table.set_column(1, "title", [[*map(long, table["title"].to_pylist())]]))
    folder = write_run(workspace)
    add_attention(folder)
    write_second_run(workspace, LONG, seed=8, recipe={"lora": {"rank": 2}})
    report_html(workspace, folder)
    return {"run": folder / "report.html", "two runs": compare_runs(workspace, b=LONG)[0]}


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """The two pages of the bench, with more question sets than a phone has room for."""
    shop, folder = random_catalogue(), tmp_path_factory.mktemp("bench")
    sets = [questions.freeze(shop, split="test", n_options=n) for n in (5, 10, 20, 50)]
    n = len(shop)
    rankers = [
        ItemScoreRanker("by row", "content", lambda: -np.arange(n)),
        ItemScoreRanker(LONG, "collaborative", lambda: np.ones(n)),
    ]
    full = full_catalogue.run(rankers, HeldOut.of(sets, shop), Slicer(shop))
    return [
        bench_pages.write_bench(folder, bench.run(bench.BenchSetup(rankers, slicer=Slicer(shop)), sets)),
        bench_pages.write_full(folder, full),
    ]


def long(title):
    return f"{title} {LONG}" if title.endswith("4") else title


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(find(), tmp_path_factory.mktemp("profile")) as pipe:
        yield pipe


@pytest.fixture
def page(chromium):
    """An empty tab; whatever it asked for beyond its file, or complained of, fails the test."""
    opened = tab(chromium)
    yield opened
    asked = [url for url in opened.requests if not url.startswith(("file://", "data:"))]
    assert asked == []
    assert opened.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["run", "two runs"])
def test_nothing_is_wider_than_the_screen_and_all_text_can_be_read(page, pages, name, width, theme):
    page.look(width, theme)
    page.open(pages[name])
    assert page.run("document.documentElement.scrollWidth") == page.run("innerWidth") == width
    assert page.run(OUTSIDE) == []
    assert [row for row in page.run(READABLE) if row[1] < CONTRAST] == []
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.removeprefix("rgb(").rstrip(")").split(","))) < 200) == (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_pages_of_the_bench_fit_the_screen_and_link_to_each_other(page, boards, width, theme):
    page.look(width, theme)
    page.open(boards[0])
    for other in boards[::-1]:
        page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.run("document.documentElement.scrollWidth") == page.run("innerWidth") == width
        assert page.run(OUTSIDE) == []
        assert [row for row in page.run(READABLE) if row[1] < CONTRAST] == []
        page.click("nav a")
        page.wait(f"location.pathname.endsWith({other.name!r}) && document.readyState === 'complete'")


def visible(page):
    return page.run("[...document.querySelectorAll('.card')].filter((c) => c.offsetParent).map((c) => c.dataset.kind)")


@pytest.mark.parametrize("name", ["run", "two runs"])
def test_questions_are_filtered_by_kind_and_by_title(page, pages, name):
    page.look(390)
    page.open(pages[name])
    everything = visible(page)
    kinds = page.run("[...document.querySelectorAll('.gallery .chip')].map((c) => c.dataset.kind)")
    assert set(kinds) - {""} == set(everything)
    for k, kind in enumerate(kinds):
        page.click(".gallery .chip", k)
        assert visible(page) == [one for one in everything if one == kind or not kind]
        assert page.run("document.querySelector('.chip[aria-pressed=true]').dataset.kind") == kind
    page.click(".gallery .chip", 0)
    title = page.run("document.querySelector('.card .title').textContent")
    page.click(".find input")
    page.type(title)
    with_title = page.run(
        f"[...document.querySelectorAll('.card')].filter((c) => c.innerText.includes({title!r})).length"
    )
    assert len(visible(page)) == with_title > 0
    page.type(" of no question at all")
    assert visible(page) == []
    assert page.run("document.querySelector('.shown').textContent") == "No question fits."


def test_sounds_play_and_stop(page, pages):
    page.look(1280)
    page.open(pages["run"])
    page.run("HTMLMediaElement.prototype.play = function () { this.told = true; return Promise.resolve(); }")
    page.click("button.play")
    assert page.run("document.querySelector('button.play').textContent") == "■"
    assert page.run("[...document.querySelectorAll('audio')].filter((a) => a.told).length") == 1
    page.run("[...document.querySelectorAll('audio')].forEach((a) => a.onpause && a.onpause())")
    assert page.run("document.querySelector('button.play').textContent") == "▶"


def test_without_scripts_all_questions_stand_there_and_no_dead_buttons(page, pages):
    page.look(1280, scripts=False)
    page.open(pages["run"])
    page.look(1280)  # scripts again, to look at what the page became without
    assert page.run("document.querySelector('.filters').hidden")
    shown = page.run("[...document.querySelectorAll('.card')].map((c) => c.offsetHeight > 0)")
    assert shown
    assert all(shown)


@pytest.mark.parametrize("name", ["run", "two runs"])
def test_on_paper_the_page_is_light_and_has_no_buttons(page, pages, name):
    page.look(1280, "dark")
    page.open(pages[name])
    page("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 248)"
    assert page.run("[...document.querySelectorAll('.chip, button.play')].filter((b) => b.offsetParent).length") == 0
    assert page("Page.printToPDF")["data"]
