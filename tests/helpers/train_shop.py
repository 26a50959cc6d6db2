"""A small world for the tests of ``train``: a planted catalogue, real vectors, a tiny Llama with a word tokenizer.

Even items bundle with even ones and odd with odd; only the vectors of ``image`` say which is which.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.questions.freeze import freeze
from bundlecache.questions.question_file import Questions
from bundlecache.recipes.recipe import Recipe, from_dict
from bundlecache.store.store import Matrix

ITEMS = 48
CHAT = (
    "{{ bos_token }}{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""A chat template of no model in particular."""
WORDS = ["lamp", "bell", "mug", "chime", "red", "blue"]


def catalogue(seed: int = 0) -> Catalogue:
    rng = np.random.default_rng(seed)
    members = [rng.choice(ITEMS // 2, size=int(rng.integers(3, 5)), replace=False) * 2 + b % 2 for b in range(120)]
    bundles = Bundles(
        [f"bundle-{b}" for b in range(120)],
        members,
        ["train"] * 80 + ["valid"] * 20 + ["test"] * 20,
        [f"user-{b}" for b in range(120)],
        [None] * 120,
    )
    titles = [f"{WORDS[4 + rng.integers(2)]} {WORDS[rng.integers(4)]}" for _ in range(ITEMS)]
    return Catalogue([f"item-{i:02d}" for i in range(ITEMS)], titles, {}, bundles, Interactions())


def matrix(modality: str, vectors: np.ndarray, mask: np.ndarray | None = None, fingerprint: str = "f" * 64) -> Matrix:
    mask = np.ones(len(vectors), bool) if mask is None else mask
    vectors = np.where(mask[:, None], vectors, 0).astype(np.float16)
    return Matrix(modality, f"test:{modality}", f"{modality}--test", fingerprint, 1, vectors, mask)


def matrices(seed: int = 0) -> dict[str, Matrix]:
    """``image`` tells even from odd beside noise; ``graph`` is noise, and every fifth item has none."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.3, (ITEMS, 12))
    image[:, 0] += np.where(np.arange(ITEMS) % 2, 1.5, -1.5)
    return {
        "image": matrix("image", image),
        "graph": matrix("graph", rng.normal(size=(ITEMS, 8)), np.arange(ITEMS) % 5 > 0, "a" * 64),
    }


def questions(cat: Catalogue, split: str = "valid", n: int = 4) -> Questions:
    return freeze(cat, split=split, n_options=n)


def save_base(folder: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0, more: tuple[str, ...] = ()) -> Path:
    """A random Llama and a tokenizer of whole words, as ``save_pretrained`` writes them."""
    letters = list("ABCDEFGHIJKLMNOP")
    digits = [str(k) for k in range(1, 17)]
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "<sep>",
        "a",
        *letters,
        *digits,
        *WORDS,
        "Bundle",
        "Options",
        "Answer",
        ":",
        ";",
        ",",
        "<",
        ">",
    ]
    words += ["s", "Feature", ".", "content", "token", *more]
    vocabulary = {word: k for k, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", additional_special_tokens=["<sep>"]
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=hidden**-0.5,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe(base: Path, /, **sections: dict[str, object]) -> Recipe:
    """A recipe for the tiny world; keyword arguments are sections that override it."""
    tables: dict[str, dict[str, object]] = {
        "base": {"model": str(base)},
        "prompt": {"separator_init": "<sep>"},
        "lora": {"rank": 4, "dropout": 0.0},
        "fusion": {"width": 16, "projector_width": 32, "content_input": "standardise", "output": "embedding"},
        "data": {"options": 4, "batch": 16, "bucket": 2},
        "text_stage": {"steps": 4, "evaluate_every": 2},
        "fusion_stage": {"steps": 4, "evaluate_every": 2, "lr": 1e-2},
        "joint_stage": {"steps": 4, "evaluate_every": 2, "lr": 1e-2},
        "run": {"loss": "letters"},
    }
    for name, table in sections.items():
        tables[name] = {**tables.get(name, {}), **table}
    return from_dict(tables, name="tiny")
