"""Completions by HTTP are those of the library, alone and together, for known items and new ones."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.server import serving
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.serve.answers import BatchAnswer, CompleteAnswer

if TYPE_CHECKING:
    from helpers.server import Client

GIVEN = ["item-02", "item-04"]


def ranked(answer):
    return [(row["item"]["id"], round(row["probability"], 4)) for row in answer["completions"]]


def test_a_completion_is_that_of_the_library(server: Client, trained: Path):
    answer = server.complete(GIVEN, k=4).json
    run = bc.open(trained, quiet=True).run()
    expected = [(row.item_id, row.probability) for row in run.complete(GIVEN, k=4)]
    assert [item for item, _ in ranked(answer)] == [item for item, _ in expected]
    assert [p for _, p in ranked(answer)] == pytest.approx([p for _, p in expected], abs=2e-4)
    assert (answer["run"], answer["method"]) == ("first", "model")
    assert [row["rank"] for row in answer["completions"]] == [1, 2, 3, 4]
    assert answer["margin"] == pytest.approx(expected[0][1] - expected[1][1], abs=2e-4)
    assert answer["store_version"].startswith("text@")


def test_fifty_clients_at_once_get_what_each_gets_alone(server: Client):
    bundles = [[f"item-{i:02d}", f"item-{(i + 2) % 24:02d}"] for i in range(0, 24, 2)]
    alone = [ranked(server.complete(bundle, why=False).json) for bundle in bundles]
    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(lambda bundle: server.complete(bundle, why=False).json, bundles * 8))
    for number, answer in enumerate(together):
        expected = alone[number % len(bundles)]
        assert [item for item, _ in ranked(answer)] == [item for item, _ in expected]
        for mine, theirs in zip(ranked(answer), expected, strict=True):
            assert mine[1] == pytest.approx(theirs[1], abs=2e-4)
    sizes = [line for line in server.get("/metrics").body.decode().splitlines() if "batch_carts_bucket" in line]
    alone_in_forward = next(float(line.split()[1]) for line in sizes if 'le="1.0"' in line)
    assert float(sizes[-1].split()[1]) > alone_in_forward, "no two requests were answered by one forward"


def test_a_new_item_with_a_known_ones_title_and_picture_counts_as_it(server: Client, trained: Path):
    """The run reads titles and pictures: a cart may bring both along instead of the id."""
    picture = base64.b64encode((trained / "images" / "4.png").read_bytes()).decode()
    known = server.complete(GIVEN, exclude=["item-06"]).json
    new = server.complete(["item-02", {"title": "warm lamp 4", "image": picture}], exclude=["item-04", "item-06"]).json
    assert [item for item, _ in ranked(new)] == [item for item, _ in ranked(known)]
    for mine, theirs in zip(ranked(new), ranked(known), strict=True):
        assert mine[1] == pytest.approx(theirs[1], abs=2e-4)
    near = {near["item"]["id"] for row in new["completions"] for near in row["why"]["nearest"]}
    assert near == {"", "item-02"}, "the new item, which has no id, is named as near too"


@pytest.mark.parametrize("new", [{"title": "warm red mug"}, {"title": "<b>\x07 x", "image": None}])
def test_a_cart_of_new_items_alone_is_completed(server: Client, new: dict):
    assert len(server.complete([new]).json["completions"]) == 5


def test_filter_and_exclude_hold_for_what_is_offered(server: Client):
    answer = server.complete(GIVEN, k=5, filter=["category=mug"], exclude=["item-06"]).json
    found = [row["item"] for row in answer["completions"]]
    assert {item["category"] for item in found} == {"mug"}
    assert not {"item-02", "item-06"} & {item["id"] for item in found}
    assert any("no more candidates" in note for note in answer["notes"]) == (len(found) < 5)


def test_why_names_shares_of_attention_near_items_and_who_took_both(server: Client, trained: Path):
    why = server.complete(GIVEN, k=1).json["completions"][0]
    reason, offered = why["why"], why["item"]["id"]
    assert sum(each["weight"] for each in reason["modalities"]) == pytest.approx(1, abs=1e-3)
    assert {near["item"]["id"] for near in reason["nearest"]} <= set(GIVEN)
    assert all(-1.001 <= near["similarity"] <= 1.001 and near["by"] in ("text", "image") for near in reason["nearest"])
    catalogue = bc.open(trained, quiet=True).catalogue
    both = [set(catalogue.indices([offered, given])) for given in GIVEN]
    bundles = [sum(pair <= set(items.tolist()) for items in catalogue.bundles.items) for pair in both]
    told = {each["item"]["id"]: each["bundles"] for each in reason["together"]}
    assert [told.get(given, 0) for given in GIVEN] == bundles


def test_a_batch_answers_what_it_can_and_says_what_it_cannot(server: Client):
    bundles = [{"items": GIVEN}, {"items": ["item-99"]}, {"items": ["item-01"], "run": "none"}, {"items": ["item-03"]}]
    answers = server.ask("POST", "/complete/batch", {"bundles": bundles}).json["answers"]
    assert ranked(answers[0]) == ranked(server.complete(GIVEN).json)
    assert "item-99" in answers[1]["error"]
    assert "no run" in answers[2]["error"]
    assert len(answers[3]["completions"]) == 5


def test_an_answer_is_as_the_openapi_description_says(server: Client):
    """Answers are not checked when they are sent, because that would take longer than making them."""
    answers = server.ask("POST", "/complete/batch", {"bundles": [{"items": GIVEN}, {"items": ["item-99"]}]}).json
    first = server.complete(["item-02", {"title": "warm mug"}]).json
    assert set(CompleteAnswer.model_validate(first).model_dump()) == set(first)
    assert len(BatchAnswer.model_validate(answers).answers) == 2


def test_confidence_is_the_share_of_right_answers_at_such_a_margin(server: Client):
    until = 200
    while (found := server.complete(GIVEN).json["confidence"]) is None and until:
        until -= 1
    assert found is not None
    assert 0 <= found["right"] <= 1
    assert found["margin_low"] <= found["margin_high"]
    assert found["questions"] > 0


def test_without_a_run_the_learned_ranker_answers_and_says_so(tmp_path: Path):
    root = make_shop(tmp_path)
    shop = bc.open(root, quiet=True)
    shop.encode("text")
    with serving(root) as client:
        answer = client.complete(GIVEN).json
        assert (answer["run"], answer["method"]) == (None, "learned-ranker")
        assert "No run is trained" in answer["notes"][0]
        assert answer["completions"][0]["probability"] is not None
        new = client.complete([{"title": "warm mug"}]).json
        assert (new["method"], new["completions"][0]["probability"]) == ("cosine", None)
