"""Measures a training step of UniMP: ours, and the public code's way re-created in unimp_public.py.

    python benchmarks/unimp_step.py --quick
    python benchmarks/unimp_step.py --json

Language model (GPT-NeoX) and vision tower (CLIP) have the proportions of Pythia-410M and ViT-L/14: all widths and the
vocabulary are a quarter, all depths a third (an eighth of the widths with --quick), 224 x 224 pixels in 256 patches, 64
latents, gated blocks before every second layer. Weights are random, and the same on both sides. A row is a history of five
items with about 60 tokens each, and the next item. Ours reads the tower's tokens from a memory-mapped file; theirs gets
the pictures as tensors, so that reading and decoding them is not counted. Labels are the items, and the end.

The public way runs the tower in the step, computes logits at every position and trains all rows of a vocabulary that
holds base and items. Loss and gradients of both must be equal. Three further figures: what a step spends on its token rows
(their gradients and AdamW) with two sizes of the base's vocabulary; and a step of the stage ``head``,
which trains output rows on kept hidden states, beside a full step.

Every side runs in a process of its own. Seconds are processor seconds of one thread, the least of several steps. Memory is
what the steps add to the process, weights included: the most it ever had resident, less what it had after its imports.

Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from train_step import difference, peak_mib, resident_mib
from unimp_public import PublicWay

from bundlecache.recipes.unimp_recipe import UnimpRecipe, Vision
from bundlecache.store.store import Matrix
from bundlecache.train.model.llm import LoadedLlm
from bundlecache.train.unimp.batch import Batch
from bundlecache.train.unimp.model import UniMP, build
from bundlecache.train.unimp.pictures import TokenTable
from bundlecache.train.unimp.vocabulary import AtomicIds, Vocabulary

FASTER, MEMORY, HEAD, FLAT = 1.8, 0.5, 20.0, 1.15
EQUAL = 1e-4  # gradients, relative to the largest of a weight; losses, relative
ROWS, HISTORY, TEXT = 4, 5, 55
PICTURES = 40  # whose tokens are stored; every row shows five of them
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """Sizes of a case."""

    width: int
    layers: int
    words: int
    items: int


SHAPES = {"quick": Shape(128, 8, 50_304 // 8, 22_738 // 8), "full": Shape(256, 8, 50_304 // 4, 22_738 // 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the widths, few steps")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape, steps = SHAPES["quick" if options.quick else "full"], 3 if options.quick else options.steps
    if options.worker:
        print(json.dumps(work(options.worker[0], Path(options.worker[1]), shape, steps)))
        return
    row = compare(options)
    if options.json:
        print(json.dumps({"load": os.getloadavg()[0], **row}, indent=1))
    else:
        show(row)
    sys.exit(0 if all(row["met"].values()) else 1)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides and the ratios of their figures."""
    command = [sys.executable, __file__, *(["--quick"] if options.quick else []), "--steps", str(options.steps)]
    made = {}
    with tempfile.TemporaryDirectory() as name:
        for who in ("prepare", "theirs", "ours"):
            done = subprocess.run([*command, "--worker", who, name], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{who} failed:\n{done.stderr[-2000:]}")
            made[who] = json.loads(done.stdout.splitlines()[-1])
        apart = difference(Path(name) / "theirs.npz", Path(name) / "ours.npz")
    theirs, ours = made["theirs"], made["ours"]
    ratios = {
        "faster": theirs["seconds"] / ours["seconds"],
        "memory": ours["mib"] / theirs["mib"],
        "rows": ours["rows_s"][1] / ours["rows_s"][0],
        "head": ours["seconds"] / ours["head_s"],
        "loss_apart": abs(theirs["loss"] - ours["loss"]) / abs(theirs["loss"]),
        "gradients_apart": apart,
    }
    met = {
        "faster": ratios["faster"] >= FASTER,
        "memory": ratios["memory"] <= MEMORY,
        "rows": ratios["rows"] <= FLAT,
        "head": ratios["head"] >= HEAD,
        "equal": max(ratios["loss_apart"], apart) <= EQUAL,
    }
    return {"theirs": theirs, "ours": ours, **ratios, "met": met}


def show(row: dict[str, Any]) -> None:
    theirs, ours, words = row["theirs"], row["ours"], row["ours"]["words"]
    met = {name: "met" if good else "MISSED" for name, good in row["met"].items()}
    print(
        f"step            theirs {theirs['seconds']:6.2f} s (tower {theirs['tower_s']:.2f} s)  ours {ours['seconds']:6.2f} s  "
        f"{row['faster']:.2f} x as fast, bar {FASTER}  {met['faster']}\n"
        f"memory          theirs {theirs['mib']:,.0f} MiB  ours {ours['mib']:,.0f} MiB  {row['memory']:.2f}, bar {MEMORY}  {met['memory']}\n"
        f"token rows      ours {ours['rows_s'][0] * 1e3:.1f} ms with a base of {words[0]:,} words, {ours['rows_s'][1] * 1e3:.1f} ms "
        f"with {words[1]:,}: {row['rows']:.2f}, bar {FLAT}  {met['rows']}; theirs {theirs['rows_s'][0] * 1e3:.1f} ms, {theirs['rows_s'][1] * 1e3:.1f} ms\n"
        f"stage head      {ours['head_s'] * 1e3:.1f} ms, a full step takes {row['head']:.0f} times as long, bar {HEAD:.0f}  {met['head']}\n"
        f"loss {row['loss_apart']:.1e} and gradients {row['gradients_apart']:.1e} apart  {met['equal']}"
    )


def work(who: str, folder: Path, shape: Shape, steps: int) -> dict[str, Any]:
    """One side: what a step takes, and loss and gradients of the first one."""
    imported = tower_of(shape)  # transformers imports its models when they are first made
    if who == "prepare":
        return prepare(folder, imported)
    before = resident_mib()
    torch.manual_seed(1)
    llm = llm_of(shape, shape.words)
    return (
        theirs(folder, llm, imported, shape, steps, before)
        if who == "theirs"
        else ours(folder, llm, shape, steps, before)
    )


def llm_of(shape: Shape, words: int) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=words, hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.width // 32,
        intermediate_size=4 * shape.width, use_parallel_residual=True,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).eval()


