"""Paths and names that users type, and files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundlecache.errors import BundlecacheError
from bundlecache.files import read_json, share, user_path, write_text
from bundlecache.names import check_name, tag_name


@pytest.mark.parametrize(
    "given",
    ["x" * 300, "a/" + "é" * 200 + "/b", "x/" * 3000, "", "  ", "a\0b", __file__ + "/below"],
    ids=["long name", "long name in bytes", "long path", "empty", "blank", "NUL", "through a file"],
)
def test_a_path_that_cannot_be_is_one_sentence(given: str):
    with pytest.raises(BundlecacheError, match=r"^The source ") as caught:
        user_path(given, "The source")
    assert caught.value.hint
    assert len(caught.value.message) < 300


def test_paths_that_can_be_are_left_as_they_are(tmp_path):
    for path in (tmp_path, tmp_path / "not" / "yet", Path("data"), Path("é x")):
        assert user_path(path) == path
    assert user_path("data/") == Path("data")


def test_a_file_name_too_long_to_write_is_one_sentence(tmp_path):
    with pytest.raises(BundlecacheError, match="cannot be written") as caught:
        write_text(tmp_path / ("x" * 250), "")
    assert caught.value.hint == "choose a shorter name"


@pytest.mark.parametrize(
    "name",
    [
        "é",
        "",
        ".",
        "..",
        ".a",
        "a/b",
        "a\\b",
        "a b",
        "a.",
        "x" * 101,
        "a\n",
        "a\x1b[31m",
        "nul",
        "COM1.txt",
        "-x",
        "你",
    ],
)
def test_a_name_that_is_not_safe_everywhere_is_refused(name: str):
    with pytest.raises(BundlecacheError, match="cannot be the name of a run"):
        check_name(name)


def test_names_that_were_written_so_far_stay_allowed():
    for name in (
        "demo-seed0",
        "20261126-101010-demo-seed0",
        "test-random10",
        "test-nearest_image@50-10",
        "text+image-k20",
    ):
        assert check_name(name) == name


def test_every_name_of_a_run_gives_a_tag_that_lance_reads_back(tmp_path):
    import lance
    import pyarrow as pa

    tags = lance.write_dataset(pa.table({"a": [1]}), tmp_path / "t.lance").tags
    names = ["demo-seed0", "a+b", "a@b", "é", "a..b", "a.lock", "a b", ".a", "a.", "x" * 100, "你" * 60]
    for name in names:
        tags.create(tag_name(name), 1)
    assert set(tags.list()) == {tag_name(name) for name in names}
    assert len(tags.list()) == len(names)


def test_what_others_may_not_read_gets_the_rights_of_a_new_file(tmp_path):
    (tmp_path / "adapter").mkdir()
    weights, program = tmp_path / "adapter" / "weights", tmp_path / "program"
    for path, mode in ((weights, 0o600), (program, 0o755)):
        path.touch()
        path.chmod(mode)
    before = os.umask(0o027)
    try:
        share(tmp_path)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (weights, program)] == [0o640, 0o755]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "adapter", program]


def test_json_nested_too_deeply_is_a_value_error(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="deeply"):
        read_json(tmp_path / "x.json")
