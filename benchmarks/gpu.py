"""On a GPU: a 1B- and a 7B-class LLaMA beside the public code's way, in training and answering; FAISS there and on the CPU.

    python benchmarks/gpu.py                                  # 2048x22 and 4096x32, 10 and 20 options, FAISS to 1M items
    python benchmarks/gpu.py --shapes 2048x16 --faiss --json  # one shape, no FAISS
    python benchmarks/gpu.py --device cpu --shapes 64x2 --quick   # checks that it runs; no requirements

Weights are random, made on the device in bfloat16 and written nowhere; shapes that are well known get the heads, widths
and words of Llama-3.2-1B (2048x16), TinyLlama-1.1B (2048x22) and Llama-2-7B (4096x32). The recipe is public-code (all is
trained: LoRA, fusion, projector, separator) over 31,000 items with a 768-d and two 64-d vectors, batch 16. Theirs is
re-created in public_code.py, on the same weights, in the same precision: it computes activations twice, ours once. Both
split a batch into as few parts as fit into memory; if single questions do not fit, that is reported.

- samples/s   questions a second over one bucket of steps (8 of 16 questions, drawn and sorted by length within the time),
              the device waited for at the end only. Theirs gets the same questions, shuffled: it does not sort.
- MFU         what a step must compute, by seconds and the device's peak. It must compute, for each of T real tokens (no
              padding), 2 N forward and 2 N for the gradient of the inputs (N weights of the blocks' linear layers, which are
              frozen), 6 for each weight of LoRA; causal attention 2 L^2 h a layer forward and 4 backward for a question of L
              tokens; head 2 V h forward and as much backward for each of two places. Fusion counts as nothing. The peak is
              that of dense bf16 products by the GPU's name, or --peak.
- data + fusion   of a step in which the device is waited for behind every part: drawing, prompts, gathering, fusion forward
              and backward, by all of it
- answering   score_options against the public code's generate() of 64 tokens, 12 questions at once
- FAISS       `Index` flat and ivf on both sides: queries a second, recall@20 against the exact one of the CPU

Bars, on a GPU and for the well-known shapes: data + fusion at most 3 % of a step; with 4096x32 a step at least 1.7 times
as fast as theirs, answering 4 times. Recall at least .99 from 100,000 items on. Exits with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import candidates
import numpy as np
import torch
from evaluate import WIDTHS, WORDS, config_of, save_tokenizer
from public_code import PublicCode
from train_step import catalogue_of, finish

from bundlecache.recipes import recipe as recipes
from bundlecache.store.store import Matrix
from bundlecache.train.inference.scoring import score_options
from bundlecache.train.model import llm as llms
from bundlecache.train.model.bundle_mllm import BundleMLLM, build
from bundlecache.train.shipped_recipes import load_recipe
from bundlecache.train.training.loop import accelerator_for
from bundlecache.train.training.question_stage import QuestionStage
from bundlecache.train.training.sampler import Drawn, QuestionSampler
from bundlecache.training_log import Stop, TrainingLog

KNOWN: dict[str, tuple[str, dict[str, int]]] = {
    "2048x16": (
        "Llama-3.2-1B",
        {"vocab_size": 128_256, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8},
    ),
    "2048x22": ("TinyLlama-1.1B", {"intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4}),
    "4096x32": ("Llama-2-7B", {"intermediate_size": 11_008, "num_attention_heads": 32}),
}
PEAKS = {  # TFLOP/s of dense bf16 products, by a part of the GPU's name; the first that fits
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 6000 Ada": 364,
    "RTX A6000": 155,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "A10": 125,
}
SHARE, FASTER, ANSWERS, RECALL = 0.03, {"4096x32": 1.7}, {"4096x32": 4.0}, 0.99
TOGETHER = 12  # questions that are answered at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1 or cpu")
    parser.add_argument("--shapes", nargs="*", help="width x layers of the LLMs")
    parser.add_argument("--options", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--items", type=int)
    parser.add_argument("--steps", type=int, default=8, help="timed steps, which are one bucket")
    parser.add_argument("--faiss", type=int, nargs="*", help="sizes; none leaves FAISS out")
    parser.add_argument("--peak", type=float, help="TFLOP/s that the device could do")
    parser.add_argument("--quick", action="store_true", help="few steps and questions, small FAISS")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="a file that gets the JSON after every row, so that nothing is lost")
    options = parser.parse_args()
    device = llms.device_of(options.device)
    on_gpu = device.type == "cuda"
    if on_gpu and device.index is not None:
        torch.cuda.set_device(device)  # memory is that of the current one
    # Without a GPU this only shows that it runs.
    shapes = options.shapes if options.shapes is not None else (["2048x22", "4096x32"] if on_gpu else ["64x2"])
    sizes = options.faiss if options.faiss is not None else ([100_000, 1_000_000] if on_gpu else [1000])
    if options.quick:
        options.steps, sizes = 2, [size for size in sizes if size <= 100_000]
    options.items = options.items or (31_000 if on_gpu else 300)
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    peak = options.peak or next((tera for part, tera in PEAKS.items() if part in name), None)
    about: dict[str, Any] = {"device": name, "peak_tflops": peak, "torch": torch.__version__, "rows": [], "faiss": []}
    to = sys.stderr if options.json else sys.stdout
    print(f"{name}, peak {peak or '(unknown: --peak)'} TFLOP/s, torch {torch.__version__}", file=to)
    for shape in shapes:
        for row in of_shape(shape, device, peak, options):
            about["rows"].append(row)
            print(words(row), file=to, flush=True)
            keep(options.out, about)
    if sizes:
        for row in of_faiss(sizes, options.device):
            about["faiss"].append(row)
            print(words_of_faiss(row), file=to, flush=True)
            keep(options.out, about)
    if options.json:
        print(json.dumps(about, indent=1, allow_nan=False))
    sys.exit(0 if all(row["met"] for row in [*about["rows"], *about["faiss"]]) else 1)


def keep(out: Path | None, about: dict[str, Any]) -> None:
    if out is not None:
        out.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", "utf-8")


def of_shape(
    shape: str, device: torch.device, peak: float | None, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One row for each number of options."""
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(WORDS, rng.integers(16, 27))) for _ in range(options.items)]
    vectors = {name: rng.standard_normal((len(titles), d), np.float32).astype(np.float16) for name, d in WIDTHS.items()}
    model = model_of(shape, titles, vectors, device, max(options.options))
    public = PublicCode(model, titles, [torch.from_numpy(rows).float() for rows in vectors.values()])
    for n in options.options:
        how = recipe_of(shape, n, options.batch, options.steps)
        row = {"llm": shape, "like": KNOWN.get(shape, ("", {}))[0], "options": n, "batch": options.batch}
        row |= {"items": len(titles), "parameters": model.base.parameters}
        row |= trained(model, public, titles, how, peak) | answered(model, public, n, few=options.quick)
        share = SHARE if shape in KNOWN and device.type == "cuda" else None
        bars = {"share_bar": share, "faster_bar": None, "answers_bar": None}
        if device.type == "cuda":
            bars |= {"faster_bar": FASTER.get(shape), "answers_bar": ANSWERS.get(shape)}
        yield row | bars | {"met": met(row, bars)}
    del model, public
    clean()


