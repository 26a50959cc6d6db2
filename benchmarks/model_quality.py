"""What the language model adds to the learned ranker, by answer form and with evidence, on any workspace.

    python benchmarks/model_quality.py shop --out quality --set prompt.max_title_tokens=1
    python benchmarks/model_quality.py shop --out quality --only "pointer + evidence" --seeds 1
    python benchmarks/model_quality.py --quick            # the demo, one seed, a tenth of the steps

Trains every variant with every seed, chooses among the variants on validation questions alone, and answers the test
questions: random, hard and popularity-matched options. Every training leaves one JSON file in ``--out``; what is there
is not trained again, so a stopped run goes on. Differences to the learned ranker are paired by question, with 95 %
bootstrap intervals. The workspace must be encoded; without one, the demo is made and encoded in ``--out``.

``--draws 3`` asks three test questions of every bundle, with another item held out and other wrong options: narrower
intervals, which are over bundles.

``--parts`` then answers the test questions once more without each part of the evidence, whose weights are set to 0, and
without all of it: what of the evidence a trained model uses.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

ALONE, WITH = "fusion.evidence=none", "fusion.evidence=residual"
UNTRAINED = "STEPS=0"  # no setting of a recipe: every stage has no step, so one seed is enough
VARIANTS: dict[str, list[str]] = {
    "letters": ["answer.form=letters", ALONE],
    "letters + evidence": ["answer.form=letters", WITH, "run.loss=letters"],
    "pointer": ["answer.form=pointer", ALONE],
    "pointer + evidence": ["answer.form=pointer", WITH],
    "likelihood": ["answer.form=likelihood", ALONE],
    "yes-no": ["answer.form=yes-no", ALONE],
    "likelihood, untrained": ["answer.form=likelihood", ALONE, UNTRAINED],
    "evidence alone": ["answer.form=pointer", WITH, UNTRAINED],
}
STEP_KEYS = [
    f"{stage}_stage.{what}" for stage in ("text", "fusion", "joint") for what in ("steps", "contrastive_steps")
]
KINDS = ("random", "hard", "popularity-matched")
MAX_QUESTIONS = 2_000
FULL = "test-all items"
RANKER = "learned ranker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", nargs="?", type=Path, help="an encoded workspace; the demo if left out")
    parser.add_argument("--out", type=Path, help="folder of the results; a temporary one if left out")
    parser.add_argument("--recipe", default="evidence", help="what all variants share")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, as for bundlecache train")
    parser.add_argument("--only", action="append", default=[], help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--questions", type=int, default=MAX_QUESTIONS, help="at most so many of each set, a fixed sample"
    )
    parser.add_argument("--valid-questions", type=int, default=MAX_QUESTIONS, help="the same for validation")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, two variants, a tenth of the steps, 100 questions"
    )
    parser.add_argument("--draws", type=int, default=1, help="test questions of each bundle")
    parser.add_argument("--parts", action="store_true", help="which part of the evidence each trained model uses")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.questions, options.valid_questions = 1, 100, 100
        options.only = options.only or ["pointer", "pointer + evidence"]
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        found = measure(options.workspace or demo(out), out, options)
    print(json.dumps(found, indent=1) if options.json else table(found))
    if "parts" in found and not options.json:
        print(parts_table(found["parts"]))


def demo(out: Path) -> Path:
    """The demo catalogue, encoded, below ``out``."""
    import bundlecache as bc

    folder = out / "demo"
    if not (folder / "store").is_dir():
        import shutil

        source = Path(__file__).resolve().parent.parent / "data"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("store", "questions", "candidates", "runs"))
        bc.open(folder, quiet=True).encode()
    return folder


def measure(workspace: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Results of the ranker and of every variant and seed, from the files in ``out`` where they are there."""
    from bundlecache.train.shipped_recipes import load_recipe

    world = World(workspace, options.questions, options.valid_questions, options.draws)
    results = []
    for name in options.only or VARIANTS:
        overrides = [*VARIANTS[name], *options.set]
        share = 0.0 if UNTRAINED in overrides else 0.1 if options.quick else 1.0
        overrides = [each for each in overrides if each != UNTRAINED]
        if share != 1.0:
            plain = {s.key: s.value for s in load_recipe(options.recipe, overrides).settings()}
            overrides += [f"{key}={int(int(plain[key]) * share)}" for key in STEP_KEYS]
        recipe = load_recipe(options.recipe, overrides)
        for seed in range(1 if share == 0.0 else options.seeds):
            run = out / "runs" / f"{workspace.name}-{name}-seed{seed}".replace(" ", "_")
            path = out / f"{run.name}{f'-draws{options.draws}' if options.draws > 1 else ''}.json"
            if not path.is_file():
                made = world.train(recipe, seed, run)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"variant": name, "seed": seed, "recipe": options.recipe, **made}))
            results.append(json.loads(path.read_text()))
            print(f"{name}, seed {seed}: {shown(results[-1])}", file=sys.stderr, flush=True)
    found = {"workspace": workspace.name, "ranker": world.ranker_hits(), "variants": results}
    if options.parts:
        runs = [out / "runs" / f"{workspace.name}-{r['variant']}-seed{r['seed']}".replace(" ", "_") for r in results]
        found["parts"] = [made for run in runs if (made := world.without_parts(run))]
    return found


