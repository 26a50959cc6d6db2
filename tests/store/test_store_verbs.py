"""verify, compact, drift and import-vectors as they are typed, on vectors that real encoders made."""

from __future__ import annotations

import json
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from helpers.runner import invoke, run_process, succeed

from bundlecache import BundlecacheError
from bundlecache.store.store import Store
from bundlecache.store.table_schema import checksum, id_checksums
from bundlecache.workspace import WorkspaceFolder


def loud(*args: str | Path) -> BundlecacheError:
    """The error that a command ends in."""
    error = invoke(*args).exception
    assert isinstance(error, BundlecacheError), error
    return error


def told(*args: str | Path) -> list[dict[str, object]]:
    """The rows that a command prints as JSON."""
    result = invoke(*args, "--json")
    text = result.output
    return json.loads(text[text.index("[") : text.rindex("]") + 1])


@pytest.fixture
def encoded(workspace: WorkspaceFolder) -> WorkspaceFolder:
    for modality in ("text", "image"):
        succeed("encode", "--modality", modality, "--data", workspace.root)
    return workspace


@pytest.mark.parametrize("verb", [["verify"], ["compact"], ["status", "--errors"]])
def test_where_nothing_is_stored_a_verb_says_nothing_instead_of_an_empty_table(
    workspace: WorkspaceFolder, verb: list[str]
):
    assert succeed(*verb, "--data", workspace.root).output.rstrip().endswith(": nothing")
    assert told(*verb, "--data", workspace.root) == []


def test_verify_encodes_a_sample_again_and_finds_the_same(encoded: WorkspaceFolder):
    rows = told("verify", "--data", encoded.root, "--sample", "5")
    assert [(row["damaged"], row["compared"], row["differing"]) for row in rows] == [(0, 5, 0)] * 2
    assert all(row["least_cosine"] > 0.9999 for row in rows)
    succeed("verify", "--data", encoded.root, "--sample", "0")


def test_verify_names_damaged_items_and_repair_lets_encode_make_them_again(encoded: WorkspaceFolder):
    info = Store(encoded.store).current("image")
    before = Store(encoded.store).matrix(["item-03", "item-04"], "image").vectors.copy()
    lancedb.connect(str(encoded.store)).open_table(info.table).update(
        where="item_id = 'item-03'", values={"vector": [9.0] * info.dim}
    )
    assert "Damaged: 1 of 2 tables." in loud("verify", "--data", encoded.root).message
    done = run_process("verify", "--data", encoded.root)
    assert done.returncode == 1
    assert "item-03" in done.stderr
    assert "verify --repair --data" in done.stderr
    succeed("verify", "--repair", "--data", encoded.root)
    (receipt,) = told("encode", "--modality", "image", "--data", encoded.root)
    assert (receipt["encoded"], receipt["cached"]) == (1, 21)
    succeed("verify", "--data", encoded.root)
    assert np.array_equal(Store(encoded.store).matrix(["item-03", "item-04"], "image").vectors, before)


def test_verify_notices_vectors_that_the_encoder_would_not_give(encoded: WorkspaceFolder):
    """Whole and with the right checksum, but on the wrong item: only encoding again can tell."""
    store = Store(encoded.store)
    info = store.current("text")
    rows = store.matrix(["item-03", "item-04"], "text").vectors
    table = lancedb.connect(str(encoded.store)).open_table(info.table)
    content = store.dataset(info).to_table(columns=["content_hash"], filter="item_id = 'item-03'")["content_hash"]
    key = id_checksums(pa.array(["item-03"]), content.combine_chunks())
    values = {"vector": rows[1].astype(float).tolist(), "checksum": int((checksum(rows[1:]) + key)[0])}
    table.update(where="item_id = 'item-03'", values_sql={"checksum": f"CAST({values['checksum']} AS BIGINT UNSIGNED)"})
    table.update(where="item_id = 'item-03'", values={"vector": values["vector"]})
    error = loud("verify", "--data", encoded.root, "--sample", "100")
    assert "descriptor:text gives other vectors now than those stored, for 1 of 24 items (item-03)" in error.message
    assert info.table in str(error.hint)