def met(row: dict[str, Any], bars: dict[str, float | None]) -> bool:
    """Whether no bar is missed; where theirs does not fit into memory there is nothing to be faster than."""
    share, faster, answers = bars["share_bar"], bars["faster_bar"], bars["answers_bar"]
    good = row["ours_s"] is not None and row["ours_answer_s"] is not None
    good = good and (share is None or row["data_and_fusion"] <= share)
    good = good and (faster is None or row["faster"] is None or row["faster"] >= faster)
    return bool(good and (answers is None or row["answers_faster"] is None or row["answers_faster"] >= answers))


def recipe_of(shape: str, n: int, batch: int, steps: int) -> recipes.Recipe:
    given = [f"base.model={shape}", "base.dtype=auto", "base.gradient_checkpointing=false"]
    return load_recipe(
        "public-code", [*given, f"data.options={n}", f"data.batch={batch}", f"data.bucket={max(steps, 1)}"]
    )


def model_of(
    shape: str, titles: list[str], vectors: dict[str, np.ndarray], device: torch.device, most: int
) -> BundleMLLM:
    """Random weights, made on the device, and an adapter that does something."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hidden, layers = map(int, shape.split("x"))
    torch.manual_seed(0)
    with torch.device(device):
        config = config_of(hidden, layers, **KNOWN.get(shape, ("", {}))[1])
        llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    llm.requires_grad_(False)
    llm.config.use_cache = False
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    ready = llms.LoadedLlm(llm.eval(), tokenizer, shape, "random", "random", llm.num_parameters())
    here = np.ones(len(titles), bool)
    matrices = {
        name: Matrix(name.partition(":")[0], "noise", name, name, 1, rows, here) for name, rows in vectors.items()
    }
    with loaded(ready):
        model = build(titles, matrices, recipe_of(shape, most, 2, 1), device)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.mode = "mm"
    return model


@contextmanager
def loaded(base: llms.LoadedLlm) -> Iterator[None]:
    """``build`` takes this language model instead of reading one from disk."""
    load, llms.load = llms.load, lambda *_: base
    try:
        yield
    finally:
        llms.load = load


def trained(
    model: BundleMLLM, public: PublicCode, titles: list[str], recipe: recipes.Recipe, peak: float | None
) -> dict[str, Any]:
    """A training step of both, and what it consists of."""
    steps, n = recipe.data.bucket, recipe.data.options
    model.recipe = recipe
    drawn = QuestionSampler(
        catalogue_of(titles), recipe.data, lambda *asked: model.prompts.lengths(*asked[:2], "mm"), 0
    )
    batches = [drawn.batch(step) for step in range(steps, 2 * steps)]
    row: dict[str, Any] = {"steps": steps, "loss_apart": losses_apart(model, public, batches[0], n)}
    ours = fitting(lambda pieces: our_steps(model, drawn, recipe, pieces), recipe.data.batch)
    parts = None
    if ours is not None:
        parts = fitting(lambda pieces: parts_of_step(model, drawn, recipe, max(pieces, ours[0])), recipe.data.batch)
    theirs = fitting(lambda pieces: their_steps(model, public, shuffled(batches), pieces), recipe.data.batch)
    row |= {"tokens": sum(float(real_lengths(model, batch).sum()) for batch in batches) / steps}
    row |= side("ours", ours) | side("theirs", theirs)
    row["faster"] = theirs[1]["s"] / ours[1]["s"] if ours and theirs else None
    flops = sum(flops_of(model, batch) for batch in batches) / steps
    row["tflop"] = flops / 1e12
    for who, made in (("ours", ours), ("theirs", theirs)):
        row[f"{who}_samples_s"] = recipe.data.batch / made[1]["s"] if made else None
        row[f"{who}_mfu"] = flops / made[1]["s"] / (peak * 1e12) if made and peak else None
    whole = sum(parts[1].values()) if parts else 0.0
    row["parts"] = {name: seconds / whole for name, seconds in parts[1].items()} if parts else None
    row["data_and_fusion"] = 1 - row["parts"]["llm"] - row["parts"]["optimiser"] if parts else None
    return row


def side(who: str, made: tuple[int, dict[str, Any]] | None) -> dict[str, Any]:
    """What one side took; nothing but nulls where it ran out of memory."""
    if made is None:
        return {f"{who}_s": None, f"{who}_gib": None, f"{who}_pieces": None, f"{who}_out_of_memory": True}
    return {f"{who}_s": made[1]["s"], f"{who}_gib": made[1]["gib"], f"{who}_pieces": made[0]}


def fitting(work: Callable[[int], Any], most: int) -> tuple[int, Any] | None:
    """What ``work`` gives with the fewest pieces (1, 2, 4 ... ``most``) of a batch that fit into memory, or None."""
    pieces = 1
    while pieces <= most:
        with_room = False
        try:
            made = work(pieces)
            with_room = True
        except torch.cuda.OutOfMemoryError:
            pass
        clean()
        if with_room:
            return pieces, made
        pieces *= 2
    return None


def clean() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def timed(work: Callable[[], Any]) -> float:
    """Seconds of ``work``, until the device is done with it."""
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


@contextmanager
def training(model: BundleMLLM, *, recomputes: bool) -> Iterator[tuple[list[torch.nn.Parameter], Any]]:
    """Parameters of the joint stage and their optimiser; afterwards there are no gradients."""
    core = model.llm.get_base_model()
    parameters = model.train_only("joint")
    if recomputes:
        llms.recompute(core)
    model.train()
    try:
        yield parameters, torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    finally:
        if recomputes:
            llms.recompute(core, on=False)
        model.eval()
        for parameter in parameters:
            parameter.grad = None


def our_steps(model: BundleMLLM, drawn: QuestionSampler, recipe: recipes.Recipe, pieces: int) -> dict[str, Any]:
    """Seconds a step and peak memory of `QuestionStage.step` over the second bucket; the first one is the warm-up."""
    steps = recipe.data.bucket
    model.recipe = replace(recipe, data=replace(recipe.data, accumulate=pieces))
    with (
        training(model, recomputes=False) as (parameters, optimizer),
        tempfile.TemporaryDirectory() as folder,
        Stop() as stop,
        TrainingLog(Path(folder), enabled=False) as history,
    ):
        accelerator = accelerator_for(model.recipe, model.device)
        loop = QuestionStage("joint", model, drawn, None, accelerator, history, stop, None)  # type: ignore[arg-type]
        for step in range(min(2, steps)):
            loop.step(model, optimizer, parameters, step)

        def bucket() -> None:
            for step in range(steps, 2 * steps):
                loop.step(model, optimizer, parameters, step)

        return {"s": timed(bucket) / steps, "gib": peak_gib()}


def their_steps(model: BundleMLLM, public: PublicCode, batches: list[Drawn], pieces: int) -> dict[str, Any]:
    """The same of the public code's way."""

    def step(drawn: Drawn) -> None:
        for rows in np.array_split(np.arange(len(drawn)), pieces):
            part = drawn.take(rows)
            loss = public.loss(part.partial, part.options, part.truth) * (len(rows) / len(drawn))
            loss.backward()
        finish(parameters, optimizer)

    with training(model, recomputes=True) as (parameters, optimizer):
        step(batches[0])
        seconds = timed(lambda: [step(drawn) for drawn in batches]) / len(batches)
        return {"s": seconds, "gib": peak_gib()}


