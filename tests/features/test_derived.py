"""Derived encoders: smaller vectors of stored ones, whose right values are known, without reading a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.runner import invoke, printed_json
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.errors import EncoderError
from bundlecache.features.principal_axes import PrincipalAxes, as_bytes, units
from bundlecache.store.table_schema import Identity

TOY = Identity("image", "import:toy", "f" * 64, "imported as it stands", "float32", 6)


@pytest.fixture
def shop(tmp_path: Path) -> bc.Workspace:
    """The small shop without its pictures; 22 items have vectors in a plane of six dimensions, with a little noise."""
    root = make_shop(tmp_path)
    shutil.rmtree(root / "images")
    made = bc.open(root, quiet=True)
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(2, 6))
    vectors = rng.normal(size=(22, 2)) @ plane + 1e-3 * rng.normal(size=(22, 6))
    made.store.write(TOY, list(made.catalogue.item_ids[:22]), vectors.astype(np.float32))
    return made


def test_two_axes_keep_the_cosines_of_vectors_in_a_plane():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 2)) @ rng.normal(size=(2, 8))).astype(np.float32)
    axes = PrincipalAxes.fit([vectors[:20], vectors[20:]], 2)
    small = units(axes.apply(vectors))
    np.testing.assert_allclose(small @ small.T, units(vectors) @ units(vectors).T, atol=1e-5)
    np.testing.assert_allclose(axes.axes.T @ axes.axes, np.eye(2), atol=1e-6)
    assert axes.kept_share == pytest.approx(1)
    assert PrincipalAxes.fit([vectors], 2).axes == pytest.approx(axes.axes, abs=1e-5)


def test_one_byte_a_number_keeps_two_digits_of_a_cosine():
    vectors = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    made = as_bytes(vectors)
    assert np.abs(made).max(axis=1).tolist() == [127] * 50
    assert (made == np.rint(made)).all()
    assert np.abs(units(made) @ units(made).T - units(vectors) @ units(vectors).T).max() < 0.01


def test_derived_vectors_follow_the_stored_ones_and_no_file_is_read(shop: bc.Workspace):
    whole = shop.vectors("image", "import:toy")
    (first,) = shop.encode("image", encoder=["first3:import:toy"])
    assert (first.encoded, first.cached, first.failed, first.absent) == (22, 0, 0, 2)
    assert first.balances
    np.testing.assert_allclose(
        shop.vectors("image", "first3:import:toy").vectors, whole.vectors[:, :3].astype(np.float16)
    )
    chained = shop.encode("image", encoder=["int8:pca2:import:toy"])
    assert [row.spec for row in chained] == ["pca2:import:toy", "int8:pca2:import:toy"]
    small = shop.vectors("image", "int8:pca2:import:toy")
    assert small.vectors.dtype == np.int8
    assert (small.mask == whole.mask).all()
    np.testing.assert_allclose(
        units(small.vectors) @ units(small.vectors).T, units(whole.vectors) @ units(whole.vectors).T, atol=0.02
    )
    first_item = shop.catalogue.item_ids[0]
    like = [
        [row.item_id for row in shop.similar(first_item, 3, encoder=spec)] for spec in ("import:toy", small.encoder)
    ]
    assert like[0][0] == like[1][0]
    assert shop.candidates(3, encoders=["int8:pca2:import:toy"]).candidates.header["k"] == 3
    again = shop.encode("image", encoder=["int8:pca2:import:toy"])
    assert [(row.encoded, row.cached) for row in again] == [(0, 22), (0, 22)]


def test_axes_are_fitted_to_training_items_and_stay_after_an_update(shop: bc.Workspace):
    """The vectors of items outside of training may change as they like: the axes, and so the table, stay the same."""
    shop.encode("image", encoder=["pca2:import:toy"])
    before = next(info for info in shop.store.tables() if info.spec == "pca2:import:toy")
    ids = list(shop.catalogue.item_ids)
    shop.store.write(TOY, ids[22:], np.eye(6, dtype=np.float32)[:2])
    (receipt,) = shop.encode("image", encoder=["pca2:import:toy"])
    assert (receipt.encoded, receipt.cached) == (2, 22)
    after = next(info for info in shop.store.tables() if info.spec == "pca2:import:toy")
    assert (after.table, after.fingerprint, after.rows) == (before.table, before.fingerprint, 24)
    shutil.rmtree(shop.store.path / "derived")  # fitted again, to other vectors: other axes, another table
    shop.encode("image", encoder=["pca2:import:toy"])
    assert len({info.table for info in shop.store.tables() if info.spec == "pca2:import:toy"}) == 2


def test_a_parent_of_this_house_is_encoded_first_and_its_failures_are_told(tmp_path: Path):
    root = make_shop(tmp_path)
    (root / "images" / "3.png").write_bytes(b"no picture")
    shop = bc.open(root, quiet=True)
    parent, small = shop.encode("image", encoder=["pca4:descriptor:picture"])
    assert (parent.spec, parent.encoded, parent.failed) == ("descriptor:picture", 21, 1)
    assert (small.encoded, small.failed, small.absent) == (21, 1, 2)
    assert [row["item_id"] for row in shop.errors() if "pca4" in row["table"]] == ["item-03"]
    again = shop.encode("image")  # without a name, what the store has already
    assert [(row.spec, row.encoded) for row in again] == [("descriptor:picture", 0), ("pca4:descriptor:picture", 0)]
    checked = shop.verify(sample=5)
    assert {row["remark"] for row in checked.tables.to_dicts()} == {"sound"}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("pca7:import:toy", "asks for 7 numbers, and the vectors of import:toy have 6"),
        ("first2:import:nobody", "made of the stored image vectors of import:nobody, and there are none"),
        ("pca0:import:toy", "There is no encoder 'pca0:import:toy'"),
    ],
)
def test_a_wrong_derivation_is_one_sentence(shop: bc.Workspace, spec: str, sentence: str):
    with pytest.raises(bc.BundlecacheError) as caught:
        shop.encode("image", encoder=[spec])
    assert sentence in caught.value.message


def test_shrink_counts_bytes_and_loses_nothing_at_full_width(shop: bc.Workspace):
    wide = np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)
    shop.store.write(Identity("text", "toy:wide", "f" * 64, "none", "float32", 40), list(shop.catalogue.item_ids), wide)
    rows = printed_json("shrink", "--encoder", "toy:wide", "--k", 3, "--data", shop.folder.root)
    by_name = {row["encoder"]: row for row in rows}
    assert by_name["toy:wide"]["recall"] == 1
    assert by_name["toy:wide"]["bytes_per_item"] == 160
    assert by_name["int8:first32:toy:wide"]["bytes_per_item"] == 32
    assert 0.3 < by_name["first32:toy:wide"]["recall"] < 1
    assert by_name["toy:wide"]["lost"] is None  # these clicks have no times
    assert "recall@3" in invoke("shrink", "--encoder", "toy:wide", "--k", 3, "--data", shop.folder.root).stdout


def test_a_file_of_timm_weights_gives_the_features_of_the_folder(tmp_path: Path):
    from helpers import checkpoints as tiny

    from bundlecache.features import registry

    folder = tiny.timm_folder(tmp_path / "net")
    named = {"modality": "image", "catalogue": None, "device": "cpu"}
    whole = registry.load(f"timm:{folder}", **named)  # type: ignore[arg-type]
    file = registry.load(f"timm:test_resnet/{folder}/model.safetensors", **named)  # type: ignore[arg-type]
    assert whole.fingerprint == file.fingerprint
    assert "mean (0.5, 0.5, 0.5)" in file.preprocess
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"model_args": {"global_pool": "max"}}))
    assert registry.load(f"timm:{folder}", **named).fingerprint != whole.fingerprint  # type: ignore[arg-type]
    (folder / "model.safetensors").write_bytes(b"cut")
    for spec, sentence in (
        (f"timm:test_resnet/{folder}/model.safetensors", "cannot be read"),
        ("timm:resnet_of_nobody", "knows no model"),
        (f"timm:test_resnet/{tmp_path}/none.safetensors", "cannot be read"),
    ):
        with pytest.raises(EncoderError, match=sentence):
            registry.load(spec, **named)  # type: ignore[arg-type]
