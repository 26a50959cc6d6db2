"""Complete the bundles of a file: JSON lines with partial bundles in, a Parquet file with a row per bundle out.

A line is ``{"bundle_id": "b1", "item_ids": ["i1", "i2"]}``; without ``bundle_id`` the number of the line stands for it.
A row holds bundle_id, item_ids, completions (ids, best first), probabilities, and error, which says why a bundle has
no completions. The file is read in blocks by their place in it, and rows are written in the order of its lines, by
whatever engine: ``local`` in this process, ``ray`` by actors of Ray Data that open the workspace themselves.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..candidates import search
from ..errors import BundlecacheError
from ..files import replacing
from .run import Run
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

ENGINES = ("local", "ray")
BLOCK_LINES = 256  # bundles that a worker searches at once and answers before it hands them back
SCHEMA = pa.schema(
    {
        "bundle_id": pa.string(),
        "item_ids": pa.list_(pa.string()),
        "completions": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float64()),
        "error": pa.string(),
    }
)


@dataclass(frozen=True)
class CompletedFile:
    """The answers to a file of bundles: their file, how many bundles there were, and how many have none."""

    path: Path
    bundles: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"path": str(self.path), "bundles": self.bundles, "failed": self.failed}


@dataclass(frozen=True)
class Block:
    """A part of a file: its first byte, its bytes, and the number of its first line."""

    path: Path
    start: int
    size: int
    line: int

    def lines(self) -> list[tuple[int, bytes]]:
        """Its lines with their numbers; empty ones are left out."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            lines = file.read(self.size).split(b"\n")
        return [(self.line + i, text) for i, text in enumerate(lines) if text.strip()]


def complete_file(
    session: Session,
    source: Path,
    out: Path,
    k: int = 5,
    *,
    run: str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    device: str = "auto",
    cores: int = 1,
    **how: Any,
) -> CompletedFile:
    """Complete every bundle of the file ``source`` with ``k`` items; the answers are written to ``out``, whole or not at all.

    Parameters
    ----------
    engine, ray_address
        "local", or "ray": on every core (``cores`` of them a worker) or GPU of a cluster whose machines see the
        workspace and ``source`` at the same path.
    how
        Options of `Run.complete`, for every bundle.

    Raises
    ------
    BundlecacheError
        When the file cannot be read or written, the run is missing, or an option is none that is allowed. What is
        wrong with one bundle stands in its row instead.
    """
    if engine not in ENGINES:
        raise BundlecacheError(f"There is no engine {engine!r}; there are local and ray.", hint="--engine ray")
    if engine == "local" and ray_address is not None:
        raise BundlecacheError(
            "--ray-address was given without --engine ray.", hint=f"--engine ray --ray-address {ray_address}"
        )
    blocks = list(_blocks(source.absolute()))
    if not blocks:
        raise BundlecacheError(f"{source} is empty.", hint='a line is {"bundle_id": "b1", "item_ids": ["i1", "i2"]}')
    name = session.folder.run(None if run in (None, "latest") else run).name
    make = partial(_Completer, session.folder.root.absolute(), name, k, device, how)
    bundles = failed = 0
    with ExitStack() as held:
        if engine == "ray":
            from ..ray_cluster import RayCluster

            cluster = held.enter_context(RayCluster(ray_address))
            answers = cluster.map(make, blocks, *cluster.shared(cores, device), ordered=True)
        else:
            answers = map(make(), blocks)
        bar = held.enter_context(session.say.bar("complete"))
        temporary = held.enter_context(replacing(out))
        file = held.enter_context(pq.ParquetWriter(temporary, SCHEMA))
        for done, table in enumerate(answers, 1):
            file.write_table(table)
            bundles += len(table)
            failed += len(table) - table["error"].null_count
            bar.step(done, len(blocks))
    return CompletedFile(out, bundles, failed)


class _Completer:
    """Answers the bundles of a block, in whatever process: it opens the workspace itself, and says nothing."""

    def __init__(self, root: Path, run: str, k: int, device: str, how: dict[str, Any]) -> None:
        self.session = Session(root, quiet=True)
        self.run, self.k, self.how = Run(self.session, run), k, {"device": device, **how}
        self.run.load(device)  # what is wrong with the run is said once, and not of every bundle

    def __call__(self, block: Block) -> pa.Table:
        rows = [_row(number, text) for number, text in block.lines()]
        for row, proposed in zip(rows, self._proposed([row["item_ids"] for row in rows]), strict=True):
            if row["error"] is None:
                self._complete(row, proposed)
        return pa.Table.from_pylist(rows, SCHEMA)

    def _proposed(self, bundles: list[list[str]]) -> list[np.ndarray | None]:
        """The candidates of every bundle, searched in one pass over the vectors; None where `Run.complete` says why not."""
        catalogue, loaded = self.session.catalogue, self.run.load(self.how["device"])
        partials = [catalogue.positions(list(dict.fromkeys(items))) for items in bundles]
        able = [number for number, partial in enumerate(partials) if len(partial) and (partial >= 0).all()]
        where, exclude = self.how.get("where", ()), self.how.get("exclude", ())
        found = search.complete_many(
            catalogue,
            loaded.matrices or self.session.matrices(),
            [partials[number] for number in able],
            self.how.get("options") or loaded.model.max_options,
            allowed=search.allowed_items(catalogue, where, exclude) if where or exclude else None,
        )
        proposed = dict(zip(able, found, strict=True))
        return [proposed[number] if len(proposed.get(number, ())) else None for number in range(len(bundles))]

    def _complete(self, row: dict[str, Any], proposed: np.ndarray | None) -> None:
        """Fill in the completions of a row, or why there are none."""
        try:
            made = self.run.complete(row["item_ids"], self.k, proposed=proposed, **self.how)
        except BundlecacheError as error:
            row["error"] = error.message
            return
        row["completions"] = [each.item_id for each in made]
        row["probabilities"] = [each.probability for each in made]


def _row(number: int, text: bytes) -> dict[str, Any]:
    """The row of a line, without its completions."""
    row: dict[str, Any] = {
        "bundle_id": str(number),
        "item_ids": [],
        "completions": [],
        "probabilities": [],
        "error": None,
    }
    try:
        return row | _read(text)
    except BundlecacheError as error:
        return row | {"error": error.message}


def _read(text: bytes) -> dict[str, Any]:
    """bundle_id, where there is one, and item_ids of a line.

    Raises
    ------
    BundlecacheError
        When it is no such line.
    """
    try:
        given = json.loads(text)
        item_ids = given["item_ids"]
        whole = isinstance(item_ids, list) and all(isinstance(item_id, str) for item_id in item_ids)
        name = given.get("bundle_id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole, name, item_ids = False, None, []
    if not whole or not isinstance(name, str | None):
        raise BundlecacheError('The line is not {"bundle_id": "b1", "item_ids": ["i1", "i2"]}.')
    return {"item_ids": item_ids, **({"bundle_id": name} if name is not None else {})}


def _blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file of lines; it is read once, a line at a time.

    Raises
    ------
    BundlecacheError
        When it cannot be read.
    """
    start = at = line = 0
    first = 1
    try:
        with path.open("rb") as file:
            for text in file:
                at, line = at + len(text), line + 1
                if line - first + 1 == BLOCK_LINES:
                    yield Block(path, start, at - start, first)
                    start, first = at, line + 1
    except OSError as error:
        raise BundlecacheError(
            f"{path} cannot be read: {error.strerror}.", hint="--file bundles.jsonl, a bundle a line"
        ) from error
    if at > start:
        yield Block(path, start, at - start, first)
