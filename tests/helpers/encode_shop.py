"""A workspace whose items change between runs, toy encoders that misbehave on request, and runs in a child process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.encode.run import Receipt, run, run_all
from bundlecache.errors import MediaError
from bundlecache.store.store import Store
from bundlecache.store.table_schema import Identity
from bundlecache.workspace import WorkspaceFolder
from helpers.forked import Forked, start
from helpers.paths import TOP


class Toy:
    """A vector from the hash of a file's bytes. Files that start with BAD, POISON, NAN, ZERO, HUGE misbehave."""

    modality = "image"
    spec = "toy:bytes"
    dim = 12
    dtype = "float16"
    batch_size = 4
    tokens = 0
    fingerprint = "f" * 64
    reading = preprocess = "raw bytes"

    def __init__(self, **changes: Any) -> None:
        self.__dict__.update(changes)
        self.batches: list[int] = []

    def read(self, source: Path | str) -> bytes:
        content = Path(source).read_bytes()
        if content.startswith(b"BAD"):
            raise MediaError("the picture is cut off")
        return content

    def prepare(self, raw: bytes) -> bytes:
        return raw

    def encode(self, samples: list[bytes]) -> np.ndarray:
        self.batches.append(len(samples))
        if any(sample.startswith(b"POISON") for sample in samples):
            raise ValueError("the kernel\ndoes not like this")
        return np.stack([self.vector(sample) for sample in samples])

    def vector(self, content: bytes) -> np.ndarray:
        for mark, value in ((b"NAN", np.nan), (b"ZERO", 0.0), (b"HUGE", 1e6)):
            if content.startswith(mark):
                return np.full(self.dim, value, np.float32)
        digest = hashlib.sha512(content).digest()
        return np.frombuffer(digest[: self.dim], np.uint8).astype(np.float32) - 127.5


class Titles(Toy):
    modality = "text"
    spec = "toy:titles"

    def read(self, source: Path | str) -> bytes:
        return str(source).encode()


class Nodes(Titles):
    modality = "graph"
    spec = "toy:nodes"

    def has(self, item_id: str) -> bool:
        return item_id != "item-3"


class Shop:
    """A workspace whose items can be changed between runs."""

    def __init__(self, root: Path, count: int) -> None:
        self.workspace = WorkspaceFolder(root)
        (root / "images").mkdir(parents=True, exist_ok=True)
        self.images: dict[str, str | None] = {}
        for i in range(count):
            self.put(f"item-{i}", f"content {i}")

    def put(self, item_id: str, content: str) -> None:
        name = f"images/{hashlib.md5(item_id.encode()).hexdigest()}.bin"
        (self.workspace.root / name).write_text(content)
        self.images[item_id] = name

    @property
    def catalogue(self) -> Catalogue:
        titles = [f"title {item_id}" if item_id != "item-1" else "" for item_id in self.images]
        return Catalogue(list(self.images), titles, {"image": list(self.images.values())}, Bundles(), Interactions())

    @property
    def store(self) -> Store:
        return Store(self.workspace.store)

    def run(self, encoder: Toy | None = None, **options: Any) -> Receipt:
        receipt = run(encoder or Toy(), self.catalogue, self.workspace, self.store, **options)
        assert receipt.balances
        return receipt

    def run_all(self, *encoders: Toy, **options: Any) -> list[Receipt]:
        receipts = run_all(encoders, self.catalogue, self.workspace, self.store, **options)
        assert all(receipt.balances for receipt in receipts)
        return receipts

    def vector(self, item_id: str) -> np.ndarray | None:
        matrix = self.store.matrix([item_id], "image")
        return matrix.vectors[0] if matrix.mask[0] else None

    def errors(self, encoder: Toy | None = None) -> dict[str, tuple[str, str]]:
        rows = self.store.errors(Identity.of(encoder or Toy()).table_name).to_pylist()
        return {row["item_id"]: (row["stage"], row["reason"]) for row in rows}

    def rows(self, encoder: Toy | None = None) -> list[dict[str, Any]]:
        """The whole table, by item id."""
        table = self.store.location.dataset(Identity.of(encoder or Toy()).table_name).to_table()
        return sorted(table.to_pylist(), key=lambda row: row["item_id"])

    def start(self, script: str, *args: str, forks: bool = True) -> Forked | subprocess.Popen[str]:
        """A test file as a process of its own: ``python SCRIPT ROOT ARGS``; it opens the shop by `Shop.reopen`.

        ``forks=False`` starts Python anew, for what a fork of a process with imported libraries cannot be trusted with.
        """
        items = "\n".join(f"{item_id}\t{uri}" for item_id, uri in self.images.items())
        (self.workspace.root / "items.tsv").write_text(items)
        if forks:
            return start(script, self.workspace.root, *args)
        path = os.pathsep.join((str(TOP), str(TOP / "tests")))
        return subprocess.Popen(
            [sys.executable, script, str(self.workspace.root), *args],
            cwd=TOP,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @classmethod
    def reopen(cls, root: Path) -> Shop:
        """In the child, the shop as it was at its start."""
        shop = cls(root, 0)
        shop.images = dict(line.split("\t") for line in (root / "items.tsv").read_text().splitlines())
        return shop


def stored(content: str) -> np.ndarray:
    return Toy().vector(content.encode()).astype(np.float16)
