"""`bundlecache candidates` and `questions --negatives` as they are typed: any stored vector, any mix, fused tokens, filters."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import train_shop as world
from helpers.runner import invoke

from bundlecache.candidates.search import for_bundles
from bundlecache.errors import BundlecacheError, CheckpointError
from bundlecache.store.store import Store
from bundlecache.train import checkpoint
from bundlecache.train.inference import item_tokens
from bundlecache.train.training import loop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """300 titled items with prices, every title of three words; encoded as text."""
    root = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    words = [f"word{w}" for w in range(40)]
    items = [
        {
            "item_id": f"i{i}",
            "title": " ".join(rng.choice(words, 3, replace=False)) + f" {i}",
            "category": f"kind {i % 3}",
            "price": float(i),
            "in_stock": bool(i % 2),
        }
        for i in range(300)
    ]
    bundles = [
        {"bundle_id": f"b{b}", "item_ids": [f"i{i}" for i in rng.choice(300, 3, replace=False)]} for b in range(60)
    ]
    pq.write_table(pa.Table.from_pylist(items), root / "items.parquet")
    pq.write_table(pa.Table.from_pylist(bundles), root / "bundles.parquet")
    assert invoke("encode", "--modality", "text", "--data", root).exit_code == 0
    return root


def made(*args):
    done = invoke("candidates", "--json", *args)
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


def test_a_filter_is_typed_and_only_what_fulfils_it_is_offered(shop):
    told = made("--data", shop, "--where", "price<90", "--where", "in_stock=true", "--where", "category=kind 1")
    rows = pq.read_table(told["path"]).to_pylist()
    assert rows
    for row in rows:
        for item_id in row["candidates"]:
            number = int(item_id[1:])
            assert number < 90
            assert number % 2 == 1
            assert number % 3 == 1
    assert told["index"]["kind"] == "flat"


def test_an_index_is_built_once_and_again_after_new_vectors(shop):
    first = made("--data", shop, "--index", "ivf")
    assert first["index"]["recall@20"] >= 0.99
    file = next((shop / "candidates" / "indexes").glob("*--ivf--*.faiss"))
    written = file.stat().st_mtime_ns
    made("--data", shop, "--index", "ivf", "--k", "5")
    assert file.stat().st_mtime_ns == written
    store = Store(shop / "store")
    info = store.current("text")
    header = file.with_suffix(".json")
    stale = json.loads(header.read_text())
    stale["vectors"]["text"]["version"] = info.version - 1
    header.write_text(json.dumps(stale))
    again = made("--data", shop, "--index", "ivf")
    assert again["index"]["vectors"]["text"]["version"] == info.version
    assert f"version {info.version - 1}; now it is {info.table}, version {info.version}" in again["index"]["remark"]


def test_what_cannot_be_searched_is_one_sentence(shop):
    for args, sentence in [
        (["--encoder", "open_clip:none"], "no vectors of open_clip:none; it has those of descriptor:text"),
        (["--encoder", "descriptor:text", "--modality", "text"], "Only one of --modality, --encoder and --run"),
        (["--weight", "text"], "no weight"),
        (["--weight", "image=2"], "given for 'image'"),
        (["--weight", "text=0"], "text has the weight 0"),
        (["--device", "foo"], "'foo' is no device"),
        (["--where", "price<50", "--index", "lsh"], "no index 'lsh'"),
        (["--where", "colour=red"], "no column 'colour'"),
        (["--index", "lsh"], "no index 'lsh'"),
        (["--index", "hnsw", "--max-memory", "1kb"], "are allowed"),
        (["--metric", "euclid"], "cannot be searched by 'euclid'"),
        (["--run", "none"], "no finished run 'none'"),
    ]:
        error = invoke("candidates", "--data", shop, *args).exception
        assert isinstance(error, BundlecacheError), (args, error)
        assert sentence in error.message


def test_an_encoder_is_named_and_a_weight_changes_nothing_where_it_is_alone(shop):
    plain = pq.read_table(made("--data", shop)["path"])
    named = pq.read_table(made("--data", shop, "--encoder", "descriptor:text", "--weight", "text=3")["path"])
    assert named["candidates"].equals(plain["candidates"])


def test_hard_questions_are_typed_and_found_again(shop):
    args = ("questions", "--data", shop, "--options", "5", "--negatives", "nearest:text+popularity-matched")
    first = json.loads(invoke(*args, "--difficulty", "0.5", "--json").stdout)
    assert [row["name"] for row in first] == [
        "valid-nearest_text+popularity-matched@50-5",
        "test-nearest_text+popularity-matched@50-5",
    ]
    again = json.loads(invoke(*args, "--difficulty", "0.5", "--json").stdout)
    assert [row["made"] for row in again] == ["before", "before"]
    assert [row["sha256"] for row in again] == [row["sha256"] for row in first]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["questions.jsonl", "--seed", "1"], "taken over as they are"),
        (["questions.jsonl", "--negatives", "hard"], "taken over as they are"),
        (["--skip-broken"], "none was given"),
        (["--negatives", "hard+same-category"], "The negatives hard are not joined"),
        (["--negatives", "nearest:look"], "nearest items by 'look' need its vectors"),
        (["no\nsuch.jsonl"], r"cannot be read \(No such file or directory\)\."),
    ],
)
def test_options_that_would_be_ignored_are_refused(shop, args, sentence):
    error = invoke("questions", "--data", shop, *args).exception
    assert isinstance(error, BundlecacheError), error
    assert re.search(sentence, error.message)


def test_fused_tokens_of_a_run_are_searched_like_vectors(tmp_path):
    catalogue, matrices = world.catalogue(), world.matrices()
    valid = world.questions(catalogue)
    recipe = world.recipe(world.save_base(tmp_path / "base"), fusion_stage={"steps": 4, "evaluate_every": 2})
    loop.train(catalogue, matrices, valid, recipe, tmp_path / "run", stage="fusion", device="cpu")
    model = checkpoint.load(tmp_path / "run", catalogue, matrices, "cpu")
    fused = item_tokens.fused(model, tmp_path / "run")
    assert fused.vectors.shape[0] == len(catalogue)
    np.testing.assert_allclose(fused.vectors[7], model.item_tokens(np.array([7])).detach().numpy()[0], atol=1e-5)
    made = for_bundles(catalogue, {"fused-run": fused}, 10)
    assert made.header["metrics"]["n"] == 20
    assert made.header["vectors"]["fused-run"]["table"] == "runs/run"
    assert item_tokens.fused(model, tmp_path / "run").fingerprint == fused.fingerprint
    newer = matrices | {"image": dataclasses.replace(matrices["image"], version=2)}
    moved = checkpoint.load(tmp_path / "run", catalogue, newer, "cpu")
    assert item_tokens.fused(moved, tmp_path / "run").fingerprint != fused.fingerprint, (
        "an index of the old ones is stale"
    )
    loop.train(catalogue, {}, valid, recipe, tmp_path / "titles", stage="text", device="cpu")
    with pytest.raises(CheckpointError, match="titles alone"):
        item_tokens.fused(checkpoint.load(tmp_path / "titles", catalogue, {}, "cpu"), tmp_path / "titles")
