"""Draw hostile cases from a seed: several wrong cells, arguments, numbers and bytes at once.

python tests/hostile/fuzz.py --seed 0 --cases 1000 --kinds tables,arguments

A kind of case is a function of `KINDS`: from a generator of random numbers and an empty folder it makes an input and judges
what it ends in. Everywhere the same is asked: a result or one sentence with a hint, within a minute, and inputs stay as they are.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import typer.main
from helpers.paths import TOP

from bundlecache import cli
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import registry
from bundlecache.workspace import WorkspaceFolder
from hostile import cases, worlds
from hostile.judge import judge_call, judge_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 60  # that a case may take
COMMANDS = typer.main.get_command(cli.app).commands
LONG = {"train", "ablate", "adapt", "draw"}
"""Verbs that do their work for minutes where a draw leaves their arguments in order; they get a folder without a catalogue."""
NUMBERS = [0, 1, -1, 2, 3, 255, 2**31, -(2**31), 2**63, 10**30, 0.5, -0.5, 1e-9, 1e308]
VALUES: list[Any] = [*NUMBERS, None, True, "", "x", [], [1], {}, {"a": 1}, "9" * 50, [[1, 2], [3]], "torch.float33"]
"""For a value of a JSON file."""


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bytes changed, and sometimes the end cut off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.5 else data)


def changed_json(rng: random.Random, value: Any) -> Any:
    """One value somewhere in what a JSON file holds is another one, or its key is gone."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    made = value.copy()
    key = rng.choice([*made]) if isinstance(made, dict) else rng.randrange(len(made))
    if isinstance(made, dict) and rng.random() < 0.1:
        del made[key]
    else:
        made[key] = changed_json(rng, made[key])
    return made


