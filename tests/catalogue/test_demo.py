"""The demo catalogue and the embedded base: shipped as generated, and worth what they claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP

from bundlecache.catalogue import split_leaks, splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.demo import make as demo
from bundlecache.catalogue.demo import media, reviews
from bundlecache.catalogue.demo import world as shop_world
from bundlecache.workspace import WorkspaceFolder

DATA = TOP / "data"
EMBEDDED = TOP / "train" / "embedded"


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return Catalogue.read(WorkspaceFolder(DATA))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, demo.DemoSummary]:
    root = tmp_path_factory.mktemp("made")
    return root, demo.make(root, seed=0)


def oracle(split: str, factors: tuple[str, ...]) -> float:
    """HitRate@1 of the oracle at ten options, wrong ones as seen or unseen in training as the truth."""
    world, rng = shop_world.build(0), np.random.RandomState(7)
    seen = np.zeros(len(world.item_ids), bool)
    seen[[i for *_, part, items in world.boxes if part == "train" for i in items]] = True
    given, options = [], []
    for *_, part, items in world.boxes:
        if part == split:
            truth, *rest = rng.permutation(items)
            pool = np.setdiff1d(np.flatnonzero(seen == seen[truth]), items)
            given.append([world.item_ids[i] for i in rest])
            options.append([world.item_ids[i] for i in [truth, *rng.choice(pool, 9, replace=False)]])
    scores = demo.oracle_scores(given, options, factors)
    best = scores == scores.max(1, keepdims=True)
    return float((best[:, 0] / best.sum(1)).mean())


def test_the_same_seed_gives_the_same_tables_and_another_seed_gives_others():
    first = demo.tables(3)
    assert first == demo.tables(3)
    assert first["items"]["title"] != demo.tables(4)["items"]["title"]


def test_shipped_tables_are_those_of_seed_0(made):
    for name in ("items", "bundles", "interactions"):
        assert pq.read_table(DATA / f"{name}.parquet").equals(pq.read_table(made[0] / f"{name}.parquet"))


def test_shipped_media_are_those_of_seed_0(made):
    import soundfile
    from PIL import Image

    for folder in ("images", "audio"):
        assert sorted(p.name for p in (DATA / folder).iterdir()) == sorted(p.name for p in (made[0] / folder).iterdir())
    for path in sorted((DATA / "images").iterdir())[::20]:
        here = np.asarray(Image.open(path), int)
        there = np.asarray(Image.open(made[0] / "images" / path.name), int)
        assert here.shape == (media.SIDE, media.SIDE, 3)
        assert np.abs(here - there).mean() < 1.0  # JPEG libraries may differ in the last bit
    for path in sorted((DATA / "audio").iterdir())[::20]:
        here, rate = soundfile.read(path, dtype="int16")
        there, _ = soundfile.read(made[0] / "audio" / path.name, dtype="int16")
        assert rate == media.RATE
        assert np.abs(here.astype(int) - there).max() <= 256  # one step of eight bits


def test_every_picture_and_sound_opens_and_says_something(shipped):
    import soundfile
    from PIL import Image

    for uri in shipped.column("image"):
        assert np.asarray(Image.open(DATA / str(uri))).std() > 5
    for uri in filter(None, shipped.column("audio")):
        wave, _ = soundfile.read(DATA / uri)
        assert 0.5 < len(wave) / media.RATE < 1.1
        assert 0.5 < np.abs(wave).max() <= 1.0


def test_counts_and_size_are_as_promised(shipped, made):
    summary = made[1]
    assert not shipped.notes
    assert len(shipped.item_ids) == summary.items >= 720
    assert sum(uri is not None for uri in shipped.column("audio")) == summary.sounds >= 300
    assert len(set(shipped.column("category"))) >= 12
    assert len(shipped.bundles) == summary.bundles >= 1600
    assert all(3 <= len(items) <= 5 for items in shipped.bundles.items)
    assert len(shipped.interactions.users) == summary.users >= 900
    assert summary.size_bytes < 4e6
    split = splits.assign(shipped)
    assert not split_leaks.crossing_groups(shipped, split)
    assert (split == "test").sum() >= 350
    assert 0.6 < (split == "train").mean() < 0.8


def test_a_box_holds_no_category_twice(shipped):
    category = np.array(shipped.column("category"))
    assert all(len(set(category[items])) == len(items) for items in shipped.bundles.items)


def test_new_arrivals_stand_in_no_training_bundle_but_in_the_training_graph(shipped):
    bundled = np.unique(splits.training_graph(shipped, "bundle-item")[:, 1])
    clicked = np.unique(splits.training_graph(shipped, "user-item")[:, 1])
    assert 0.25 < 1 - len(bundled) / len(shipped.item_ids) < 0.4
    assert len(clicked) == len(shipped.item_ids)


def test_neither_ids_nor_file_order_give_answers_away(shipped):
    rows = pq.read_table(DATA / "items.parquet").column("item_id").to_pylist()
    place = {item_id: row for row, item_id in enumerate(rows)}
    gaps = [
        abs(place[shipped.item_ids[a]] - place[shipped.item_ids[b]])
        for items in shipped.bundles.items
        for a, b in zip(items[:-1], items[1:], strict=True)  # noqa: RUF007
    ]
    assert abs(np.mean(gaps) / (len(rows) / 3) - 1) < 0.05  # the mean distance of two random rows


def test_hidden_factors_are_not_stored():
    names = {
        name
        for table in ("items", "bundles", "interactions")
        for name in pq.read_schema(DATA / f"{table}.parquet").names
    }
    assert not names & set(shop_world.FACTORS)


def test_every_factor_carries_evidence_that_the_others_lack():
    everything = oracle("test", shop_world.FACTORS)
    assert everything > 0.7
    for factor in shop_world.FACTORS:
        alone = oracle("test", (factor,))
        others = oracle("test", tuple(f for f in shop_world.FACTORS if f != factor))
        assert 0.18 < alone < 0.5
        assert everything - others > 0.02


def test_the_oracle_rules_out_a_category_that_the_box_has():
    world = shop_world.build(0)
    given, twin = world.item_ids[0], world.item_ids[1]
    assert demo.oracle_scores([[given]], [[twin, world.item_ids[-1]]])[0, 0] == -100


@pytest.fixture(scope="module")
def base():

    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)


def test_the_embedded_base_is_a_small_llama_in_half_precision(base):
    from safetensors.numpy import load_file

    assert type(base[0]).__name__ == "LlamaForCausalLM"
    assert {value.dtype for value in load_file(EMBEDDED / "model.safetensors").values()} == {np.dtype(np.float16)}
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 1.5e6


def test_letters_and_catalogue_words_are_single_tokens(base):
    tokenizer = base[1]
    for word in [*shop_world.words(), *"ABCDEFGHIJKLMNOPQRST"]:
        ids = tokenizer.encode(f" {word}", add_special_tokens=False)
        assert [tokenizer.decode(i) for i in ids] == [f" {word}"]
    assert tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<pad>", "<sep>"]) == [0, 1, 2, 3]


def test_any_text_survives_the_tokenizer(base):
    text = "Zoë's naïve 42\" café – <3 漢字\n;"
    assert base[1].decode(base[1].encode(text, add_special_tokens=False)) == text


def test_the_base_answers_with_a_letter_and_prefers_shared_words(base):
    import torch

    model, tokenizer = base
    letters = [tokenizer.encode(f" {letter}", add_special_tokens=False)[0] for letter in "ABC"]
    right = 0
    words = [word for group in shop_world.STYLES.values() for word in group]
    for k in range(24):
        rng = np.random.RandomState(k)
        shared, *other = rng.choice(words, 3, replace=False)
        truth = k % 3
        options = [shared if slot == truth else other[slot - (slot > truth)] for slot in range(3)]
        prompt = f"Bundle: {shared} Lamp; {shared} Bell;\nOptions:"
        prompt += "".join(f" {letter} {word} Vase;" for letter, word in zip("ABC", options, strict=True)) + "\nAnswer:"
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(prompt)])).logits[0, -1]
        assert int(logits.argmax()) in letters
        right += int(logits[letters].argmax()) == truth
    assert right >= 16


def asked_of(shipped: Catalogue, task: str, min_rating: float | None = None):
    """The test questions of a task, the number in `world` of every item of the catalogue, and the time of the users' last clicks."""
    from bundlecache.catalogue.histories import Histories
    from bundlecache.questions import tasks

    histories = Histories.read(WorkspaceFolder(DATA), shipped)
    asked = tasks.freeze(histories, shipped, task, "leave_last_out", min_rating=min_rating).part(test=True)
    histories = tasks.prepared_as(histories, asked.header)
    place = {item: k for k, item in enumerate(shop_world.build(0).item_ids)}
    times = histories.time[histories.ends[1:] - 1]
    return asked, np.array([place[item] for item in shipped.item_ids]), dict(zip(histories.users, times, strict=True))


