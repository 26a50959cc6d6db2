"""Measures the freezing and reading of questions: processor seconds and peak memory, in memory and without a store.

    python benchmarks/scale_data.py --items 1000000 --out shop
    python benchmarks/questions.py --data shop
    python benchmarks/questions.py --data shop --negatives nearest:text,hard --without-categories     # with text encoded

Nothing is kept: files go to a temporary folder. Without categories, hard options are found by clusters of the text vectors. `--held-out 0.9` gives so large a share of the bundles a split of
validation or test through the split column, instead of the usual 0.3.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.questions.freeze import freeze
from bundlecache.questions.question_file import Questions
from bundlecache.store.store import Store
from bundlecache.workspace import WorkspaceFolder


def measure(data: Path, kinds: list[str], held_out: float | None, categories: bool) -> None:
    """Print a line per set."""
    folder_of = WorkspaceFolder(data)
    catalogue = Catalogue.read(folder_of)
    if not categories:
        catalogue = dataclasses.replace(catalogue, columns={})
    needed = any(kind.startswith("nearest") for kind in kinds) or not categories
    matrices = {"text": Store(folder_of.store).matrix(catalogue.item_ids, "text")} if needed else {}
    vectors = matrices["text"].vectors if needed else None
    if held_out is not None:
        place = np.random.default_rng(0).random(len(catalogue.bundles))
        split = np.where(place < held_out / 2, "valid", np.where(place < held_out, "test", "train"))
        catalogue = dataclasses.replace(catalogue, bundles=catalogue.bundles.with_split(split))
    splits.assign(catalogue)
    total = np.zeros(3)
    print(f"{'set':32} {'questions':>9} {'freeze':>8} {'write':>7} {'read':>7}  peak GB")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            for part in ("valid", "test"):
                marks = [time.process_time()]
                asked = freeze(catalogue, split=part, negatives=kind, vectors=vectors, matrices=matrices)
                marks.append(time.process_time())
                path = Path(folder) / f"{asked.name}.parquet"
                asked.save(path, catalogue)
                marks.append(time.process_time())
                Questions.load(path, catalogue)
                spent = np.diff([*marks, time.process_time()])
                total += spent
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
                print(
                    f"{asked.name:32} {len(asked):9,} " + "{:7.2f}s {:6.2f}s {:6.2f}s".format(*spent),
                    f" {peak:.2f}",
                    flush=True,
                )
    print(f"{'together':42} " + "{:7.2f}s {:6.2f}s {:6.2f}s".format(*total))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--negatives", default="random,hard", help="kinds of wrong options, with commas between them")
    parser.add_argument("--held-out", type=float, default=None)
    parser.add_argument("--without-categories", action="store_true", help="leave the columns of the items out")
    options = parser.parse_args()
    measure(options.data, options.negatives.split(","), options.held_out, not options.without_categories)
