"""Toy encoders for other processes, and what every pool must make of a shop."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.encode.protocol import WorkerPool
from bundlecache.errors import EncoderError
from helpers.encode_shop import Shop, Toy

COUNTED = ("items", "encoded", "cached", "failed", "absent", "reused")


class Wide(Toy):
    spec, fingerprint = "toy:wide", "e" * 64


class Deadly(Toy):
    """Ends its process at a file that starts with DIE."""

    def encode(self, samples: list[bytes]) -> np.ndarray:
        if any(sample.startswith(b"DIE") for sample in samples):
            os._exit(9)
        return super().encode(samples)


class Slow(Toy):
    """Takes a tenth of a second for a batch, and minutes for files that start with SLOW."""

    def encode(self, samples: list[bytes]) -> np.ndarray:
        time.sleep(300 if samples[0].startswith(b"SLOW") else 0.1)
        return super().encode(samples)


class Broken(Toy):
    def encode(self, samples: list[bytes]) -> np.ndarray:
        raise ValueError("no kernel image")


def toys(device: str) -> list[Toy]:
    return [Toy(), Wide()]


def deadly(device: str) -> list[Toy]:
    return [Deadly()]


def slow(device: str) -> list[Toy]:
    return [Slow()]


def broken(device: str) -> list[Toy]:
    return [Broken()]


def missing(device: str) -> list[Toy]:
    raise EncoderError("The encoder 'toy' names no folder that exists.", hint="type another")


def by_device(device: str) -> list[Toy]:
    return [Toy(preprocess=f"forward on {device}")]


def make(root: Path, count: int = 150) -> Shop:
    """Good files, files of equal content, and files that fail in every way."""
    shop = Shop(root, count)
    for item_id, content in {
        "item-3": "BAD",
        "item-20": "POISON",
        "item-41": "NAN",
        "item-60": "content 61",  # the same as item-61's
        "item-99": "ZERO",
    }.items():
        shop.put(item_id, content)
    shop.images["item-7"] = None
    return shop


def check_equal(alone: Shop, together: Shop, pool: WorkerPool, **options: Any) -> None:
    """A pool leaves the rows, failures and receipts of a run in one process, for each of two encoders."""
    here = alone.run_all(Toy(), Wide())
    there = together.run_all(*pool.encoders, pool=pool, **options)
    for one, other in zip(here, there, strict=True):
        assert {name: asdict(one)[name] for name in COUNTED} == {name: asdict(other)[name] for name in COUNTED}
        assert other.forwards > 1
    for toy in (Toy(), Wide()):
        assert together.rows(toy) == alone.rows(toy)
        assert together.errors(toy) == alone.errors(toy)
        assert {stage for stage, _ in together.errors(toy).values()} == {"decode", "encode", "check"}
    again = together.run_all(*pool.encoders, pool=pool, **options)
    assert [receipt.forwards for receipt in again] == [0, 0]
