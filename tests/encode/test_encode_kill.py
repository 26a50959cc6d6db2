"""kill -9 at any moment of a run: the next one goes on, and the end is that of an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.encode_shop import Shop, Toy

from bundlecache.store import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PHASES = ("look", "read", "forward", "write", "rewrite", "update_status")
ROUNDS = 4  # of each phase; a killed process may have been in several, for they overlap
MORE = 40  # items that are new in each round
EDITED = 5  # and such that have other content than the round before
BATCH = COMMIT = 2  # items and rows, so that a round leaves many pieces to be written together


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_in_every_phase_the_store_ends_as_if_uninterrupted(tmp_path: Path) -> None:
    killed, whole = (Shop(tmp_path / name, 0) for name in ("killed", "whole"))
    rng = random.Random(0)
    kills, encoding, hit = 0, 0, dict.fromkeys(PHASES, 0)
    for turn in range(ROUNDS):
        for shop in (killed, whole):
            stock(shop, turn)
        for phase in rng.sample(PHASES[:-2], 4) + list(PHASES[-2:]):  # they come when all is encoded
            found = kill(killed, phase, rng)
            if found is None:
                continue
            kills, encoding = kills + 1, encoding + bool(found & {"read", "forward", "write"})
            for name in found:
                hit[name] += 1
    assert kills >= 20
    assert min(hit.values()) >= 2, f"kills landed in {hit}"
    child = killed.start(__file__)
    assert child.wait(300) == 0, child.communicate()

    whole.run(Logged(batch_size=BATCH))
    assert killed.rows() == whole.rows()
    assert killed.errors() == whole.errors()
    assert killed.errors().keys() == {"item-bad", "item-poison"}
    encoded = (killed.workspace.root / "encoded.log").read_text().split("\n")[:-1]
    again = len(encoded) - len(set(encoded))
    open_rows = encoding * 2 * (COMMIT - 1 + BATCH)  # waiting for the commit before them, and in it
    assert again <= open_rows, f"{again} contents were encoded twice; {open_rows} can have been open"
    assert len(encoded) - again == len(set(encoded)) == ROUNDS * MORE + (ROUNDS - 1) * EDITED, "and none was left out"


def stock(shop: Shop, turn: int) -> None:
    """The catalogue at a round: it grows, and some of what was there changes."""
    for i in range(MORE):
        shop.put(f"item-{turn}-{i}", f"content {turn} {i}")
    for i in range(EDITED if turn else 0):
        shop.put(f"item-{turn - 1}-{i}", f"edited at {turn} {i}")
    shop.put("item-bad", "BAD")
    shop.put("item-poison", "POISON")
    shop.put(f"twin-{turn}", f"content {turn} 7")


def kill(shop: Shop, phase: str, rng: random.Random) -> set[str] | None:
    """Run until a moment of a phase and kill; the phases it was in, None when it ended before."""
    child = shop.start(__file__)
    assert child.stdout is not None
    lines = []
    wanted = rng.randint(1, 8) if phase in ("read", "forward", "write") else 1
    for line in child.stdout:
        lines.append(line)
        if lines.count(f"+{phase}\n") == wanted:
            break
    time.sleep(rng.uniform(0.0, 0.01))
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.readlines()
    if child.wait(60) == 0:
        return None
    assert child.returncode == -signal.SIGKILL, child.communicate()
    return {name for name in PHASES if lines.count(f"+{name}\n") > lines.count(f"-{name}\n")}


class Logged(Toy):
    """Slow, tells in which phase it is, and notes in a file what it has encoded; the poison in it does not count."""

    log: Path | None = None

    def read(self, source: Path | str) -> bytes:
        with told("read"):
            time.sleep(0.002)
            return super().read(source)

    def encode(self, samples: list[bytes]) -> np.ndarray:
        with told("forward"):
            time.sleep(0.01)
            vectors = super().encode(samples)
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write("".join(sample.decode() + "\n" for sample in samples))
            return vectors


@contextmanager
def told(phase: str) -> Iterator[None]:
    """Say on standard output when a phase begins and ends, in single writes that a kill cannot cut."""
    tell = os.write if __name__ == "__main__" else lambda *_: 0
    tell(1, f"+{phase}\n".encode())
    try:
        yield
    finally:
        tell(1, f"-{phase}\n".encode())


def _main(root: Path) -> None:
    from bundlecache.encode import run as encode

    def telling(phase: str, action: Callable) -> Callable:
        def told_action(*args: object, **options: object) -> object:
            with told(phase):
                return action(*args, **options)

        return told_action

    encode.scan_items = telling("look", encode.scan_items)
    tables.rewrite = telling("rewrite", tables.rewrite)
    for phase in ("write", "update_status"):
        setattr(tables.TableWriter, phase, telling(phase, getattr(tables.TableWriter, phase)))
    encoder = Logged(batch_size=BATCH, log=root / "encoded.log")
    Shop.reopen(root).run(encoder, commit_rows=COMMIT, workers=2)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
