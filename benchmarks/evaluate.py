"""Answering questions: one forward each against the public code's generate() loop, in one run.

    python benchmarks/evaluate.py --quick
    python benchmarks/evaluate.py --json
    python benchmarks/evaluate.py --items 250000 --batch 2      # memory: about 1 GiB a question on their side

Both sides have the same weights (a random Llama of width 256 with 4 layers and 32,000 words, LoRA, fusion of a 768-d
and two 64-d vectors), the same recipe (public-code) and the same 12 questions of 10 options a batch. Theirs is
re-created in public_code.py: fusion of the whole catalogue for every question, every text tokenised anew, padding on
the left, 64 tokens decoded greedily. Ours is `train.inference.scoring.score_options`: items' tokens, prompts from cached token ids, and
one forward with the head at the answer only. The first token must be the same.

A second row compares answer forms on the same base: a question of 100 options answered by ``pointer``, every option scored
at its own end behind one prefix, against the one forward of 10 options in letters. Options are their fused tokens alone
(``answer.option_titles=false``), or also the first 8 tokens of their titles, which the bar is about; with their titles of 16
to 26 words, 100 of them are six times the tokens of a question in letters, and cost as much more.

Figures are the least CPU seconds of one thread over interleaved repeats. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from public_code import CLOSING, MIDDLE, OPENING, PublicCode

from bundlecache.store.store import Matrix
from bundlecache.train.inference.scoring import score_options
from bundlecache.train.model.bundle_mllm import BundleMLLM, build
from bundlecache.train.shipped_recipes import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

BARS = {31_000: 12.0}  # by items: how many times faster
POINTER_BAR, POINTER_OPTIONS, LETTER_OPTIONS = 3.0, 100, 10
"""Pointer's answer about so many options costs at most so many times that of letters about so many."""
WIDTHS = {"image": 768, "graph:bundle-item": 64, "graph:user-item": 64}
WORDS = ["".join(letters) for letters in product("bdfklmn", "aeiou", "rst", "aeo")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[3_000, 31_000])
    parser.add_argument("--options", type=int, default=10)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 repeat of theirs, 3 of ours")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_llm(Path(folder), options.hidden, options.layers)
        rows = [
            measure(Path(folder), items, options.options, options.batch, 1 if options.quick else options.repeats)
            for items in options.items
        ]
        pointer = measure_pointer(Path(folder), options.batch, 3 if options.quick else 5)
    if options.json:
        print(json.dumps({"results": rows, "pointer": pointer}, indent=1))
    else:
        for row in rows:
            print(
                f"{row['items']:7,} items, {row['options']} options, {row['tokens']:.0f} tokens: "
                f"theirs {row['theirs_s']:7.3f} s a question  ours {row['ours_s']:6.3f} s  {row['ratio']:6.1f} x  "
                f"bar {row['bar'] or '-'}  {'met' if row['met'] else 'MISSED'}  "
                f"first token {'the same' if row['same_first_token'] else 'DIFFERS'}"
            )
        for row in pointer:
            print(
                f"pointer, {POINTER_OPTIONS} options, {row['options_are']}: {row['pointer_s']:.4f} s a question  "
                f"letters, {LETTER_OPTIONS} options: {row['letters_s']:.4f} s  {row['ratio']:.2f} x, "
                f"{row['tokens_ratio']:.2f} x the tokens  bar {row['bar'] or '-'}  "
                f"{'met' if row['met'] else 'MISSED'}"
            )
    met = all(row["met"] for row in [*pointer, *rows])
    sys.exit(0 if met and all(row["same_first_token"] for row in rows) else 1)


def measure(folder: Path, items: int, n: int, batch: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(WORDS, rng.integers(16, 27))) for _ in range(items)]
    vectors = {name: rng.normal(size=(items, d)).astype(np.float16) for name, d in WIDTHS.items()}
    model = model_of(folder, titles, vectors)
    public = PublicCode(model, titles, [torch.from_numpy(v).float() for v in vectors.values()]).eval()
    given = [rng.choice(items, rng.integers(1, 4), replace=False) for _ in range(batch)]
    options = np.stack([rng.choice(items, n, replace=False) for _ in range(batch)]).astype(np.int32)
    theirs, ours = [], []
    for _ in range(repeats):
        seconds, generated = timed(lambda: public.generate(given, options))
        theirs.append(seconds)
        ours += [timed(lambda: score_options(model, given, options, batch_size=batch, at_once=n))[0] for _ in range(3)]
    prompts = model.prompts.build(given, list(options), "mm")
    with torch.inference_mode():
        first = model.logits(prompts, model.item_tokens(prompts.items)).argmax(1)
    ratio, bar = min(theirs) / min(ours), BARS.get(items)
    return {
        "items": items,
        "options": n,
        "batch": batch,
        "tokens": float(prompts.last.mean() + 1),
        "new_tokens": int(generated.shape[1]),
        "theirs_s": min(theirs) / batch,
        "ours_s": min(ours) / batch,
        "ratio": ratio,
        "bar": bar,
        "met": bar is None or ratio >= bar,
        "same_first_token": first.tolist() == generated[:, 0].tolist(),
    }