def parts_of_step(model: BundleMLLM, drawn: QuestionSampler, recipe: recipes.Recipe, pieces: int) -> dict[str, float]:
    """Seconds of the parts of the steps of one bucket, the device waited for behind each: between fusion and the LLM the
    graph is cut at the embeddings, so that their backward passes are apart."""
    spent = dict.fromkeys(("data", "fusion", "llm", "fusion backward", "optimiser"), 0.0)
    cut: list[tuple[torch.Tensor, torch.Tensor]] = []
    steps, embed, tokens_of = recipe.data.bucket, model.embed, model.item_tokens

    @contextmanager
    def spending(part: str, instead_of: str | None = None) -> Iterator[None]:
        wait()
        began = time.perf_counter()
        yield
        wait()
        spent[part] += time.perf_counter() - began
        if instead_of:
            spent[instead_of] -= time.perf_counter() - began

    def fused(*given: Any) -> Any:
        with spending("fusion", instead_of="llm"):
            return tokens_of(*given)

    def embedded(*given: Any) -> Any:
        with spending("fusion", instead_of="llm"):
            made = embed(*given)
            cut.append((made, made.detach().requires_grad_()))
            return cut[-1][1]

    with training(model, recomputes=False) as (parameters, optimizer):
        model.item_tokens, model.embed = fused, embedded  # type: ignore[method-assign]
        try:
            for step in (0, *range(steps, 2 * steps)):
                if step == steps:  # the first was the warm-up
                    spent.update(dict.fromkeys(spent, 0.0))
                    drawn._drawn = (-1, [])
                with spending("data"):
                    questions = drawn.batch(step)
                for rows in np.array_split(np.arange(len(questions)), pieces):
                    with spending("data"):
                        part = questions.take(rows)
                        batch = model.prompts.build(part.partial, list(part.options), "mm")
                    with spending("llm"):
                        model(batch, part.truth, part.options.shape[1], "mm").backward()
                    with spending("fusion backward"):
                        made, leaf = cut.pop()
                        made.backward(leaf.grad)
                    del made, leaf
                with spending("optimiser"):
                    finish(parameters, optimizer)
        finally:
            del model.item_tokens, model.embed
    return spent


