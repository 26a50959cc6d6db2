"""Measures a training step: ours, the bare step of the same LLM on precomputed tensors, and the public code's method.

    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --json
    python benchmarks/train_step.py --cases 256x4:250000 768x12:31000
    python benchmarks/train_step.py --ours-only --cases 256x4:1000 256x4:1000000    # is a step's time flat?

All have the same weights (a random Llama with 32,000 words, LoRA without dropout, fusion of a 768-d and two 64-d
vectors), the recipe public-code and the same questions, 16 of 10 options a step. Theirs is re-created in
public_code.py: fusion of the whole catalogue for every question, every text tokenised anew, padding on the left,
logits of every position, activations computed twice. Ours is `train.training.question_stage.QuestionStage.step`: questions drawn, prompts
copied from kept ids, vectors gathered, forward, backward, optimiser, in pieces of 8 questions (of 2 with the 768x12
LLM, for the sake of memory), activations kept. Bare is forward, backward and optimiser alone, on
embeddings that lie ready. Loss and gradients of theirs and ours must be equal.

Theirs needs about 4.4 KB an item and question, so with more than 100,000 items (and with --quick where there is no bar)
it gets 2 questions, and its seconds and what the step adds to its memory are multiplied by 8. Every side runs in a process of its own; memory is the most that
process ever had resident. Seconds are CPU seconds of one thread: of theirs one step, of the others the least of
several. With --ours-only nothing but our step is measured, with its bar of flatness, so that catalogues can be as large as
one likes. The tiny base's ratio to its bare step is that of the demo's training, medians of interleaved steps.

Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, TextIO

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from evaluate import WIDTHS, WORDS, save_llm
from public_code import PublicCode
from torch.nn import functional as F  # noqa: N812

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.store.store import Matrix
from bundlecache.train.model.bundle_mllm import BundleMLLM, build
from bundlecache.train.prompts.builder import Batch
from bundlecache.train.shipped_recipes import load_recipe
from bundlecache.train.training.loop import accelerator_for
from bundlecache.train.training.question_stage import QuestionStage
from bundlecache.train.training.sampler import Drawn, QuestionSampler
from bundlecache.training_log import Stop, TrainingLog
from bundlecache.workspace import WorkspaceFolder

FASTER = {("256x4", 31_000): 10.0, ("768x12", 31_000): 2.0, ("256x4", 250_000): 80.0}  # than the public code's way
MEMORY = 0.25  # of the public code's way, from 31,000 items on
FLAT = 1.15  # seconds a token with the largest catalogue, by those with the smallest
BARE = 1.15  # of the bare step, with the tiny base
PIECES = {"768x12": 8}  # of ours; 2 otherwise
EQUAL = 1e-4  # gradients, relative to the largest of a weight; losses, absolute
BATCH, SMALL, FEW = 16, 2, 100_000
DEMO_WIDTHS = {"text": 128, "image": 132, "audio": 98, "graph": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent.parent / "data")
    cases = ["256x4:3000", "256x4:31000", "256x4:250000", "768x12:31000"]
    parser.add_argument("--cases", nargs="+", default=cases, help="LLM width x layers : items")
    parser.add_argument("--options", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="of ours and bare")
    parser.add_argument("--quick", action="store_true", help="256x4 at 3,000 and 31,000 items, few steps")
    parser.add_argument("--ours-only", action="store_true", help="our step alone, with the cases of --cases")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pieces", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, metavar=("WHO", "FOLDER", "QUESTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        who, folder, questions = options.worker
        print(json.dumps(work(who, Path(folder), int(questions), options)))
        return
    if options.ours_only:
        sys.exit(0 if ours_only(options.cases, options.options, options.steps, as_json=options.json) else 1)
    cases, steps = (cases[:2], 2) if options.quick else (options.cases, options.steps)
    rows = []
    for case in cases:
        rows.append(compare(case, options.options, steps, quick=options.quick))
        show(rows[-1], sys.stderr if options.json else sys.stdout)
    flat = flatness(rows)
    catalogue = Catalogue.read(WorkspaceFolder(options.data))
    tiny = [measure(catalogue, stage, 12 if options.quick else 60) for stage in ("text", "fusion")]
    if options.json:
        print(
            json.dumps(
                {"load": os.getloadavg()[0], "steps": rows, "flat": flat, "tiny": tiny}, indent=1, allow_nan=False
            )
        )
    else:
        show_bars(flat, tiny)
    sys.exit(0 if all(row["met"] for row in [*rows, *flat, *tiny]) else 1)


def ours_only(cases: list[str], n: int, steps: int, *, as_json: bool) -> bool:
    """Measure our step alone with each LLM and catalogue; whether its time is flat."""
    rows = []
    for case in cases:
        llm, items = parsed(case)
        with tempfile.TemporaryDirectory() as name:
            save_inputs(Path(name), llm, items)
            ours = started("ours", Path(name), BATCH, n, steps, PIECES.get(llm, 2))
        rows.append({"llm": llm, "items": items, "tokens": ours["tokens"]})
        rows[-1] |= {"ours_s": ours["seconds"], "ours_mib": ours["peak_mib"]}
        print(
            f"{llm:7} {items:9,} items  ours {ours['seconds']:6.2f} s {ours['peak_mib']:6,.0f} MiB  "
            f"{ours['tokens']:,.0f} tokens",
            file=sys.stderr if as_json else sys.stdout,
            flush=True,
        )
    flat = flatness(rows)
    if as_json:
        print(json.dumps({"load": os.getloadavg()[0], "steps": rows, "flat": flat}, indent=1, allow_nan=False))
    else:
        show_bars(flat, [])
    return all(row["met"] for row in flat)


def parsed(case: str) -> tuple[str, int]:
    """LLM and number of items of ``256x4:31000``."""
    llm, _, items = case.partition(":")
    return llm, int(items)


def save_inputs(folder: Path, llm: str, items: int) -> None:
    """The LLM and the catalogue that all sides read."""
    hidden, layers = map(int, llm.split("x"))
    save_llm(folder / "llm", hidden, layers)
    save_catalogue(folder, items)


def _or_dash(value: float | None, form: str) -> str:
    """A figure, or a dash where it was not measured."""
    return "-" if value is None else f"{value:{form}}"


def show(row: dict[str, Any], to: TextIO) -> None:
    print(
        f"{row['llm']:7} {row['items']:8,} items  theirs {row['theirs_s']:7.1f} s {row['theirs_mib']:7,.0f} MiB  "
        f"ours {row['ours_s']:6.2f} s {row['ours_mib']:6,.0f} MiB  bare {_or_dash(row['bare_s'], '6.2f')} s\n"
        f"        {row['faster']:6.1f} x as fast (bar {row['faster_bar'] or '-'})  {row['memory']:5.3f} of the "
        f"memory (bar {row['memory_bar'] or '-'})  {_or_dash(row['over_bare'], '5.3f')} of bare  loss {row['loss_apart']:.1e} and "
        f"gradients {row['gradients_apart']:.1e} apart  {met(row)}",
        file=to,
        flush=True,
    )
    if "recomputing_s" in row:
        print(
            f"        ours with gradient checkpointing: {row['recomputing_s']:.2f} s "
            f"({row['recomputing_s'] / row['ours_s']:.2f} x), {row['recomputing_mib']:,.0f} MiB",
            file=to,
            flush=True,
        )


def show_bars(flat: list[dict[str, Any]], tiny: list[dict[str, Any]]) -> None:
    for row in flat:
        print(f"{row['llm']:7} {row['of']}: {row['ratio']:.3f} x the seconds a token, bar {FLAT}  {met(row)}")
    for row in tiny:
        print(
            f"tiny base, stage {row['stage']:7} ours {row['ours_s'] * 1e3:6.1f} ms  bare {row['bare_s'] * 1e3:6.1f} ms  "
            f"ratio {row['ratio']:5.3f}  bar {BARE}  {met(row)}"
        )


def met(row: dict[str, Any]) -> str:
    return "met" if row["met"] else "MISSED"


def compare(case: str, n: int, steps: int, *, quick: bool) -> dict[str, Any]:
    """All sides of one LLM and catalogue; in the quick form no more than the bars need."""
    llm, items = parsed(case)
    barred = (llm, items) in FASTER and n == 10
    questions = SMALL if items > FEW or (quick and not barred) else BATCH
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_inputs(folder, llm, items)
        theirs = started("theirs", folder, questions, n, 1, 1)
        how = (folder, questions, n, steps, PIECES.get(llm, 2))
        ours = started("ours", *how)
        bare = started("bare", *how) if barred or not quick else None
        again = None if quick else started("recomputing", *how)
        apart = difference(folder / "theirs.npz", folder / "ours.npz")
    times = BATCH / questions
    theirs_mib = theirs["before_mib"] + times * (theirs["peak_mib"] - theirs["before_mib"])
    row = {
        "llm": llm,
        "items": items,
        "options": n,
        "theirs_questions": questions,
        "pieces": PIECES.get(llm, 2),
        "tokens": ours["tokens"],
        "theirs_s": theirs["seconds"] * times,
        "ours_s": ours["seconds"],
        "bare_s": bare and bare["seconds"],
        "theirs_mib": theirs_mib,
        "ours_mib": ours["peak_mib"],
        "faster": theirs["seconds"] * times / ours["seconds"],
        "faster_bar": FASTER[llm, items] if barred else None,
        "memory": ours["peak_mib"] / theirs_mib,
        "memory_bar": MEMORY if items >= 31_000 else None,
        "over_bare": bare and ours["seconds"] / bare["seconds"],
        "loss_apart": abs(theirs["loss"] - ours["loss"]),
        "gradients_apart": apart,
    }
    if again:
        row |= {"recomputing_s": again["seconds"], "recomputing_mib": again["peak_mib"]}
    good = row["loss_apart"] <= EQUAL and apart <= EQUAL
    good &= row["faster_bar"] is None or row["faster"] >= row["faster_bar"]
    return {**row, "met": bool(good and (row["memory_bar"] is None or row["memory"] <= row["memory_bar"]))}


def flatness(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours with the largest and the smallest catalogue of each LLM, in seconds a token."""
    made = []
    for llm in dict.fromkeys(row["llm"] for row in rows):
        some = sorted((row for row in rows if row["llm"] == llm), key=lambda row: row["items"])
        if len(some) > 1:
            low, high = some[0], some[-1]
            ratio = high["ours_s"] / high["tokens"] / (low["ours_s"] / low["tokens"])
            of = f"{high['items']:,} items beside {low['items']:,}"
            made.append({"llm": llm, "of": of, "ratio": ratio, "bar": FLAT, "met": ratio <= FLAT})
    return made


