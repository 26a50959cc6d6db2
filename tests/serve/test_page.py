"""The page in a real browser, on a real server with two trained runs: by mouse and by keys, on a phone and a laptop.

Without Chromium these tests are skipped.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastapi")

from helpers.browser import OUTSIDE, READABLE, browser, find, tab
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.serve.app import make_app
from bundlecache.serve.settings import ServeSettings

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium here: apt-get install chromium")
QUICK = {"text_stage.steps": 2, "fusion_stage.steps": 2, "fusion_stage.contrastive_steps": 2}
CONTRAST = 4.5  # WCAG AA for text
HOSTILE = '<img src=x onerror="alert(1)">&amp; a-name-in-one-piece-that-no-phone-has-room-for-on-a-single-line'
ANSWERED = "!document.querySelector('[aria-busy=true], .option.waiting') && !!document.querySelector('.option')"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a server of a small shop that has prices, a hostile title and two runs."""
    import uvicorn

    root = make_shop(tmp_path_factory.mktemp("page"))
    items = pq.read_table(root / "items.parquet")
    titles = [*items["title"].to_pylist()[:-1], HOSTILE]
    items = items.set_column(1, "title", [titles]).append_column("price", pa.array([5.0 + k for k in range(24)]))
    pq.write_table(items, root / "items.parquet")
    shop = bc.open(root, quiet=True)
    shop.train("demo", settings=QUICK, name="second", stage="text")
    shop.train("demo", settings=QUICK, name="first")
    app = make_app(ServeSettings(str(root), watch_seconds=0), lambda: setattr(server, "should_exit", True))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started or app.serving.resident is None:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(find(), tmp_path_factory.mktemp("profile")) as pipe:
        yield pipe


@pytest.fixture
def page(chromium, address):
    """A tab; whatever it asked of another host, or complained of, fails the test."""
    opened = tab(chromium)
    yield opened
    foreign = [url for url in opened.requests if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []
    assert opened.errors == []


def start(page, address, rest="", width=1280, theme="light"):
    page.look(width, theme)
    page.open(address + rest)
    page.wait("document.querySelectorAll('#items .item:not(.waiting)').length > 0")
    if rest:
        page.wait(ANSWERED)


def texts(page, selector):
    return page.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")


def wait_for_bundle(page, n):
    page.wait(f"document.querySelectorAll('#bundle-items li').length === {n}")
    page.wait(ANSWERED)


def bundle(page):
    return texts(page, "#bundle-items .title")


def offered(page):
    return texts(page, ".option .what .title")


def focused(page):
    return page.run("document.activeElement.getAttribute('aria-label') ?? document.activeElement.tagName")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "laptop"])