def test_what_users_do_and_say_follows_from_their_hidden_tastes(shipped):
    """The oracle's score of each task; chance is 10 of 832 items, 1.2 of 3, 1.1 stars."""
    asked, place, times = asked_of(shipped, "search")
    whether = reviews.oracle_recommendations(asked.users, [times[user] for user in asked.users])[:, place]
    assert 0.17 < hit10(whether, asked) < 0.23
    assert 0.92 < hit10(whether + reviews.oracle_searches(asked.query)[:, place], asked) < 0.97
    asked, place, times = asked_of(shipped, "select")
    whether = reviews.oracle_recommendations(asked.users, [times[user] for user in asked.users])[:, place]
    first = np.take_along_axis(whether, asked.candidates, axis=1).argmax(axis=1)
    assert 0.8 < np.take_along_axis(asked.right, first[:, None], axis=1).mean() < 0.9
    asked, *_ = asked_of(shipped, "preference")
    stars = reviews.oracle_ratings(asked.users, [shipped.item_ids[i] for i in asked.target])
    assert np.abs(stars - asked.rating).mean() < 0.42
    assert np.abs(asked.rating - asked.rating.mean()).mean() > 1.0
    asked, *_ = asked_of(shipped, "explain")
    said = reviews.oracle_explanations(asked.users, [shipped.item_ids[i] for i in asked.target])
    assert 0.42 < np.mean([a == b for a, b in zip(said, asked.explanation, strict=True)]) < 0.58  # one of two wordings


