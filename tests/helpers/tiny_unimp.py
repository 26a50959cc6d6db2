"""Tiny UniMP models over checkpoints on disk, with gates that are open, and rows of every kind to give them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bundlecache.recipes.settings import Base
from bundlecache.recipes.unimp_recipe import Loss, UnimpLora, UnimpRecipe, Vision
from bundlecache.store.store import Matrix
from bundlecache.train.model import llm as llms
from bundlecache.train.unimp.batch import Batch
from bundlecache.train.unimp.model import UniMP, build
from bundlecache.train.unimp.pictures import TokenTable
from bundlecache.train.unimp.vocabulary import AtomicIds, Vocabulary

CPU = torch.device("cpu")
ITEMS, WORDS = 9, 40
WITHOUT = 3
"""The item that has no picture."""
COMMON = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {
        **COMMON, "intermediate_size": 24, "num_key_value_heads": 1, "tie_word_embeddings": True, "eos_token_id": 1
    },
    "GPTNeoXForCausalLM": {
        **COMMON, "intermediate_size": 24, "rotary_pct": 0.5, "tie_word_embeddings": False, "eos_token_id": 1
    },
}  # fmt: skip


def save_base(folder: Path, name: str, **config: Any) -> Path:
    """A base model of class ``name`` of transformers with random weights that are not small, and a tokenizer."""
    kind = getattr(transformers, name)
    torch.manual_seed(1)
    llm = kind(kind.config_class(**{**CONFIGS.get(name, {}), **config}))
    for parameter in llm.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    llm.save_pretrained(folder)
    for file in llms.EMBEDDED.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def pictures(items: int = ITEMS) -> Matrix:
    """Five tokens of six numbers for every item but one."""
    features = np.random.default_rng(2).normal(size=(items, 5, 6)).astype(np.float16)
    mask = np.arange(items) != WITHOUT
    return Matrix("image", "test:tokens", "image--test", "f" * 64, 1, np.where(mask[:, None, None], features, 0), mask)


def vision(**given: Any) -> Vision:
    return Vision(**{"latents": 3, "depth": 2, "heads": 2, "head_width": 4, "every_n": 2, **given})


def model_of(folder: Path, lora: int = 0, gamma: float = 2.0, matrix: Matrix | None = None, **given: Any) -> UniMP:
    """A model over the base in ``folder`` whose every part does something; ``given`` are keys of the recipe's vision."""
    targets = ("q_proj", "v_proj")
    recipe = UnimpRecipe(
        vision=vision(**given), loss=Loss(gamma=gamma), lora=UnimpLora(rank=lora, targets=targets, dropout=0.0)
    )
    base = llms.load(Base(model=str(folder), dtype="float32"), CPU)
    rows = base.model.get_input_embeddings().weight.shape[0]
    torch.manual_seed(3)
    made = build(base, Vocabulary(rows, AtomicIds(ITEMS)), TokenTable(matrix or pictures(), CPU), recipe)
    for name, parameter in made.named_parameters():
        if "gate" in name and name.startswith("blocks."):
            torch.nn.init.constant_(parameter, 0.7)
        elif (name.startswith("sight.") and "norm" in name) or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def row(words: Vocabulary, items: list[int], target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels and images of a history with ratings and the next item; labels are ids, ratings, answer and end."""
    parts: list[tuple[int, bool]] = [(0, False), (7, False)]
    for item in items:
        parts += [(words.image, False), (4 + item, False), (20 + item, False), (words.answer, False)]
        parts += [(token, True) for token in (*words.of_item(item), words.rates[item % 5])]
        parts += [(words.end_of_chunk, False)]
    parts += [(12, False), (13, False), (words.answer, False)]
    parts += [(token, True) for token in (*words.of_item(target), 1)]
    ids, labels = zip(*parts, strict=True)
    return np.array(ids), np.array(labels), np.array(items, np.int64)


HISTORIES = [([1, 2, 5], 4), ([WITHOUT, 5], 0), ([], 8)]
WEIGHTS = (2.0, 1.0, 0.5)


def batch_of(words: Vocabulary, histories: list[tuple[list[int], int]] = HISTORIES) -> Batch:
    return Batch.of(*zip(*[row(words, *one) for one in histories], strict=True), WEIGHTS[: len(histories)])


def prompts_of(batch: Batch) -> Batch:
    """The rows of a batch without their answers: all but the item and the end."""
    long = batch.there.sum(1)
    keep = torch.arange(batch.ids.shape[1]) < (long - 2)[:, None]
    return Batch(batch.ids * keep, keep, torch.zeros_like(keep), batch.weight, batch.images).take(range(len(long)))
