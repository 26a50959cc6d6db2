"""Over a thousand hostile inputs: each ends in a result or in one sentence with a hint, and changes no input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer.main

from bundlecache import cli
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import registry
from bundlecache.workspace import WorkspaceFolder
from hostile import cases, worlds
from hostile.judge import judge_call, judge_command

COMMANDS = typer.main.get_command(cli.app).commands
OPTIONS = [
    (verb, option.opts[0], required)
    for verb, command in COMMANDS.items()
    if verb not in ("demo", "serve")  # they would do their work: the whole way, a server
    for required in [sum(p.required and p.param_type_name == "argument" for p in command.params)]
    for option in command.params
    if option.param_type_name == "option" and not option.is_flag
]


PARTS = 4  # every option is given a quarter of the nonsense, so that the suite stays under a minute


@pytest.mark.parametrize("cell", cases.CELLS)
@pytest.mark.parametrize(("table", "column"), cases.COLUMNS)
def test_a_cell_of_the_wrong_kind(table, column, cell, tmp_path):
    """In JSON lines and in CSV in turn, so that the suite stays short; ``fuzz.py`` takes both at random."""
    turn = sum(map(ord, table + column + cell)) % 2
    tables = worlds.rows()
    tables[table][1][column] = cases.CELLS[cell]
    src, made = tmp_path / "src", WorkspaceFolder(tmp_path / "workspace")
    (worlds.write_jsonl, worlds.write_csv)[turn](src, tables)
    before = worlds.snapshot(src)
    judge_call(lambda: Catalogue.read(WorkspaceFolder(src)))
    refused = judge_call(lambda: registry.read("tables", src, made))
    if refused is None:
        after = judge_call(lambda: Catalogue.read(made))
        assert after is None, f"imported, but cannot be read: {after}"
    else:
        assert not made.root.exists(), "a refused import leaves nothing"
    assert worlds.snapshot(src) == before


@pytest.mark.parametrize("header", range(len(cases.HEADERS)))
@pytest.mark.parametrize("table", ["items", "bundles", "interactions"])
def test_a_column_name_of_the_wrong_kind(table, header, tmp_path):
    tables = worlds.rows()
    for row in tables[table]:
        row[cases.HEADERS[header]] = row.pop(next(iter(row)))
    for form, write in (("jsonl", worlds.write_jsonl), ("csv", worlds.write_csv)):
        write(tmp_path / form, tables)
        judge_call(lambda form=form: Catalogue.read(WorkspaceFolder(tmp_path / form)))
        judge_call(lambda form=form: registry.read("tables", tmp_path / form, WorkspaceFolder(tmp_path / f"{form}-ws")))


@pytest.mark.parametrize("data", cases.BYTES)
@pytest.mark.parametrize("name", ["items.csv", "items.parquet", "items.jsonl", "bundles.csv", "interactions.parquet"])
def test_a_table_that_is_no_table(name, data, tmp_path):
    worlds.write_jsonl(tmp_path / "src", worlds.rows())
    (tmp_path / "src" / name).with_suffix(".jsonl").unlink()
    (tmp_path / "src" / name).write_bytes(cases.BYTES[data])
    judge_call(lambda: Catalogue.read(WorkspaceFolder(tmp_path / "src")))
    judge_call(lambda: registry.read("tables", tmp_path / "src", WorkspaceFolder(tmp_path / "ws")))


@pytest.mark.parametrize("data", cases.BYTES)
@pytest.mark.parametrize("name", ["item_info.json", "count.json", "bi_train.txt", "ui_full.txt", "content_feature.pt"])
def test_a_clhe_file_that_is_none(name, data, tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    (src / "item_info.json").write_text('{"0": {"title": "a"}, "1": {"title": "b"}}')
    (src / "bi_train.txt").write_text("0, 0, 1\n")
    (src / name).write_bytes(cases.BYTES[data])
    judge_call(lambda: registry.read("clhe", src, WorkspaceFolder(tmp_path / "ws")))


@pytest.mark.parametrize(("verb", "option", "required"), OPTIONS)
def test_nonsense_for_an_option(verb, option, required, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = sum(map(ord, verb + option)) % PARTS
    for argument in cases.ARGUMENTS[first::PARTS]:
        data = [] if option == "--data" else ["--data", tmp_path / "nothing"]
        judge_command(verb, *["folder"] * required, option, argument, *data)


@pytest.mark.parametrize("array", cases.ARRAYS)
def test_vectors_that_are_none(array, tmp_path):
    worlds.write_jsonl(tmp_path / "ws", worlds.rows())
    (tmp_path / "v.npy").write_bytes(cases.ARRAYS[array])
    (tmp_path / "ids.npy").write_bytes(cases.ARRAYS[array])
    judge_command("import-vectors", tmp_path / "v.npy", "--modality", "image", "--name", "n", "--data", tmp_path / "ws")


@pytest.mark.parametrize("kind", ["i1", "i8", "?", "U1", "M8[s]"])
@pytest.mark.parametrize("shape", [(12, 3), (12,), (0, 0), (12, 0, 2)], ids=str)
def test_vectors_with_ids_that_are_no_floating_point_rows(shape, kind, tmp_path):
    worlds.write_jsonl(tmp_path / "ws", worlds.rows())
    np.save(tmp_path / "v.npy", np.ones(shape, "i1").astype(kind))
    (tmp_path / "ids.txt").write_text("".join(f"i{k}\n" for k in range(12)))
    given = ("--ids", tmp_path / "ids.txt", "--modality", "image", "--name", "n", "--data", tmp_path / "ws")
    assert judge_command("import-vectors", tmp_path / "v.npy", *given).exception is not None


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", lambda found: {**found, "model_max_length": [[1, 2], [3]]}),
        ("tokenizer.json", lambda found: {**found, "model": {**found["model"], "unk_token": "not there"}}),
    ],
    ids=["length", "unknown word"],
)
def test_a_tokenizer_that_only_fails_when_it_is_used(file, change, tmp_path):
    import torch
    from helpers.train_shop import save_base

    from bundlecache.recipes.settings import Base
    from bundlecache.train.model import llm

    path = save_base(tmp_path / "base") / file
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    assert judge_call(lambda: llm.load(Base(model=str(tmp_path / "base")), torch.device("cpu"))) is not None
