"""Explanations: figures of texts by known answers, and baselines that say what they know by construction."""

from __future__ import annotations

import sys

import pytest
from helpers.histories import training_of

from bundlecache.baselines.explanations import explanations
from bundlecache.bench.task_bench import compare_texts
from bundlecache.bench.text_metrics import text_figures
from bundlecache.errors import BundlecacheError

TRUE = ["the red mug is lovely", "the lamp looks cheap to me", "I loved it"]


def test_texts_are_compared_as_their_definitions_say():
    from sacrebleu import corpus_bleu

    said = ["the red lamp is lovely", "the lamp looks cheap to me", "I love them"]
    bleu, (low, high), values = text_figures(said, TRUE)
    assert bleu == pytest.approx(corpus_bleu(said, [TRUE]).score / 100)
    assert low <= bleu <= high
    assert values["ROUGE-L"] == pytest.approx([4 / 5, 1, 2 / 3])  # longest common subsequences 4, 6 and 2 with stems
    whole = [4 / 5, 1, 2 / 3], [2 / 4, 1 / 6, 1 / 2]  # words that agree, and chunks among them
    assert values["METEOR"] == pytest.approx(
        [share * (1 - 0.5 * chunks**3) for share, chunks in zip(*whole, strict=True)]
    )
    assert values["same text"].tolist() == [0, 1, 0]
    bleu, interval, values = text_figures(TRUE[:2], TRUE[:2])  # the third has no group of four words
    assert [bleu, *interval, *values["ROUGE-L"]] == pytest.approx([1, 1, 1, 1, 1])
    bleu, _, values = text_figures(["", "", ""], TRUE)
    assert [bleu, *(float(each.sum()) for each in values.values())] == [0, 0, 0, 0]


def test_the_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(BundlecacheError, match="not installed") as caught:
        text_figures(TRUE, TRUE)
    assert "bundlecache[explain]" in str(caught.value.hint)


def test_baselines_say_what_was_said_of_the_item_or_by_the_user():
    """Training sees the first two of four; item 1 was told of twice, item 5 never, and user u2 says nothing."""
    sequences = [[0, 1, 2, 3], [1, 0, 3, 2], [0, 4, 3, 5], [4, 1, 0, 1 + 5]]
    said = [
        ["a b", "plain", "x", "y"],
        ["red one", "b c", "a b", "z"],
        [None, None, None, "q"],
        ["blue", "a b", "a b", "r"],
    ]
    training, asked = training_of(sequences, "explain", [[4, 5, 1, 2]] * 4, said=said)
    made = explanations(training.seen, asked)
    assert asked.target.tolist() == [3, 2, 5, 6]
    assert made["commonest"] == ["a b"] * 4
    assert made["user's latest"] == ["x", "a b", "a b", "a b"]  # u2 said nothing: the commonest
    training, asked = training_of([[0, 1, 2], [1, 0, 2], [2, 3, 1], [1, 4, 2], [3, 2, 1]], "explain", [[5, 5, 5]] * 5, said=[
        ["warm red", "u", "v"], ["rather red", "u", "v"], ["so red", "u", "v"], ["cold", "u", "v"], ["blue", "u", "v"]
    ])  # fmt: skip
    made = explanations(training.seen, asked)
    assert training.seen.sequences().lengths.tolist() == [1] * 5
    at = asked.target.tolist().index(1)  # u2, who said "so red"; of item 1 training knows "rather red" and "cold"
    assert made["item's latest"][at] == "cold"
    assert made["item's nearest by words"][at] == "rather red"
    result = compare_texts(asked, made, 5, models={"true": list(asked.explanation)})
    first = result.methods[0]
    assert (first.name, first.figures["same text"], len(result.methods)) == ("true", 1, 6)
    assert first.difference["same text"][0] == 1 - result.best_baseline.figures["same text"]
