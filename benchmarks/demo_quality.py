"""Checks that the model learns on the demo: stage 1 -> stage 2 against stage 1, every cosine and every baseline.

    python benchmarks/demo_quality.py --quick      # one training seed
    python benchmarks/demo_quality.py --seeds 3
    python benchmarks/demo_quality.py --json

Copies the shipped catalogue to a temporary folder, encodes it with the embedded encoders, trains the recipe
once per seed, with weights chosen on validation questions, and answers the frozen test questions. Differences are
paired by question, with 95 % bootstrap intervals. Requirements per seed: HitRate@1 is higher than that of stage 1
and of every single-modality cosine by more than the interval. Requirements for the mean over seeds: HitRate@1 is at
least that of the best collaborative baseline, leaving out any modality lowers it, and training and evaluation take
less than 100 seconds (wall or processor time, whichever is less).
Exits with 1 when a requirement is not met.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bundlecache.modalities import MODALITIES

SECONDS = 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, as for bundlecache train")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder) / "data", options.recipe, options.set, 1 if options.quick else options.seeds)
    bars = judge(results)
    if options.json:
        print(json.dumps({"seeds": results, "bars": bars}, indent=1))
    else:
        show(results, bars)
    sys.exit(not all(bar["met"] for bar in bars))


def measure(root: Path, recipe_name: str, overrides: list[str], seeds: int) -> list[dict[str, Any]]:
    """Encode once, then train and evaluate per seed; one result per seed."""
    from bundlecache.baselines.sources import Sources
    from bundlecache.bench import benchmark
    from bundlecache.bench.benchmark import BenchSetup, ModelAnswers
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.encode import run as encode
    from bundlecache.features import registry as features
    from bundlecache.questions import freeze as questions
    from bundlecache.store.store import Store
    from bundlecache.train import checkpoint
    from bundlecache.train.inference import scoring
    from bundlecache.train.set_encoder_baseline import LEARNERS
    from bundlecache.train.shipped_recipes import load_recipe
    from bundlecache.train.training import loop
    from bundlecache.workspace import WorkspaceFolder

    source = Path(__file__).resolve().parent.parent / "data"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("store", "questions", "candidates", "runs"))
    workspace = WorkspaceFolder(root)
    catalogue = Catalogue.read(workspace)
    store = Store(workspace.store)
    for modality in MODALITIES:
        encode.run(
            features.load(features.DEFAULTS[modality], modality=modality, catalogue=catalogue),
            catalogue,
            workspace,
            store,
        )
    matrices = {modality: store.matrix(catalogue.item_ids, modality) for modality in MODALITIES}
    recipe = load_recipe(recipe_name, overrides)
    valid = questions.freeze(catalogue, split="valid", n_options=10)
    test = questions.freeze(catalogue, split="test", n_options=10)
    setup = BenchSetup.of(Sources(catalogue, matrices, learners=LEARNERS))
    results = []
    for seed in range(seeds):
        run = workspace.runs / f"seed{seed}"
        wall, cpu = time.perf_counter(), time.process_time()
        trained = loop.train(catalogue, matrices, valid, recipe, run, seed=seed, device="cpu")
        model = checkpoint.load(run, catalogue, matrices, "cpu")
        variants = scoring.score_variants(model, test)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        models = [ModelAnswers(name, answers, variants.seconds[name]) for name, answers in variants.answers.items()]
        table = benchmark.compare(setup, test, models, model=models[0].name, ablation=variants.ablation).to_dict()
        chosen = {stage["name"]: stage["best_valid_hit@1"] for stage in trained.stages}
        results.append({"seed": seed, "valid": chosen, "seconds": wall, "cpu_seconds": cpu, **table})
    return results


def judge(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requirements, each with the measured value."""
    bars: list[dict[str, Any]] = []

    def bar(what: str, measured: float, least: float) -> None:
        bars.append({"what": what, "measured": round(measured, 4), "bar": least, "met": bool(measured > least)})

    for result in results:
        others = {row["name"]: row for row in result["methods"] if row["name"] != result["model"]}
        stage1 = next(row for name, row in others.items() if "stage 1" in name)
        cosines = [
            row
            for row in others.values()
            if row["kind"] == "content" and row["name"].startswith("cosine ") and row["name"] != "cosine sum"
        ]
        nearest = min(cosines, key=lambda row: row["versus_model"]["interval"][0])
        seed = result["seed"]
        bar(f"seed {seed}: above stage 1, lower end of the interval", stage1["versus_model"]["interval"][0], 0.0)
        bar(f"seed {seed}: above {nearest['name']}, lower end", nearest["versus_model"]["interval"][0], 0.0)
    ours = float(np.mean([_row(result, result["model"])["hit@1"] for result in results]))
    rivals = [row for row in results[0]["methods"] if row["kind"] == "collaborative"]
    best = max(rivals, key=lambda row: row["hit@1"])
    bar(f"mean over seeds: minus the best collaborative ({best['name']})", ours - best["hit@1"], -1e-9)
    for position, row in enumerate(results[0]["ablation"]):
        cost = -float(np.mean([result["ablation"][position]["delta"] for result in results]))
        bar(f"mean over seeds: cost of leaving out {row['without']}", cost, 0.0)
    seconds = float(
        np.mean([min(result["seconds"], result["cpu_seconds"]) for result in results])
    )  # of a shared machine
    bars.append(
        {
            "what": "training and evaluation, seconds (wall or processor time, whichever is less)",
            "measured": seconds,
            "bar": SECONDS,
            "met": seconds < SECONDS,
        }
    )
    return bars


def show(results: list[dict[str, Any]], bars: list[dict[str, Any]]) -> None:
    """Print the table of methods, the ablation and the bars."""
    first = results[0]
    sizes = first["questions"]
    seeds = " ".join(f"seed {result['seed']}" for result in results)
    print(
        f"{sizes['n_questions']} test questions of {sizes['n_options']} options; HitRate@1 and 95 % interval; {seeds}"
    )
    for row in first["methods"]:
        low, high = row["hit@1_interval"]
        if row["kind"] == "model":
            figures = " ".join(f"{_row(result, row['name'])['hit@1']:.3f}" for result in results)
        else:
            figures = f"{row['hit@1']:.3f}"
        print(f"  {row['name']:<42} {row['kind']:<14} {figures}  [{low:.3f}, {high:.3f}]")
    for position, row in enumerate(first["ablation"]):
        deltas = " ".join(f"{result['ablation'][position]['delta']:+.3f}" for result in results)
        low, high = row["delta_interval"]
        print(f"  without {row['without']:<49} {deltas}  [{low:+.3f}, {high:+.3f}]")
    for result in results:
        chosen = ", ".join(f"{name} {value:.3f}" for name, value in result["valid"].items())
        print(
            f"  seed {result['seed']}: validation {chosen}; {result['seconds']:.0f} s, {result['cpu_seconds']:.0f} CPU s"
        )
    for bar in bars:
        print(f"  {'met ' if bar['met'] else 'MISSED'} {bar['what']}: {bar['measured']:.3f} (bar {bar['bar']:.3g})")


def _row(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in result["methods"] if row["name"] == name)


if __name__ == "__main__":
    main()