def test_what_users_like_and_ask_for_stands_in_pictures_alone(shipped):
    """The oracle with the colours of pictures and without them: what the other columns tell does not make up for it."""
    asked, place, times = asked_of(shipped, "recommend", min_rating=4)
    whether = reviews.oracle_recommendations(asked.users, [times[user] for user in asked.users])[:, place]
    seeing, blind = (whether + reviews.oracle_likes(asked.users, picture=see)[:, place] for see in (True, False))
    assert hit10(seeing, asked) > hit10(blind, asked) + 0.13  # .350 and .202
    asked, place, times = asked_of(shipped, "search")
    whether = reviews.oracle_recommendations(asked.users, [times[user] for user in asked.users])[:, place]
    seeing, blind = (whether + reviews.oracle_searches(asked.query, picture=see)[:, place] for see in (True, False))
    assert hit10(seeing, asked) > hit10(blind, asked) + 0.08  # .945 and .852
    asked, *_ = asked_of(shipped, "preference")
    targets = [shipped.item_ids[i] for i in asked.target]
    seeing, blind = (
        np.abs(reviews.oracle_ratings(asked.users, targets, picture=see) - asked.rating).mean() for see in (True, False)
    )
    assert seeing < blind - 0.7  # .394 and 1.241


def hit10(scores: np.ndarray, asked) -> float:
    for row, history in zip(scores, asked.history, strict=True):
        row[history] = -np.inf
    own = np.take_along_axis(scores, asked.target[:, None], axis=1)
    return float(((scores > own).sum(axis=1) < 10).mean())


def test_a_session_is_one_persons_search_for_one_kind_of_thing(shipped):
    clicks = pq.read_table(DATA / "interactions.parquet")
    session, user = (clicks[name].to_numpy() for name in ("session", "user_id"))
    category = np.array(shipped.column("category"))[shipped.positions(clicks["item_id"])]
    order = np.argsort(session, kind="stable")
    together = session[order][1:] == session[order][:-1]
    assert (user[order][1:] == user[order][:-1])[together].all()
    alike = (category[order][1:] == category[order][:-1])[together].mean()
    assert together.mean() > 0.3
    assert alike > 0.4  # 1 in 16 by chance