def test_a_bundle_is_built_explained_filtered_and_shared(page, address, width, theme):
    start(page, address, "", width, theme)
    titles = texts(page, "#items .title")
    page.click("#items .round", 0)  # by its button
    wait_for_bundle(page, 1)
    page.click("#items .picture", 1)  # anywhere on its card
    wait_for_bundle(page, 2)
    page.click("#search input[type=search]")  # by keys alone
    page.type("warm mug 2")
    page.wait(
        "document.querySelectorAll('#items .item').length < 24 && !document.querySelector('#items[aria-busy=true]')"
    )
    third = texts(page, "#items .title")[0]
    while not focused(page).startswith("Add "):
        page.press("Tab")
    page.press("Enter")
    wait_for_bundle(page, 3)
    assert focused(page) == f"Take {third} out of the bundle"  # the focus stays
    assert bundle(page) == [*titles[:2], third]

    assert len(offered(page)) == 5
    assert not set(offered(page)) & set(bundle(page))
    shares = [float(text.split()[-2]) for text in texts(page, ".likely .figure")]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5
    page.wait(f"document.getElementById('told').textContent.includes({offered(page)[0]!r})")  # a screen reader hears it
    page.click("[aria-expanded]", 0)
    assert page.run("document.querySelector('[aria-expanded]').getAttribute('aria-expanded')") == "true"
    weights = [float(text.split()[0]) for text in texts(page, ".why:not([hidden]) .weights .figure")]
    assert sum(weights) == pytest.approx(100, abs=2)
    assert set(texts(page, ".why:not([hidden]) .reason-items .title")) <= set(bundle(page))

    page.click("#options summary")
    page.run(
        "(() => { const field = document.querySelector('#options-form [name=category]'); field.value = 'bell';"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    page.wait("location.hash.includes('category=bell')")
    page.wait(
        f"[...document.querySelectorAll('.option .meta')].every((e) => e.textContent.includes('bell')) && {ANSWERED}"
    )
    assert page.run("document.documentElement.scrollWidth") == page.run("innerWidth") == width
    assert page.run(OUTSIDE) == []
    assert page.nameless() == []
    assert [row for row in page.run(READABLE) if row[1] < CONTRAST] == []

    before, link = (bundle(page), offered(page)), page.run("location.href")
    page.open("about:blank")
    page.open(link)
    wait_for_bundle(page, 3)
    assert (bundle(page), offered(page)) == before
    assert page.run("document.querySelector('#options-form [name=category]').value") == "bell"


def test_an_item_is_dragged_swapped_taken_out_and_back(page, address):
    start(page, address)
    titles = texts(page, "#items .title")
    page.drag("#items .item", "#bundle")
    wait_for_bundle(page, 1)
    page.click("#items .round", 1)
    wait_for_bundle(page, 2)
    page.click("#bundle-items .words-button", 0)
    page.wait(
        f"document.getElementById('completions-heading').textContent === {'Instead of ' + titles[0]!r} && {ANSWERED}"
    )
    instead = offered(page)[0]
    assert not {titles[0], titles[1]} & set(offered(page))
    page.click(".option .round", 0)
    page.wait(f"document.querySelector('#bundle-items .title').textContent === {instead!r}")
    assert bundle(page) == [instead, titles[1]]
    page.run("document.querySelector('#bundle-items .round').focus()")
    page.press("Delete")
    wait_for_bundle(page, 1)
    assert page.run("document.getElementById('bundle').contains(document.activeElement)")
    page.run("history.back()")
    wait_for_bundle(page, 2)
    assert bundle(page) == [instead, titles[1]]
    left_out = offered(page)[0]
    page.click(".acts .words-button:not([aria-expanded])", 0)
    page.wait(
        f"!!document.querySelector('#excluded .chip') && {ANSWERED} && !document.getElementById('answers').textContent.includes({left_out!r})"
    )
    page.click("#excluded .chip")
    page.wait(
        f"!document.querySelector('#excluded .chip') && document.querySelector('.option .title').textContent === {left_out!r}"
    )


def test_keys_walk_the_catalogue_and_sounds_play_on_while_the_page_changes(page, address):
    start(page, address)
    titles = texts(page, "#items .title")
    page.run("document.querySelector('#items .round').focus()")
    page.press("ArrowRight")
    assert focused(page) == f"Add {titles[1]} to the bundle"
    page.press("ArrowDown")
    assert focused(page) == f"Add {titles[5]} to the bundle"
    page.press("Tab", 1 if page.run("!document.activeElement.parentElement.querySelector('.play')") else 2)
    page.press("Enter")
    page.wait("document.getElementById('details').open")
    page.click("#details [data-focus=add]")
    wait_for_bundle(page, 1)
    page.press("Escape")
    assert page.run("document.activeElement.textContent") == titles[5]  # though the catalogue was drawn anew
    page.run("HTMLMediaElement.prototype.play = function () { return Promise.resolve(); }")
    page.click("#items .play")
    page.wait("document.querySelectorAll('.play[aria-pressed=true]').length > 0")
    page.click("#items .round", 1)
    wait_for_bundle(page, 2)
    assert page.run("document.querySelector('#items .play').getAttribute('aria-pressed')") == "true"
    assert page.run("[...document.querySelectorAll('#items img')].every((e) => e.complete)")
    page.click("#items .play")
    assert page.run("document.querySelectorAll('.play[aria-pressed=true]').length") == 0


def test_an_item_of_ones_own_is_completed_by_its_title_and_picture(page, address, tmp_path):
    from PIL import Image

    Image.new("RGB", (2000, 1000), (200, 40, 40)).save(tmp_path / "red.png")
    start(page, address)
    page.click("#own summary")
    page.click("#own-form [name=title]")
    page.type("a warm vase")
    page.choose_file("#own-form [type=file]", tmp_path / "red.png")
    page.click("#own-form button")
    wait_for_bundle(page, 1)
    assert bundle(page) == ["a warm vase"]
    page.wait("document.querySelector('#bundle-items img').naturalWidth === 512")  # no larger one is sent
    assert len(offered(page)) == 5
    page.click("[aria-expanded]", 0)
    assert "a warm vase" in texts(page, ".why:not([hidden]) .reason-items .title")


def test_two_runs_stand_side_by_side_and_everything_is_exported(page, address):
    start(page, address, "#item=item-02&item=item-04&run=first&against=second")
    page.wait("document.querySelectorAll('.column').length === 2")
    assert texts(page, ".column h3") == ["run first", "run second"]
    columns = [texts(page, f".column:nth-child({k}) .what .title") for k in (1, 2)]
    assert [len(column) for column in columns] == [5, 5]
    common = len(set(columns[0]) & set(columns[1]))
    assert texts(page, "#answers > p")[0].startswith(f"Both name {common} of 5")
    page.run(
        "(() => { window.made = []; URL.createObjectURL = (blob) => { made.push(blob); return 'blob:none'; };"
        " HTMLAnchorElement.prototype.click = function () {}; })()"
    )
    for kind in ("json", "csv"):
        page.click(f"#export-{kind}")
    whole, table = page.run("Promise.all(made.map((blob) => blob.text()))")
    told = json.loads(whole)
    assert [item["item_id"] for item in told["bundle"]] == ["item-02", "item-04"]
    assert [[one["title"] for one in each["completions"]] for each in told["answers"]] == columns
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["title"] for row in rows if row["part"] == "bundle"] == bundle(page)
    assert [row["title"] for row in rows if row["run"] == "second"] == columns[1]
    page.click("#save")
    page.click("#clear")
    page.wait("!document.querySelector('#bundle-items li')")
    page.click("#saved-list a")
    wait_for_bundle(page, 2)


def test_titles_are_text_and_items_without_pictures_are_shown(page, address):
    start(page, address, "#item=item-23&item=item-05&k=20", 390)
    assert bundle(page) == [HOSTILE, "cold bell 5"]
    assert texts(page, "#bundle-items .picture.none") == ["C"]
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0
    assert page.run("document.documentElement.scrollWidth") == 390
    page.click("#bundle-items .title", 0)
    page.wait("document.querySelectorAll('#details .tiles .title').length > 1")
    assert texts(page, "#details-title") == [HOSTILE]
    assert page.run(OUTSIDE) == []
    assert page.run("document.activeElement.id") == "details-title"
    page.press("Escape")
    assert not page.run("document.getElementById('details').open")


def test_what_the_server_refuses_is_said_in_its_own_sentence(page, address):
    start(page, address)
    page.open(f"{address}#item=item-02&only=colour%3Dred")
    page.wait("!!document.querySelector('#answers [role=alert]')")
    assert "colour" in texts(page, "#answers [role=alert] p")[0]
    assert page.errors == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    page.errors.clear()
    page.click("#search input[type=search]")
    page.type("zzzz qqqq")
    page.wait(
        "!document.getElementById('nothing').hidden || document.getElementById('found').textContent.includes('meaning')"
    )