def measure_pointer(folder: Path, batch: int, repeats: int) -> list[dict[str, Any]]:
    """CPU seconds a question of 100 options by pointer, with titles and without, and of 10 by letters, interleaved."""
    rng = np.random.default_rng(0)
    items = 3_000
    titles = [" ".join(rng.choice(WORDS, rng.integers(16, 27))) for _ in range(items)]
    vectors = {name: rng.normal(size=(items, d)).astype(np.float16) for name, d in WIDTHS.items()}
    given = [rng.choice(items, rng.integers(1, 4), replace=False) for _ in range(batch)]
    settings = {
        "letters": ["answer.form=letters"],
        "tokens alone": ["answer.form=pointer", "answer.option_titles=false"],
        "titles of 8 tokens": ["answer.form=pointer", "prompt.max_title_tokens=8"],
        "titles and tokens": ["answer.form=pointer"],
    }
    models = {name: model_of(folder, titles, vectors, *overrides) for name, overrides in settings.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    length: dict[str, float] = {}
    for _ in range(repeats):
        for name, model in models.items():
            n = LETTER_OPTIONS if name == "letters" else POINTER_OPTIONS
            options = np.stack([rng.choice(items, n, replace=False) for _ in range(batch)]).astype(np.int32)
            spent, _ = timed(lambda m=model, o=options: score_options(m, given, o, batch_size=batch))
            seconds[name].append(spent / batch)
            length[name] = float(model.prompts.lengths(given, list(options), "mm").mean())
    letters, rows = min(seconds.pop("letters")), []
    for name, spent in seconds.items():
        bar = None if name == "titles and tokens" else POINTER_BAR
        row = {"options_are": name, "letters_s": letters, "pointer_s": min(spent), "ratio": min(spent) / letters}
        row["tokens_ratio"] = length[name] / length["letters"]
        rows.append({**row, "bar": bar, "met": bar is None or row["ratio"] <= bar})
    return rows


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def save_llm(folder: Path, hidden: int, layers: int) -> None:
    """A random Llama with a table of 32,000 words, and a tokenizer to which every word is one token.

    A prompt then has as many tokens as real ones have in Llama-2's: 62 up to the first title, about 460 in all.
    """
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    LlamaForCausalLM(config_of(hidden, layers)).save_pretrained(folder)
    save_tokenizer(folder)


def config_of(hidden: int, layers: int, **other: int) -> Any:
    """A LLaMA of this width and depth in the proportions of Llama-2, but for what ``other`` says."""
    from transformers import LlamaConfig

    shape: dict[str, Any] = {
        "vocab_size": 32_000,
        "hidden_size": hidden,
        "intermediate_size": hidden * 43 // 16,  # as in Llama-2
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": 4096,
        "initializer_range": hidden**-0.5,
        "eos_token_id": None,  # nothing in a random model means that it is done
    }
    return LlamaConfig(**shape | other)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer to which every word of the titles is one token, and a letter with its full stop two."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = [f" {word} {letter}." for word in WORDS for letter in "ABCDEFGHIJKLMNOPQRST"]
    special = {"special_tokens": ["<unk>", "<s>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=4000, show_progress=False, **special)
    tokenizer.train_from_iterator([OPENING, MIDDLE, CLOSING, *words] * 2, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    made.save_pretrained(folder)


def model_of(folder: Path, titles: list[str], vectors: dict[str, np.ndarray], *overrides: str) -> BundleMLLM:
    """The recipe public-code on that Llama, with an adapter that does something."""
    here = np.ones(len(titles), bool)
    matrices = {
        name: Matrix(name.partition(":")[0], "noise", name, name, 1, rows, here) for name, rows in vectors.items()
    }
    recipe = load_recipe(
        "public-code", [f"base.model={folder}", "base.dtype=float32", "base.gradient_checkpointing=false", *overrides]
    )
    torch.manual_seed(0)
    model = build(titles, matrices, recipe, torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.startswith("answer."):
            torch.nn.init.normal_(parameter, std=0.05)
    model.mode = "mm"
    return model.eval()


if __name__ == "__main__":
    main()
