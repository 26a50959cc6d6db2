"""Measures how many pairs a second an adaptation trains, beside open_clip's own training loop on the same tiny towers.

    python benchmarks/adapt_step.py --quick
    python benchmarks/adapt_step.py --json

Theirs is ``open_clip_train.train.train_one_epoch`` with its CSV loader, its cuts of pictures and its loss, no workers
(one thread for all). Ours is `bundlecache.features.adapt.loop.Adaptation` with the same towers: ``full`` trains both, reading each
picture once and counting that reading; ``head`` trains projections of the stored vectors of both. Pairs are those of the
demo catalogue. Seconds are CPU seconds of one thread, each side in the same process in turn.

Exits with 1 when ``full`` is slower than theirs or ``head`` is not 50 times as fast.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import bundlecache as bc
from bundlecache.features.adapt import build
from bundlecache.features.adapt.loop import Adaptation
from bundlecache.features.adapt.pairs import make_pairs
from bundlecache.features.adapt.sides import TowerSide
from bundlecache.recipes import adapt_recipe

TOP = Path(__file__).resolve().parent.parent
BARS = {"full": 1.0, "head": 50.0}  # times the rate of open_clip's own loop
TOWERS = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def main() -> int:
    """Measure and print; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="two epochs each")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    epochs = 2 if given.quick else 6
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), epochs)
    ratios = {name: found[name] / found["open_clip"] for name in BARS}
    rows = {"pairs_per_cpu_second": found, "ratio": ratios, "bar": BARS}
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        print("open_clip's own loop", f"{found['open_clip']:,.0f} pairs a CPU second")
        for name, ratio in ratios.items():
            print(f"{name:<20} {found[name]:,.0f} pairs a CPU second, {ratio:.2f}x (bar {BARS[name]:g}x)")
    return int(any(ratios[name] < bar for name, bar in BARS.items()))


def measure(folder: Path, epochs: int) -> dict[str, float]:
    """Pairs a CPU second of each side."""
    from helpers.checkpoints import open_clip_folder

    towers = open_clip_folder(folder / "towers", **TOWERS)
    shutil.copytree(TOP / "data" / "images", folder / "shop" / "images")
    shutil.copy(TOP / "data" / "items.parquet", folder / "shop")
    shop = bc.open(folder / "shop", quiet=True)
    spec = f"open_clip:local-dir:{towers}"
    for modality in ("image", "text"):
        shop.encode(modality, encoder=spec)
    theirs = open_clip_rate(folder, towers, shop, epochs)
    ours = {mode: our_rate(shop, spec, mode, epochs * (1 if mode == "full" else 20)) for mode in BARS}
    return {"open_clip": theirs, **ours}


def our_rate(shop: bc.Workspace, spec: str, mode: str, epochs: int) -> float:
    """Pairs a CPU second of the loop, the reading of pictures included."""
    modes = {"encoder": spec, "image": mode, "text": mode}
    training = {"batch": 64, "epochs": epochs, "lr": 1e-4, "crop": 0.9, "clip": 0.0}
    recipe = adapt_recipe.from_dict({"towers": modes, "training": training})
    catalogue = shop.catalogue
    has = catalogue.has_source("image") & catalogue.has_source("text")
    pairs = make_pairs(catalogue, has, shop.folder.adapted)
    sources = build.sources_of(
        recipe, shop.folder, catalogue, "cpu", lambda m, s: shop.store.matrix(catalogue.item_ids, m, s)
    )
    alone = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    log = SimpleNamespace(add=lambda *_, **__: None, lines=0)
    pair, pairs = build.build_pair(sources, recipe, pairs, shop.folder, catalogue)
    made = Adaptation(pair, pairs, recipe, alone, log, SimpleNamespace(reason=None))  # type: ignore[arg-type]
    if isinstance(pair.image, TowerSide):
        pair.image.forget_pictures()
    began = time.process_time()
    while made.done < made.steps:
        made.step(made.batches.of_step(made.done))
        made.done += 1
    return made.steps * made.batches.size / (time.process_time() - began)


def open_clip_rate(folder: Path, towers: Path, shop: bc.Workspace, epochs: int) -> float:
    """Pairs a CPU second of ``open_clip_train.train.train_one_epoch``."""
    web = ("braceexpand", "webdataset", "webdataset.filters", "webdataset.tariterators")
    for name in web:  # what it needs for archives on the web alone
        sys.modules.setdefault(name, MagicMock())
    import open_clip
    from open_clip.loss import ClipLoss
    from open_clip_train.data import get_csv_dataset
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    table = folder / "pairs.csv"
    with table.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        for image, title in zip(shop.catalogue.column("image"), shop.catalogue.titles, strict=True):
            writer.writerow([str(shop.folder.root / str(image)), title])
    words = ["--train-data", str(table), "--batch-size", "64", "--workers", "0", "--lr", "1e-4", "--wd", "0.05"]
    args: Any = parse_args([*words, "--precision", "fp32", "--warmup", "10", "--epochs", str(epochs)])
    args.device, args.distributed, args.rank, args.world_size, args.local_rank = "cpu", False, 0, 1, 0
    args.distill, args.horovod, args.wandb, args.save_logs, args.tensorboard = False, False, False, False, False
    model, preprocess, _ = open_clip.create_model_and_transforms(f"local-dir:{towers}", output_dict=True)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{towers}")
    data = get_csv_dataset(args, preprocess, is_train=True, tokenizer=tokenizer)
    data.set_epoch = lambda _: None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    steps = data.dataloader.num_batches * epochs
    schedule = cosine_lr(optimizer, 1e-4, 10, steps)
    began = time.process_time()
    for epoch in range(epochs):
        train_one_epoch(model, {"train": data}, ClipLoss(), epoch, optimizer, None, schedule, None, args)
    return float(steps * 64 / (time.process_time() - began))


if __name__ == "__main__":
    raise SystemExit(main())