def tower_of(shape: Shape) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.width // 32,
        intermediate_size=4 * shape.width, patch_size=14, image_size=224,
    )  # fmt: skip
    return CLIPVisionModel(config).eval()


def prepare(folder: Path, tower: Any) -> dict[str, Any]:
    """Pictures and their tokens on disk, so that making them counts in nobody's memory."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(PICTURES, 3, 224, 224)).astype(np.float32)
    np.save(folder / "pixels.npy", pixels)
    with torch.no_grad():
        tokens = [tower(pixel_values=torch.from_numpy(some)).last_hidden_state[:, 1:] for some in np.split(pixels, 8)]
    np.save(folder / "tokens.npy", torch.cat(tokens).numpy())
    return {}


def batch_of(words: Vocabulary) -> Batch:
    """Histories of five items with pictures, as rec rows of the paper."""
    rng = np.random.default_rng(2)
    ids, labels, images = [], [], []
    for _ in range(ROWS):
        items = rng.choice(PICTURES, HISTORY + 1, replace=False)
        row: list[tuple[int, bool]] = []
        for item in items[:-1]:
            text = rng.integers(words.base_size, size=TEXT + int(rng.integers(-5, 6)))
            row += [(words.image, False), *((int(word), False) for word in text)]
            row += [
                (words.answer, False),
                *((token, True) for token in words.of_item(item)),
                (words.end_of_chunk, False),
            ]
        row += [*((int(word), False) for word in rng.integers(words.base_size, size=12)), (words.answer, False)]
        row += [*((token, True) for token in words.of_item(items[-1])), (0, True)]
        some, marked = zip(*row, strict=True)
        ids.append(np.array(some))
        labels.append(np.array(marked))
        images.append(items[:-1])
    return Batch.of(ids, labels, images, [2.0, 1.0] * (ROWS // 2))


def model_of(folder: Path, llm: Any, shape: Shape) -> UniMP:
    """Our model; its gates are open, so that every weight has a gradient."""
    tokens = np.load(folder / "tokens.npy", "r")
    matrix = Matrix("image", "noise", "noise", "noise", 1, tokens, np.ones(len(tokens), bool))
    vision = Vision(latents=64, depth=shape.layers // 4, heads=8, head_width=shape.width // 16)
    llm.requires_grad_(False)
    base = LoadedLlm(llm, None, "random", "", "", llm.num_parameters())
    torch.manual_seed(3)
    words = Vocabulary(llm.get_input_embeddings().weight.shape[0], AtomicIds(shape.items))
    model = build(base, words, TokenTable(matrix, CPU), UnimpRecipe(vision=vision))
    for block in model.blocks.values() if model.blocks is not None else ():
        torch.nn.init.constant_(block.gate, 0.5)
        torch.nn.init.constant_(block.feed_gate, 0.5)
    return model


def theirs(folder: Path, llm: Any, tower: Any, shape: Shape, steps: int, before: float) -> dict[str, Any]:
    model = model_of(folder, llm, shape)
    batch, words, vision = batch_of(model.vocabulary), model.vocabulary, model.recipe.vision
    assert model.blocks is not None
    model.blocks.remove()
    public = PublicWay(llm, tower, model.own_state(), words.image, vision.heads, model.recipe.loss.gamma)
    del model
    pixels = torch.from_numpy(np.load(folder / "pixels.npy", "r")[batch.images.numpy()])
    parameters = [p for p in public.parameters() if p.requires_grad]

    def loss() -> torch.Tensor:
        return public(batch.ids, batch.labels, batch.weight, pixels)

    first = loss()
    first.backward()
    np.savez(folder / "theirs.npz", **{name: grad.numpy() for name, grad in public.gradients(words.base_size).items()})
    seconds = timed(loss, parameters, steps)
    peak = peak_mib()
    began = time.process_time()
    with torch.no_grad():
        tower(pixel_values=pixels.flatten(0, 1))
    tower_s = time.process_time() - began
    return {
        "seconds": seconds, "loss": float(first.detach()), "mib": peak - before, "tower_s": tower_s,
        "trained": sum(p.numel() for p in parameters),
        "rows_s": rows_seconds([dense_rows(shape, times * shape.words + words.extra, batch) for times in (1, 4)]),
    }  # fmt: skip


def ours(folder: Path, llm: Any, shape: Shape, steps: int, before: float) -> dict[str, Any]:
    model = model_of(folder, llm, shape)
    batch = batch_of(model.vocabulary)
    parameters = model.train_only("multitask")
    model.train()
    first = model(batch)
    first.backward()
    np.savez(folder / "ours.npz", **{name: value.grad.numpy() for name, value in model.own_state().items()})
    seconds = timed(lambda: model(batch), parameters, steps)
    peak = peak_mib()
    head = model.train_only("head")
    labels = model.labels(batch)
    head_s = timed(lambda: model.head_loss(labels), head, 4 * steps)
    small = Shape(shape.width, 4, shape.words, shape.items)
    models = [model, model_of(folder, llm_of(small, 4 * shape.words), small)]
    models[1].train_only("head")
    return {
        "seconds": seconds, "loss": float(first.detach()), "mib": peak - before, "head_s": head_s,
        "words": [some.vocabulary.base_size for some in models],
        "tokens": batch.ids.numel(), "labels": batch.count, "trained": sum(p.numel() for p in parameters),
        "rows_s": rows_seconds([own_rows(some) for some in models]),
    }  # fmt: skip


def timed(loss: Any, parameters: list[torch.nn.Parameter], steps: int) -> float:
    """The least CPU seconds of a step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    seconds = []
    for _ in range(steps + 1):
        began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.process_time() - began)
    return min(seconds[1:])


