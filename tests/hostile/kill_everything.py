"""Kill every verb at random moments, run it again, and compare the workspace with that of an uninterrupted run.

    python tests/hostile/kill_everything.py --kills 100 --seed 0 [--verbs encode,train]

Each kill starts from a copy of a workspace on which all earlier verbs have run, sends SIGKILL to the verb's process group
after a random part of the time it takes, runs the same command again, and requires exit code 0 and the same state: rows
of all tables, questions, candidates, weights, names of all other files. It prints one line per kill and ends with 1 if
one of them ended otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests")]

from helpers.forked import CODE, COMMAND, Forked, start
from helpers.shop import make_shop

STEPS = ["text_stage.steps=4", "fusion_stage.steps=4", "fusion_stage.contrastive_steps=2"]
TRAIN = ["--recipe", "demo", *(word for step in STEPS for word in ("--set", step))]
VERBS: dict[str, list[str]] = {  # in the order of the pipeline; SRC, OUT and NEW are folders of each case
    "import": ["import", "folder", "SRC", "--data", "NEW"],
    "encode": ["encode", "--modality", "all"],
    "questions": ["questions", "--options", "4"],
    "candidates": ["candidates", "--k", "5"],
    "train": ["train", "--name", "kill", *TRAIN],
    "evaluate": ["evaluate", "--run", "kill", "--no-ablation"],
    "report": ["report", "--run", "kill"],
    "compact": ["compact"],
    "verify": ["verify", "--repair"],
    "export": ["export", "--out", "OUT"],
}
QUICK_VERBS = ("import", "encode", "questions", "candidates", "compact", "export")  # without a language model
DERIVED = {
    "catalogue",
    "receipts",
    "locks",
    "hashes",
    "matrices",
    "tokens",
    "tensorboard",
}  # times in names, or made when missing
COMPARED = {".safetensors", ".bin"}


@dataclass
class Case:
    """One workspace and the folders beside it."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "shop"

    def words(self, verb: str) -> list[str]:
        """What is typed for a verb."""
        folders = {"SRC": "media", "OUT": "exported", "NEW": "imported"}
        words = [str(self.folder / folders[word]) if word in folders else word for word in VERBS[verb]]
        data = [] if "--data" in words else ["--data", str(self.workspace)]
        return [*words, *data]

    def start(self, verb: str) -> Forked:
        """The verb in a process group of its own."""
        return start(COMMAND, *self.words(verb), cwd=self.folder)

    def finish(self, verb: str) -> str:
        """Run the verb to its end; "" or what went wrong."""
        process = self.start(verb)
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

    def state(self) -> dict[str, Any]:
        """What has to be equal: names of files, contents of tables and weights."""
        import pyarrow.parquet as pq

        from bundlecache.store.store import Store

        found: dict[str, Any] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            parts = set(name.parts)
            if not path.is_file() or parts & DERIVED or any(p.startswith(".") or p.endswith(".lance") for p in parts):
                continue
            if "events.out" in path.name or path.name.startswith("snapshot"):
                continue
            found[str(name)] = (
                _digest(repr(pq.read_table(path).to_pylist()).encode())
                if path.suffix == ".parquet"
                else _digest(path.read_bytes())
                if path.suffix in COMPARED
                else ""
            )
        store = Store(self.workspace / "store")
        for info in store.tables():
            rows = store.dataset(info).to_table(columns=["item_id", "content_hash", "live", "vector"]).to_pylist()
            found[info.table] = _digest(repr(sorted(map(repr, rows))).encode())
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def prepare(root: Path, verbs: list[str]) -> dict[str, tuple[Case, dict[str, Any], float]]:
    """For each verb: the case before it, the state after it, and the seconds that it takes."""
    case = Case(root / "base")
    make_shop(case.folder)
    media = case.folder / "media"
    media.mkdir()
    for path in sorted((case.workspace / "images").iterdir())[:6]:
        shutil.copy2(path, media / path.name)
    found = {}
    last = max(list(VERBS).index(verb) for verb in verbs)
    for verb in list(VERBS)[: last + 1]:
        needed = verb in ("encode", "questions") or (verb == "train" and {"evaluate", "report"} & set(verbs))
        if verb not in verbs and not needed:
            continue
        if verb in verbs:
            before = case.copy(root / f"before-{verb}")
        began = time.monotonic()
        if wrong := case.finish(verb):
            raise SystemExit(f"{verb} fails without a kill: {wrong}")
        if verb in verbs:
            found[verb] = (before, case.state(), time.monotonic() - began)
    return found


def kill_once(root: Path, verb: str, prepared: tuple[Case, dict[str, Any], float], part: float) -> tuple[bool, str]:
    """Whether the kill came before the end, and what differs afterwards ("" for nothing)."""
    before, wanted, seconds = prepared
    case = before.copy(root / "case")
    try:
        process = case.start(verb)
        time.sleep(part * seconds)
        killed = process.poll() is None
        process.kill()
        process.communicate()
        if wrong := case.finish(verb):
            return killed, wrong
        got = case.state()
        differing = [name for name in sorted(wanted.keys() | got.keys()) if wanted.get(name) != got.get(name)]
        return killed, f"differs: {', '.join(differing)}" if differing else ""
    finally:
        shutil.rmtree(case.folder, ignore_errors=True)


def run(kills: int, seed: int, verbs: list[str], say: Any = lambda _: None) -> list[str]:
    """Kill ``kills`` times, verbs in turn; the failures in words."""
    rng, failures = random.Random(seed), []
    start(CODE, "").wait()  # before any seconds are measured: what forks imports longer than most verbs take
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder), verbs)
        for number in range(kills):
            verb, part = verbs[number % len(verbs)], rng.uniform(0.15, 1.0)
            killed, wrong = kill_once(Path(folder), verb, prepared[verb], part)
            say(f"{number + 1:4} {verb:10} at {part:.0%} {'killed' if killed else 'ended before'}: {wrong or 'same'}")
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
