"""Tokenizers of every kind that language models use, trained on the demo's titles in a moment."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.train.model.llm import EMBEDDED
from bundlecache.workspace import WorkspaceFolder
from helpers import train_shop as world
from helpers.paths import TOP

LLAMA = TOP.parent / "shared" / "data" / "llama2_tokenizer" / "tokenizer.model"


DEMO_TITLES = Catalogue.read(WorkspaceFolder(TOP / "data")).titles


CORPUS = [*DEMO_TITLES, *[f"; {letter}. mug, {letter} lamp {letter}" for letter in "ABCDEFGHIJKL" for _ in range(40)]]


def save(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", **special)


def byte_fallback(corpus: list[str]) -> PreTrainedTokenizerFast:
    """As Llama-2's: BPE over the whole text with a visible space, bytes for what it does not know."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")  # for training alone
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return save(tokenizer)


def lines_melt(corpus: list[str]) -> PreTrainedTokenizerFast:
    """As Llama-3's and Qwen's: bytes, and punctuation melts with the line break behind it."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*corpus, *["lamp;\nOptions: mug;\nAnswer: bell,\n"] * 99], trainer)
    return save(tokenizer)


def words_melt(_: list[str]) -> PreTrainedTokenizerFast:
    """Tokens that reach over a space, as ``; B``: a prompt cannot be copied from pieces."""
    letters = [f"Ġ{letter}" for letter in "ABCDEFGHIJKL"]
    merges = [("Ġ", letter[1:]) for letter in letters] + [(";", letter) for letter in letters]
    words = ["<unk>", "<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return save(tokenizer)


def llama(corpus: list[str]) -> LlamaTokenizer:
    if not LLAMA.is_file():
        pytest.skip(f"tokenizer.model of Llama-2 is not at hand: copy it from the model's folder to {LLAMA}")
    return LlamaTokenizer.from_pretrained(LLAMA.parent)


MAKERS = {
    "embedded": lambda _: AutoTokenizer.from_pretrained(EMBEDDED),
    "byte fallback": byte_fallback,
    "lines melt": lines_melt,
    "Llama-2": llama,
}


def tokenizer_of(name: str, made: dict[str, object]):
    """The tokenizer of a name, which is kept in ``made``."""
    if name not in made:
        made[name] = (MAKERS | {"words melt": words_melt})[name](CORPUS)
    tokenizer = made[name]
    tokenizer.chat_template = world.CHAT
    return tokenizer
