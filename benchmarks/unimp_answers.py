"""Ten recommendations of UniMP by one softmax over the item rows, against a beam search with ten copies of the prompt.

    python benchmarks/unimp_answers.py --quick      # the demo, without pictures, an untrained model of the recipe unimp

The second way is that of the public code: one question at a time, the prompt computed in every one of ten beams. Its beams are held to
items here, so that both give the same ten, which is checked. Seconds are processor seconds of one thread.
Exits with 1 if they differ, or when the softmax is not at least five times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import bundlecache as bc
from bundlecache.questions import tasks
from bundlecache.questions.task_file import load
from bundlecache.train.shipped_recipes import load_any_recipe
from bundlecache.train.unimp import checkpoint
from bundlecache.train.unimp.answers import UnimpAnswers

BEAMS = 10
BAR = 5.0  # times as many questions a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer questions")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder) / "demo", min(options.questions, 256) if options.quick else options.questions)
    print(json.dumps(found, indent=1) if options.json else "\n".join(f"{name:24} {found[name]}" for name in found))
    sys.exit(0 if found["same items"] and found["faster"] >= BAR else 1)


def measure(data: Path, count: int) -> dict[str, float | bool]:
    """Milliseconds a question in both ways, and whether they give the same items."""
    bc.make_demo(data)
    shop = bc.open(data, quiet=True)
    shop.task_questions("recommend")
    asked = load(tasks.path_of(shop.folder, "recommend-leave_last_out"), shop.catalogue).part(test=True)
    recipe = load_any_recipe("unimp", ["vision.encoder=", "items.start=random"])
    torch.manual_seed(0)
    parts = checkpoint.assemble(shop.catalogue, recipe, None, None, torch.device("cpu"))  # type: ignore[arg-type]
    model = UnimpAnswers(parts.model, parts.prompts)
    many, few = asked.take(np.arange(count)), asked.take(np.arange(max(8, count // 20)))
    began = time.process_time()
    scores = model.scores(many)
    ours = (time.process_time() - began) / len(many)
    items = parts.model.vocabulary.items
    began, same = time.process_time(), True
    for q in range(len(few)):
        batch = parts.prompts.ask(few.take(np.array([q]))).take(np.zeros(BEAMS, int))
        beams = parts.model.generate(batch, 1, lambda ids: () if ids else items, BEAMS)[0]
        same &= [items.index(beam.ids[0]) for beam in beams] == np.argsort(-scores[q])[:BEAMS].tolist()
    theirs = (time.process_time() - began) / len(few)
    return {
        "softmax, ms a question": round(ours * 1e3, 2),
        "ten beams, ms a question": round(theirs * 1e3, 2),
        "faster": round(theirs / ours, 1),
        "same items": same,
    }


if __name__ == "__main__":
    main()