def damage(rng: random.Random, path: Path) -> None:
    """Another value in a JSON file, else other bytes."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_text(json.dumps(changed_json(rng, json.loads(content))), "utf-8")
    else:
        path.write_bytes(changed_bytes(rng, content))


def tables(rng: random.Random, folder: Path) -> None:
    """One world with some wrong cells, and sometimes cut or changed bytes; read and imported."""
    drawn = worlds.rows()
    for _ in range(rng.randint(1, 5)):
        table, column = rng.choice(cases.COLUMNS)
        rng.choice(drawn[table])[column] = cases.CELLS[rng.choice(list(cases.CELLS))]
    rng.choice((worlds.write_jsonl, worlds.write_csv))(folder / "src", drawn)
    if rng.random() < 0.4:
        path = rng.choice(sorted((folder / "src").iterdir()))
        path.write_bytes(changed_bytes(rng, path.read_bytes()))
    judge_call(lambda: Catalogue.read(WorkspaceFolder(folder / "src")))
    made = WorkspaceFolder(folder / "ws")
    if judge_call(lambda: registry.read("tables", folder / "src", made)) is None:
        assert judge_call(lambda: Catalogue.read(made)) is None, "imported, but cannot be read"


def arguments(rng: random.Random, folder: Path) -> None:
    """Any verb with some nonsense for its options and arguments, on a small catalogue."""
    verb = rng.choice(sorted(COMMANDS.keys() - {"demo", "serve"}))  # which would do their work
    shop = folder / "shop"
    worlds.write_jsonl(shop, worlds.rows())
    os.mkfifo(folder / "fifo")
    (folder / "file").write_bytes(cases.BYTES[rng.choice(list(cases.BYTES))])
    nonsense = [
        *cases.ARGUMENTS,
        *map(str, NUMBERS),
        str(folder),
        f"{folder}/fifo",
        f"{folder}/file",
        f"{folder}/none",
        "i0",
    ]
    words: list[str] = []
    options = [option for option in COMMANDS[verb].params if option.name not in ("data", "help")]
    for option in rng.sample(options, min(len(options), rng.randint(1, 4))):
        if option.param_type_name == "argument":
            words.append(rng.choice(nonsense))
        else:
            words += [option.opts[0]] if getattr(option, "is_flag", False) else [option.opts[0], rng.choice(nonsense)]
    before = worlds.snapshot(shop)
    judge_command(verb, *words, "--data", folder / "nothing" if verb in LONG else shop)
    if verb not in ("update", "import"):
        after = worlds.snapshot(shop)
        assert {path: after.get(path) for path in before} == before, f"{verb} {words} changed the catalogue"


def arrays(rng: random.Random, folder: Path) -> None:
    """Vectors and ids of other programs, in shapes, types and files of any kind."""
    worlds.write_jsonl(folder / "ws", worlds.rows())
    numbers = np.random.default_rng(rng.randrange(2**32))

    def drawn() -> np.ndarray:
        shape = [rng.choice([0, 1, 3, 12, 12, 12]) for _ in range(rng.randint(0, 3))]
        kind = rng.choice(["f2", "f4", "f8", "i1", "i8", "u2", "?", "c8", "U3", "S3", "M8[s]"])
        with np.errstate(all="ignore"):
            made = (numbers.normal(size=shape) * 10.0 ** rng.randint(-9, 9)).astype("f4").astype(kind)
        if made.size and kind[0] == "f" and rng.random() < 0.3:
            made.flat[rng.randrange(made.size)] = rng.choice([np.nan, np.inf, -np.inf])
        return np.asfortranarray(made) if rng.random() < 0.2 else made

    ids: np.ndarray = np.array([rng.choice([f"i{k}", "i0", "nobody", ""]) for k in range(rng.choice([0, 3, 12, 12]))])
    for name, array in (("v.npy", drawn()), ("ids.npy", ids if rng.random() < 0.7 else drawn())):
        with (folder / name).open("wb") as file:
            (np.savez if rng.random() < 0.1 else np.save)(file, array)
        if rng.random() < 0.3:
            (folder / name).write_bytes(changed_bytes(rng, (folder / name).read_bytes()))
    given = ("--ids", folder / "ids.npy", "--modality", "image", "--name", "n", "--data", folder / "ws")
    judge_command("import-vectors", folder / "v.npy", *given)
    judge_command("verify", "--data", folder / "ws")


def clhe(rng: random.Random, folder: Path) -> None:
    """A folder in the layout of CLHE, some of whose files are damaged or have other numbers."""
    src = folder / "src"
    src.mkdir()
    texts = {
        "item_info.json": json.dumps({str(i): {"title": f"thing {i}", "cate": i % 3} for i in range(8)}),
        "count.json": json.dumps({"#U": 4, "#B": 5, "#I": 8}),
        "bi_train.txt": "".join(f"{b}, {b}, {b + 1}, {b + 2}\n" for b in range(3)),
        "bi_valid_gt.txt": "3, 4\n",
        "bi_valid_input.txt": "3, 3, 5\n",
        "bi_test_gt.txt": "4, 6\n",
        "bi_test_input.txt": "4, 4, 7\n",
        "ui_full.txt": "".join(f"{u}, {u}, {u + 3}\n" for u in range(4)),
    }
    for name, text in texts.items():
        if rng.random() < 0.3 and name.endswith(".txt"):
            words = text.replace("\n", " \n ").split(" ")
            words[rng.randrange(len(words))] = str(rng.choice(VALUES))
            text = " ".join(words)
        (src / name).write_text(text, "utf-8")
    for path in rng.sample(sorted(src.iterdir()), rng.randint(0, 3)):
        damage(rng, path)
    judge_call(lambda: registry.read("clhe", src, WorkspaceFolder(folder / "ws")))


def bases(rng: random.Random, folder: Path) -> None:
    """A folder of a base model with other values in its settings, or damaged tokenizer and weights."""
    import torch

    from bundlecache.recipes.settings import Base
    from bundlecache.train.model import llm

    base = shutil.copytree(_base(), folder / "base")
    for path in rng.sample(sorted(path for path in base.iterdir() if path.is_file()), rng.randint(1, 2)):
        damage(rng, path)

    def load() -> None:
        loaded = llm.load(Base(model=str(base)), torch.device("cpu"))
        loaded.model(torch.tensor([loaded.tokenizer("a red lamp")["input_ids"]]))

    judge_call(load)


@functools.cache
def _base() -> Path:
    from helpers.train_shop import save_base

    return save_base(Path(tempfile.mkdtemp(prefix="fuzz-base-")) / "base")


def workspaces(rng: random.Random, folder: Path) -> None:
    """A workspace with everything in it, some of whose files are damaged or stand in each other's place."""
    shop = shutil.copytree(_workspace(), folder / "shop")
    files = sorted(path for path in shop.rglob("*") if path.is_file() and ".lance" not in str(path))
    hurt = rng.sample(files, rng.randint(1, 3))
    for path in hurt:
        if rng.random() < 0.15:
            path.write_bytes(rng.choice(files).read_bytes())
        else:
            damage(rng, path)
    stored = _vectors(shop)
    verbs = [
        ["status"],
        ["status", "--errors"],
        ["candidates", "--k", "3", "--modality", "image"],
        ["questions"],
        ["verify"],
    ]
    verbs += [
        ["report", "--run", "first"],
        ["drift", "--from", "first"],
        ["compact"],
        ["export", "--out", f"{folder}/out"],
    ]
    for words in rng.sample(verbs, 3):
        judge_command(*words, "--data", shop)
    assert _vectors(shop) == stored, f"stored vectors changed after damage of {[path.name for path in hurt]}"
    judge_command("verify", "--repair", "--data", shop)


@functools.cache
def _workspace() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-workspace-"))
    with tarfile.open(TOP / "tests" / "data" / "old_workspaces.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "old_workspace"


def _vectors(shop: Path) -> list[Any]:
    """The rows of all tables, as they stand."""
    from bundlecache.store.store import Store

    store = Store(shop / "store")
    columns = ["item_id", "checksum", "vector"]
    found = []
    for info in store.tables():
        found.append((info.table, sorted(map(repr, store.dataset(info).to_table(columns=columns).to_pylist()))))
    return sorted(found)


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "tables": tables,
    "arguments": arguments,
    "arrays": arrays,
    "clhe": clhe,
    "bases": bases,
    "workspaces": workspaces,
}


@contextmanager
def _limited() -> Iterator[None]:
    """A case that hangs fails."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one(kind: str, seed: int, folder: Path) -> str:
    """Make and judge one case in an empty folder; "" or what is wrong."""
    try:
        with _limited():
            KINDS[kind](random.Random(seed), folder)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    return ""


def main() -> None:
    """Print the seed of every case that fails; exit with 1 if one did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=200, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    failed = 0
    for kind in options.kinds.split(","):
        for seed in range(options.seed, options.seed + options.cases):
            with tempfile.TemporaryDirectory() as folder:
                if wrong := one(kind, seed, Path(folder).resolve()):
                    failed += 1
                    sys.stdout.write(f"--kinds {kind} --seed {seed} --cases 1: {wrong[:400]}\n")
                    sys.stdout.flush()
    sys.stdout.write(f"{options.cases:,} cases of {len(options.kinds.split(','))} kinds, {failed:,} failed\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
