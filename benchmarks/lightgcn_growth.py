"""How LightGCN of large graphs, ALS and BPR grow: made power-law graphs; and online_retail against the settings of small graphs.

    python benchmarks/lightgcn.py --growth                       # 10,000 to 10 million edges
    python benchmarks/lightgcn.py --growth --sizes 100000,1000000
    python benchmarks/lightgcn.py --growth --method als          # or bpr: of `bundlecache.factors`, with the same bars
    python benchmarks/lightgcn.py --online-retail FOLDER         # interactions.parquet: user_id, item_id
    python benchmarks/lightgcn.py --online-retail FOLDER --before   # the settings of small graphs too: 9 processor minutes

Each size is made in one process and learnt in another, whose peak memory is that of learning with all libraries loaded.
E edges have E / 20 users and E / 40 items; items follow a power law within 50 hidden groups. With --method lightgcn, all
graphs are learnt by `lightgcn_large`, also those that are small enough for the other way. Recall@20 is printed where
held-out edges choose the epoch: not of ALS, and not of BPR of small graphs. Seconds are processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from scipy.sparse import csr_array

from bundlecache.factors import item_factors
from bundlecache.features import lightgcn, lightgcn_large
from bundlecache.held_out_edges import evaluate, hold_out

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
TIME_RATIO_BAR, MEMORY_BAR_MB = 12.0, 4096  # of the two largest sizes; of 10 million edges
METHODS = ("lightgcn", "als", "bpr")
GROUPS, INSIDE = 50, 0.7  # share of edges within the user's group


def growth(sizes: tuple[int, ...] = SIZES, method: str = METHODS[0]) -> bool:
    """Print seconds, memory and (LightGCN) Recall@20 of each size, and their growth; whether the bars are met."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for edges in sizes:
            file = Path(folder) / "edges.npy"
            for step in ("make", "learn"):
                command = [sys.executable, __file__, step, str(file), str(edges), "--method", method]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            rows.append(row)
            found = f"Recall@20 {row['recall']:.3f} (popularity {row['popular']:.3f})" if "recall" in row else method
            print(
                f"{row['edges']:10,} edges  {row['nodes']:9,} nodes  {row['seconds']:8.1f} s  {row['epochs']} epochs  "
                f"{row['peak_mb']:6,.0f} MB  {found}",
                flush=True,
            )
    met = True
    for less, more in pairwise(rows):
        by, seconds = more["edges"] / less["edges"], more["seconds"] / less["seconds"]
        memory = more["peak_mb"] / less["peak_mb"]
        print(
            f"{by:.1f} times the edges: {seconds:.1f} times the seconds (exponent {math.log(seconds, by):.2f}), "
            f"{memory:.1f} times the memory"
        )
        if more["edges"] > 5_000_000:
            met = seconds <= TIME_RATIO_BAR * by / 10 and more["peak_mb"] <= MEMORY_BAR_MB
            print(f"bars: {TIME_RATIO_BAR:.0f} times for ten times the edges, {MEMORY_BAR_MB} MB: {verdict(met)}")
    return met