def difference(one: Path, other: Path) -> float:
    """The largest difference of two sets of gradients, relative to the largest gradient of each weight."""
    a, b = np.load(one), np.load(other)
    return max(float(np.abs(a[k] - b[k]).max() / max(np.abs(a[k]).max(), 1e-8)) for k in a.files)


def started(who: str, folder: Path, questions: int, n: int, steps: int, pieces: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", who, str(folder), str(questions)]
    command += ["--options", str(n), "--steps", str(steps), "--pieces", str(pieces)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-2000:]}")
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def save_catalogue(folder: Path, items: int) -> None:
    """Titles and vectors on disk, so that making them counts in nobody's memory."""
    rng = np.random.default_rng(0)
    lengths, words = rng.integers(16, 27, items), rng.integers(len(WORDS), size=27 * items).reshape(items, 27)
    lines = [" ".join(WORDS[w] for w in row[:k]) for row, k in zip(words, lengths, strict=True)]
    (folder / "titles.txt").write_text("\n".join(lines), "utf-8")
    for name, width in WIDTHS.items():
        out = np.lib.format.open_memmap(folder / f"{name.replace(':', '-')}.npy", "w+", np.float16, (items, width))
        for k in range(0, items, 8192):
            out[k : k + 8192] = rng.normal(size=out[k : k + 8192].shape)
        out.flush()


