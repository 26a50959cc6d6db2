"""Stage A against the pure forward pass and against a serial loop, in one run; and a second scan of 10,000 items.

    python benchmarks/encode.py --quick
    python benchmarks/encode.py --json
    python benchmarks/encode.py --images photos/ --device cuda

Two open_clip towers with random weights, loaded like any other: a ViT limited by the forward pass, and one so
small that decoding is the limit. Three methods on the same JPEGs, in turn:

forward  ``encoder.encode`` on samples decoded in memory beforehand: the lower limit of the time
encode   the whole of ``bundlecache.encode.run`` into an empty store: hash, decode, forward, commit, tidy
serial   the way of clip-retrieval, re-created: decode, forward and ``.cpu()`` one after the other in one thread,
         one ``.npy`` written at the end

A GPU leaves the cores to decoding. On a CPU all three ways get the same: the forward runs on all cores but one,
for where it takes them all, decoding can only be moved, not hidden. Rates are the best of several repeats, in
which the ways take turns; the processor time of an item stands beside them, for machines that are not quiet.
Exits with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.encode.run import run
from bundlecache.features import registry as features
from bundlecache.store.store import Store
from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from bundlecache.encode.encoder import Encoder
    from bundlecache.encode.run import Receipt

VIT = {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 16}  # ViT-S/16
SPECK = {"image_size": 224, "layers": 1, "width": 64, "head_width": 64, "patch_size": 56}
FORWARD_BAR = 0.9  # encode rate over forward rate, where the forward bounds
AGAIN_BAR = 2.0  # seconds for a second run over an unchanged catalogue
WORKERS = (1, 2, 4)
MANY = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of real JPEGs; made here if left out")
    parser.add_argument("--count", type=int, default=256, help="pictures; half of them for the larger tower")
    parser.add_argument("--side", type=int, default=700, help="pixels of the pictures that are made")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder if left out")
    parser.add_argument("--quick", action="store_true", help="128 pictures, 4 repeats")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.count, options.repeats = 128, 4
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores - 1))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        workspace = WorkspaceFolder(Path(folder))
        catalogue = pictures(workspace, options)
        half = catalogue_of(len(catalogue) // 2)
        rates = {
            "forward-bound": measure(workspace, half, VIT, 8, (max(1, cores - 1),), options),
            "decode-bound": measure(workspace, catalogue, SPECK, 32, WORKERS, options),
        }
        again = look_again(WorkspaceFolder(Path(folder) / "many"))
    bound = {way.partition(",")[0]: figures["per_second"] for way, figures in rates["forward-bound"].items()}
    ratio = bound["encode"] / bound["forward"]
    bars = [
        bar("encode / forward, forward-bound", ratio, FORWARD_BAR, ratio >= FORWARD_BAR),
        bar(f"seconds of a second run, {MANY:,} items", again["seconds"], AGAIN_BAR, again["seconds"] < AGAIN_BAR),
        bar("forwards of a second run", again["forwards"], 0, again["forwards"] == 0),
        bar("items encoded after one was edited", again["edited"], 1, again["edited"] == 1),
    ]
    made = {"pictures": len(catalogue), "cores": cores, "ways": rates, "again": again, "bars": bars}
    print(json.dumps(made, indent=1)) if options.json else show(made)
    sys.exit(0 if all(row["met"] for row in bars) else 1)


def bar(what: str, value: float, needed: float, met: bool) -> dict[str, Any]:
    return {"what": what, "value": value, "bar": needed, "met": met}


def show(made: dict[str, Any]) -> None:
    print(f"{made['pictures']:,} JPEGs, {made['cores']} cores; the ratio is that to the serial loop")
    for tower, ways in made["ways"].items():
        for way, figures in ways.items():
            rate, cpu = figures["per_second"], figures["processor_ms"]
            ratio = rate / ways["serial"]["per_second"]
            print(f"{tower:14} {way:18} {rate:8.1f} items/s  {ratio:6.2f}x  {cpu:6.1f} ms of processor an item")
    for row in made["bars"]:
        verdict = "met" if row["met"] else "MISSED"
        print(f"{row['what']:40} {row['value']:6.2f}  bar {row['bar']:5.2f}  {verdict}")


def pictures(workspace: WorkspaceFolder, options: argparse.Namespace) -> Catalogue:
    """JPEGs with the sizes and details of photographs, or copies of the first ones in a folder."""
    from PIL import Image

    folder = workspace.root / "images"
    folder.mkdir()
    if options.images is not None:
        found = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[: options.count]
        for i, path in enumerate(found):
            shutil.copy(path, folder / f"{i}.jpg")
        return catalogue_of(len(found))
    rng = np.random.default_rng(0)
    side = (options.side, options.side)
    for i in range(options.count):
        shapes = Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize(side, Image.Resampling.BICUBIC)
        grain = np.asarray(shapes) + rng.normal(0, 8, (*side, 3))
        Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=88)
    return catalogue_of(options.count)


def catalogue_of(count: int) -> Catalogue:
    ids = [f"item-{i}" for i in range(count)]
    return Catalogue(ids, ids, {"image": [f"images/{i}.jpg" for i in range(count)]}, Bundles(), Interactions())


def measure(
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
    tower: dict[str, int],
    batch_size: int,
    workers: tuple[int, ...],
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Items per second and processor time of each way, by name."""
    folder = checkpoint(workspace.root / f"tower-{tower['width']}", tower)
    encoder = features.load(
        f"open_clip:local-dir:{folder}",
        modality="image",
        catalogue=catalogue,
        device=options.device,
        batch_size=batch_size,
    )
    paths = [workspace.root / str(name) for name in catalogue.column("image")]
    samples = [encoder.prepare(encoder.read(path)) for path in paths]
    ways: dict[str, Any] = {"forward": lambda: forward(encoder, samples)}
    for n in workers:
        ways[f"encode, {n} worker{'s' * (n > 1)}"] = lambda n=n: encode(encoder, catalogue, workspace, n)
    ways["serial"] = lambda: serial(encoder, paths, workspace.root / "vectors.npy")
    encode(encoder, catalogue, workspace, 1)  # what is imported once is not counted
    taken = defaultdict[str, list[tuple[float, float]]](list)
    for _ in range(options.repeats):
        for name, way in ways.items():
            began, busy = time.perf_counter(), time.process_time()
            way()
            taken[name].append((time.perf_counter() - began, time.process_time() - busy))
    return {
        name: {
            "per_second": len(paths) / min(wall for wall, _ in each),
            "processor_ms": 1000 * min(cpu for _, cpu in each) / len(paths),
        }
        for name, each in taken.items()
    }


