"""Answers of UniMP against forward passes of the whole prompt: ranks, beams, selections, ratings, texts; one as many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.histories import catalogue_of, training_of
from helpers.matrices import matrix

from bundlecache.catalogue.columns import Strings
from bundlecache.questions.task_file import TaskQuestions
from bundlecache.recipes import unimp_recipe
from bundlecache.recipes.settings import Base
from bundlecache.train.model import llm
from bundlecache.train.unimp.answers import UnimpAnswers, followed_by
from bundlecache.train.unimp.item_texts import ItemTexts
from bundlecache.train.unimp.model import build
from bundlecache.train.unimp.pictures import TokenTable
from bundlecache.train.unimp.prompts import Prompts
from bundlecache.train.unimp.vocabulary import AtomicIds, SemanticIds, Vocabulary

ITEMS = 14
CPU = torch.device("cpu")
SEQUENCES = [[i, (i + 3) % 7, 7 + i, (i + 1) % 7, 7 + (i + 2) % 7][: 4 + i % 2] for i in range(6)]


def answers(item_ids: AtomicIds | SemanticIds) -> UnimpAnswers:
    """A small model of random weights whose pictures count."""
    torch.manual_seed(0)
    base = llm.load(Base(), CPU)
    vocabulary = Vocabulary(base.model.get_input_embeddings().weight.shape[0], item_ids)
    recipe = unimp_recipe.from_dict(
        {}, ["vision.latents=2", "vision.depth=1", "vision.heads=2", "vision.head_width=8", "prompt.attributes=title"]
    )
    rng = np.random.default_rng(0)
    there = np.arange(ITEMS) != 3  # an item without a picture
    table = TokenTable(matrix(rng.normal(size=(ITEMS, 4, 6)), there, modality="image"), CPU)
    model = build(base, vocabulary, table, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("blocks.", "rows.", "resampler.")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    texts = ItemTexts(base.tokenizer, catalogue_of([f"red mug {i}" for i in range(ITEMS)]), recipe.prompt)
    return UnimpAnswers(model, Prompts(vocabulary, texts, recipe), explanation_tokens=6)


@pytest.fixture(scope="module")
def atomic() -> UnimpAnswers:
    return answers(AtomicIds(ITEMS))


def asked_of(task: str) -> TaskQuestions:
    """Six questions of histories of three or two items, with what each task tells."""
    _, asked = training_of(SEQUENCES)
    count = int(asked.history.offsets[-1])
    told = {
        "search": {"query": Strings([f"mug {q}" for q in range(len(asked))])},
        "select": {"candidates": np.arange(3 * len(asked)).reshape(-1, 3) % ITEMS},
    }.get(task, {})
    if task in ("preference", "explain"):
        rating = np.where(np.arange(count) % 4 == 3, np.nan, 1 + np.arange(count) % 5).astype(np.float32)
        told = {"history_rating": rating, "history_explanation": Strings([f"I like {k}" for k in range(count)])}
    return replace(asked, task=task, **told)


def whole_logits(made: UnimpAnswers, asked: TaskQuestions, q: int, after: tuple[int, ...] = ()) -> np.ndarray:
    """[V + E] what follows prompt ``q`` and some more tokens, by one forward without cache or batch."""
    batch = made.prompts.ask(asked.take(np.array([q])))
    for token in after:
        batch = followed_by(batch, np.array([token]))
    at = torch.zeros(batch.ids.shape, dtype=torch.bool)
    at[0, -1] = True
    with torch.no_grad():
        return made.model.logits(made.model.hidden(batch, at))[0].double().numpy()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


@pytest.mark.parametrize("task", ["recommend", "search"])
def test_ranks_are_the_softmax_over_item_columns_and_equal_a_beam_search(atomic: UnimpAnswers, task: str):
    asked = asked_of(task)
    scores = atomic.scores(asked)
    words = atomic.model.vocabulary
    for q in range(len(asked)):
        expected = log_softmax(whole_logits(atomic, asked, q)[words.items.start : words.items.stop])
        np.testing.assert_allclose(scores[q], expected, atol=1e-4)
    with torch.no_grad():
        found = atomic.model.generate(atomic.prompts.ask(asked), 1, lambda ids: () if ids else words.items, ITEMS)
    for q, beams in enumerate(found):
        assert [words.items.index(beam.ids[0]) for beam in beams] == np.argsort(-scores[q]).tolist()


def test_semantic_ids_are_ranked_by_the_probability_of_all_their_tokens():
    codes = np.stack([np.arange(ITEMS) // 5, np.arange(ITEMS) % 5 // 2, np.arange(ITEMS) % 5 % 2], axis=1)
    made, asked = answers(SemanticIds(codes, 3)), asked_of("recommend")
    scores = made.scores(asked)
    q = 2
    for item in range(ITEMS):
        ids = made.model.vocabulary.of_item(item)
        parts = [log_softmax(whole_logits(made, asked, q, ids[:k]))[token] for k, token in enumerate(ids)]
        assert scores[q, item] == pytest.approx(sum(parts), abs=1e-4)
    few = made.scores(asked, np.arange(ITEMS) % 5 == 1)
    assert (np.isfinite(few) == (np.arange(ITEMS) % 5 == 1)).all()  # the beams keep to items that may be offered


@pytest.mark.parametrize("by", ["slots", "ids"])
def test_a_selection_names_candidates_one_by_one_until_it_ends(atomic: UnimpAnswers, by: str):
    asked, words = asked_of("select"), atomic.model.vocabulary
    recipe = replace(atomic.prompts.recipe, prompt=replace(atomic.prompts.recipe.prompt, selections=by))
    prompts = Prompts(words, atomic.prompts.texts, recipe)
    scores, chosen = replace(atomic, prompts=prompts).choose(asked)
    ends = [words.end_of_chunk, atomic.model.core.config.eos_token_id]
    for q in range(len(asked)):
        names = [words.items[item] for item in asked.candidates[q]] if by == "ids" else list(words.selections[:3])
        likely = log_softmax(whole_logits(atomic, asked, q)[names])
        np.testing.assert_allclose(scores[q], likely, atol=1e-4)
        said = [names[int(likely.argmax())]]
        while len(said) < 3:
            choices = [*(name for name in names if name not in said), *ends]
            best = choices[int(whole_logits(atomic, asked, q, tuple(said))[choices].argmax())]
            if best in ends:
                break
            said.append(best)
        assert chosen[q].tolist() == [name in said for name in names]


def test_a_rating_is_the_mean_of_the_stars_and_an_explanation_the_likeliest_words(atomic: UnimpAnswers):
    asked, words = asked_of("explain"), atomic.model.vocabulary
    expected, likeliest = atomic.rate(asked)
    told = atomic.explain(asked)
    ends = {words.end_of_chunk, atomic.model.core.config.eos_token_id}
    for q in (0, 3):
        likely = np.exp(log_softmax(whole_logits(atomic, asked, q)[words.rates.start : words.rates.stop]))
        assert expected[q] == pytest.approx(likely @ np.arange(1, 6), abs=1e-4)
        assert likeliest[q] == 1 + likely.argmax()
        said: list[int] = [words.rates.start + int(likely.argmax())]
        for _ in range(6):
            logits = whole_logits(atomic, asked, q, tuple(said))
            logits[[t for t in range(words.base_size, words.size) if t not in ends]] = -np.inf  # no ids in a text
            said.append(int(logits.argmax()))
            if said[-1] in ends:
                break
        plain = atomic.model.base.tokenizer.decode([t for t in said if t < words.base_size], skip_special_tokens=True)
        assert told[q] == " ".join(plain.split())


def test_one_question_is_answered_as_among_many(atomic: UnimpAnswers):
    alone = replace(atomic, rows_at_once=1)
    for task in ("recommend", "search"):
        np.testing.assert_allclose(alone.scores(asked_of(task)), atomic.scores(asked_of(task)), atol=1e-4)
    for one, many in zip(alone.choose(asked_of("select")), atomic.choose(asked_of("select")), strict=True):
        np.testing.assert_allclose(one, many, atol=1e-4)
    np.testing.assert_allclose(alone.rate(asked_of("preference")), atomic.rate(asked_of("preference")), atol=1e-4)
    assert alone.explain(asked_of("explain")) == atomic.explain(asked_of("explain"))
