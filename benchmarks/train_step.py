"""A training step against the bare step of the same LLM on ready embeddings, interleaved in one run.

    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --json

Ours: draw the questions, assemble the prompts from cached ids, gather vectors, fuse them, forward, backward,
optimiser. Bare: forward, backward, optimiser on embeddings of the same batch that lie ready in memory. Both
have the loss at the answer only. Figures are medians of CPU seconds of one thread, so that other work on the
machine disturbs little. Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from bundlecache import recipes
from bundlecache.catalogue import Catalogue
from bundlecache.store import Matrix
from bundlecache.workspace import Workspace
from train.data import TrainingQuestions
from train.history import History, Stop
from train.loop import accelerator_for
from train.model import BundleMLLM, build
from train.prompts import Batch
from train.stage import StageLoop

BAR = 1.15  # with the tiny base
WIDTHS = {"text": 128, "image": 132, "audio": 98, "graph": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent.parent / "data")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="40 steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    catalogue = Catalogue.read(Workspace(options.data))
    rows = [measure(catalogue, stage, 40 if options.quick else options.steps) for stage in ("text", "fusion")]
    if options.json:
        print(json.dumps({"results": rows}, indent=1))
    else:
        for row in rows:
            print(
                f"stage {row['stage']:7} ours {row['ours_s'] * 1e3:7.1f} ms  bare {row['bare_s'] * 1e3:7.1f} ms  "
                f"ratio {row['ratio']:5.3f}  bar {BAR}  {'met' if row['met'] else 'MISSED'}  "
                f"({row['tokens']:.0f} tokens a prompt)"
            )
    sys.exit(0 if all(row["met"] for row in rows) else 1)


def measure(catalogue: Catalogue, stage: str, steps: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    here = np.ones(len(catalogue), bool)
    matrices = {
        name: Matrix(name, "noise", name, name, 1, rng.normal(size=(len(here), d)).astype(np.float16), here)
        for name, d in WIDTHS.items()
    }
    recipe = recipes.load("demo")
    model = build(catalogue.titles, matrices, recipe, torch.device("cpu"))
    mode = "text" if stage == "text" else "mm"
    supply = TrainingQuestions(catalogue, recipe.data, lambda g, o: model.prompts.lengths(g, o, mode), 0)
    parameters = model.train_only(stage)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ours, bare, tokens = [], [], []
    with tempfile.TemporaryDirectory() as folder, Stop() as stop, History(Path(folder)) as history:
        accelerator = accelerator_for(recipe, torch.device("cpu"))
        loop = StageLoop(stage, model, supply, None, accelerator, history, stop, None)  # type: ignore[arg-type]
        for step in range(steps + 4):
            began = time.process_time()
            loop.step(model, optimizer, parameters, step)
            ours.append(time.process_time() - began)
            drawn = supply.batch(step)
            batch = model.prompts.build(drawn.given, list(drawn.options), mode)
            bare.append(_bare(model, optimizer, batch, drawn.truth, stage))
            tokens.append(batch.ids.shape[1])
    ours_s, bare_s = median(ours[4:]), median(bare[4:])
    ratio = ours_s / bare_s
    figures = {"ours_s": ours_s, "bare_s": bare_s, "ratio": ratio, "bar": BAR, "met": ratio <= BAR}
    return {"stage": stage, "tokens": float(np.mean(tokens)), **figures}


def _bare(model: BundleMLLM, optimizer: torch.optim.Optimizer, batch: Batch, truth: np.ndarray, stage: str) -> float:
    with torch.no_grad():
        ready = model.embed(batch, model.item_tokens(batch.items) if stage != "text" else None)
    ready = ready.detach().requires_grad_(stage != "text")
    core = model.llm.get_base_model()
    last, target = torch.from_numpy(batch.last), torch.from_numpy(truth)
    letters = model.get_buffer("letters")[:10]
    began = time.process_time()
    states = core.model(inputs_embeds=ready, use_cache=False).last_hidden_state
    logits = core.lm_head(states[torch.arange(len(last)), last])
    F.cross_entropy(logits[:, letters], target).backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.process_time() - began


if __name__ == "__main__":
    main()
