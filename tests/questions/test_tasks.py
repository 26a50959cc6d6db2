"""Tasks on user histories: order, splits without leaks, frozen files, and what a user can get wrong."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP
from helpers.runner import invoke, printed_json

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.histories import Histories
from bundlecache.errors import BundlecacheError, QuestionsError
from bundlecache.questions import tasks
from bundlecache.questions.task_file import TASKS, TaskQuestions, load
from bundlecache.questions.task_split import SPLITS, Split, training_rows
from bundlecache.workspace import WorkspaceFolder

DEMO_SHA256 = {"recommend": "70311101", "search": "c1e23770", "select": "ec2077d6", "preference": "b309a2ae"}


@pytest.fixture(scope="module")
def demo() -> tuple[Catalogue, Histories]:
    folder = WorkspaceFolder(TOP / "data")
    catalogue = Catalogue.read(folder)
    return catalogue, Histories.read(folder, catalogue)


def failed(*args: object) -> str:
    """The sentence that a command ends in."""
    error = invoke(*args).exception  # type: ignore[arg-type]
    assert isinstance(error, BundlecacheError), error
    return error.message


def pairs(user: list[str], items: np.ndarray) -> set[tuple[str, int]]:
    return set(zip(user, items.tolist(), strict=True))


def test_histories_are_in_order_of_time_and_a_pair_counts_once(tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},thing {i}\n" for i in "abc"))
    (tmp_path / "interactions.csv").write_text(
        "user_id,item_id,timestamp,rating,review\n"
        "u,b,2025-01-03,4,fine\nu,a,2025-01-02,5,\nv,c,2025-01-01,,\nu,b,2025-01-01,2,first\nu,gone,2025-01-01,1,\nv,a,,3,\n"
    )
    folder, notes = WorkspaceFolder(tmp_path), []
    catalogue = Catalogue.read(folder)
    made = Histories.read(folder, catalogue, notes)
    by_user = {
        user: [catalogue.item_ids[i] for i in items] for user, items in zip(made.users, made.sequences(), strict=True)
    }
    assert by_user == {"u": ["b", "a"], "v": ["c"]}
    assert made.rating[:2].tolist() == [2, 5]
    assert list(made.explanation) == ["first", None, None]
    assert notes == ["1 interaction without a timestamp cannot be put in order and are left out."]


def test_the_k_core_is_taken_to_its_fixpoint():
    """User c goes with item 2, then item 1 has one user left, then user b one item."""
    user, item = np.array([0, 0, 3, 3, 1, 1, 2]), np.array([0, 3, 0, 3, 1, 0, 1])
    made = Histories.of(["a", "b", "c", "d"], user, item, np.arange(7)).core(2)
    assert list(made.users) == ["a", "d"]
    assert sorted(set(made.item.tolist())) == [0, 3]


@pytest.mark.parametrize("split", get_args(Split))
def test_training_sees_no_held_out_interaction_and_no_future(demo, split: Split):
    catalogue, histories = demo
    core = tasks.prepared(histories, split, 5, 0)
    asked = tasks.freeze(histories, catalogue, "recommend", split)
    seen = core.take(training_rows(core, asked))
    trained = pairs(seen.users.take(seen.user), seen.item)
    assert len(trained) > 0.75 * len(core)
    time = dict(zip(pairs_in_order(core), core.time.tolist(), strict=True))
    last_trained = dict(zip(seen.users, np.maximum.reduceat(seen.time, seen.ends[:-1]), strict=True))
    for user, test, history, target in zip(asked.users, asked.test, asked.history, asked.target.tolist(), strict=True):
        assert (user, target) not in trained
        assert target not in history
        if split == "user_holdout":
            assert user not in last_trained
        if split != "random":
            now = time[user, target]
            assert all(time[user, item] <= now for item in history.tolist())
            assert (last_trained.get(user, -np.inf) if split != "time" else seen.time.max()) <= now, test
    for task in TASKS:  # whatever else is asked about is hidden too
        other = tasks.freeze(histories, catalogue, task, split)
        assert not pairs(list(other.users), other.target) & trained
        if task == "select":
            for k in range(3):
                right = other.right[:, k]
                assert not pairs(list(other.users.take(np.flatnonzero(right))), other.candidates[right, k]) & trained


def pairs_in_order(histories: Histories) -> list[tuple[str, int]]:
    return list(zip(histories.users.take(histories.user), histories.item.tolist(), strict=True))


def test_interactions_that_came_after_freezing_stay_out_of_training(demo):
    catalogue, histories = demo
    asked = tasks.freeze(histories, catalogue, "recommend", "leave_last_out")
    before = training_rows(histories, asked).sum()
    user, item = (
        np.append(histories.user, 0),
        np.append(histories.item, np.setdiff1d(range(832), histories.sequences()[0])[0]),
    )
    later = Histories.of(histories.users, user, item, np.append(histories.time, histories.time.max()))
    assert training_rows(later, asked).sum() == before


def test_selected_items_are_right_once_or_twice_and_never_the_users_own_otherwise(demo):
    catalogue, histories = demo
    made = tasks.freeze(histories, catalogue, "select", "leave_last_out").part(test=True)
    taken = {user: set(items.tolist()) for user, items in zip(histories.users, histories.sequences(), strict=True)}
    assert set(made.right.sum(axis=1).tolist()) == {1, 2}
    assert 0.3 < (made.right.sum(axis=1) == 2).mean() < 0.5
    for user, history, candidates, right in zip(made.users, made.history, made.candidates, made.right, strict=True):
        assert len(set(candidates.tolist())) == 3
        assert not set(candidates.tolist()) & set(history.tolist())
        assert [item in taken[user] for item in candidates.tolist()] == right.tolist()


def test_validation_tells_nothing_of_what_is_right_to_select(demo):
    catalogue, histories = demo
    frozen = {task: tasks.freeze(histories, catalogue, task, "leave_last_out") for task in ("recommend", "select")}
    valid, test = frozen["recommend"].part(test=False), frozen["select"].part(test=True)
    right = {
        user: set(items[mask].tolist())
        for user, items, mask in zip(test.users, test.candidates, test.right, strict=True)
    }
    told = [target in right[user] for user, target in zip(valid.users, valid.target.tolist(), strict=True)]
    assert sum(told) == (test.right.sum(axis=1) == 2).sum() > 400
    kept = tasks.apart_from(valid, test)
    assert list(kept.users) == [user for user, known in zip(valid.users, told, strict=True) if not known]
    assert tasks.apart_from(valid, frozen["recommend"].part(test=True)) is valid


def test_frozen_tasks_of_the_demo_keep_their_sha256_and_come_back_as_they_were(tmp_path, demo):
    catalogue, histories = demo
    for task, digits in DEMO_SHA256.items():
        made = tasks.freeze(histories, catalogue, task, "leave_last_out").save(tmp_path / f"{task}.parquet", catalogue)
        assert made.sha256.startswith(digits)
        back = load(tmp_path / f"{task}.parquet", catalogue)
        assert back.table(catalogue.item_ids).equals(made.table(catalogue.item_ids))
    table = pq.read_table(tmp_path / "search.parquet")
    queries = pa.array([*table["query"].to_pylist()[:-1], "another"])
    pq.write_table(table.set_column(table.column_names.index("query"), "query", queries), tmp_path / "search.parquet")
    with pytest.raises(QuestionsError, match="was changed after it was frozen"):
        load(tmp_path / "search.parquet", catalogue)


def test_liked_things_alone_are_asked_about_and_learnt_from(demo, tmp_path):
    catalogue, histories = demo
    made = tasks.freeze(histories, catalogue, "search", "leave_last_out", min_rating=4)
    assert made.name == "search-leave_last_out-min4"
    rating = dict(zip(pairs_in_order(histories), histories.rating.tolist(), strict=True))
    asked = [(user, item) for user, item in zip(made.users, made.target.tolist(), strict=True)]
    before = [(user, item) for user, items in zip(made.users, made.history, strict=True) for item in items.tolist()]
    assert min(rating[pair] for pair in [*asked, *before]) == 4
    made.save(tmp_path / "search.parquet", catalogue)
    core = tasks.prepared_as(histories, load(tmp_path / "search.parquet", catalogue).header)
    assert core.rating.min() == 4
    assert len(core) == made.header["n_interactions"]
    with pytest.raises(BundlecacheError, match="asks about all ratings"):
        tasks.freeze(histories, catalogue, "preference", "leave_last_out", min_rating=4)


def test_a_part_keeps_what_belongs_to_each_history(demo):
    catalogue, histories = demo
    made = tasks.freeze(histories, catalogue, "explain", "leave_last_out")
    part: TaskQuestions = made.part(test=True)
    rating = dict(zip(pairs_in_order(histories), histories.rating.tolist(), strict=True))
    flat = [(user, item) for user, items in zip(part.users, part.history, strict=True) for item in items.tolist()]
    assert [rating[pair] for pair in flat] == part.history_rating.tolist()
    assert len(part.history_explanation) == len(flat)


def test_the_command_freezes_once_and_says_what_is_missing(workspace):
    root = workspace.root
    rows = [(f"u{u}", f"item-{(u + k) % 12:02}", 100 * u + k) for u in range(8) for k in range(5)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    for path in root.glob("interactions.*"):
        path.unlink()
    assert "holds no interactions" in failed("questions", "--task", "recommend", "--data", root)
    pq.write_table(pa.table(columns), root / "interactions.parquet")
    ask = ("questions", "--k-core", "2", "--data", root, "--task")
    made = printed_json(*ask, "all")
    assert [row["made"] for row in made] == ["now"] * len(made)
    assert {row["name"].partition("-")[0] for row in made} >= {"recommend", "select"}
    assert {row["made"] for row in printed_json(*ask, "recommend")} == {"before"}
    assert "have no rating" in failed(*ask, "preference")
    assert "none has so many stars" in failed(*ask, "recommend", "--min-rating", "4")
    assert "options of tasks" in failed("questions", "--min-rating", "4", "--data", root)
    assert "no split 'last'" in failed(*ask, "recommend", "--split", "last")
    assert "both are needed" in failed(*ask, "recommend", "--split", "user_holdout", "--seed", "5")
    assert "at least 9 each" in failed(*ask[:1], "--k-core", "9", "--split", "time", *ask[3:], "recommend")
    assert "at least 9 each" in failed(*ask[:1], "--k-core", "9", *ask[3:], "recommend")
    del columns["timestamp"]
    pq.write_table(pa.table(columns), root / "interactions.parquet")
    assert "no timestamp" in failed(*ask, "recommend", "--seed", "1")
    assert len(SPLITS) == 4
    assert printed_json(*ask, "recommend", "--split", "random")[0]["test"] == 8
