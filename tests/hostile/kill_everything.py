"""Kill every verb at random moments, run it again, and compare the workspace with that of an uninterrupted run.

    python tests/hostile/kill_everything.py --kills 100 --seed 0 [--verbs encode,train]

Each kill starts from a copy of a workspace on which all earlier verbs have run, sends SIGKILL to the verb's process group
after a random part of the time it takes, runs the same command again (train in every second turn with --resume, where it
left a snapshot), and requires exit code 0 and the same state: rows of all tables, contents of all other files but for
seconds, of reports the headings. Caches and receipts are left out. The kills of a verb are spread over its time: one
random moment in each of as many equal parts. It prints one line per kill and ends with 1 if one of them ended otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests")]

from helpers.forked import CODE, COMMAND, Forked, import_first, start
from helpers.shop import make_shop

TRAIN = [
    "--recipe",
    "demo",
    *("--set", "data.batch=4", "--set", "run.save_every=1", "--set", "text_stage.steps=3"),
    *("--set", "fusion_stage.steps=3", "--set", "fusion_stage.contrastive_steps=2"),
]
VERBS: dict[str, list[str]] = {  # in the order of the pipeline; MEDIA, CHANGED, OUT and NEW are folders of each case
    "import": ["import", "folder", "MEDIA", "--data", "NEW"],
    "encode": ["encode", "--modality", "all"],
    "questions": ["questions", "--options", "4"],
    "candidates": ["candidates", "--k", "5"],
    "train": ["train", "--name", "kill", *TRAIN],
    "evaluate": ["evaluate", "--run", "kill", "--no-ablation"],
    "report": ["report", "--run", "kill"],
    "update": ["update", "CHANGED", "--remove-missing"],
    "compact": ["compact"],
    "export": ["export", "--out", "OUT"],
    "verify": ["verify", "--repair", "--sample", "4"],  # of tables that `damage` has damaged
}
NEEDED = {"encode", "questions"}  # by all later verbs
IMPORTS = (  # what train and evaluate import: seconds, in which a kill finds nothing
    "torch._dynamo",
    "torchvision",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
    "peft",
    "accelerate",
    "torch.utils.tensorboard",
)
DERIVED = {  # times in names, or made when missing
    "catalogue",
    "receipts",
    "locks",
    "hashes",
    "matrices",
    "tokens",
    "tensorboard",
}
TRIES = 10  # of a kill that came after the end
TIMED = {"seconds", "training_seconds", "worth"}  # in JSON: what depends on how long something took


@dataclass
class Case:
    """One workspace and the folders beside it."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "shop"

    def words(self, verb: str, resume: bool = False) -> list[str]:
        """What is typed for a verb; ``resume`` goes on with a training that left a snapshot."""
        folders = {"MEDIA": "media", "CHANGED": "changed", "OUT": "exported", "NEW": "imported"}
        words = [str(self.folder / folders[word]) if word in folders else word for word in VERBS[verb]]
        if resume and verb == "train":
            from bundlecache.train.training.resume import FILE

            words = ["train", "--resume", "kill"] if (self.workspace / "runs/kill" / FILE).exists() else words
        return words if "--data" in words else [*words, "--data", str(self.workspace)]

    def start(self, verb: str, resume: bool = False) -> Forked:
        """The verb in a process group of its own."""
        return start(COMMAND, *self.words(verb, resume), cwd=self.folder)

    def finish(self, verb: str, resume: bool = False) -> str:
        """Run the verb to its end; "" or what went wrong."""
        process = self.start(verb, resume)
        output = "".join(process.communicate())
        if process.returncode == 0 or (
            verb == "train" and "There is a finished run 'kill'" in " ".join(output.split())
        ):
            return ""
        return f"exit {process.returncode}: {output[-400:]}"

    def copy(self, folder: Path) -> Case:
        """The same in another folder, with the times of all files."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Case(folder)

    def state(self, verb: str) -> dict[str, Any]:
        """What has to be equal after a verb: contents of files and tables; of compact, their pieces and versions too."""
        import pyarrow.parquet as pq

        from bundlecache.store.store import Store

        found: dict[str, Any] = {}
        derived = DERIVED - {"matrices"} if verb == "verify" else DERIVED  # which takes the damaged ones away
        base = re.escape(str(self.folder.parent).encode()) + rb"/[\w-]+"  # a case's own folder, in import.json
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            parts = set(name.parts)
            if not path.is_file() or parts & derived or any(p.startswith(".") or p.endswith(".lance") for p in parts):
                continue
            if "events.out" in path.name:
                continue
            found[str(name)] = _digest(
                repr(pq.read_table(path).to_pylist()).encode()
                if path.suffix == ".parquet"
                else re.sub(base, b"", _untimed(path))
            )
        store = Store(self.workspace / "store")
        for info in store.tables():
            dataset = store.dataset(info)
            rows = dataset.to_table(columns=["item_id", "content_hash", "live", "vector"]).to_pylist()
            found[info.table] = _digest(repr(sorted(map(repr, rows))).encode())
            if verb == "compact":
                found[f"pieces of {info.table}"] = len(dataset.get_fragments()), len(dataset.versions())
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _untimed(path: Path) -> bytes:
    """A file's content without what depends on how long something took."""
    content = path.read_bytes()
    if path.suffix == ".json":
        return repr(_without_times(json.loads(content))).encode()
    if path.suffix == ".html":  # sentences and drawings depend on seconds: the headings, and whether it is whole
        headings = re.findall(rb"<h[1-4].*?</h", content, re.S)
        return re.sub(rb"[\d.,]+", b"", b"".join(headings)) + content.rstrip()[-7:]
    return content


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_times(each) for key, each in sorted(value.items()) if key not in TIMED}
        return kept | ({"target_modules": sorted(kept["target_modules"])} if "target_modules" in kept else {})  # a set
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    return value


