"""Questions of others are compared with the bundles they name; frozen ones survive what happens to the catalogue."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import TOP
from helpers.random_catalogue import random_catalogue

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import BundlecacheError, QuestionsError
from bundlecache.questions import importing, question_sets
from bundlecache.questions.freeze import freeze
from bundlecache.questions.question_file import Questions
from bundlecache.workspace import WorkspaceFolder


@pytest.fixture
def catalogue() -> Catalogue:
    """Its splits are written down, so that changes of bundles move none of them."""
    made = random_catalogue(200, 300)
    return dataclasses.replace(
        made, bundles=dataclasses.replace(made.bundles, split=list(map(str, splits.assign(made))))
    )


def lines_of(catalogue, folder: Path) -> list[dict]:
    file = folder / "own.jsonl"
    freeze(catalogue, split="test").export_jsonl(file, catalogue)
    return [json.loads(line) for line in file.read_text().splitlines()]


def outside(catalogue, line) -> str:
    """An item that is in neither the question nor its bundle."""
    b = catalogue.bundles.ids.index(line["bundle_id"])
    held = {catalogue.item_ids[i] for i in catalogue.bundles.items[b]} | set(line["options"])
    return next(item_id for item_id in catalogue.item_ids if item_id not in held)


def foreign_partial(catalogue, lines):
    lines[0]["partial"] = [outside(catalogue, lines[0])]


def foreign_truth(catalogue, lines):
    lines[0]["options"][lines[0]["truth"]] = outside(catalogue, lines[0])


def second_truth(_, lines):
    line = max(lines, key=lambda each: len(each["partial"]))
    moved = line["partial"].pop()
    line["options"][line["truth"] - 1] = moved


def same_question_again(_, lines):
    lines.insert(1, lines[0] | {"options": lines[0]["options"][::-1], "truth": 9 - lines[0]["truth"]})


def with_items(catalogue, bundle, items):
    """Change the items of a bundle in place."""
    lists = [*catalogue.bundles.items]
    lists[bundle] = items
    object.__setattr__(catalogue, "bundles", dataclasses.replace(catalogue.bundles, items=lists))


def training_bundle(catalogue, lines):
    b = catalogue.bundles.ids.index(lines[0]["bundle_id"])
    trained = int(np.flatnonzero(splits.assign(catalogue) == "train")[0])
    with_items(catalogue, trained, catalogue.bundles.items[b][::-1].copy())


@pytest.mark.parametrize(
    ("harm", "sentence", "kind"),
    [
        (foreign_partial, "of its partial bundle is not in bundle", "with items of other bundles"),
        (foreign_truth, "its right answer .* is not in bundle", "with items of other bundles"),
        (second_truth, "its wrong option .* is in bundle .* too", "with several right answers"),
        (same_question_again, "it asks the same as another question", "repeated"),
        (training_bundle, "its items are those of the training bundle", "with the items of training bundles"),
    ],
)
def test_imported_questions_are_compared_with_their_bundle(tmp_path, catalogue, harm, sentence, kind):
    lines = lines_of(catalogue, tmp_path)
    harm(catalogue, lines)
    file = tmp_path / "theirs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(QuestionsError, match=sentence):
        importing.read(file, catalogue)
    (kept,) = importing.read(file, catalogue, skip_broken=True)
    assert len(kept) == len(lines) - 1
    assert kept.header["left_out_by"] == {kind: 1}
    folder = WorkspaceFolder(tmp_path / "shop")
    (told,) = question_sets.take_over(folder, catalogue, file, skip_broken=True)
    assert told.to_dict()["left_out_by"] == f"1 {kind}"


def test_one_question_twenty_times_is_one_question(tmp_path, catalogue):
    lines = lines_of(catalogue, tmp_path)
    file = tmp_path / "theirs.jsonl"
    file.write_text("\n".join([json.dumps(lines[0])] * 20))
    with pytest.raises(QuestionsError, match=r"19 questions are wrong: 19 repeated"):
        importing.read(file, catalogue)
    (kept,) = importing.read(file, catalogue, skip_broken=True)
    assert len(kept) == 1


def test_imported_questions_are_compared_again_when_they_are_read(tmp_path, catalogue):
    lines_of(catalogue, tmp_path)
    folder, told = WorkspaceFolder(tmp_path), []
    (made,) = question_sets.take_over(folder, catalogue, tmp_path / "own.jsonl")
    b = catalogue.bundles.ids.index(question_sets.load(folder, catalogue, made.name).bundle_ids[0])
    trained = int(np.flatnonzero(splits.assign(catalogue) == "train")[0])
    with_items(catalogue, trained, catalogue.bundles.items[b])
    again = question_sets.load(folder, catalogue, made.name, say=told.append)
    assert len(again) == made.questions - 1
    assert "1 with the items of training bundles" in told[0]


@pytest.mark.parametrize(
    "line", ["[" * 5000, '{"bundle_id": "\\ud800", "partial": ["a"], "options": ["b"], "truth": 0}']
)
def test_a_line_that_python_cannot_hold_is_one_sentence(tmp_path, catalogue, line):
    file = tmp_path / "theirs.jsonl"
    file.write_text(line)
    with pytest.raises(QuestionsError):
        importing.read(file, catalogue)
    cans = tmp_path / "bi_test_cans3.txt"
    cans.write_text("(" * 5000)
    with pytest.raises(QuestionsError, match="is no question"):
        importing.read(cans, catalogue)


def test_a_set_gets_no_name_that_breaks_a_file_system(tmp_path, catalogue):
    lines_of(catalogue, tmp_path)
    odd = (tmp_path / "own.jsonl").rename(tmp_path / "\u00e9 fin.jsonl")
    with pytest.raises(BundlecacheError, match="cannot be the name of a question set"):
        importing.read(odd, catalogue)


def without(catalogue: Catalogue, item: int) -> Catalogue:
    """The catalogue after an item was deleted, as it would be read again."""
    kept = [i for i in range(len(catalogue)) if i != item]
    place = {old: new for new, old in enumerate(kept)}
    members = [np.array([place[i] for i in items.tolist() if i != item], np.int32) for items in catalogue.bundles.items]
    return Catalogue(
        [catalogue.item_ids[i] for i in kept],
        [catalogue.titles[i] for i in kept],
        {name: [values[i] for i in kept] for name, values in catalogue.columns.items()},
        dataclasses.replace(catalogue.bundles, items=members),
        catalogue.interactions,
    )


def test_frozen_questions_survive_a_deletion(tmp_path, catalogue):
    folder, told = WorkspaceFolder(tmp_path), []
    asked = freeze(catalogue, split="test")
    file = question_sets.path(folder, asked.name)
    asked.save(file, catalogue)
    before = file.read_bytes(), file.with_suffix(".json").read_bytes()
    gone = int(asked.options[0, asked.truth[0]])
    smaller = without(catalogue, gone)
    hit = [
        gone in {*given.tolist(), *shown.tolist()} for given, shown in zip(asked.partial, asked.options, strict=True)
    ]
    reduced = question_sets.load(folder, smaller, asked.name, say=told.append)
    assert reduced.name == "test-random10-v2"
    assert len(reduced) == len(asked) - sum(hit)
    assert reduced.bundle_ids == [b for b, lost in zip(asked.bundle_ids, hit, strict=True) if not lost]
    assert reduced.header["derived_from"] == {"name": asked.name, "sha256": asked.sha256}
    assert reduced.header["left_out_by"] == {"of unknown items": sum(hit)}
    assert (file.read_bytes(), file.with_suffix(".json").read_bytes()) == before, "the frozen file stays as it is"
    assert "test-random10-v2" in told[0]
    assert question_sets.load(folder, smaller, asked.name).sha256 == reduced.sha256, "it is made once"
    assert Questions.load(question_sets.path(folder, reduced.name), smaller).sha256 == reduced.sha256
    assert question_sets.names(folder) == ["test-random10", "test-random10-v2"]
    assert [each.name for each in question_sets.load_all(folder, smaller, question_sets.names(folder))] == [
        "test-random10-v2"
    ]
    assert question_sets.load(folder, catalogue, asked.name).sha256 == asked.sha256, (
        "the catalogue as it was has all of them"
    )
    again = without(smaller, int(reduced.options[0, 0]))
    assert question_sets.load(folder, again, reduced.name).name == "test-random10-v3"


def test_questions_of_bundles_that_are_trained_on_now_are_left_out(tmp_path, catalogue):
    folder = WorkspaceFolder(tmp_path)
    asked = freeze(catalogue, split="test")
    asked.save(question_sets.path(folder, asked.name), catalogue)
    split = [*catalogue.bundles.split]
    split[catalogue.bundles.ids.index(asked.bundle_ids[0])] = "train"
    catalogue = dataclasses.replace(catalogue, bundles=catalogue.bundles.with_split(split))
    reduced = question_sets.load(folder, catalogue, asked.name)
    assert reduced.bundle_ids == asked.bundle_ids[1:]
    assert reduced.header["left_out_by"] == {"of train bundles": 1}
    catalogue = dataclasses.replace(catalogue, bundles=catalogue.bundles.with_split(["train"] * len(split)))
    with pytest.raises(QuestionsError, match=r"None of the \d+ questions of test-random10 fits") as none:
        question_sets.load(folder, catalogue, asked.name)
    assert none.value.hint == "bundlecache questions --seed 1 freezes others beside them"


HEADERS = {
    "deep": "[" * 20_000 + "]" * 20_000,
    "digits": '{"format_version": 1, "seed": 1' + "0" * 6000 + "}",
    "list": "[]",
    "no sha256": {"sha256": None},
    "seed in words": {"seed": "one"},
    "name": {"name": 3},
    "split": {"split": "tset"},
}


@pytest.mark.parametrize("harm", HEADERS)
def test_a_header_edited_by_hand_is_one_sentence(tmp_path, catalogue, harm):
    asked = freeze(catalogue, split="test")
    path = tmp_path / "test-random10.parquet"
    asked.save(path, catalogue)
    sidecar, new = path.with_suffix(".json"), HEADERS[harm]
    sidecar.write_text(new if isinstance(new, str) else json.dumps(json.loads(sidecar.read_text()) | new))
    with pytest.raises(QuestionsError) as refused:
        Questions.load(path, catalogue)
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize("name", ["nobody", "x" * 5000, "../test-random10", "a\x00b", ""])
def test_a_set_that_is_not_there_is_one_sentence(tmp_path, catalogue, name):
    with pytest.raises(QuestionsError, match="There are no questions"):
        question_sets.load(WorkspaceFolder(tmp_path), catalogue, name)


@pytest.mark.parametrize("count", [1, 1001, 10**12, 10**60])
def test_a_number_of_options_that_no_question_has_is_refused(catalogue, count):
    with pytest.raises(QuestionsError, match=r"a question has 2 to 1,000"):
        freeze(catalogue, split="test", n_options=count)


def test_no_message_advises_to_delete_frozen_questions():
    sources = [*TOP.glob("bundlecache/questions/*.py"), *TOP.glob("bundlecache/project/*.py"), TOP / "cli.py"]
    assert [path.name for path in sources if "delete {path" in path.read_text("utf-8")] == []