def own_rows(model: UniMP) -> Callable[[], None]:
    """What a step of ours spends on its token rows: their gradients from inputs and from labels' logits, and AdamW."""
    batch, rows = batch_of(model.vocabulary), model.rows
    pair = [rows.input.requires_grad_(True), rows.output.requires_grad_(True)]  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(pair, lr=1e-6, fused=True)
    hidden = torch.randn(batch.count, rows.input.shape[1])
    first, second = torch.randn(*batch.ids.shape, rows.input.shape[1]), torch.randn(batch.count, len(rows.input))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        rows.embed(model.core, batch.ids).backward(first)
        rows.own_logits(model.core, hidden, rows.out).backward(second)
        optimizer.step()

    return step


def dense_rows(shape: Shape, count: int, batch: Batch) -> Callable[[], None]:
    """The same where all ``count`` rows of both tables are trained, with the logits of the labels alone."""
    table, head = (torch.nn.Parameter(torch.randn(count, shape.width) * 0.02) for _ in range(2))
    optimizer = torch.optim.AdamW([table, head], lr=1e-6, fused=True)
    hidden = torch.randn(batch.count, shape.width)
    first, second = torch.randn(*batch.ids.shape, shape.width), torch.randn(batch.count, count)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.embedding(batch.ids, table).backward(first)
        torch.nn.functional.linear(hidden, head).backward(second)
        optimizer.step()

    return step


def rows_seconds(steps: list[Callable[[], None]]) -> list[float]:
    """The least CPU seconds of each of ``steps``, which run by turns."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(20):
        for step, known in zip(steps, seconds, strict=True):
            began = time.process_time()
            step()
            known.append(time.process_time() - began)
    return [min(known[3:]) for known in seconds]


if __name__ == "__main__":
    main()
