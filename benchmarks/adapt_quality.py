"""Measures what an adaptation is worth: similar items and held-out pairs, before and after, on demo catalogues of several seeds.

    python benchmarks/adapt_quality.py
    python benchmarks/adapt_quality.py --seeds 0 --json

Everything is the demo's: pictures, titles that name categories and styles, and clicks, whose sessions look for one category, colour
and style. The towers are ``embedded:clip``, which never saw a thing of the shop. For each seed: the recipe adapt-demo (both
towers), and projections of the stored vectors of the two descriptors (head). Printed are nDCG@5 on the frozen test questions among
options as popular, the paired differences with their 95 % intervals over questions and users, the MRR of the test pairs, and CPU seconds.
Settings were chosen on validation pairs and validation questions.

Exits with 1 when the adapted tower is not above zero-shot and the descriptor by more than the interval, on every seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bundlecache as bc
from bundlecache.baselines.similar import by_cosine
from bundlecache.bench.similar_metrics import figures, paired
from bundlecache.catalogue.click_log import read_clicks
from bundlecache.questions.similar_questions import with_users

ENCODERS = ("descriptor:picture", "embedded:clip", "adapted:head", "adapted:tuned")


def main() -> int:
    """Measure and print; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder) / "shop", seed))
        if not given.json:
            show(rows[-1])
    if given.json:
        print(json.dumps(rows, indent=1))
    return int(any(row["tuned_minus"].get(name, (0, 0, 0))[1] <= 0 for row in rows for name in ENCODERS[:2]))


def show(row: dict[str, Any]) -> None:
    """Print the figures of a seed."""
    print(f"seed {row['seed']}: nDCG@5 " + ", ".join(f"{name} {value:.3f}" for name, value in row["ndcg@5"].items()))
    for one in ("tuned", "head"):
        for name, (mean, low, high) in row[f"{one}_minus"].items():
            print(f"  adapted:{one} minus {name}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    for name, pair in row["pairs"].items():
        print(
            f"  {name}: MRR of test pairs {pair['before']:.3f} -> {pair['after']:.3f}, {pair['cpu_seconds']:.0f} CPU s"
        )


def measure(root: Path, seed: int) -> dict[str, Any]:
    """All figures of one seed."""
    bc.make_demo(root, seed)
    shop = bc.open(root, quiet=True)
    shop.encode("image", encoder="descriptor:picture")
    shop.encode("text", encoder="descriptor:text")
    shop.encode("image", encoder="embedded:clip")
    pairs = {}
    head = {"encoder": "descriptor:picture", "text_encoder": "descriptor:text"}
    for name, how in (("head", head), ("tuned", {"recipe": "adapt-demo"})):
        began = time.process_time()
        made = shop.adapt(**how, name=name, seed=seed, device="cpu")
        seconds = time.process_time() - began
        pairs[name] = {"before": made.before.mrr, "after": made.after.mrr, "cpu_seconds": seconds, "kept": made.kept}
        if made.encoder:
            shop.encode("image", encoder=made.encoder)
    asked = shop.similar_questions("test")
    asked = with_users(asked, read_clicks(shop.folder, shop.catalogue, asked.header["visit_minutes"]))
    count = len(shop.catalogue)
    stored = {info.spec for info in shop.store.tables() if info.modality == "image"}
    found = {
        name: figures(asked, by_cosine(shop.store.matrix(shop.catalogue.item_ids, "image", name)), count)
        for name in ENCODERS
        if name in stored
    }
    best = found.get("adapted:tuned", found["embedded:clip"])
    return {
        "seed": seed,
        "questions": len(asked),
        "ndcg@5": {name: each.mean("ndcg@5", "matched") for name, each in found.items()},
        "tuned_minus": {
            name: paired(best, found[name]) for name in ENCODERS if name in found and found[name] is not best
        },
        "head_minus": {"descriptor:picture": paired(found["adapted:head"], found["descriptor:picture"])},
        "pairs": pairs,
    }


if __name__ == "__main__":
    raise SystemExit(main())