def change(shop: Path, folder: Path) -> None:
    """Copy a shop's tables with an item more, an item less, another title and a bundle more, for ``update``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    shutil.copytree(shop / "images", folder / "images")
    shutil.copytree(shop / "audio", folder / "audio")
    shutil.copy2(shop / "interactions.parquet", folder)
    items, bundles = (pq.read_table(shop / f"{name}.parquet").to_pylist() for name in ("items", "bundles"))
    items[3]["title"] = "another title"
    del items[9]
    items.append({**items[0], "item_id": "item-24", "title": "a new lamp", "image": "images/1.png"})
    bundles.append({**bundles[0], "bundle_id": "bundle-30", "item_ids": ["item-00", "item-02", "item-24"]})
    pq.write_table(pa.Table.from_pylist(items), folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(bundles), folder / "bundles.parquet")


def damage(workspace: Path) -> None:
    """Give ``verify --repair`` something to do: a wrong vector, the lost file of a table, a damaged matrix."""
    from bundlecache.store.store import Store

    store = Store(workspace / "store")
    image, audio = store.current("image"), store.current("audio")
    rows = store.dataset(image)
    rows.update({"vector": repr([9.0] * image.dim)}, where="item_id = 'item-03'")
    next((workspace / "store" / f"{audio.table}.lance" / "data").glob("*")).unlink()
    for path in (workspace / "store/matrices").glob("text*/*/vectors.npy"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 64
        path.write_bytes(content)


def prepare(root: Path, verbs: list[str]) -> dict[str, tuple[Case, dict[str, Any], float]]:
    """For each verb: the case before it, the state after it, and the seconds that it takes."""
    case = Case(root / "base")
    make_shop(case.folder)
    media = case.folder / "media"
    media.mkdir()
    for path in sorted((case.workspace / "images").iterdir())[:6]:
        shutil.copy2(path, media / path.name)
    change(case.workspace, case.folder / "changed")
    found = {}
    last = max(list(VERBS).index(verb) for verb in verbs)
    for verb in list(VERBS)[: last + 1]:
        needed = verb in NEEDED or (verb == "train" and {"evaluate", "report"} & set(verbs))
        if verb not in verbs and not needed:
            continue
        if verb == "verify":
            damage(case.workspace)
        if verb in verbs:
            before = case.copy(root / f"before-{verb}")
        began = time.monotonic()
        if wrong := case.finish(verb):
            raise SystemExit(f"{verb} fails without a kill: {wrong}")
        seconds = time.monotonic() - began
        if verb in verbs:
            found[verb] = (before, case.state(verb), seconds)
    return found


def kill_once(
    root: Path, verb: str, prepared: tuple[Case, dict[str, Any], float], part: float, resume: bool
) -> tuple[float, str]:
    """The part of its time at which the verb was killed, and what differs afterwards ("" for nothing)."""
    before, wanted, seconds = prepared
    for _ in range(TRIES):
        case = before.copy(root / "case")
        try:
            process = case.start(verb)
            time.sleep(part * seconds)
            in_time = process.poll() is None
            process.kill()
            process.communicate()
            if not in_time:  # faster than when it was measured
                part *= 0.75
                continue
            if wrong := case.finish(verb, resume):
                return part, wrong
            got = case.state(verb)
            differing = [name for name in sorted(wanted.keys() | got.keys()) if wanted.get(name) != got.get(name)]
            return part, f"differs: {', '.join(differing)}" if differing else ""
        finally:
            shutil.rmtree(case.folder, ignore_errors=True)
    return part, "ended before every kill"


def run(kills: int, seed: int, verbs: list[str], say: Any = lambda _: None) -> list[str]:
    """Kill ``kills`` times, verbs in turn; the failures in words."""
    rng, failures = random.Random(seed), []
    import_first(*IMPORTS)
    start(CODE, "").wait()  # before any seconds are measured: what forks imports longer than most verbs take
    turns = -(-kills // len(verbs))
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder), verbs)
        for number in range(kills):
            turn, verb = number // len(verbs), verbs[number % len(verbs)]
            part = 0.05 + 0.95 * (turn + rng.random()) / turns
            part, wrong = kill_once(Path(folder), verb, prepared[verb], part, resume=turn % 2 == 1)
            say(f"{number + 1:4} {verb:10} killed at {part:.0%}: {wrong or 'same'}")
            if wrong:
                failures.append(f"{verb} at {part:.0%}: {wrong}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", default=",".join(VERBS))
    given = parser.parse_args()
    failures = run(
        given.kills,
        given.seed,
        given.verbs.split(","),
        lambda line: sys.stdout.write(f"{line}\n") and sys.stdout.flush(),
    )
    sys.stdout.write(f"{given.kills - len(failures)} of {given.kills} kills ended as an uninterrupted run\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
