"""Columns of ids and hashes: look-ups agree with Python's own dictionaries and joins."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from bundlecache.catalogue.columns import Strings
from bundlecache.store import text_columns
from bundlecache.store.text_columns import (
    IdSet,
    differs,
    is_among,
    joined_bytes,
    places,
    places_of_ids,
    repeated,
    take,
    text_column,
)

TEXTS = ["".join(random.Random(i).choices("abcäß€ \U0001f600x", k=i % 23)) for i in range(300)]
KINDS = {
    "list": list,
    "string": lambda texts: pa.array(texts, pa.string()),
    "large": lambda texts: pa.array(texts, pa.large_string()),
    "slice": lambda texts: pa.array(["before", *texts, "after"])[1:-1],
    "chunks": lambda texts: pa.chunked_array([texts[:7], texts[7:]], pa.string()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_gives_what_a_list_gives(kind: str) -> None:
    column = KINDS[kind](TEXTS)
    assert text_column(column).to_pylist() == TEXTS
    assert bytes(joined_bytes(column)) == "\0".join(TEXTS).encode()
    first = {text: TEXTS.index(text) for text in TEXTS}
    wanted = [*TEXTS[::-3], "not there", ""]
    assert places(wanted, among=column).tolist() == [first.get(text, -1) for text in wanted]
    assert Strings(column).filled.tolist() == [bool(text) for text in TEXTS]


def test_ids_of_equal_columns_and_of_others_are_found_alike() -> None:
    ids = [f"item-{i}" for i in range(50)]
    for wanted in (ids, ids[::-1], ids[:7], [*ids, "new"], []):
        assert places_of_ids(wanted, among=ids).tolist() == places(wanted, among=ids).tolist()
        assert is_among(wanted, ids).tolist() == [item_id in ids for item_id in wanted]
    assert IdSet(ids).distinct
    assert not IdSet([*ids, "item-7"]).distinct


def test_empty_columns_are_no_error() -> None:
    assert not len(places([], among=["a"]))
    assert places(["a"], among=[]).tolist() == [-1]
    assert bytes(joined_bytes([])) == b""
    assert repeated([]) == []
    assert not len(differs([], []))
    assert IdSet([]).has(["a"]).tolist() == [False]
    assert not len(IdSet(["a"]).has([]))


def test_what_stands_twice_differs_or_is_taken() -> None:
    assert repeated(["b", "a", "b", "c", "a", "b"]) == ["b", "a"]
    assert differs(["a", "b", ""], ["a", "c", ""]).tolist() == [False, True, False]
    assert is_among(["a", "b"], ["b"]).tolist() == [False, True]
    column = text_column(["a", "b", "c"])
    assert take(column, np.array([2, 0])).to_pylist() == ["c", "a"]
    assert take(column, np.arange(3)) is column


def test_a_set_of_ids_finds_all_that_were_added_and_no_other() -> None:
    known = IdSet(["first"])
    for turn in range(3 * text_columns.MERGE_PARTS):
        part = [f"item-{turn}-{i}" for i in range(50)]
        assert not known.has(part).any()
        known.update(part)
        assert known.has(["first", *part, f"item-0-{turn % 50}"]).all()
