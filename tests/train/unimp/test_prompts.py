"""Prompts of UniMP: known token by token, labelled as the recipe says, and the same in training as in answering."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import unimp_shop as world
from transformers import AutoTokenizer

from bundlecache.catalogue.columns import Lists, Strings
from bundlecache.errors import RecipeError
from bundlecache.questions.task_file import TASKS, TaskQuestions
from bundlecache.train.unimp.item_texts import ItemTexts
from bundlecache.train.unimp.prompts import Prompts
from bundlecache.train.unimp.samples import Samples
from bundlecache.train.unimp.vocabulary import AtomicIds, SemanticIds, Vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(world.save_base(tmp_path_factory.mktemp("base")))


def prompts(tokenizer, ids=None, **sections):
    recipe = world.recipe("none", **sections)
    vocabulary = Vocabulary(len(tokenizer), ids or AtomicIds(world.ITEMS))
    return Prompts(vocabulary, ItemTexts(tokenizer, world.catalogue(), recipe.prompt), recipe)


def asked(task, history=(0, 3), target=1, **told):
    row = TaskQuestions(task, {}, Strings(["u"]), np.zeros(1, bool), Lists([list(history)]), np.array([target]))
    return TaskQuestions(**{**vars(row), **told})


EXAMPLES = {
    "recommend": asked("recommend"),
    "search": asked("search", query=Strings(["blue </s> lamp"])),
    "select": asked("select", candidates=np.array([[4, 1, 2]]), right=np.array([[False, True, False]])),
    "preference": asked(
        "preference", rating=np.array([4.4], np.float32), history_rating=np.array([5, np.nan], np.float32)
    ),
    "explain": asked(
        "explain",
        rating=np.array([2], np.float32),
        explanation=Strings(["dull"]),
        history_rating=np.array([5, 4], np.float32),
        history_explanation=Strings(["fine", None]),
    ),
}
M = {0: "Category lamp Title red lamp", 1: "Category mug Title red mug", 3: "Category mug Title blue mug"}
M |= {2: "Category lamp Title blue lamp", 4: "Category lamp Title red lamp"}
P, A, E = "<|image|>", "<|answer|>", "<|endofchunk|>"
SPELLED = {
    "recommend": f"<s> {P} {M[0]} {A} <|item_0|> {E} {P} {M[3]} {A} <|item_3|> {E} Next : {A} <|item_1|>",
    "search": f"<s> {P} {M[0]} {A} <|item_0|> {E} {P} {M[3]} {A} <|item_3|> {E} Query : blue < <unk> s > lamp Item : {A} <|item_1|>",
    "select": f"<s> Has : {P} {M[0]} {E} {P} {M[3]} {E} From : {P} <|s_0|> {M[4]} {E} {P} <|s_1|> {M[1]} {E}"
    f" {P} <|s_2|> {M[2]} {E} Select : {A} <|s_1|> {E}",
    "preference": f"<s> {P} {M[0]} {A} <|rate_5|> {E} {P} {M[3]} {E} {P} {M[1]} Stars : {A} <|rate_4|>",
    "explain": f"<s> {P} {M[0]} {A} <|rate_5|> fine {E} {P} {M[3]} {A} <|rate_4|> {E} {P} {M[1]} Why : {A} <|rate_2|> dull {E}",
}
LABELS = {  # of the context, and then of the answer
    "recommend": ["<|item_0|>", "<|item_3|>", "<|item_1|>"],
    "search": ["<|item_0|>", "<|item_3|>", "<|item_1|>"],
    "select": ["<|s_1|>", E],
    "preference": ["<|rate_5|>", "<|rate_4|>"],
    "explain": ["<|rate_5|>", "fine", E, "<|rate_4|>", "<|rate_2|>", "dull", E],
}
ANSWERS = {"recommend": 1, "search": 1, "select": 2, "preference": 1, "explain": 3}


def public_labels(tokens):
    """What the loop of the public code marks: all behind an answer mark, up to the end of the chunk or of the row."""
    marked, inside = [], False
    for token in tokens:
        inside = token == A or (inside and token != E)
        marked += [token] if inside and token not in (A, P) else []
    return marked


@pytest.mark.parametrize("task", TASKS)
def test_every_template_is_known_token_by_token_with_its_labels(tokenizer, task):
    build = prompts(tokenizer)
    batch = build.train([EXAMPLES[task]])
    assert build.spell(batch.ids[0].tolist()) == SPELLED[task]
    labels = [build.spell([token]) for token in batch.ids[0][batch.labels[0]].tolist()]
    assert labels == LABELS[task]
    assert [label for label in labels if label != E] == public_labels(build.spell([t]) for t in batch.ids[0].tolist())
    last = prompts(tokenizer, data={"context": "none"}).train([EXAMPLES[task]])
    assert last.ids.equal(batch.ids)
    assert last.ids[0][last.labels[0]].tolist() == batch.ids[0][batch.labels[0]].tolist()[-ANSWERS[task] :]
    whole = prompts(tokenizer, data={"context": "attributes"}).train([EXAMPLES[task]])
    more = (whole.labels & ~batch.labels)[0]
    words = {word for item in M.values() for word in item.split()}
    assert {build.spell([token]) for token in batch.ids[0][more].tolist()} <= words
    assert more.sum() == sum(len(M[i].split()) for i in batch.images[0].tolist())


@pytest.mark.parametrize("place", ["last", "first"])
@pytest.mark.parametrize("task", TASKS)
def test_what_is_asked_is_the_beginning_of_what_is_trained(tokenizer, task, place):
    build = prompts(tokenizer, prompt={"id_place": place})
    trained, question = build.train([EXAMPLES[task]]), build.ask(EXAMPLES[task])
    length = question.ids.shape[1]
    assert trained.ids[0, :length].equal(question.ids[0])
    assert question.ids[0, -1] == build.vocabulary.answer
    assert trained.images.equal(question.images)
    assert not question.labels.any()
    assert trained.labels[0, length:].all()


def test_with_the_id_first_every_item_but_the_first_is_predicted_from_those_before(tokenizer):
    build = prompts(tokenizer, prompt={"id_place": "first"})
    batch = build.train([EXAMPLES["recommend"]])
    assert build.spell(batch.ids[0].tolist()) == (
        f"<s> Next : {A} <|item_0|> {P} {M[0]} {E} {A} <|item_3|> {P} {M[3]} {E} {A} <|item_1|>"
    )
    assert [build.spell([token]) for token in batch.ids[0][batch.labels[0]].tolist()] == ["<|item_3|>", "<|item_1|>"]


def test_with_the_id_first_the_other_tasks_name_the_items_that_they_show(tokenizer):
    build = prompts(tokenizer, prompt={"id_place": "first"})
    spelled = {task: build.spell(build.train([EXAMPLES[task]]).ids[0].tolist()) for task in ("select", "preference")}
    assert spelled == {
        "select": f"<s> Has : {P} <|item_0|> {M[0]} {E} {P} <|item_3|> {M[3]} {E} From : {P} <|s_0|> <|item_4|> {M[4]} {E}"
        f" {P} <|s_1|> <|item_1|> {M[1]} {E} {P} <|s_2|> <|item_2|> {M[2]} {E} Select : {A} <|s_1|> {E}",
        "preference": f"<s> {P} <|item_0|> {M[0]} {A} <|rate_5|> {E} {P} <|item_3|> {M[3]} {E} {P} <|item_1|> {M[1]} Stars : {A}"
        " <|rate_4|>",
    }


def test_a_selection_may_name_candidates_by_their_ids(tokenizer):
    build = prompts(tokenizer, prompt={"selections": "ids"})
    (row,) = build.train([EXAMPLES["select"]]).ids.tolist()
    assert build.spell(row).endswith(f"Select : {A} <|item_1|> {E}")
    items = build.vocabulary.items.start
    assert build.names_of(EXAMPLES["select"]).tolist() == [[items + 4, items + 1, items + 2]]
    assert [build.vocabulary.name(t) for t in prompts(tokenizer).names_of(EXAMPLES["select"])[0]] == [
        "<|s_0|>",
        "<|s_1|>",
        "<|s_2|>",
    ]
    with pytest.raises(RecipeError, match="semantic ids have several"):
        world.recipe("none", prompt={"selections": "ids"}, items={"ids": "semantic"})


def test_of_a_task_without_context_the_answer_alone_is_predicted(tokenizer):
    build = prompts(tokenizer, data={"no_context": ["search", "explain"]})
    for task in ("recommend", "search", "preference", "explain"):
        batch = build.train([EXAMPLES[task]])
        labels = [build.spell([token]) for token in batch.ids[0][batch.labels[0]].tolist()]
        assert labels == (LABELS[task][-ANSWERS[task] :] if task in ("search", "explain") else LABELS[task])


def test_pictures_are_shown_in_the_prompts_of_the_named_tasks_alone(tokenizer):
    build, every = (prompts(tokenizer, vision=told) for told in ({"tasks": ["preference"]}, {}))
    for task in TASKS:
        row, whole = (made.train([EXAMPLES[task]]) for made in (build, every))
        if task == "preference":
            assert row.ids.equal(whole.ids)
            assert row.images.equal(whole.images)
        else:
            assert row.ids[0].tolist() == [token for token in whole.ids[0].tolist() if token != build.vocabulary.image]
            assert row.images.shape[1] == 0


def test_rows_of_all_tasks_make_one_batch_with_the_weights_of_their_tasks(tokenizer):
    weights = [2, 1, 1, 1, 0.5]
    named = [f"{task}:{weight}" for task, weight in zip(TASKS, weights, strict=True)]
    build = prompts(tokenizer, data={"tasks": list(TASKS), "weights": named, "history": 1, "other_history": 1})
    batch = build.train([EXAMPLES[task] for task in TASKS])
    assert batch.weight.tolist() == weights
    assert batch.images.tolist() == [[3, -1, -1, -1], [3, -1, -1, -1], [3, 4, 1, 2], [3, 1, -1, -1], [3, 1, -1, -1]]
    alone = build.train([EXAMPLES["search"]])
    assert batch.take([1]).ids.equal(alone.ids)


def test_without_pictures_no_token_stands_for_one_and_semantic_ids_are_a_token_a_level(tokenizer):
    codes = np.stack(np.divmod(np.arange(world.ITEMS), 8), axis=1)
    build = prompts(tokenizer, SemanticIds(codes, 8), vision={"encoder": ""})
    batch = build.train([EXAMPLES["recommend"]])
    assert batch.images.shape == (1, 0)
    assert build.vocabulary.image not in batch.ids
    assert batch.ids[0, -2:].tolist() == list(build.vocabulary.of_item(1))
    assert batch.labels[0, -2:].all()


def test_attributes_are_cut_by_words_and_what_is_not_there_is_unknown(tokenizer):
    settings = world.recipe("none", prompt={"attributes": ["title", "category"], "attribute_words": 1}).prompt
    cat = world.catalogue()
    cat.columns["category"] = Strings([None, " \t big  lamp", *[""] * (world.ITEMS - 2)])
    texts = ItemTexts(tokenizer, cat, settings)
    assert texts.shown[:2].to_pylist() == ["Title red Category Unknown", "Title red Category big"]
    wrong = world.recipe("none", prompt={"attributes": ["title", "colour"]}).prompt
    with pytest.raises(RecipeError, match="no column 'colour' that the model could read; they have title, category"):
        ItemTexts(tokenizer, cat, wrong)
    with pytest.raises(RecipeError, match="reads at most 5"):
        Prompts(prompts(tokenizer).vocabulary, texts, world.recipe("none"), longest=5).ask(EXAMPLES["recommend"])


def test_item_texts_are_tokenised_once_and_kept(tokenizer, tmp_path):
    settings = world.recipe("none").prompt
    first = ItemTexts(tokenizer, world.catalogue(), settings, tmp_path)
    again = ItemTexts(tokenizer, world.catalogue(), settings, tmp_path)
    assert (first.fresh, again.fresh) == (4, 0)
    assert again.ids.ids.tolist() == first.ids.ids.tolist()


def samples(seed=0, **data):
    recipe = world.recipe("none", data={"tasks": list(TASKS), "batch": 20, **data})
    return Samples(world.histories(), world.catalogue(), recipe, seed)


def test_rows_follow_from_seed_and_step_and_each_task_has_its_share():
    one, other = samples(shares=["recommend:4"]), samples(shares=["recommend:4"])
    steps = [one.batch(step) for step in range(64)]
    late = other.batch(63)
    assert [part.task for part in late] == [part.task for part in steps[63]]
    for mine, again in zip(steps[63], late, strict=True):
        assert mine.target.tolist() == again.target.tolist()
        assert list(mine.users) == list(again.users)
        assert mine.history.values.tolist() == again.history.values.tolist()
        assert mine.candidates.tolist() == again.candidates.tolist()
    assert [part.target.tolist() for part in steps[0]] != [part.target.tolist() for part in samples(1).batch(0)]
    counts = {task: sum(len(p) for parts in steps for p in parts if p.task == task) for task in TASKS}
    assert counts == {"recommend": 640, "search": 160, "select": 160, "preference": 160, "explain": 160}


def test_a_row_holds_what_came_before_its_target_and_wrong_candidates_nobody_took():
    drawn = samples()
    seen = {user: drawn.seen.item[drawn.seen.user == u].tolist() for u, user in enumerate(drawn.seen.users)}
    explained, two = 0, 0
    for step in range(20):
        for part in drawn.batch(step):
            for q, user in enumerate(part.users):
                items, history = seen[user], part.history[q].tolist()
                place = items.index(part.target[q])
                last = place
                if part.task == "select":
                    right = part.candidates[q][part.right[q]].tolist()
                    last -= len(right) - 1
                    two += len(right) == 2
                    assert set(right) == set(items[last : place + 1])
                    assert not set(part.candidates[q][~part.right[q]].tolist()) & set(items)
                assert history == items[max(0, last - (5 if part.task in ("recommend", "search") else 3)) : last]
                assert history, "somebody came from somewhere"
                if part.task == "search":
                    assert part.query[q] == ("lamp", "mug")[part.target[q] % 2]
                if part.task in ("preference", "explain"):
                    assert part.rating[q] == (5, 2)[part.target[q] % 2]
                if part.task == "explain":
                    explained += 1
                    assert part.explanation[q] == ("fine", "dull")[part.target[q] % 2]
    assert explained > 10
    assert two > 5


def test_whole_windows_fill_the_prompt_and_random_ones_ask_about_any_item():
    ends = {}
    for kind in ("whole", "random"):
        drawn = samples(tasks=["recommend"], windows=kind)
        parts = [part for step in range(30) for part in drawn.batch(step)]
        ends[kind] = np.bincount(np.concatenate([part.history.lengths for part in parts]), minlength=6)
    assert ends["whole"].tolist() == [0, 0, 0, 0, 0, 600]
    assert (ends["random"][1:] > 50).all()
