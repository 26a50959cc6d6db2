"""Frozen questions: right, repeatable, tamper-proof, and with nothing in them that gives the answer away."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP
from helpers.random_catalogue import random_catalogue, with_cells

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.columns import Strings
from bundlecache.errors import BundlecacheError, QuestionsError
from bundlecache.questions import importing, negatives, question_sets
from bundlecache.questions.freeze import freeze
from bundlecache.questions.question_file import Questions
from bundlecache.workspace import WorkspaceFolder


def share(asked: Questions, score) -> float:
    """How often the option with the highest score is the truth; ties count by their share."""
    hits = []
    for q in range(len(asked)):
        s = np.asarray(score(asked.partial[q], asked.options[q]), float)
        best = np.flatnonzero(s == s.max())
        hits.append((asked.truth[q] in best) / len(best))
    return float(np.mean(hits))


@pytest.mark.parametrize("kind", negatives.KINDS)
@pytest.mark.parametrize("n", [4, 10])
def test_every_question_has_distinct_options_one_truth_and_nothing_of_its_bundle(kind, n):
    catalogue = random_catalogue()
    asked = freeze(catalogue, split="test", n_options=n, negatives=kind)
    of = dict(zip(catalogue.bundles.ids, catalogue.bundles.items, strict=True))
    assert asked.options.shape == (len(asked), n)
    assert asked.options.dtype == np.int32
    assert asked.truth.dtype == np.int64
    assert asked.name == f"test-{kind}{n}"
    for bundle_id, given, shown, truth in zip(asked.bundle_ids, asked.partial, asked.options, asked.truth, strict=True):
        whole = of[bundle_id].tolist()
        right = int(shown[truth])
        assert len(set(shown.tolist())) == n
        assert set(shown.tolist()) & set(whole) == {right}
        assert [i for i in whole if i != right] == given.tolist(), "the order of the bundle is kept"


def test_one_question_per_bundle_of_the_split_and_small_bundles_are_counted():
    catalogue = random_catalogue()
    first = int(np.flatnonzero(splits.assign(catalogue) == "test")[0])
    catalogue = with_cells(catalogue, items={first: catalogue.bundles.items[first][:1]})
    asked = freeze(catalogue, split="test")
    wanted = {b for b, part in zip(catalogue.bundles.ids, splits.assign(catalogue), strict=True) if part == "test"}
    assert sorted(asked.bundle_ids) == sorted(wanted - {catalogue.bundles.ids[first]})
    assert asked.header["passed_over"] == 1


def test_same_catalogue_and_seed_give_the_same_digits_in_another_process():
    here = freeze(random_catalogue(), split="valid", negatives="hard")
    code = (
        "import sys; sys.path[:0] = ['tests']\n"
        "from helpers.random_catalogue import random_catalogue\nfrom bundlecache.questions.freeze import freeze\n"
        "print(freeze(random_catalogue(), split='valid', negatives='hard').sha256)"
    )
    top = TOP
    there = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here.sha256
    other = freeze(random_catalogue(), split="valid", negatives="hard", seed=1)
    assert other.sha256 != here.sha256
    assert other.name == "valid-hard10-seed1"


def test_digits_known_by_heart_so_that_no_release_redraws_silently():
    # If this fails, frozen files of users no longer match what the same seed draws: that needs a new format version.
    asked = freeze(random_catalogue(60, 40), split="test", n_options=5)
    assert asked.sha256[:16] == "98e6f62d8aab6189"


def test_truth_stands_equally_often_at_every_position_and_not_in_a_row():
    asked = freeze(random_catalogue(), split="test")
    counts = np.bincount(asked.truth, minlength=10)
    assert counts.max() - counts.min() <= 1
    steps = Counter((np.diff(asked.truth) % 10).tolist())
    assert max(steps.values()) < 0.35 * len(asked), "the next position can be told from the last"


@pytest.mark.parametrize("kind", negatives.KINDS)
def test_popularity_and_being_seen_in_training_give_nothing_away(kind):
    shares = []
    for seed in range(4):
        catalogue = random_catalogue(900, 500, popular=True, seed=seed)
        count = np.bincount(splits.training_graph(catalogue, "bundle-item")[:, 1], minlength=900)
        asked = freeze(catalogue, split="test", negatives=kind, seed=seed)
        seen = count[asked.options] > 0
        assert (seen == seen[:, :1]).all(), "options of one question are all seen or all unseen"
        anything = np.random.default_rng(seed).integers(900, size=asked.options.shape)
        anything[np.arange(len(asked)), asked.truth] = asked.options[np.arange(len(asked)), asked.truth]
        loose = dataclasses.replace(asked, options=anything)
        shares.append(
            [share(which, lambda _, o, c=sign * count: c[o]) for which, sign in ((asked, 1), (asked, -1), (loose, 1))]
        )
        assert asked.header["popularity_hit@1"] == round(shares[-1][0], 4)
    most, least, unmatched = np.mean(shares, 0)
    assert unmatched > 0.3, "here popularity would answer, were the options not matched"
    assert most < {"random": 0.2, "hard": 0.28}[kind], f"the most popular option is right in {most:.2f}"
    assert least < 0.16, f"the least popular option is right in {least:.2f}"


@pytest.mark.parametrize("attack", ["index", "medoid", "odd one out"])
def test_neighbours_in_the_catalogue_and_the_middle_of_the_options_give_nothing_away(attack):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(900, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = {
        "index": lambda given, o: -np.abs(o[:, None] - given[None]).min(1),
        "medoid": lambda _, o: (vectors[o] @ vectors[o].T).sum(1),
        "odd one out": lambda _, o: -(vectors[o] @ vectors[o].T).sum(1),
    }
    shares = [
        share(
            freeze(
                random_catalogue(900, 600, categories=False, seed=seed),
                split="test",
                negatives="hard",
                seed=seed,
                vectors=vectors,
            ),
            scores[attack],
        )
        for seed in range(3)
    ]
    assert np.mean(shares) < 0.17


def test_hard_options_are_of_the_truths_category_or_near_it():
    catalogue = random_catalogue()
    kind = catalogue.column("category")
    asked = freeze(catalogue, split="test", negatives="hard")
    same = [kind[o] == kind[row[t]] for row, t in zip(asked.options, asked.truth, strict=True) for o in row]
    assert np.mean(same) > 0.95
    rng = np.random.default_rng(0)
    clumps = np.repeat(rng.normal(size=(8, 16)), 50, axis=0) + 0.1 * rng.normal(size=(400, 16))
    plain = random_catalogue(categories=False)
    near = freeze(plain, split="test", negatives="hard", vectors=clumps.astype(np.float32))
    same = [o // 50 == row[t] // 50 for row, t in zip(near.options, near.truth, strict=True) for o in row]
    assert np.mean(same) > 0.8


def test_small_categories_join_along_their_path_and_no_item_is_lost():
    catalogue = random_catalogue(120, 30)
    paths = ["a > b"] * 50 + ["a > c"] * 4 + ["a > d > e"] * 4 + ["a > f"] * 22 + ["g"] * 37 + [None] * 3
    catalogue.columns["category"] = Strings(paths)
    made = negatives.stratify(catalogue, "hard", None, 5)
    cell, seen = made.number, made.seen
    assert len(cell) == len(seen) == 120
    assert all(size >= 5 for size in np.bincount(cell) if size)
    unseen = ~seen
    assert len(set(cell[unseen & np.array([p in ("a > c", "a > d > e") for p in paths])])) == 1, (
        "they share what a has left"
    )


def test_other_right_answers_are_no_wrong_options():
    catalogue = random_catalogue(40, 60, seed=3)
    catalogue = with_cells(catalogue, items={b: [b % 3, 10 + b % 8, 20 + b % 7] for b in range(60)})
    titles = [*catalogue.titles[:30], *[catalogue.titles[20]] * 10]
    catalogue = dataclasses.replace(catalogue, titles=titles)
    asked = freeze(catalogue, split="test", n_options=4, negatives="hard")
    for given, row, truth in zip(asked.partial, asked.options, asked.truth, strict=True):
        for wrong in np.delete(row, truth).tolist():
            assert catalogue.titles[wrong] != catalogue.titles[row[truth]]
            for items in catalogue.bundles.items:
                assert not {*given.tolist(), wrong} <= set(items.tolist()), "this option completes the bundle elsewhere"


def test_a_file_comes_back_as_it_was_and_its_export_has_the_same_digits(tmp_path):
    catalogue, workspace = random_catalogue(), WorkspaceFolder(tmp_path)
    asked = freeze(catalogue, split="test")
    asked.save(question_sets.path(workspace, asked.name), catalogue)
    again = question_sets.load(workspace, catalogue, "test-random10")
    assert again.sha256 == asked.sha256
    assert again.header == asked.header
    assert (again.options == asked.options).all()
    assert (again.truth == asked.truth).all()
    assert all((a == b).all() for a, b in zip(again.partial, asked.partial, strict=True))
    assert question_sets.names(workspace) == ["test-random10"]
    asked.export_jsonl(tmp_path / "out.jsonl", catalogue)
    assert hashlib.sha256((tmp_path / "out.jsonl").read_bytes()).hexdigest() == asked.sha256
    assert importing.read(tmp_path / "out.jsonl", catalogue)[0].sha256 == asked.sha256
    assert sorted(p.name for p in workspace.questions.iterdir()) == ["test-random10.json", "test-random10.parquet"]


def test_saving_the_same_is_fine_and_saving_others_over_them_is_refused(tmp_path):
    catalogue = random_catalogue()
    asked = freeze(catalogue, split="test")
    asked.save(tmp_path / "q.parquet", catalogue)
    asked.save(tmp_path / "q.parquet", catalogue)
    other = freeze(catalogue, split="test", seed=1)
    with pytest.raises(QuestionsError, match="holds other questions"):
        other.save(tmp_path / "q.parquet", catalogue)
    other.save(tmp_path / "q.parquet", catalogue, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundlecacheError, match="cannot be written"):
        other.save(tmp_path / "file" / "q.parquet", catalogue)
    assert Questions.load(tmp_path / "q.parquet", catalogue).sha256 == other.sha256


def saved(tmp_path, catalogue) -> Path:
    path = tmp_path / "test-random10.parquet"
    freeze(catalogue, split="test").save(path, catalogue)
    return path


def rewrite(path: Path, change, *, rehash: bool) -> None:
    """Change the first row of a saved file; with ``rehash`` as somebody who knows the format would."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[0])
    header = json.loads(table.schema.metadata[b"bundlecache"])
    if rehash:
        from bundlecache.questions.question_rows import QuestionRows

        header["sha256"] = QuestionRows.of(rows).sha256
        path.with_suffix(".json").write_text(json.dumps(header))
    new = pa.Table.from_pylist(rows, schema=table.schema.with_metadata({"bundlecache": json.dumps(header)}))
    pq.write_table(new, path)


