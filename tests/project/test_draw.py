"""`draw`: from pictures and a VQ model to a trained run and a picture file, and one sentence where something is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.checkpoints import vqgan_folder
from helpers.runner import invoke, printed_json, succeed
from helpers.shop import make_shop
from PIL import Image

import bundlecache as bc

FEW = (
    "multitask_stage.steps=2",
    "multitask_stage.evaluate_every=2",
    "run.validation_questions=4",
    "data.batch=6",
    "data.k_core=2",
    "vision.encoder=",
)


def typed(*settings: str) -> list[str]:
    return [word for setting in (*FEW, *settings) for word in ("--set", setting)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with picture codes, and a run of two steps in either stage that searches and draws."""
    root = make_shop(tmp_path_factory.mktemp("draw"))
    rows = [(f"u{u}", f"item-{(u + 2 * k) % 24:02}", u + 30 * k) for u in range(16) for k in range(6)]
    columns = zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True)
    pq.write_table(pa.table(dict(columns)), root / "interactions.parquet")
    without = invoke("train", "--recipe", "unimp", *typed("data.tasks=search,draw"), "--data", root)
    assert "The store holds no picture codes, of which the task draw makes pictures" in str(without.exception)
    assert "encode --modality image --encoder vqgan:FOLDER" in str(without.exception)
    spec = f"vqgan:{vqgan_folder(root / 'vq')}"
    succeed("encode", "--modality", "image", "--encoder", spec, "--data", root)
    head = ("head_stage.steps=2", "head_stage.evaluate_every=2")
    succeed("train", "--recipe", "unimp", *typed("data.tasks=search,draw", *head), "--name", "first", "--data", root)
    return root


def test_a_picture_of_what_a_user_searches_is_drawn_into_a_file(shop: Path, tmp_path: Path):
    made = printed_json("draw", "u3", "warm mug", "--out", tmp_path / "mug.png", "--data", shop, "--json")
    assert made["path"] == str(tmp_path / "mug.png")
    with Image.open(tmp_path / "mug.png") as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (32, 32), "RGB")
        pixels = np.asarray(picture)
    assert len(made["item_ids"]) == 2
    assert not {"item-05", "item-06"} & set(made["item_ids"])  # they have no picture
    shown = succeed("draw", "u3", "warm mug", "--out", tmp_path / "mug.webp", "--run", "first", "--data", shop)
    assert f"Picture: {tmp_path / 'mug.webp'}" in shown.stdout
    again = bc.open(shop, quiet=True).run("first").draw("u3", "warm mug", tmp_path / "again.png")
    assert again.item_ids == made["item_ids"]
    np.testing.assert_array_equal(np.asarray(Image.open(again.path)), pixels)
    (stage, *_) = bc.open(shop, quiet=True).run("first").manifest["stages"]
    assert 0 < stage["best_valid"]["draw likelihood per token"] < 1


def test_a_run_that_draws_goes_on_in_another_training_and_is_evaluated_by_its_other_tasks(shop: Path):
    settings = typed("data.tasks=search,draw", "run.strategy=multitask")
    succeed("train", "--recipe", "unimp", *settings, "--from", "first", "--name", "second", "--data", shop)
    made = printed_json("evaluate", "--run", "second", "--no-baselines", "--data", shop, "--json")
    assert [each["result"]["task"] for each in made] == ["search"]
    bc.open(shop, quiet=True).run("second").draw("u4", "cold bell", shop / "bell.png")


def test_what_cannot_be_drawn_is_said_in_a_sentence(shop: Path, tmp_path: Path):
    for words, sentence in (
        (("nobody", "mug"), "'nobody' has no interaction"),
        (("u3", "?"), "The query holds no word"),
        (("u3", "mug", "--out", "mug.gif"), "A picture is written as .png, .jpg, .jpeg, .webp, not as 'mug.gif'"),
        (("u3", "mug", "--out", str(shop / "items.parquet" / "mug.png")), "mug.png"),
        (("u3", "mug", "--run", "third"), "third"),
    ):
        answer = invoke("draw", *words, "--data", shop)
        assert answer.exit_code == 1
        assert sentence in str(answer.exception), words
    assert "no task 'draw'" in str(invoke("questions", "--task", "draw", "--data", shop).exception)
    wrong = typed("data.tasks=search,draw", "vision.codes=vqgan:elsewhere")
    missing = invoke("train", "--recipe", "unimp", *wrong, "--data", shop)
    assert "no picture codes of vqgan:elsewhere" in str(missing.exception)
    vqgan_folder(shop / "vq", seed=1)
    other = invoke("draw", "u3", "mug", "--out", tmp_path / "mug.png", "--data", shop)
    assert "the model there is another one now" in str(other.exception)
    assert not (tmp_path / "mug.png").exists()