def shuffled(batches: list[Drawn]) -> list[Drawn]:
    """The same questions, not sorted by length."""
    partial, history = ([x for drawn in batches for x in getattr(drawn, name)] for name in ("partial", "history"))
    options, truth, bundle = (
        np.concatenate([getattr(d, name) for d in batches]) for name in ("options", "truth", "bundle")
    )
    whole = Drawn(partial, options, truth, history, bundle)
    order = np.random.default_rng(0).permutation(len(whole))
    return [whole.take(rows) for rows in np.array_split(order, len(batches))]


@torch.no_grad()
def losses_apart(model: BundleMLLM, public: PublicCode, drawn: Drawn, n: int) -> float:
    """How far ours and theirs differ on two questions, without dropout: by what bfloat16 rounds."""
    few = drawn.take(np.arange(min(2, len(drawn))))
    model.eval()
    ours = model(model.prompts.build(few.partial, list(few.options), "mm"), few.truth, n, "mm")
    return abs(float(ours) - float(public.loss(few.partial, few.options, few.truth)))


def real_lengths(model: BundleMLLM, drawn: Drawn) -> np.ndarray:
    """float64 [b]: tokens of each prompt and its letter, without padding."""
    return model.prompts.lengths(drawn.partial, list(drawn.options), "mm") + 1.0