def made(edges: int, seed: int = 0) -> np.ndarray:
    """About that many distinct edges, int32 [E, 2], in ascending order."""
    rng = np.random.default_rng(seed)
    users, items = edges // 20, edges // 40 // GROUPS * GROUPS
    count = int(edges * 1.12)  # some are drawn twice
    user = (users * rng.random(count) ** 1.5).astype(np.int64)
    group = np.where(rng.random(count) < INSIDE, user % GROUPS, rng.integers(0, GROUPS, count))
    cumulated = np.cumsum((np.arange(items // GROUPS) + 10.0) ** -0.8)
    rank = np.searchsorted(cumulated / cumulated[-1], rng.random(count))
    keys = np.unique(user * items + np.minimum(rank, items // GROUPS - 1) * GROUPS + group)
    keys = keys[np.sort(rng.permutation(len(keys))[:edges])]
    return np.stack([keys // items, keys % items], axis=1).astype(np.int32)


def learn(edges: np.ndarray, method: str) -> dict[str, Any]:
    """Learn a graph as Stage A does: figures of its size, seconds, epochs (iterations) and memory, and those of its quality."""
    left, item = np.unique(edges[:, 0], return_inverse=True)[1].astype(np.int64), edges[:, 1].astype(np.int64)
    figures = with_lightgcn(left, item) if method == "lightgcn" else with_factors(left, item, method)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"edges": len(edges), "nodes": int(left.max()) + int(item.max()) + 2, "peak_mb": peak, **figures}


def with_factors(left: np.ndarray, item: np.ndarray, method: str) -> dict[str, Any]:
    """Seconds and passes of ALS or BPR, and of BPR of a large graph Recall@20 of the held-out edges that chose the pass."""
    ones = np.ones(len(left), np.float32)
    told: list[tuple[int, float | None]] = []
    began = time.process_time()
    item_factors(method, csr_array((ones, (left, item))), report=lambda done, _, recall: told.append((done, recall)))
    found = {"seconds": time.process_time() - began, "epochs": told[-1][0]}
    return found if told[-1][1] is None else {**found, "recall": told[-1][1], "popular": popularity(left, item)}


def with_lightgcn(left: np.ndarray, item: np.ndarray) -> dict[str, Any]:
    """Seconds and epochs of LightGCN, and Recall@20 of the held-out edges that chose the epoch."""
    began = time.process_time()
    learnt = lightgcn_large.train(left, item, int(item.max()) + 1)
    seconds = time.process_time() - began
    recall = learnt.rankings[learnt.epoch].recall if learnt.rankings else 0.0
    return {
        "seconds": seconds,
        "epochs": len(learnt.rankings) - 1,
        "recall": recall,
        "popular": popularity(left, item),
    }


def popularity(left: np.ndarray, item: np.ndarray) -> float:
    """Recall@20 of the most popular items, on a tenth of the edges of a thousand users."""
    held_out = hold_out(left, item)
    often = np.bincount(item)[:, None].astype(np.float32)
    return held_out.ranking(np.ones((int(left.max()) + 1, 1), np.float32), often).recall if held_out else 0.0


def online_retail(folder: Path, *, before: bool) -> None:
    """Print Recall@20 and NDCG@20 on a tenth of all edges, which no training sees, and processor seconds."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id"])
    codes = []
    for name in ("user_id", "item_id"):
        texts = table[name].combine_chunks().cast("string")
        codes.append(np.asarray(pc.index_in(texts, pc.unique(texts).sort()), np.int64))
    edges = np.unique(np.stack(codes, axis=1), axis=0)
    n_items = int(edges[:, 1].max()) + 1
    shuffled = edges[np.random.default_rng(0).permutation(len(edges))]
    held_out, rest = np.split(shuffled, [len(edges) // 10])
    known = np.isin(held_out[:, 0], rest[:, 0])
    rest, held_out = np.concatenate([rest, held_out[~known]]), held_out[known]
    print(f"{len(rest):,} edges to learn from, {len(held_out):,} to be found")
    ways: dict[str, Any] = {"large": lambda *graph: vectors_of(lightgcn_large.train(*graph))}
    if before:
        ways["small"] = lambda *graph: lightgcn.train(*graph, lightgcn.Settings())
    for name, way in ways.items():
        began = time.process_time()
        left, item = way(rest[:, 0], rest[:, 1], n_items)
        seconds = time.process_time() - began
        found = evaluate(left, item, rest, held_out)
        print(f"{name:6} {seconds:7.1f} s  Recall@20 {found.recall:.4f}  NDCG@20 {found.ndcg:.4f}", flush=True)


def vectors_of(learnt: lightgcn_large.Learnt) -> tuple[np.ndarray, np.ndarray]:
    return learnt.left, learnt.item


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("make", "learn"), help="one step, as `lightgcn.py --growth` starts it")
    parser.add_argument("file", type=Path)
    parser.add_argument("edges", type=int, nargs="?", default=0)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step == "make":
        np.save(options.file, made(options.edges))
    else:
        print(json.dumps(learn(np.load(options.file), options.method)))