def work(who: str, folder: Path, questions: int, options: argparse.Namespace) -> dict[str, Any]:
    """One side: what a step takes, and loss and gradients of the first ``questions`` questions."""
    n = options.options
    titles = (folder / "titles.txt").read_text("utf-8").split("\n")
    stored = {name: np.load(folder / f"{name.replace(':', '-')}.npy", "r") for name in WIDTHS}
    here = np.ones(len(titles), bool)
    matrices = {
        name: Matrix(name.partition(":")[0], "noise", name, name, 1, rows, here) for name, rows in stored.items()
    }
    given = [f"base.model={folder / 'llm'}", "base.dtype=float32", "lora.dropout=0.0", "data.bucket=1"]
    given += [f"data.options={n}", f"data.batch={BATCH}", f"data.accumulate={options.pieces}"]
    recipe = load_recipe("public-code", [*given, f"base.gradient_checkpointing={str(recomputes(who)).lower()}"])
    torch.manual_seed(0)
    if who == "theirs":  # it knows its items as lists and tensors: ours need not lie there too
        small = {name: Matrix(m.modality, "", name, name, 1, m.vectors[:64], here[:64]) for name, m in matrices.items()}
        model = build(titles[:64], small, recipe, torch.device("cpu"))
    else:
        model = build(titles, matrices, recipe, torch.device("cpu"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    parameters = model.train_only("joint")
    supply = QuestionSampler(catalogue_of(titles), recipe.data, lambda g, *_: np.zeros(len(g), np.int64), 0)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    drawn = supply.batch(0).take(np.arange(questions))
    seconds: list[float] = []
    tokens = 0.0
    if who == "theirs":
        public = PublicCode(model, titles, [torch.from_numpy(np.asarray(v, np.float32)) for v in stored.values()])
        public.llm.train()  # activations are computed twice in training mode only
        before = resident_mib()
        began = time.process_time()
        loss = public.loss(drawn.partial, drawn.options, drawn.truth)
        loss.backward()
        kept = gradients(model)
        finish(parameters, optimizer)
        seconds.append(time.process_time() - began)
        peak = peak_mib()
    else:
        before = resident_mib()
        seconds, tokens = timed_steps(who, model, supply, optimizer, parameters, options.steps)
        peak = peak_mib()
        fresh(model)
        model.train()
        batch = model.prompts.build(drawn.partial, list(drawn.options), "mm")
        loss = model(batch, drawn.truth, n, "mm")
        loss.backward()
        kept = gradients(model)
    if who in ("ours", "theirs"):
        np.savez(folder / f"{who}.npz", **kept)
    return {"seconds": min(seconds), "loss": float(loss), "tokens": tokens, "before_mib": before, "peak_mib": peak}


def timed_steps(
    who: str,
    model: BundleMLLM,
    supply: QuestionSampler,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    steps: int,
) -> tuple[list[float], float]:
    """CPU seconds of each step but the first, and the tokens of their batches; the weights are as before."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    seconds, tokens = [], []
    with tempfile.TemporaryDirectory() as folder, Stop() as stop, TrainingLog(Path(folder)) as history:
        accelerator = accelerator_for(model.recipe, torch.device("cpu"))
        loop = QuestionStage("joint", model, supply, None, accelerator, history, stop, None)  # type: ignore[arg-type]
        torch.set_num_threads(1)
        for _ in range(steps + 1):
            drawn: Drawn = supply.batch(1)  # the same questions each time: seconds differ by noise alone
            supply._drawn = (-1, [])
            if who == "bare":
                batch = model.prompts.build(drawn.partial, list(drawn.options), "mm")
                seconds.append(bare(model, optimizer, batch, drawn.truth, trains_tokens=True))
            else:
                began = time.process_time()
                loop.step(model, optimizer, parameters, 1)
                seconds.append(time.process_time() - began)
                batch = model.prompts.build(drawn.partial, list(drawn.options), "mm")
            tokens.append(batch.ids.size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
    return seconds[1:], float(np.mean(tokens))


def recomputes(who: str) -> bool:
    return who in ("theirs", "recomputing")


def gradients(model: BundleMLLM) -> dict[str, np.ndarray]:
    return {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}


def fresh(model: BundleMLLM) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def finish(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * resource.getpagesize() / 2**20


def peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def catalogue_of(titles: list[str]) -> Catalogue:
    """Bundles of two to four items, as many as a real training set has."""
    rng = np.random.default_rng(1)
    numbers = [str(b) for b in range(2000)]
    items = [rng.choice(len(titles), rng.integers(2, 5), replace=False) for _ in numbers]
    bundles = Bundles(numbers, items, ["train"] * 2000, numbers, [None] * 2000)
    ids = [str(i) for i in range(len(titles))]
    return Catalogue(ids, titles, {}, bundles, Interactions())


def measure(catalogue: Catalogue, stage: str, steps: int) -> dict[str, Any]:
    """The demo's training beside the bare step of its tiny base."""
    rng = np.random.default_rng(0)
    here = np.ones(len(catalogue), bool)
    matrices = {
        name: Matrix(name, "noise", name, name, 1, rng.normal(size=(len(here), d)).astype(np.float16), here)
        for name, d in DEMO_WIDTHS.items()
    }
    recipe = load_recipe("demo")
    model = build(catalogue.titles, matrices, recipe, torch.device("cpu"))
    mode = "text" if stage == "text" else "mm"
    supply = QuestionSampler(catalogue, recipe.data, lambda g, o, _: model.prompts.lengths(g, o, mode), 0)
    parameters = model.train_only(stage)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ours, ready = [], []
    with tempfile.TemporaryDirectory() as folder, Stop() as stop, TrainingLog(Path(folder)) as history:
        accelerator = accelerator_for(recipe, torch.device("cpu"))
        loop = QuestionStage(stage, model, supply, None, accelerator, history, stop, None)  # type: ignore[arg-type]
        for step in range(steps + 4):
            began = time.process_time()
            loop.step(model, optimizer, parameters, step)
            ours.append(time.process_time() - began)
            drawn = supply.batch(step)
            batch = model.prompts.build(drawn.partial, list(drawn.options), mode)
            ready.append(bare(model, optimizer, batch, drawn.truth, trains_tokens=stage != "text"))
    ours_s, bare_s = median(ours[4:]), median(ready[4:])
    ratio = ours_s / bare_s
    return {"stage": stage, "ours_s": ours_s, "bare_s": bare_s, "ratio": ratio, "bar": BARE, "met": ratio <= BARE}


def bare(
    model: BundleMLLM, optimizer: torch.optim.Optimizer, batch: Batch, truth: np.ndarray, *, trains_tokens: bool
) -> float:
    """CPU seconds of forward, backward and optimiser on the batch's embeddings, which lie ready."""
    with torch.no_grad():
        ready = model.embed(batch.ids, model.item_tokens(batch.items) if trains_tokens else None)
    ready = ready.detach().requires_grad_(trains_tokens)
    core = model.llm.get_base_model()
    last, target = torch.from_numpy(batch.last), torch.from_numpy(truth)
    letters = model.get_buffer("letters")[:10]
    began = time.process_time()
    states = core.model(inputs_embeds=ready, use_cache=False).last_hidden_state
    logits = core.lm_head(states[torch.arange(len(last)), last])
    F.cross_entropy(logits[:, letters], target).backward()
    finish([p for group in optimizer.param_groups for p in group["params"]], optimizer)
    return time.process_time() - began


if __name__ == "__main__":
    main()
