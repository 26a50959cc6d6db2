"""Draw hostile cases from a seed: several wrong cells, names and bytes at once.

python tests/hostile/fuzz.py --seed 0 --cases 1000
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import registry
from bundlecache.workspace import WorkspaceFolder
from hostile import cases, worlds
from hostile.judge import judge_call


def one(rng: random.Random, folder: Path) -> None:
    """One world with some wrong cells, and sometimes cut or changed bytes; read and imported."""
    tables = worlds.rows()
    for _ in range(rng.randint(1, 5)):
        table, column = rng.choice(cases.COLUMNS)
        rng.choice(tables[table])[column] = cases.CELLS[rng.choice(list(cases.CELLS))]
    rng.choice((worlds.write_jsonl, worlds.write_csv))(folder / "src", tables)
    if rng.random() < 0.4:
        path = rng.choice(sorted((folder / "src").iterdir()))
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.5 else data)
    judge_call(lambda: Catalogue.read(WorkspaceFolder(folder / "src")))
    made = WorkspaceFolder(folder / "ws")
    if judge_call(lambda: registry.read("tables", folder / "src", made)) is None:
        assert judge_call(lambda: Catalogue.read(made)) is None, "imported, but cannot be read"


def main() -> None:
    """Print the seed of every case that fails; exit with 1 if one did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=200)
    options = parser.parse_args()
    failed = 0
    for case in range(options.seed, options.seed + options.cases):
        with tempfile.TemporaryDirectory() as folder:
            try:
                one(random.Random(case), Path(folder))
            except AssertionError as error:
                failed += 1
                sys.stdout.write(f"--seed {case} --cases 1: {str(error)[:300]}\n")
    sys.stdout.write(f"{options.cases:,} cases, {failed:,} failed\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