def flops_of(model: BundleMLLM, drawn: Drawn) -> float:
    """What a step over these questions must compute; see the top."""
    config = model.llm.get_base_model().config
    length = real_lengths(model, drawn)
    named = [(name, p.numel()) for name, p in model.llm.named_parameters() if ".layers." in name and p.dim() == 2]
    lora = sum(count for name, count in named if "lora_" in name)
    frozen = sum(count for _, count in named) - lora
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    attention = 6 * width * config.num_hidden_layers * float((length**2).sum())
    head = 4 * config.vocab_size * config.hidden_size * 2 * len(length)
    return float((4 * frozen + 6 * lora) * length.sum() + attention + head)


def answered(model: BundleMLLM, public: PublicCode, n: int, *, few: bool) -> dict[str, Any]:
    """Seconds a question of ours and of the public code's generate(), 12 questions at once."""
    rng = np.random.default_rng(1)
    count, items = TOGETHER if few else 4 * TOGETHER, len(public.titles)
    given = [rng.choice(items, rng.integers(1, 4), replace=False) for _ in range(count)]
    options = np.stack([rng.choice(items, n, replace=False) for _ in range(count)]).astype(np.int32)
    parts = [slice(k, k + TOGETHER) for k in range(0, count, TOGETHER)]
    model.eval()

    def ours(_: int) -> dict[str, Any]:
        def answer() -> None:
            score_options(model, given, options, batch_size=TOGETHER, at_once=n)

        answer()
        return {"s": min(timed(answer) for _ in range(3)) / count, "gib": peak_gib()}

    def theirs(pieces: int) -> dict[str, Any]:
        said: list[torch.Tensor] = []

        def answer() -> None:
            said.clear()
            for part in parts:
                some = np.array_split(np.arange(count)[part], pieces)
                said.extend(public.generate([given[r] for r in rows], options[rows])[:, 0] for rows in some)

        public.generate(given[:2], options[:2], 2)
        return {"s": timed(answer) / count, "gib": peak_gib(), "first": torch.cat(said).tolist()}

    mine, other = fitting(ours, 1), fitting(theirs, TOGETHER)
    row = {"questions": count, "ours_answer_s": mine[1]["s"] if mine else None}
    row |= {"theirs_answer_s": other[1]["s"] if other else None, "theirs_answer_pieces": other[0] if other else None}
    row |= {
        "ours_answer_gib": mine[1]["gib"] if mine else None,
        "theirs_answer_gib": other[1]["gib"] if other else None,
    }
    row["answers_faster"] = other[1]["s"] / mine[1]["s"] if mine and other else None
    if other:
        with torch.inference_mode():
            first: list[int] = []
            for part in parts:
                batch = model.prompts.build(given[part], list(options[part]), "mm")
                first += model.logits(batch, model.item_tokens(batch.items)).argmax(1).tolist()
        row["same_first_token"] = float(np.mean(np.array(first) == np.array(other[1]["first"])))
    return row


