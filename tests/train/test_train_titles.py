"""Title ids on disk: prompts equal their whole texts tokenised at once, and no title is tokenised twice."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from helpers import train_shop as world
from helpers.tiny_tokenizers import (
    DEMO_TITLES,
    MAKERS,
    tokenizer_of,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bundlecache.recipes.settings import Prompt
from bundlecache.train import checkpoint
from bundlecache.train.model.llm import EMBEDDED
from bundlecache.train.prompts import title_tokens
from bundlecache.train.prompts.builder import NO_ITEMS, PromptBuilder
from bundlecache.train.prompts.templates import TEMPLATES
from bundlecache.train.prompts.title_tokens import Ending
from bundlecache.train.prompts.titles import cache_fingerprint
from bundlecache.train.prompts.tokens import clean, encode_many, reserved
from bundlecache.train.training import loop

ODD = [
    "",
    "mug",
    "Mug (2 pack)",
    'Lamp, 15.6"',
    "Bell...",
    "10% off!",
    "a;b;c;",
    "☕ Ünïcode 杯子",
    "杯子" * 30,
    "\u200bzero  width\u00a0space",
    "<Feature> </s> <s>",
    "long " * 60,
    "x" * 200,
    "Options:",
    "A.",
    "end,",
    "'s",
]


@pytest.fixture(scope="module")
def made() -> dict[str, object]:
    return {}


def questions(count: int, seed: int = 0):
    """Every item stands in a question, now given, now offered, now last."""
    rng = np.random.default_rng(seed)
    for _ in range(2):
        order = rng.permutation(count)
        for k in range(0, count, 9):
            some = np.resize(order[k : k + 9], 9)
            cut = int(rng.integers(0, 5))
            yield some[:cut], some[cut:]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", MAKERS)
def test_copied_prompts_equal_the_whole_text_tokenised_at_once(name, template, made, tmp_path):
    tokenizer = tokenizer_of(name, made)
    titles = sorted({*DEMO_TITLES[::4], *ODD})
    PromptBuilder(tokenizer, titles, Prompt(template=template), 4, tmp_path)
    builder = PromptBuilder(tokenizer, titles, Prompt(template=template), 4, tmp_path)
    assert builder.fresh == 0, "the second builder reads from disk"
    assert [titles[i] for i in np.flatnonzero(~builder._exact[:-1])] == [""], "only what begins at no space may melt"
    for given, options in questions(len(titles)):
        for mode in ("mm", "text"):
            direct = builder.spell(given, options, mode)
            batch = builder.build([given], [options], mode)
            ids = batch.ids[0].copy()
            ids[ids <= -2] = -2 - batch.items[-2 - ids[ids <= -2]]
            np.testing.assert_array_equal(ids, direct)
            assert builder.lengths([given], [options], mode).tolist() == [len(direct)]
            if builder._is_exact(NO_ITEMS, given, options):
                np.testing.assert_array_equal(builder._copied([NO_ITEMS], [given], [options], mode), direct)


def test_the_whole_text_is_the_text_that_a_reader_would_write(made):
    tokenizer = tokenizer_of("byte fallback", made)
    builder = PromptBuilder(tokenizer, ["red (lamp)", "mug", "bell"], Prompt(template="paper", bundle="outfit"), 4)
    given, options = np.array([2]), np.array([0, 1])
    ids = builder.spell(given, options, "text")
    opening = TEMPLATES["paper"].opening.format(task="bundle construction", bundle="outfit")
    closing = TEMPLATES["paper"].closing
    between = TEMPLATES["paper"].after_partial.format(item="item", bundle="outfit")
    text = f"{opening} 1. bell;{between} A. red (lamp); B. mug;{closing}"
    assert ids.tolist() == [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    # with fused tokens, what stands between two of them is tokenised at once, as after a word
    ids = builder.spell(given, options, "mm").tolist()
    place = ids.index(-2 - 0)
    assert ids[place - 1] == -1
    middle = ids[ids.index(-2 - 2) + 1 : place - 1]
    assert middle == encode_many(tokenizer, [f";{between} A. red (lamp),"])[0]


def test_a_tokenizer_whose_tokens_hold_several_words_is_found_out_and_still_exact(made):
    tokenizer = tokenizer_of("words melt", made)
    titles = DEMO_TITLES[:60]
    builder = PromptBuilder(tokenizer, titles, Prompt(), 4)
    assert not builder._exact.any()
    several = []
    for given, options in questions(len(titles)):
        batch = builder.build([given, given[:0]], [options, options[:4]], "text")
        direct = builder.spell(given, options, "text")
        np.testing.assert_array_equal(batch.ids[0, : len(direct)], direct)
        assert batch.last.tolist() == [
            n - 1 for n in builder.lengths([given, given[:0]], [options, options[:4]], "text")
        ]
        several.append(direct)
    spans = [tokenizer.decode([i]).strip() for i in np.unique(np.concatenate(several))]
    assert any(" " in span for span in spans), "this tokenizer proves nothing"


def test_long_titles_are_cut_to_text_that_fits_and_is_cut_no_shorter(made):
    for name in ("embedded", "byte fallback"):
        tokenizer = tokenizer_of(name, made)
        titles = ["long warm " * 60, "x" * 200, "杯子" * 40, "mug"]
        shown = PromptBuilder(tokenizer, titles, Prompt(max_title_tokens=12), 4).titles.shown.to_pylist()
        for title, text in zip(titles, shown, strict=False):
            assert title.startswith(text)
            assert len(encode_many(tokenizer, [f" {text}"])[0]) <= 12
            longer = title[: len(text) + 2].rstrip()
            assert longer == text or len(encode_many(tokenizer, [f" {longer}"])[0]) > 12


def test_new_titles_are_added_and_known_ones_kept(made, tmp_path):
    tokenizer = tokenizer_of("embedded", made)
    first = PromptBuilder(tokenizer, DEMO_TITLES[:50], Prompt(), 4, tmp_path)
    unique = len({*DEMO_TITLES[:50], "a"})
    assert first.fresh == unique
    more = PromptBuilder(tokenizer, [*DEMO_TITLES[40:70], *DEMO_TITLES[:50]], Prompt(), 4, tmp_path)
    assert more.fresh == len({*DEMO_TITLES[:70], "a"}) - unique
    alone = PromptBuilder(tokenizer, [*DEMO_TITLES[40:70], *DEMO_TITLES[:50]], Prompt(), 4)
    given, options = np.arange(8), np.arange(20, 60, 4)
    for mode in ("mm", "text"):
        np.testing.assert_array_equal(
            more.build([given], [options], mode).ids, alone.build([given], [options], mode).ids
        )
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file stays"
    table = pa.ipc.open_file(pa.memory_map(str(next(tmp_path.iterdir())))).read_all()
    assert table["title"].to_pylist() == [*DEMO_TITLES[40:70], *DEMO_TITLES[:50], "a"]


@pytest.mark.parametrize("name", MAKERS)
def test_titles_made_of_their_words_are_those_tokenised_whole(name, made):
    tokenizer = tokenizer_of(name, made)
    if not title_tokens.splits_at_spaces(tokenizer):
        pytest.skip("titles of this tokenizer are always tokenised whole")
    endings = [Ending(" A", text, " B") for text in ("", ";", ",", ");\nAnswer:")]
    long = ["Brass (antique) poster-frame, 30x40cm; 2 pack " * 3, "x" * 99, "a - b & c's"]
    titles = pa.array(sorted({*DEMO_TITLES, *filter(str.isascii, ODD), *long} - {""}))
    titles = pa.array([clean(title, reserved(tokenizer)) for title in titles.to_pylist()])
    for most in (4, 32):
        words = title_tokens._from_words(tokenizer, titles, endings, most, title_tokens._tell_nobody)
        assert words.equals(title_tokens._whole(tokenizer, titles, endings, most, title_tokens._tell_nobody))


def test_a_tokenizer_that_depends_on_other_words_is_found_by_the_sample(made):
    tokenizer = tokenizer_of("embedded", made)

    class Counting:  # spells every text of two words by other ids than the words have alone
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, texts, **how):
            lists = tokenizer(texts, **how)["input_ids"]
            return {
                "input_ids": [
                    [*ids[:-1], 0] if text.count(" ") > 1 else ids for text, ids in zip(texts, lists, strict=True)
                ]
            }

    odd = Counting()
    assert title_tokens.splits_at_spaces(odd)
    titles, endings = pa.array(sorted(set(DEMO_TITLES))), [Ending(" A", ";", " B")]
    found = title_tokens.tokenised(odd, titles, endings, 32)
    assert found.equals(title_tokens._whole(odd, titles, endings, 32, title_tokens._tell_nobody))


def test_another_tokenizer_wording_or_cut_is_another_file(made, tmp_path):
    embedded, other = tokenizer_of("embedded", made), tokenizer_of("byte fallback", made)
    assert cache_fingerprint(embedded) != cache_fingerprint(other)
    embedded("padded", padding="max_length", max_length=9, truncation=True)  # leaves its mark on the tokenizer
    settings = [Prompt(), Prompt(template="paper"), Prompt(separator="hard"), Prompt(max_title_tokens=4)]
    for tokenizer in (embedded, other):
        for prompt in settings:
            assert PromptBuilder(tokenizer, DEMO_TITLES[:9], prompt, 4, tmp_path).fresh
            assert not PromptBuilder(tokenizer, DEMO_TITLES[:9], prompt, 4, tmp_path).fresh
    assert len(list(tmp_path.iterdir())) == 2 * len(settings)
    again = AutoTokenizer.from_pretrained(EMBEDDED)
    assert not PromptBuilder(again, DEMO_TITLES[:9], Prompt(), 4, tmp_path).fresh, "the same tokenizer, loaded again"


@pytest.mark.parametrize("damage", [b"", b"ARROW1 and then nothing", None])
def test_a_damaged_file_is_made_again_and_a_read_only_folder_does_no_harm(made, tmp_path, damage):
    tokenizer = tokenizer_of("embedded", made)
    folder = tmp_path / "tokens"
    want = PromptBuilder(tokenizer, DEMO_TITLES[:30], Prompt(), 4).build([np.arange(3)], [np.arange(9)], "text").ids
    if damage is None:
        folder.write_text("a file in the place of the folder")
    else:
        PromptBuilder(tokenizer, DEMO_TITLES[:30], Prompt(), 4, folder)
        path = next(folder.iterdir())
        path.write_bytes(damage)
    builder = PromptBuilder(tokenizer, DEMO_TITLES[:30], Prompt(), 4, folder)
    np.testing.assert_array_equal(builder.build([np.arange(3)], [np.arange(9)], "text").ids, want)
    assert bool(PromptBuilder(tokenizer, DEMO_TITLES[:30], Prompt(), 4, folder).fresh) == (damage is None)


def test_the_second_training_and_serving_tokenise_no_title(tmp_path, monkeypatch):
    base, cat, folder = world.save_base(tmp_path / "base"), world.catalogue(), tmp_path / "tokens"
    seen: list[str] = []
    call = PreTrainedTokenizerFast.__call__

    def spy(self, text, *args, **kwargs):
        seen.extend([text] if isinstance(text, str) else text)
        return call(self, text, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", spy)

    def train(name: str):
        valid = world.questions(cat)
        return loop.train(cat, world.matrices(), valid, world.recipe(base), tmp_path / name, token_cache=folder)

    def titles_seen() -> int:
        return sum(any(f" {word}" in text for word in world.WORDS) for text in seen)

    train("first")
    assert titles_seen() >= len(set(cat.titles))
    seen.clear()
    run = train("second").run
    checkpoint.load(run, cat, world.matrices(), "cpu", folder)
    assert seen
    assert titles_seen() == 0