def test_a_changed_file_is_refused(tmp_path):
    catalogue = random_catalogue()
    path = saved(tmp_path, catalogue)
    rewrite(path, lambda row: row.update(truth=(row["truth"] + 1) % 10), rehash=False)
    with pytest.raises(QuestionsError, match="changed after it was frozen"):
        Questions.load(path, catalogue)


def test_a_header_that_tells_of_another_draw_is_refused(tmp_path):
    catalogue = random_catalogue()
    sidecar = saved(tmp_path, catalogue).with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"negatives": "hard"}))
    with pytest.raises(QuestionsError, match="how its questions were drawn: one of them was changed"):
        Questions.load(sidecar.with_suffix(".parquet"), catalogue)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda row: row["options"].__setitem__(0, row["options"][1]), "stands there twice"),
        (lambda row: row.update(truth=10), "is none of its 10 options"),
        (lambda row: row.update(truth=None), "is none of its 10 options"),
        (lambda row: row["partial"].append(row["options"][0]), "stands in the partial bundle"),
        (lambda row: row.update(partial=[]), "partial bundle is empty"),
        (lambda row: row["partial"].append(row["partial"][0]), "stands twice in its partial bundle"),
        (lambda row: row["options"].__setitem__(0, "nobody"), "'nobody' is not in the catalogue"),
        (lambda row: row["options"].pop(), "it has 9 options|it has 10 options"),
        (lambda row: row.update(bundle_id="b-1"), "'b-1' is not in the catalogue"),
    ],
)
def test_a_file_with_a_right_hash_and_wrong_content_is_refused(tmp_path, change, sentence):
    catalogue = random_catalogue()
    path = saved(tmp_path, catalogue)
    rewrite(path, change, rehash=True)
    with pytest.raises(QuestionsError, match=sentence):
        Questions.load(path, catalogue)