def words(row: dict[str, Any]) -> str:
    """A row for people."""

    def number(key: str, form: str, times: float = 1.0) -> str:
        return "-" if row.get(key) is None else f"{row[key] * times:{form}}"

    def who(name: str) -> str:
        if row[f"{name}_s"] is None:
            return f"{name}: out of memory"
        return (
            f"{name} {row[f'{name}_s']:.3f} s, {row[f'{name}_samples_s']:.1f} samples/s, MFU {number(f'{name}_mfu', '.1f', 100)} %, "
            f"{number(f'{name}_gib', '.1f')} GiB, in {row[f'{name}_pieces']} pieces"
        )

    parts = ", ".join(f"{name} {part:.2%}" for name, part in (row["parts"] or {}).items())
    return (
        f"{row['llm']} {row['like']}, {row['options']} options, batch {row['batch']}, {row['tokens']:,.0f} tokens a step, "
        f"{row['tflop']:.2f} TFLOP  {'met' if row['met'] else 'MISSED'}\n"
        f"    {who('ours')}\n    {who('theirs')}\n"
        f"    {number('faster', '.2f')} x as fast (bar {row['faster_bar'] or '-'}); data + fusion "
        f"{number('data_and_fusion', '.2f', 100)} % (bar {100 * row['share_bar'] if row['share_bar'] else '-'}): {parts}\n"
        f"    answering: ours {number('ours_answer_s', '.2f', 1e3)} ms, theirs {number('theirs_answer_s', '.2f', 1e3)} ms a question, "
        f"{number('answers_faster', '.2f')} x (bar {row['answers_bar'] or '-'}); first token the same "
        f"{number('same_first_token', '.0f', 100)} %, losses {row['loss_apart']:.1e} apart"
    )


def of_faiss(sizes: list[int], device: str) -> Iterator[dict[str, Any]]:
    """Flat and ivf at each size, on the CPU with all its cores and on the GPU."""
    from bundlecache.candidates import ann

    faiss = ann.faiss_module()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    faiss.omp_set_num_threads(cores)
    places = ["cpu"]
    if device != "cpu" and ann.gpu_of(device) is not None:
        places.append(device)
    elif device != "cpu":
        print("FAISS has no GPU here: pip install -c constraints.txt -e '.[gpu]'", file=sys.stderr)
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            candidates.make(Path(name), size)
            truth: list[np.ndarray] = []
            for place in places:
                for kind in ("flat", "ivf"):
                    yield searched(Path(name), kind, place, truth) | {"items": size, "cores": cores}


def searched(folder: Path, kind: str, place: str, truth: list[np.ndarray]) -> dict[str, Any]:
    """One index; the first one's answers become ``truth``."""
    from bundlecache.candidates.index import Index

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    matrix = Matrix("text", "made", "made", "0", 1, vectors, np.ones(len(vectors), bool))
    given = [row[:2].astype(np.int32) for row in np.load(folder / "members.npy")]
    tuning = [row[:2].astype(np.int32) for row in np.load(folder / "tuning.npy")]
    began = time.perf_counter()
    index = Index.build([matrix], kind=kind, held_out=tuning, device=place)
    build_s = time.perf_counter() - began
    query, found, seconds = index.query(given), np.zeros((0, candidates.K), np.int32), []
    for _ in range(3):
        began = time.perf_counter()
        found = index.search(query, candidates.K, given)[0]
        seconds.append(time.perf_counter() - began)
    if not truth:
        truth.append(found)
    hits = [len(np.intersect1d(mine, best)) / candidates.K for mine, best in zip(found, truth[0], strict=True)]
    about = {"kind": kind, "place": index.report["device"], "effort": index.effort, "build_s": build_s}
    about |= {"qps": len(given) / min(seconds), "recall@20": float(np.mean(hits)), "queries": len(given)}
    bar = RECALL if len(vectors) >= 100_000 else None
    return about | {"remark": index.report["remark"], "bar": bar, "met": bar is None or about["recall@20"] >= bar}


def words_of_faiss(row: dict[str, Any]) -> str:
    return (
        f"FAISS {row['kind']:4} on the {row['place']} ({row['cores']} cores here), {row['items']:9,} items: "
        f"{row['qps']:9,.0f} queries/s, recall@20 {row['recall@20']:.4f}, built in {row['build_s']:.1f} s  "
        f"{'met' if row['met'] else 'MISSED'}{'  ' + row['remark'] if row['remark'] else ''}"
    )


if __name__ == "__main__":
    main()
