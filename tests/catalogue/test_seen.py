"""A model's bundles are remembered, whatever happens to the splits afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.seen_bundles import SeenBundles, bundle_keys, split_digest
from bundlecache.errors import CheckpointError
from bundlecache.questions.freeze import freeze

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.workspace import WorkspaceFolder


def with_split(catalogue: Catalogue, split: list[str | None]) -> Catalogue:
    return replace(catalogue, bundles=replace(catalogue.bundles, split=split))


@pytest.fixture
def catalogue(workspace: WorkspaceFolder) -> Catalogue:
    return Catalogue.read(workspace)


def test_questions_of_the_own_test_split_are_unseen(catalogue: Catalogue):
    seen = SeenBundles.of(catalogue)
    for part, expected in (("test", False), ("valid", False), ("train", True)):
        questions = freeze(catalogue, split=part, n_options=4)
        assert set(seen.of_questions(questions, catalogue, graph=True)) == {expected}


def test_after_another_split_what_was_trained_on_is_marked(catalogue: Catalogue, tmp_path: Path):
    seen = SeenBundles.of(catalogue)
    was = splits.assign(catalogue)
    swapped = with_split(catalogue, [{"train": "test", "test": "train", "valid": "test"}[part] for part in was])
    questions = freeze(swapped, split="test", n_options=4)
    seen.save(tmp_path)
    loaded = SeenBundles.load(tmp_path)
    assert loaded is not None
    assert loaded.of_questions(questions, swapped).all(), "trained on, or selected with"
    assert split_digest(swapped) != split_digest(catalogue)


def test_group_and_equal_items_count_under_another_bundle_id(catalogue: Catalogue):
    bundles = catalogue.bundles
    train = int(np.flatnonzero(splits.assign(catalogue) == "train")[0])
    seen = SeenBundles.of(catalogue)
    others = [b for b in range(len(bundles)) if b != train]
    copy = replace(
        bundles,
        ids=[*bundles.ids, "copy", "same group", "new"],
        items=[
            *bundles.items,
            bundles.items[train][::-1],
            np.array([0, 1], np.int32),
            np.array([0, 2, 4, 6, 8], np.int32),
        ],
        group=[*bundles.group, "another", bundles.group[train], "nobody"],
        split=["train"] * (len(others) + 1) + ["test"] * 3,
        name=[*bundles.name, None, None, None],
    )
    changed = replace(catalogue, bundles=copy)
    questions = freeze(changed, split="test", n_options=4)
    assert seen.of_questions(questions, changed).tolist() == [True, True, False]


def test_contents_of_a_training_bundle_are_seen_under_a_test_id(catalogue: Catalogue):
    split = splits.assign(catalogue)
    train = int(np.flatnonzero(split == "train")[0])
    questions = freeze(catalogue, split="test", n_options=4)
    items = catalogue.bundles.items[train]
    options = questions.options.copy()
    options[0, questions.truth[0]] = items[-1]
    forged = replace(questions, partial=[items[:-1], *questions.partial[1:]], options=options)
    assert SeenBundles.of(catalogue).of_questions(forged, catalogue).tolist() == [True] + [False] * (len(questions) - 1)


def test_hashes_do_not_depend_on_other_items(catalogue: Catalogue):
    keys = bundle_keys(catalogue, [3])
    ids = [*(f"x{i}" for i in range(5)), *catalogue.item_ids]
    moved = replace(
        catalogue,
        item_ids=ids,
        titles=[*[""] * 5, *catalogue.titles],
        columns={},
        bundles=replace(catalogue.bundles, items=[items + 5 for items in catalogue.bundles.items]),
    )
    assert keys.items == bundle_keys(moved, [3]).items


def test_a_run_without_the_file_and_a_damaged_file(tmp_path: Path):
    assert SeenBundles.load(tmp_path) is None
    (tmp_path / "seen_bundles.parquet").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="is damaged"):
        SeenBundles.load(tmp_path)
