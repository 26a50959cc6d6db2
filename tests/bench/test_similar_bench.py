"""Similar items from a click log: visits, frozen questions and figures whose right values are known by construction."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runner import invoke, printed_json

import bundlecache as bc
from bundlecache.bench.similar_metrics import SimilarFigures, figures
from bundlecache.catalogue.click_log import MICROSECONDS, clicks_of, read_clicks
from bundlecache.catalogue.columns import Lists
from bundlecache.questions.similar_pairs import pairs_of, share_of_visits, user_shares
from bundlecache.questions.similar_questions import SimilarQuestions, draw_options
from bundlecache.store.table_schema import Identity

FAMILIES, MEMBERS, USERS = 30, 4, 400
ITEMS = [f"i{number}" for number in range(FAMILIES * MEMBERS)]
DAY = 86_400


def write(root: Path, **clicks: list[object]) -> Path:
    root.mkdir(exist_ok=True)
    titles = [f"thing {item}" for item in ITEMS]
    pq.write_table(pa.table({"item_id": ITEMS, "title": titles}), root / "items.parquet")
    if clicks:
        pq.write_table(pa.table(clicks), root / "interactions.parquet")
    return root


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each user looks at two or three of the four items of a family in one visit, on a day of their own; popular ones more.

    In the last tenth of the days, other families are looked at than before. Vectors: one knows the families, one does not.
    """
    rng = np.random.default_rng(1)
    rows: list[tuple[str, str, int]] = []
    early = rng.permutation(FAMILIES)[: FAMILIES // 2]
    share = 1 / (1 + np.arange(FAMILIES // 2))
    for user in range(USERS):
        family = rng.choice(early, p=share / share.sum())
        if user >= USERS * 0.9:
            family = rng.choice(np.setdiff1d(np.arange(FAMILIES), early))
        seen = rng.permutation(MEMBERS)[: rng.integers(2, 4)] + MEMBERS * family
        begin = 1_700_000_000 + user * DAY
        rows += [(f"u{user}", ITEMS[i], begin + 60 * place) for place, i in enumerate(seen)]
    user_id, item_id, timestamp = zip(*[rows[i] for i in rng.permutation(len(rows))], strict=True)
    root = write(tmp_path_factory.mktemp("families"), user_id=user_id, item_id=item_id, timestamp=timestamp)
    shop = bc.open(root, quiet=True)
    known = np.repeat(np.eye(FAMILIES, dtype=np.float32), MEMBERS, axis=0)
    for spec, vectors in (("toy:knows", known), ("toy:noise", rng.normal(size=(len(ITEMS), 8)).astype(np.float32))):
        shop.store.write(Identity("image", spec, "f" * 64, "none", "float32", vectors.shape[1]), ITEMS, vectors)
    return root


def test_a_visit_ends_after_half_an_hour_or_with_its_session():
    user, item = np.zeros(5, int), np.array([1, 2, 1, 3, 4])
    time = np.array([0, 10, 20, 60, 200]) * 60 * MICROSECONDS
    half_hour = 30 * 60 * MICROSECONDS
    log = clicks_of(user, item, time, np.full(5, -1), half_hour)
    assert log.item.tolist() == [1, 2, 3, 4]  # the second click of 1 is in the same visit
    assert log.visit.tolist() == [0, 0, 1, 2]
    by_session = clicks_of(user, item, time, np.array([0, 0, 1, 1, 1]), half_hour)
    assert by_session.visit.tolist() == [0, 0, 1, 1, 1]
    some_without = clicks_of(user, item, time, np.array([-1, -1, -1, -1, 0]), half_hour)
    assert some_without.visit.tolist() == [0, 0, 1, 2]
    assert some_without.item.tolist() == [1, 2, 3, 4]
    pairs = pairs_of(by_session)
    assert sorted(zip(pairs.first.tolist(), pairs.then.tolist(), strict=True)) == [(1, 2), (1, 3), (1, 4), (3, 4)]
    assert set(pairs.time.tolist()) == {time[1], time[4]}


def test_of_clicks_at_the_same_time_each_follows_the_other():
    log = clicks_of(np.zeros(2, int), np.array([1, 2]), np.zeros(2, int), np.full(2, -1), gap=1)
    pairs = pairs_of(log)
    assert sorted(zip(pairs.first.tolist(), pairs.then.tolist(), strict=True)) == [(1, 2), (2, 1)]


def test_intervals_are_wider_where_users_ask_several_questions():
    """Two users, fifty questions each, one always right: over users the mean may be anything from 0 to 1."""
    user, item = np.repeat([0, 1], 100), np.tile(np.arange(200).reshape(2, 100), 1).ravel()
    log = clicks_of(user, item, np.arange(200) * MICROSECONDS, np.repeat(np.arange(100), 2), gap=1)
    shares = user_shares(pairs_of(log), np.arange(0, 200, 2))  # each visit is two clicks
    assert shares.toarray().tolist() == [[1.0] * 50 + [0.0] * 50, [0.0] * 50 + [1.0] * 50]
    right = {"matched": np.repeat([[1.0], [0.0]], 50, axis=0) * np.ones(4)}
    able = np.ones(100, bool)
    assert SimilarFigures(right, able, shares).intervals()["mrr"] == (0.0, 1.0)
    low, high = SimilarFigures(right, able).intervals()["mrr"]
    assert (round(low, 1), round(high, 1)) == (0.4, 0.6)
    both = user_shares(
        pairs_of(
            clicks_of(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2]), np.arange(4), np.array([0, 0, 1, 1]), gap=1)
        ),
        np.array([0, 7]),
    )
    assert both.toarray().tolist() == [[0.5, 0], [0.5, 0], [0, 1]]  # item 7 was not clicked any more


def test_figures_of_one_question_are_those_computed_by_hand():
    """Item 0 is asked about; 3 users clicked item 2 after it, one clicked item 4. The method orders 1, 2, 3, 4."""
    asked = SimilarQuestions("test", np.array([0]), Lists([[2, 4]]), np.array([3, 1]), np.array([[1, 2, 3]]), "", {})
    made = figures(asked, lambda query: np.array([[9, 4, 3, 2, 1]], np.float32), 5)
    ideal = 3 + 1 / np.log2(3)
    gained = 3 / np.log2(3) + 1 / np.log2(5)
    assert made.values["full"][0] == pytest.approx([gained / ideal, 0, 1 / 3, 1 / 2])
    assert made.values["matched"][0] == pytest.approx([1 / np.log2(3), 0, 1 / 3, 1 / 2])  # item 4 is no option
    unable = figures(asked, lambda query: np.full((1, 5), -np.inf, np.float32), 5)
    assert not unable.able.any()
    assert not unable.values["full"].any()
    tied = figures(asked, lambda query: np.zeros((1, 5), np.float32), 5)
    assert tied.mean("mrr", "full") == 1 / 2  # equal scores in the order of the items


def test_vectors_that_know_the_families_win_and_noise_is_chance(families: Path):
    shop = bc.open(families, quiet=True)
    made, asked = shop.bench_similar(), shop.similar_questions()
    rows = {row.name: row.figures for row in made.result.rows}
    assert made.result.rows[0].name == "toy:knows"
    for variant in ("matched", "full"):
        # The first three are the rest of the family, which holds all that was clicked.
        assert rows["toy:knows"][variant]["p@3"] == pytest.approx(asked.relevant.lengths.mean() / 3)
        assert rows["toy:noise"][variant]["ndcg@5"] == pytest.approx(rows["random"][variant]["ndcg@5"], abs=0.15)
    assert "toy:noise" in made.result.findings[0]
    assert made.result.findings[0].startswith("nDCG@5 of toy:knows minus that of")


def test_what_clicks_teach_ends_where_the_questions_begin(families: Path):
    """Half of the test visits are about families that nobody looked at before: co-clicks cannot know them."""
    shop = bc.open(families, quiet=True)
    asked = shop.similar_questions("test")
    log = read_clicks(shop.folder, shop.catalogue)
    before = np.unique(log.item[log.visit_end < asked.starts_at])
    new = ~np.isin(asked.query, before)
    assert 0.3 < new.mean() < 0.9
    from bundlecache.baselines.similar import by_users, by_visits

    for method in (by_visits, by_users):
        made = figures(asked, method(log, asked.starts_at, len(ITEMS)), len(ITEMS))
        assert made.values["full"][~new, 3].mean() > 0.6
        assert made.values["full"][new, 3].mean() < 0.2


def test_bundles_that_are_later_visits_are_noticed():
    visit, item = np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.array([1, 2, 3, 4, 5, 6, 1, 2])
    log = clicks_of(np.zeros(8, int), item, np.arange(8), visit, gap=1)
    edges = np.array([[7, 6], [7, 4], [7, 5], [8, 1], [8, 2], [8, 3], [9, 1], [9, 2], [9, 6], [10, 1], [10, 2]])
    assert share_of_visits(log, 0, edges, 7) == pytest.approx(2 / 3)  # bundles 7 and 8, not 9; two items say nothing
    assert share_of_visits(log, 3, edges, 7) == pytest.approx(1 / 3)  # the visit of bundle 8 ended before
    assert share_of_visits(log, 0, np.zeros((0, 2), int), 7) == 0


def test_wrong_options_are_as_popular_as_the_right_ones():
    """Of 1,000 items, number n has n clicks: wrong options lie near a right one, in turn, and none is right or asked about."""
    relevant = Lists([[500, 900], [*range(30)]])
    users = np.array([1, 1, *range(30)])
    (few, many) = draw_options(np.array([510, 40]), relevant, users, np.arange(1000), np.random.default_rng(0))
    assert len(few) == len(set(few.tolist())) == 50
    assert {500, 900} <= set(few.tolist())
    near = np.abs(few[:, None] - [500, 900]) <= 40
    assert near.any(axis=1).all()
    assert near.sum(axis=0).min() >= 20
    assert 510 not in few
    assert set(range(10, 30)) <= set(many.tolist())  # the twenty of most users
    assert not set(range(10)) & set(many.tolist())
    assert many.max() < 120


def test_questions_are_frozen_and_a_change_is_noticed(families: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(families, root, ignore=shutil.ignore_patterns("questions"))
    first = bc.open(root, quiet=True).similar_questions("valid")
    # Later clicks change nothing about what is frozen, and an item that is gone takes its questions with it.
    clicks = pq.read_table(root / "interactions.parquet")
    pq.write_table(clicks.slice(0, 500), root / "interactions.parquet")
    again = bc.open(root, quiet=True).similar_questions("valid")
    assert (again.sha256, again.header) == (first.sha256, first.header)
    items = pq.read_table(root / "items.parquet")
    gone = bc.open(root, quiet=True).catalogue.item_ids[int(first.query[0])]
    pq.write_table(items.filter(pa.compute.not_equal(items["item_id"], gone)), root / "items.parquet")
    assert len(bc.open(root, quiet=True).similar_questions("valid")) < len(first)
    table = pq.read_table(root / "questions" / "similar" / "valid.parquet")
    pq.write_table(table.slice(1), root / "questions" / "similar" / "valid.parquet")
    with pytest.raises(bc.BundlecacheError, match="was changed after it was frozen"):
        bc.open(root, quiet=True).similar_questions("valid")


@pytest.mark.parametrize(
    ("clicks", "sentence"),
    [
        ({}, "has no interactions"),
        ({"user_id": ["u"] * 3, "item_id": ITEMS[:3]}, "has no column timestamp"),
        ({"user_id": ["u"] * 3, "item_id": ITEMS[:3], "timestamp": ["soon"] * 3}, "is no time"),
        ({"user_id": ["u"] * 3, "item_id": ITEMS[:3], "timestamp": [1_700_000_000] * 3}, "Only 1 visits"),
        (
            {
                "user_id": [f"u{n // 2}" for n in range(120)],
                "item_id": ITEMS[:120],
                "timestamp": [1_700_000_000] * 120,
            },
            "too few different times",
        ),
    ],
)
def test_clicks_that_cannot_be_used_are_one_sentence(tmp_path: Path, clicks: dict[str, list], sentence: str):
    result = invoke("bench", "--similar", "--data", write(tmp_path, **clicks))
    assert isinstance(result.exception, bc.BundlecacheError)
    assert sentence in result.exception.message


def test_the_command_prints_what_the_library_gives(families: Path):
    made = printed_json("bench", "--similar", "--data", families)
    assert made["rows"] == printed_json("bench", "--similar", "--data", families)["rows"]
    assert (families / "bench" / "similar.csv").read_text().count("toy:knows") == 2
    shown = invoke("bench", "--similar", "--data", families).stdout
    assert "nDCG@5" in shown
    assert made["sha256"][:12] in shown