def test_an_encoder_that_cannot_be_loaded_is_said_to_be_skipped(encoded: WorkspaceFolder, tmp_path: Path):
    store = Store(encoded.store)
    identity_of = {"modality": "image", "dtype": "float16", "dim": 4}
    from bundlecache.store.table_schema import Identity

    gone = Identity(spec="open_clip:local-dir:/no/such/folder", fingerprint="f", preprocess="p", **identity_of)
    store.write(gone, ["item-00"], np.ones((1, 4), np.float16))
    np.save(tmp_path / "v.npy", np.ones((1, 4), np.float32))
    (tmp_path / "ids.txt").write_text("item-00\n")
    succeed("import-vectors", tmp_path / "v.npy", "--modality", "image", "--name", "mine", "--data", encoded.root)
    result = succeed("verify", "--data", encoded.root)
    assert "is not encoded again" in result.output
    remarks = {row["encoder"]: row["remark"] for row in told("verify", "--data", encoded.root)}
    assert remarks[gone.spec] == "sound; not encoded again"
    assert remarks["import:mine"] == "sound; made elsewhere, so not encoded again"


def test_compact_says_bytes_and_drops_only_what_is_named(encoded: WorkspaceFolder):
    succeed("encode", "--modality", "text", "--dtype", "float32", "--data", encoded.root)
    rows = told("compact", "--data", encoded.root)
    assert len(rows) == 3
    assert all(0 < row["after_bytes"] <= row["before_bytes"] for row in rows)
    assert "no table and no encoder 'toy'" in loud("compact", "--drop", "toy", "--data", encoded.root).message
    succeed("compact", "--old-encoders", "--data", encoded.root)
    left = Store(encoded.store).tables()
    assert [(info.spec, info.dtype) for info in left] == [
        ("descriptor:text", "float32"),
        ("descriptor:picture", "float16"),
    ]
    succeed("compact", "--drop", "descriptor:picture", "--data", encoded.root)
    assert Store(encoded.store).modalities() == ["text"]


def test_drift_between_encoders_is_a_table_and_json(encoded: WorkspaceFolder):
    assert "nothing to compare it with" in loud("drift", "--data", encoded.root).message
    succeed("encode", "--modality", "text", "--dtype", "float32", "--data", encoded.root)
    assert succeed("status", "--data", encoded.root).output.count("descriptor:text (older)") == 1
    (row,) = told("drift", "--data", encoded.root)
    assert (row["modality"], row["changed"], row["kept"]) == ("text", 24, 0)
    assert row["cosine_mean"] > 0.999
    assert "overlap_at_10" in succeed("drift", "--modality", "text", "--data", encoded.root).output
    succeed("encode", "--modality", "image", "--dtype", "float32", "--data", encoded.root)
    both = succeed("drift", "--data", encoded.root).output
    for figure in ("kept", "removed", "cosine_mean", "overlap_at_10", "centroid_shift"):
        assert both.count(figure) == 2, "every pair of tables has its own block"
    assert max(map(len, succeed("drift", "--data", encoded.root).stdout.splitlines())) <= 80


def test_imported_vectors_are_counted_and_used(encoded: WorkspaceFolder, tmp_path: Path):
    rows = np.random.default_rng(0).normal(size=(26, 8)).astype(np.float32)
    rows[3] = np.nan
    np.save(tmp_path / "v.npy", rows)
    (tmp_path / "ids.txt").write_text("".join(f"item-{i:02d}\n" for i in range(26)))
    args = ["import-vectors", tmp_path / "v.npy", "--modality", "image", "--name", "mine", "--data", encoded.root]
    result = invoke(*args)
    assert result.return_value == 3, "some rows are no vectors: partial success"
    assert "2 rows of no item of the catalogue left out" in result.output
    info = Store(encoded.store).current("image")
    assert (info.spec, info.rows, info.failed, info.dim) == ("import:mine", 23, 1, 8)
    assert "of one modality" in loud(*args[:3], "all", *args[4:]).message
    succeed("export", "--format", "npy", "--out", tmp_path / "out", "--data", encoded.root)
    folder = tmp_path / "out" / info.table
    mask, again = np.load(folder / "mask.npy"), np.load(folder / "vectors.npy")
    order = [int(item_id.removeprefix("item-")) for item_id in (folder / "ids.txt").read_text().split()]
    assert sorted(order) == list(range(24))
    assert np.array_equal(again[mask], rows[order][mask])


def test_token_features_are_shown_with_both_their_numbers(encoded: WorkspaceFolder, tmp_path: Path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(24, 5, 7)).astype(np.float16))
    (tmp_path / "ids.txt").write_text("".join(f"item-{i:02d}\n" for i in range(24)))
    succeed("import-vectors", tmp_path / "v.npy", "--modality", "image", "--name", "patches", "--data", encoded.root)
    assert "5x7" in succeed("status", "--data", encoded.root).output
    assert Store(encoded.store).current("image").spec == "descriptor:picture"