class World:
    """One workspace: its catalogue, vectors, questions, and the learned ranker that every variant is compared with."""

    def __init__(self, workspace: Path, most: int, most_valid: int, draws: int) -> None:
        from bundlecache.baselines.learned import stack
        from bundlecache.baselines.sources import Sources
        from bundlecache.bench.held_out_items import HeldOut
        from bundlecache.catalogue.catalogue import Catalogue
        from bundlecache.questions import freeze as questions
        from bundlecache.questions.sample import sample
        from bundlecache.store.store import Store
        from bundlecache.train.set_encoder_baseline import LEARNERS
        from bundlecache.workspace import WorkspaceFolder

        self.folder = WorkspaceFolder(workspace)
        self.catalogue = Catalogue.read(self.folder)
        store = Store(self.folder.store)
        newest = {info.modality: info for info in reversed(store.tables()) if info.rows and not info.tokens}
        ids = self.catalogue.item_ids
        self.matrices = {name: store.matrix(ids, name, info.spec, info.table) for name, info in sorted(newest.items())}
        first = next((m.vectors for name, m in self.matrices.items() if name in ("text", "image")), None)

        def drawn(split: str, kind: str, seed: int = 0) -> Any:
            how = {"negatives": kind, "seed": seed, "vectors": first, "matrices": self.matrices}
            made = questions.freeze(self.catalogue, split=split, **how)
            return sample(made, most if split == "test" else most_valid)  # of every draw the same bundles

        self.valid = {kind: [drawn("valid", kind)] for kind in KINDS[:2]}
        self.test = {kind: [drawn("test", kind, seed) for seed in range(draws)] for kind in KINDS}
        self.held = HeldOut.of([each for asked in self.test.values() for each in asked], self.catalogue)
        (self.ranker,) = Sources(self.catalogue, self.matrices, learners=LEARNERS).rankers(stack)
        self._ranked: dict[str, np.ndarray] = {}

    def ranked(self, split: str, kind: str) -> np.ndarray:
        """[q] of the bundles in how many draws the learned ranker's first option is right, as a share."""
        key = f"{split}-{kind}"
        if key not in self._ranked:
            self._ranked[key] = right_share(self.ranker.scores, getattr(self, split)[kind])
        return self._ranked[key]

    def among_all(self, model: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """[bundles] of its held-out items, the share that the ranker, and the model, puts before the whole catalogue."""
        from bundlecache.bench.full_catalogue import FirstFew, rank
        from bundlecache.train.run import LoadedRun

        reranked = []
        if model is not None:
            second = LoadedRun(self.folder.root, model, self.matrices).beyond_evidence("model")
            reranked = [FirstFew(self.ranker, second, self.catalogue, adds=model.evidence is not None)]
        found = rank([self.ranker], self.held, len(self.catalogue), reranked)
        bundle = np.unique(self.held.bundle_ids, return_inverse=True)[1]
        first = [np.bincount(bundle, places.within(1)) / np.bincount(bundle) for places, _ in found.values()]
        return first[0], first[-1]

    def ranker_hits(self) -> dict[str, float]:
        """Its HitRate@1, by set of questions."""
        hit = {
            f"{split}-{kind}": float(self.ranked(split, kind).mean())
            for split in ("valid", "test")
            for kind in getattr(self, split)
        }
        return hit | {FULL: float(self.among_all()[0].mean())}

    def train(self, recipe: Any, seed: int, run: Path) -> dict[str, Any]:
        """Train once, or go on, and answer all sets; the seconds are of this process's processor."""
        from bundlecache.bench.metrics import paired_difference
        from bundlecache.train import checkpoint
        from bundlecache.train.inference.scoring import score
        from bundlecache.train.training import loop
        from bundlecache.train.training.resume import FILE as SNAPSHOT

        began = time.process_time()
        given, how = (self.catalogue, self.matrices, self.valid["random"][0]), {"token_cache": self.folder.tokens}
        if (run / SNAPSHOT).is_file():  # stopped, by hand or by run.max_minutes
            stages = loop.resume(*given, run, device="cpu", **how).stages
        elif (run / "manifest.json").is_file():
            stages = checkpoint.read_manifest(run)["stages"]
        else:
            stages = loop.train(*given, recipe, run, seed=seed, device="cpu", **how).stages
        trained = time.process_time() - began
        model = checkpoint.load(run, self.catalogue, self.matrices, "cpu", self.folder.tokens)
        found: dict[str, Any] = {"train_cpu_seconds": trained, "parameters": model.base.parameters, "stages": stages}
        found["sets"] = {}
        for split in ("valid", "test"):
            for kind, asked in getattr(self, split).items():
                began = time.process_time()
                right = right_share(lambda each: score(model, each).logits, asked)
                seconds = time.process_time() - began
                change, low, high = paired_difference(right, self.ranked(split, kind))
                found["sets"][f"{split}-{kind}"] = {
                    "n": sum(len(each) for each in asked),
                    "hit@1": float(right.mean()),
                    "against_ranker": [change, low, high],
                    "answer_cpu_ms": 1000 * seconds / sum(len(each) for each in asked),
                }
        ranker, right = self.among_all(model)
        change, low, high = paired_difference(right, ranker)
        found["sets"][FULL] = {"n": len(right), "hit@1": float(right.mean()), "against_ranker": [change, low, high]}
        return found

    def without_parts(self, run: Path) -> dict[str, list[list[float]]]:
        """Change of test HitRate@1 by kind of question, with its interval, without each part of the evidence of a run.

        Empty for a run without evidence.
        """
        import torch

        from bundlecache.bench.metrics import paired_difference
        from bundlecache.train import checkpoint
        from bundlecache.train.inference.scoring import score

        model = checkpoint.load(run, self.catalogue, self.matrices, "cpu", self.folder.tokens)
        evidence: Any = model.evidence
        if evidence is None:
            return {}
        names = [part.name for part in self.ranker.parts]
        begun, change = evidence.get_buffer("begun"), evidence.change.data
        kept = begun.clone(), change.clone()

        def right(without: list[int]) -> list[np.ndarray]:
            at = torch.tensor([*without, *(len(names) + k for k in without)], dtype=torch.int64)
            begun[at], change[at] = 0.0, 0.0
            found = [right_share(lambda each: score(model, each).logits, asked) for asked in self.test.values()]
            begun.copy_(kept[0])
            change.copy_(kept[1])
            return found

        whole = right([])
        rows = {name: [k] for k, name in enumerate(names)} | {"all of it": [*range(len(names))]}
        return {
            name: [list(paired_difference(less, all_)) for less, all_ in zip(right(at), whole, strict=True)]
            for name, at in rows.items()
        }


def right_share(scores: Callable[[Any], np.ndarray], draws: Sequence[Any]) -> np.ndarray:
    """[q] of the bundles in how many of the draws the option with the highest of ``scores(questions)`` is right, as a share."""
    from bundlecache.bench.metrics import hits

    same = [each.bundle_ids for each in draws]
    assert all(ids == same[0] for ids in same), "every draw asks about the same bundles"
    return np.mean([hits(scores(each), each.truth) for each in draws], axis=0)


def parts_table(found: list[dict[str, list[list[float]]]]) -> str:
    """What is lost without each part of the evidence, run by run; Markdown, bold where the interval excludes zero."""
    lines = [f"| without | {' | '.join(KINDS)} |", "|---|" + "---|" * len(KINDS)]
    for name in found[0]:
        cells = []
        for k in range(len(KINDS)):
            changes = [run[name][k] for run in found]
            cells.append(" ".join(f"**{c:+.3f}**" if low > 0 or high < 0 else f"{c:+.3f}" for c, low, high in changes))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(result: dict[str, Any]) -> str:
    """One result in one line."""
    parts = [f"{result['train_cpu_seconds']:.0f} s"]
    for name, row in result["sets"].items():
        change, low, high = row["against_ranker"]
        parts.append(f"{name} {row['hit@1']:.3f} ({change:+.3f} [{low:+.3f} {high:+.3f}])")
    return ", ".join(parts)


def table(found: dict[str, Any]) -> str:
    """All results, the variant that validation chooses marked; Markdown."""
    sets = [*found["ranker"]]
    lines = [f"| {found['workspace']} | {' | '.join(sets)} | s |", "|---|" + "---|" * (len(sets) + 1)]
    lines.append(f"| {RANKER} | " + " | ".join(f"{found['ranker'][name]:.3f}" for name in sets) + " | |")
    names = list(dict.fromkeys(row["variant"] for row in found["variants"]))

    def on_validation(name: str) -> float:
        rows = [row for row in found["variants"] if row["variant"] == name]
        return float(np.mean([row["sets"][key]["hit@1"] for row in rows for key in sets if key.startswith("valid")]))

    best = max(names, key=on_validation)
    for name in names:
        rows = [row for row in found["variants"] if row["variant"] == name]
        cells = []
        for key in sets:
            hit = " ".join(f"{row['sets'][key]['hit@1']:.3f}" for row in rows)
            gains = " ".join(f"{row['sets'][key]['against_ranker'][0]:+.3f}" for row in rows)
            sure = sum(row["sets"][key]["against_ranker"][1] > 0 for row in rows)
            cells.append(f"{hit} ({gains}; above in {sure} of {len(rows)})")
        seconds = np.mean([row["train_cpu_seconds"] for row in rows])
        lines.append(f"| {name}{' (chosen)' if name == best else ''} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