def test_questions_about_bundles_that_are_training_bundles_now_are_refused(tmp_path):
    catalogue = random_catalogue()
    path = saved(tmp_path, catalogue)
    catalogue = with_cells(catalogue, split=dict.fromkeys(range(len(catalogue.bundles)), "train"))
    with pytest.raises(QuestionsError, match="is a train bundle in this catalogue"):
        Questions.load(path, catalogue)


@pytest.mark.parametrize("what", ["missing", "no sidecar", "truncated", "not parquet", "bad sidecar"])
def test_missing_and_damaged_files_name_the_command_that_makes_them(tmp_path, what):
    catalogue = random_catalogue()
    path = saved(tmp_path, catalogue)
    sidecar = path.with_suffix(".json")
    if what == "missing":
        path.unlink()
    elif what == "no sidecar":
        sidecar.unlink()
    elif what == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "not parquet":
        path.write_text("hello")
    else:
        sidecar.write_text("[1")
    with pytest.raises(QuestionsError, match="bundlecache questions"):
        Questions.load(path, catalogue)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "tset"}, "no split 'tset'"),
        ({"split": "test", "negatives": "mean"}, "no negatives 'mean'"),
        ({"split": "test", "n_options": 1}, "number of options is 1; a question has 2 to 1,000"),
        ({"split": "test", "n_options": 500}, "needs 499 wrong items"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(arguments, sentence):
    with pytest.raises(BundlecacheError, match=sentence):
        freeze(random_catalogue(), **arguments)


def test_hard_without_categories_and_vectors_says_what_it_needs():
    with pytest.raises(QuestionsError, match="need a category column"):
        freeze(random_catalogue(categories=False), split="test", negatives="hard")


def test_a_catalogue_without_bundles_says_so(workspace):
    (workspace.root / "bundles.parquet").unlink()
    with pytest.raises(QuestionsError, match="has no bundle"):
        freeze(Catalogue.read(workspace), split="test")


def test_the_small_workspace_gives_questions_with_options_filled_up_and_counted(workspace):
    asked = freeze(Catalogue.read(workspace), split="test", n_options=10, negatives="hard")
    assert asked.n_options == 10
    assert asked.header["filled"] >= 0


def foreign(catalogue, b, given, truth, *, names=("random4",)) -> dict:
    ids = catalogue.item_ids
    wrong = [i for i in range(20) if i not in catalogue.bundles.items[b]][:3]
    shown = [ids[i] for i in (*wrong[:2], truth, wrong[2])]
    return {
        "bundle": catalogue.bundles.ids[b],
        "query": [ids[i] for i in given],
        "gt": ids[truth],
        "cand": dict.fromkeys(names, shown),
    }


def test_foreign_lines_are_read_whole_and_checked(tmp_path):
    catalogue = random_catalogue()
    line = foreign(catalogue, *splits.hold_out(catalogue, "test")[0], names=("random4", "hard4"))
    file = tmp_path / "shop_test_seed2.jsonl"
    file.write_text(json.dumps(line) + "\n\n")
    easy, hard = importing.read(file, catalogue)
    assert (easy.name, easy.split, easy.negatives, easy.seed) == (
        "test-random4-shop_test_seed2",
        "test",
        "random",
        2,
    )
    assert (hard.name, hard.negatives) == ("test-hard4-shop_test_seed2", "hard")
    assert easy.truth.tolist() == hard.truth.tolist() == [2]
    for text in ("{", "[]", "{}", json.dumps({**line, "gt": "nobody"}), json.dumps({**line, "cand": {}})):
        file.write_text(text)
        with pytest.raises(QuestionsError, match="line 1, is no question"):
            importing.read(file, catalogue)
    file.write_text(json.dumps(line) + "\n" + json.dumps({**line, "cand": {"hard4": line["cand"]["hard4"]}}))
    with pytest.raises(QuestionsError, match="option lists that some lines lack"):
        importing.read(file, catalogue)
    with pytest.raises(QuestionsError, match="cannot be read"):
        importing.read(tmp_path / "none.jsonl", catalogue)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        ({"options": "abcd"}, "'abcd' is no list of ids"),
        ({"partial": "abcd"}, "'abcd' is no list of ids"),
        ({"options": [None, True]}, "None is no id"),
        ({"bundle_id": ["b"]}, "is no id"),
        ({"truth": True}, "the truth True is none of its 10 options"),
        ({"truth": 1.0}, "the truth 1.0 is none of its 10 options"),
    ],
)
def test_what_only_looks_like_a_question_is_refused_and_left_alone(tmp_path, harm, sentence):
    catalogue, file = random_catalogue(), tmp_path / "theirs.jsonl"
    freeze(catalogue, split="test").export_jsonl(file, catalogue)
    first, *others = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, [first | harm, *others])), "utf-8-sig")
    with pytest.raises(QuestionsError, match=re.escape(sentence)) as refused:
        importing.read(file, catalogue)
    assert "delete" not in str(refused.value.hint)


