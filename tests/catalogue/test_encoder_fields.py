"""Texts of several columns: part of the cache's identity, and named wherever encoders are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.runner import printed_json

from bundlecache import BundlecacheError, Store
from bundlecache import open as open_workspace
from bundlecache.encoder_spec import EncoderSpec
from bundlecache.store import maintenance
from bundlecache.store.coverage import current_tables
from bundlecache.train.model.embeddings import EmbeddingTable
from bundlecache.train.shipped_recipes import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.workspace import WorkspaceFolder

TITLES, BOTH = "descriptor:text", "descriptor:text#title+category"


def run(workspace: WorkspaceFolder, verb: str, *args: str) -> Any:
    return printed_json(verb, *args, "--data", workspace.root)


def encode(workspace: WorkspaceFolder, *args: str) -> list[tuple[str, int, int]]:
    rows = run(workspace, "encode", "--modality", "text", *args)
    return [(row["spec"], row["encoded"], row["cached"]) for row in rows]


def change(workspace: WorkspaceFolder, row: int, **cells: str) -> None:
    rows = pq.read_table(workspace.root / "items.parquet").to_pylist()
    rows[row] |= cells
    pq.write_table(pa.Table.from_pylist(rows), workspace.root / "items.parquet")


def test_fields_live_side_by_side_and_an_edited_cell_encodes_its_item(
    workspace: WorkspaceFolder,
) -> None:
    assert encode(workspace) == [(TITLES, 24, 0)]
    assert encode(workspace, "--fields", "title, category") == [(BOTH, 24, 0)]
    for title in (["--fields", "title"], ["--encoder", BOTH, "--fields", "title"], ["--encoder", f"{TITLES}#title"]):
        assert encode(workspace, *title) == [(TITLES, 0, 24)], "titles alone are what they always were"
    change(workspace, 3, category="gong")
    assert encode(workspace, "--encoder", TITLES, "--encoder", BOTH) == [(TITLES, 0, 24), (BOTH, 1, 23)]
    change(workspace, 3, title="", category="")
    assert [row["absent"] for row in run(workspace, "encode", "--modality", "text", "--fields", "category")] == [1]
    assert {row["encoder"]: row["compared"] for row in run(workspace, "verify")} == {
        TITLES: 23,
        BOTH: 23,
        "descriptor:text#category": 23,
    }


def test_a_modality_stands_for_all_fields_of_its_encoder_and_a_spec_for_one(workspace: WorkspaceFolder) -> None:
    encode(workspace)
    encode(workspace, "--fields", "title,category")

    def fused(*modalities: str) -> list[str]:
        settings = [f"fusion.modalities={','.join(modalities)}"] if modalities else []
        recipe = load_recipe("demo", settings)
        given = open_workspace(workspace.root, quiet=True).training_matrices(recipe)
        table = EmbeddingTable.of(given, recipe.fusion.modalities, torch.device("cpu"))
        return sorted(matrix.spec for matrix in table.matrices)

    assert fused("text") == fused() == [TITLES, BOTH]
    assert fused(BOTH) == [BOTH]
    assert maintenance.choose(Store(workspace.store).tables(), [], old_encoders=True) == [], (
        "neither replaced the other"
    )
    run(workspace, "encode", "--modality", "image")
    assert [info.spec for info in current_tables(Store(workspace.store).tables())["text"]] == [BOTH, TITLES]


def test_a_wrong_field_is_one_sentence_that_names_the_columns(workspace: WorkspaceFolder) -> None:
    for wrong in ("categry", "item_id", "title,"):
        with pytest.raises(BundlecacheError, match=r"no text column .*; there are title, category, image, audio"):
            encode(workspace, "--fields", wrong)
    with pytest.raises(BundlecacheError, match="--fields is empty"):
        encode(workspace, "--fields", "")
    with pytest.raises(BundlecacheError, match="no text column 'brand'"):
        encode(workspace, "--encoder", "descriptor:text#brand")
    with pytest.raises(BundlecacheError, match="--fields category says what is the text"):
        run(workspace, "encode", "--modality", "image", "--fields", "category")
    with pytest.raises(BundlecacheError, match="names columns of texts, but it makes image vectors"):
        run(workspace, "encode", "--modality", "image", "--encoder", "descriptor:picture#category")


def test_a_folder_may_have_the_sign_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "mini#title").mkdir()
    spec = f"hf:{tmp_path}/mini#title"
    parsed = EncoderSpec.parse(spec)
    assert (parsed.without_columns, parsed.columns, parsed.name) == (spec, ("title",), f"{tmp_path}/mini#title")
    both = EncoderSpec.parse(f"{spec}#title+brand")
    assert (both.without_columns, both.columns) == (spec, ("title", "brand"))
    assert both.with_columns(["brand"]).text == f"{spec}#brand"


def test_a_plain_encode_repeats_the_encoders_of_the_last_pass_and_those_of_the_newest_run(workspace: WorkspaceFolder):
    def encoded(modality: str, *encoders: str) -> list[tuple[str, int]]:
        named = [word for spec in encoders for word in ("--encoder", spec)]
        rows = printed_json("encode", "--modality", modality, *named, "--data", workspace.root)
        return [(row["spec"], row["encoded"]) for row in rows]

    graphs = ["als:user-item", "als:bundle-item"]
    assert [spec for spec, _ in encoded("graph", *graphs)] == graphs
    assert [spec for spec, _ in encoded("graph")] == graphs, "the last one stays the current one"
    assert encoded("graph") == [(spec, 0) for spec in graphs]
    encoded("graph", "als:user-item")
    assert [spec for spec, _ in encoded("graph")] == ["als:user-item"], "the other one was not named again"

    run = workspace.root / "runs" / "first"
    run.mkdir(parents=True)
    made = Store(workspace.store).current("graph", "als:bundle-item")
    about = {name: getattr(made, name) for name in ("modality", "spec", "fingerprint", "table", "version", "dim")}
    (run / "manifest.json").write_text(json.dumps({"encoders": [{"name": "graph", **about}]}))
    assert [spec for spec, _ in encoded("graph")] == ["als:bundle-item", "als:user-item"]
    assert Store(workspace.store).current("graph").spec == "als:user-item", "the current one stays the current one"
