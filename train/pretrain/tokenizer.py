"""The tokenizer of the embedded base: a byte-level BPE whose merges spell shop words.

A tiny frozen model compares words by their token; a word in pieces is noise to it. So the
BPE is trained on a list of words (the demo catalogue's first, then words.txt), never
on text, and any other string still has a spelling in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LETTERS = "ABCDEFGHIJKLMNOPQRST"
"""Option letters; " A" to " T" are one token each."""

TEMPLATE_PIECES = ("Bundle:", "\nOptions:", "\nAnswer:", ";")
"""What the brief prompt says beside titles, items and letters."""

BOS, EOS, PAD, SEPARATOR = "<s>", "</s>", "<pad>", "<sep>"

WORDS = Path(__file__).with_name("words.txt")
"""Words of shops in general, a blank line, and frequent pieces of words."""


def build(catalogue_words: Sequence[str], vocabulary: int = 2048) -> Any:
    """Train the tokenizer: `catalogue_words`, letters and the template become single tokens.

    `vocabulary` counts tokens, special ones and the 256 bytes included.
    Returns a `transformers.PreTrainedTokenizerFast`.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD, SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_weighted_words(catalogue_words), trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[SEPARATOR],
        clean_up_tokenization_spaces=False,
    )


def _weighted_words(catalogue_words: Sequence[str]) -> Iterator[str]:
    """Yield every word as often as it should count, each with the space that goes before it."""
    for piece in (*TEMPLATE_PIECES, *(f" {letter}" for letter in LETTERS)):
        yield from [piece] * 400
    for word in catalogue_words:
        yield from [f" {word}"] * 400 + [f" {word.lower()}"] * 20
    shop, chunks = (_without_remarks(part) for part in WORDS.read_text("utf-8").split("\n\n"))
    for rank, word in enumerate(shop):
        count = 12 - 8 * rank // len(shop)
        yield from [f" {word}"] * count + [f" {word.capitalize()}"] * count
    for chunk in chunks:
        yield from [chunk, f" {chunk}"] * 3


def _without_remarks(text: str) -> list[str]:
    return [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]