def test_a_bundle_that_nobody_knows_is_a_broken_question(tmp_path):
    catalogue, file = random_catalogue(), tmp_path / "theirs.jsonl"
    freeze(catalogue, split="test").export_jsonl(file, catalogue)
    first, *others = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, [first | {"bundle_id": "nobody"}, *others])))
    with pytest.raises(QuestionsError, match="'nobody' is not in the catalogue") as refused:
        importing.read(file, catalogue)
    assert "--skip-broken" in str(refused.value.hint)
    (kept,) = importing.read(file, catalogue, skip_broken=True)
    assert (len(kept), kept.header["left_out"]) == (len(others), 1)
    file.write_text(json.dumps(first | {"partial": []}))
    with pytest.raises(
        QuestionsError, match=r"can be asked here \(1 malformed\); of the first, its partial bundle is empty"
    ):
        importing.read(file, catalogue, skip_broken=True)


@pytest.mark.parametrize("asked_too", ["train", "valid"])
def test_questions_whose_split_is_not_that_of_the_catalogue_are_refused(tmp_path, asked_too):
    catalogue = random_catalogue()
    held = [splits.hold_out(catalogue, part)[0] for part in ("test", asked_too)]
    file = tmp_path / "theirs.jsonl"
    file.write_text("\n".join(json.dumps(foreign(catalogue, *each)) for each in held))
    with pytest.raises(QuestionsError, match=r"1 are test, 1 are|1 are (train|valid), 1 are test") as refused:
        importing.read(file, catalogue)
    assert "would leak" in refused.value.message
    file.write_text(json.dumps(foreign(catalogue, *splits.hold_out(catalogue, "train")[0])))
    with pytest.raises(QuestionsError, match="of which 1 are train"):
        importing.read(file, catalogue)
    file.write_text(json.dumps({**foreign(catalogue, *held[0]), "bundle": "another shop's"}))
    with pytest.raises(QuestionsError, match="no bundle it asks about is in the catalogue"):
        importing.read(file, catalogue)


