"""Recommend, search and explain without a UniMP run: a baseline that is named, conditions, and sentences for bad input."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runner import invoke, printed_json, succeed

from bundlecache.project import workspace as library

ROWS = [(f"u{u}", f"item-{(u + 2 * k) % 24:02}", u + 30 * k) for u in range(16) for k in range(6)]


def write(shop, rows, *, timed: bool = True) -> None:
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    if not timed:
        del columns["timestamp"]
    pq.write_table(pa.table(columns), shop.root / "interactions.parquet")


@pytest.fixture
def shop(workspace):
    write(workspace, [*ROWS, ("stranger", "no such item", 5)])
    return workspace


def test_a_baseline_recommends_and_searches_where_there_is_no_run(shop):
    shown = succeed("recommend", "u3", "--k", 30, "--data", shop.root)
    assert "item-kNN ranks" in shown.stderr
    rows = printed_json("recommend", "u3", "--k", "30", "--data", shop.root, "--json")
    taken = {item for user, item, _ in ROWS if user == "u3"}
    assert [row["rank"] for row in rows] == list(range(1, 19))
    assert {row["item_id"] for row in rows} == {f"item-{i:02}" for i in range(24)} - taken
    session = library.open(shop.root, quiet=True)
    kept = session.recommend("u3", 24, keep_history=True, exclude=["item-00"])
    assert len(kept) == 23
    title = session.title("item-16")
    assert session.search("u3", title, 1)[0].title == title


def test_the_baseline_is_fitted_once_until_the_interactions_are_others(shop):
    first = succeed("recommend", "u3", "--data", shop.root)
    assert "item-kNN is fitted to 96 interactions, and kept" in " ".join(first.stderr.split())
    title = library.open(shop.root, quiet=True).title("item-16")
    for typed in (("recommend", "u3"), ("search", "u4", title)):
        assert "is fitted" not in succeed(*typed, "--data", shop.root).stderr
    assert succeed("recommend", "u3", "--data", shop.root).stdout == first.stdout
    write(shop, ROWS[:-1])
    assert "is fitted to 95" in " ".join(succeed("recommend", "u3", "--data", shop.root).stderr.split())


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (("recommend", "nobody"), "'nobody' has no interaction with an item of this catalogue, as 16 users have"),
        (("recommend", "stranger"), "'stranger' has no interaction"),
        (("search", "u3", "?"), "The query holds no word"),
        (("explain", "u3", "nothing"), "'nothing' is none of the 24 items"),
        (("explain", "u3", "item-00"), "no trained model that answers the tasks of user histories"),
        (("recommend", "u3", "--where", "title=zzz"), "None of the 24 items matches"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(shop, typed, sentence):
    answer = invoke(*typed, "--data", shop.root)
    assert answer.exit_code == 1
    assert sentence in str(answer.exception)


def test_without_times_nobody_knows_what_comes_next(workspace):
    write(workspace, ROWS, timed=False)
    assert "have no timestamp" in str(invoke("recommend", "u3", "--data", workspace.root).exception)


def test_a_run_of_another_kind_is_refused_and_passed_over(shop):
    for name, kind in (("bundles", "bundle"), ("newer", "unimp")):
        (shop.root / "runs" / name).mkdir(parents=True)
        (shop.root / "runs" / name / "manifest.json").write_text(f'{{"kind": "{kind}"}}')
    (shop.root / "runs" / "latest").write_text("newer")
    assert library.open(shop.root, quiet=True).run("latest", "bundle").name == "bundles"
    asked = invoke("recommend", "u3", "--run", "bundles", "--data", shop.root)
    assert "bundles is a run that completes bundles, not one that answers" in str(asked.exception)
    asked = invoke("complete", "item-00", "--run", "newer", "--data", shop.root)
    assert "newer is a run that answers the tasks of user histories, not one that completes" in str(asked.exception)