def checkpoint(folder: Path, tower: dict[str, int]) -> Path:
    """A folder as open_clip reads it, with random weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 256, "vision_cfg": tower, "text_cfg": text}
    weights = {name: value.contiguous() for name, value in open_clip.CLIP(**config).state_dict().items()}
    folder.mkdir()
    save_file(weights, folder / "open_clip_model.safetensors")
    steps = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": steps}))
    return folder


def forward(encoder: Encoder, samples: list[Any]) -> None:
    for low in range(0, len(samples), encoder.batch_size):
        encoder.encode(samples[low : low + encoder.batch_size])


def encode(encoder: Encoder, catalogue: Catalogue, workspace: WorkspaceFolder, workers: int) -> Receipt:
    shutil.rmtree(workspace.store, ignore_errors=True)
    receipt = run(encoder, catalogue, workspace, Store(workspace.store), workers=workers)
    assert receipt.encoded == len(catalogue)
    return receipt


def serial(encoder: Encoder, paths: list[Path], out: Path) -> None:
    parts = []
    for low in range(0, len(paths), encoder.batch_size):
        samples = [encoder.prepare(encoder.read(path)) for path in paths[low : low + encoder.batch_size]]
        parts.append(encoder.encode(samples))  # as an array on the host: .cpu()
    np.save(out, np.concatenate(parts).astype(encoder.dtype))


def look_again(workspace: WorkspaceFolder) -> dict[str, float]:
    """10,000 small pictures: the first run, a second one, and one after a single picture was edited."""
    from PIL import Image

    (workspace.root / "images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    paths = [workspace.root / f"images/{i}.jpg" for i in range(MANY)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    catalogue = catalogue_of(MANY)
    encoder = features.load("descriptor:picture", modality="image", catalogue=catalogue)
    time.sleep(2.5)  # the store trusts the times of files that are older than two seconds
    first = encode(encoder, catalogue, workspace, 4)
    second = run(encoder, catalogue, workspace, Store(workspace.store))
    Image.new("RGB", (8, 8), "red").save(paths[MANY // 2])
    third = run(encoder, catalogue, workspace, Store(workspace.store))
    assert second.cached == MANY
    assert third.cached == MANY - 1
    return {
        "items": MANY,
        "first_seconds": first.seconds,
        "seconds": second.seconds,
        "forwards": second.forwards,
        "edited": third.encoded,
        "edited_seconds": third.seconds,
    }


if __name__ == "__main__":
    main()