def numbered(items=60, bundles=40) -> Catalogue:
    """A catalogue of the public layout: ids count from 0, bundles have their split."""
    catalogue = random_catalogue(items, bundles)
    number = {item_id: str(n) for n, item_id in enumerate(sorted(catalogue.item_ids))}
    split = ["train" if b < 20 else "test" for b in range(bundles)]
    place = {number[item_id]: i for i, item_id in enumerate(catalogue.item_ids)}
    known = {20: "7 3 9", 21: "8 4"}
    catalogue = with_cells(
        catalogue, items={b: [place[item_id] for item_id in members.split()] for b, members in known.items()}
    )
    return dataclasses.replace(
        catalogue,
        item_ids=[number[i] for i in catalogue.item_ids],
        bundles=dataclasses.replace(catalogue.bundles, ids=[str(b) for b in range(bundles)], split=list(split)),
    )


def test_the_public_codes_candidates_are_read_and_nothing_in_them_is_run(tmp_path):
    catalogue = numbered()
    of = {item_id: i for i, item_id in enumerate(catalogue.item_ids)}
    file = tmp_path / "bi_test_cans3.txt"
    file.write_text("[20, [7, 3, 60, 60], [1], [5, 9, 11]]\n(21, [8], 0, [4, 2, 1])\n")
    (asked,) = importing.read(file, catalogue)
    assert (asked.name, asked.split, asked.negatives, asked.n_options) == (
        "test-random3-bi_test_cans3",
        "test",
        "random",
        3,
    )
    assert asked.bundle_ids == ["20", "21"]
    assert [p.tolist() for p in asked.partial] == [[of["7"], of["3"]], [of["8"]]]
    assert asked.options.tolist() == [[of["5"], of["9"], of["11"]], [of["4"], of["2"], of["1"]]]
    assert asked.truth.tolist() == [1, 0]
    file.write_text("[20, [7], [1], [5, 9, __import__('os').getpid()]]")
    with pytest.raises(QuestionsError, match="line 1, is no question"):
        importing.read(file, catalogue)
    file.write_text("[20, [7], [1], [5, 9, 9]]\n[21, [8], [0], [4, 2, 1]]")  # the public code draws with replacement
    with pytest.raises(QuestionsError, match="'9' stands there twice"):
        importing.read(file, catalogue)
    (kept,) = importing.read(file, catalogue, skip_broken=True)
    assert (kept.bundle_ids, kept.header["left_out"]) == (["21"], 1)
    file.write_text("[22, [7], [0], [5, 9]]\n[20, [7], [1], [5, 9, 11]]\n[21, [8], [0], [4, 2, 1]]")
    (kept,) = importing.read(file, catalogue, skip_broken=True)
    assert (kept.bundle_ids, kept.header["left_out"]) == (["20", "21"], 1), "the first is not the measure of the others"
    valid = tmp_path / "bi_valid_cans3.txt"
    valid.write_text("[20, [7], [1], [5, 9, 11]]")
    with pytest.raises(QuestionsError, match="of which 1 are test"):
        importing.read(valid, catalogue)


def test_shuffled_gives_every_member_once_and_every_order():
    import random

    rng = random.Random(0)
    assert sorted(negatives.shuffled(rng, range(50))) == list(range(50))
    orders = Counter(tuple(negatives.shuffled(rng, (1, 2, 3))) for _ in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60
