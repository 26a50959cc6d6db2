"""What is drawn stays the same to the last digit: known SHA-256s, and quick ways against plain ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pytest
from helpers.matrices import matrix
from helpers.paths import TOP
from helpers.random_catalogue import random_catalogue

from bundlecache import json_text
from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue, Interactions
from bundlecache.catalogue.columns import Lists, Strings
from bundlecache.catalogue.kept_splits import KeptBundle, KeptSplits
from bundlecache.errors import QuestionsError
from bundlecache.questions import clusters, freeze, negatives
from bundlecache.questions.hard_negatives import MAX_POOL_ITEMS, HardNegatives
from bundlecache.questions.hardness import pools_of
from bundlecache.questions.question_file import Questions
from bundlecache.questions.right_answers import RightAnswers
from bundlecache.workspace import WorkspaceFolder

# Frozen files of users would no longer match what the same seed draws: a change of these needs a new format version.
DEMO = {("test", "random"): "be48f175222be256", ("valid", "hard"): "0ba023ad69015575"}
MADE = {
    ("random", 1): "1844989f4f3b9a65",
    ("hard", 1): "7d45c5f7ed6f7991",
    ("nearest:text", 0.5): "429563d7a9147dd6",
    ("same-category", 1): "008ca41ca9fffc7f",
    ("popularity-matched", 0.5): "94775697e7007c27",
    ("co-occurring", 1): "7e75bbf36a9ff97f",
    ("nearest:text+same-category+popularity-matched+co-occurring", 0.8): "c7bf069be59e4f2d",
}


def made() -> Catalogue:
    shop = random_catalogue(500, 400, popular=True, seed=4)
    rng = np.random.default_rng(1)
    user, item = rng.integers(60, size=3000).astype(np.int32), (500 * rng.random(3000) ** 2).astype(np.int32)
    users = [f"u{n}" for n in range(60)]
    return dataclasses.replace(shop, interactions=Interactions(users, user, item, users))


def test_the_demo_draws_its_known_digits(tmp_path):
    for table in ("items", "bundles", "interactions"):
        shutil.copy(TOP / "data" / f"{table}.parquet", tmp_path)
    catalogue = Catalogue.read(WorkspaceFolder(tmp_path))
    for (split, kind), digits in DEMO.items():
        assert freeze.freeze(catalogue, split=split, negatives=kind).sha256.startswith(digits)


@pytest.mark.parametrize(("kind", "difficulty"), MADE)
def test_a_made_catalogue_draws_its_known_digits(kind, difficulty):
    vectors = np.random.default_rng(2).normal(size=(500, 8))
    asked = freeze.freeze(
        made(), split="test", negatives=kind, difficulty=difficulty, matrices={"text": matrix(vectors)}, seed=3
    )
    assert asked.sha256[:16] == MADE[kind, difficulty]


def plain_right_answers(bundles, titles, partial, truth) -> set[int]:
    together = {i for items in bundles if {*partial} <= {*items} for i in items}
    title = titles[truth].casefold()
    return together | {i for i, other in enumerate(titles) if title and other.casefold() == title}


@pytest.mark.parametrize("seed", range(4))
def test_right_answers_are_those_of_a_plain_search(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(8, 40))  # few items, so that bundles share many
    popular = (1 + np.arange(count)) ** -1.0
    bundles = [
        rng.choice(count, rng.integers(2, 6), replace=False, p=popular / popular.sum()).tolist() for _ in range(300)
    ]
    titles = [["", "Mug", "mug", "STRASSE", "stra\u00dfe", f"lamp {i}"][int(rng.integers(6))] for i in range(count)]
    right = RightAnswers([np.array(items, np.int32) for items in bundles], titles)
    partials = [np.array(items[1:], np.int32) for items in bundles]
    truths = np.array([items[0] for items in bundles])
    beside = right.any_beside(Lists(partials), truths)
    for items, partial, truth, any_beside in zip(bundles, partials, truths.tolist(), beside, strict=True):
        expected = plain_right_answers(bundles, titles, partial.tolist(), truth)
        assert right.of(partial, truth).tolist() == sorted(expected)
        tested = right.test(partial, truth)
        assert {i for i in range(count) if i in tested} | {truth} == expected | {truth}
        assert bool(any_beside) or expected <= set(items), "else a question would miss another right answer"


class Counting(random.Random):
    """Counts how often it is asked: once for every item that is looked at."""

    asked = 0

    def random(self) -> float:
        self.asked += 1
        return super().random()


@pytest.mark.parametrize("kind", ["random", "popularity-matched"])
def test_items_looked_at_for_a_question_do_not_grow_with_the_catalogue(monkeypatch, kind):
    most = []
    for items in (2_000, 20_000):
        drawn: list[Counting] = []

        def counted(seed, drawn=drawn) -> Counting:
            drawn.append(Counting(seed))
            return drawn[-1]

        shop = random_catalogue(items, 200)
        monkeypatch.setattr(freeze.random, "Random", counted)
        asked = freeze.freeze(shop, split="test", negatives=kind)
        monkeypatch.undo()
        most.append(np.mean([rng.asked for rng in drawn[-len(asked) :]]))
    assert most[1] < 1.2 * most[0] < 60


def test_pools_hold_every_item_once_and_are_of_bounded_size():
    stratum = np.random.default_rng(0).integers(0, 3, 50_000) ** 2 // 2
    pools = pools_of(stratum, MAX_POOL_ITEMS)
    assert sorted(pools.items.values.tolist()) == [*range(50_000)]
    assert pools.items.lengths.max() <= MAX_POOL_ITEMS
    for number, members in enumerate(pools.items):
        assert (pools.number[members] == number).all()
        assert (pools.place[members] == np.arange(len(members))).all()
        assert (np.diff(members) > 0).all()
        assert len(set(stratum[members].tolist())) == 1


def test_many_items_are_clustered_part_by_part_and_the_header_says_so(monkeypatch):
    clump = np.random.default_rng(0).integers(0, 40, 3000)
    vectors = np.random.default_rng(1).normal(size=(40, 16))[clump] + 0.05 * np.random.default_rng(2).normal(
        size=(3000, 16)
    )
    plain = random_catalogue(3000, 300, categories=False)
    small = freeze.freeze(plain, split="test", negatives="hard", vectors=vectors.astype(np.float32))
    assert small.header["format_version"] == 1
    for module in (clusters, negatives):
        monkeypatch.setattr(module, "MAX_DIRECT_ITEMS", 500)
    monkeypatch.setattr(clusters, "PART_ITEMS", 400)
    large = freeze.freeze(plain, split="test", negatives="hard", vectors=vectors.astype(np.float32))
    assert large.header["format_version"] == 2
    same = clump[large.options] == clump[large.options[np.arange(len(large)), large.truth]][:, None]
    assert same.mean() > 0.5, "by chance it is 1 of 40"


def test_a_set_of_the_second_format_version_is_read(tmp_path):
    catalogue = random_catalogue()
    asked = freeze.freeze(catalogue, split="test")
    for version, known in ((2, True), (3, False)):
        path = tmp_path / f"v{version}.parquet"
        dataclasses.replace(asked, header={**asked.header, "format_version": version}).save(path, catalogue)
        if known:
            assert Questions.load(path, catalogue).sha256 == asked.sha256
        else:
            with pytest.raises(QuestionsError, match="is no header of format 1 or 2"):
                Questions.load(path, catalogue)


ODD = [
    "plain",
    "",
    'a "quoted" one',
    "back\\slash",
    "tab\t",
    "\u00fcber \u4e2d \U0001f600",
    "\x7f",
    "\x00",
    "line\n",
    " ",
]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_columns_become_the_json_that_python_writes(ascii_only):
    column = json_text.texts(pa.array([*ODD, None], pa.large_string()), ascii_only=ascii_only)
    assert column.to_pylist() == [json.dumps(text, ensure_ascii=ascii_only) for text in [*ODD, None]]
    lists = [ODD, [], ["x"], ODD[::-1]]
    written = json_text.lists(pa.array(lists, pa.large_list(pa.large_string()))[1:], ", ", ascii_only=ascii_only)
    assert written.to_pylist() == [json.dumps(each, ensure_ascii=ascii_only) for each in lists[1:]]
    assert bytes(json_text.content(written)) == "".join(written.to_pylist()).encode()


def test_questions_and_kept_splits_with_odd_ids_have_the_digits_of_plain_lines(tmp_path):
    shop = random_catalogue(60, 90)
    ids = [f"{ODD[i % len(ODD)]}{i}" for i in range(60)]
    names = [f"{ODD[b % len(ODD)]}b{b}" for b in range(90)]
    odd = dataclasses.replace(
        shop, item_ids=Strings(ids), bundles=dataclasses.replace(shop.bundles, ids=Strings(names))
    )
    asked = freeze.freeze(odd, split="test", n_options=5)
    rows = [
        {
            "bundle_id": name,
            "options": [ids[i] for i in shown],
            "partial": [ids[i] for i in given],
            "truth": int(truth),
        }
        for name, shown, given, truth in zip(asked.bundle_ids, asked.options, asked.partial, asked.truth, strict=True)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)
    assert hashlib.sha256(lines.encode()).hexdigest() == asked.sha256
    split = splits.assign(odd)
    kept = KeptSplits.of(odd.bundles.ids, split, odd.bundles.group, odd.bundles.items, odd.item_ids)
    placed = sorted(
        [name, str(part), group, sorted(ids[i] for i in items.tolist())]
        for name, part, group, items in zip(names, split, odd.bundles.group, odd.bundles.items, strict=True)
    )
    assert kept.sha256 == hashlib.sha256("".join(json.dumps(row) + "\n" for row in placed).encode()).hexdigest()
    kept.save(tmp_path / "splits.parquet")
    assert KeptSplits.read(tmp_path / "splits.parquet").sha256 == kept.sha256
    again = KeptSplits({name: KeptBundle(part, group, tuple(items)) for name, part, group, items in placed})
    assert again.sha256 == kept.sha256
    assert (kept.split_of(odd.bundles.ids) == split).all()


def test_taken_items_may_be_a_set_or_an_array():
    hard = HardNegatives(made(), "popularity-matched", 0.5)
    picks = [
        hard.pick(random.Random(1), np.array([3]), 9, 5, taken).tolist() for taken in ({3, 4, 9}, np.array([3, 4, 9]))
    ]
    assert picks[0] == picks[1]
    assert not {3, 4, 9} & {*picks[0]}
