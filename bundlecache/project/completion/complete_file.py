"""Completes a file of carts: Parquet, CSV or JSON lines in, a Parquet file with a row per cart out.

A row holds bundle_id, item_ids, completions (ids, best first), probabilities, and error, which says why a cart has no
completions. Carts with an error stand in a second file too, ``answers.errors.jsonl`` beside ``answers.parquet``, which can
be completed as it is once it is mended. Carts are answered in blocks, and every block is kept in a file of its own until
all are there (`answer_parts`), so that a killed command goes on where it was. The blocks are answered by this process, by
the processes of torchrun, each of which takes its share, or by actors of Ray Data (``engine="ray"``).
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...catalogue.readers import carts
from ...console.reporter import duration
from ...errors import BundlecacheError, counted
from ...files import replacing, user_path
from ...rows import Result
from ...workspace import TABLES, read_manifest
from ..run import Run
from ..session import PROCESSES, Session
from .answer_parts import AnswerParts
from .complete_many import BLOCK_BUNDLES
from .process_group import ProcessGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ENGINES = ("local", "ray")
OTHER_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xlsx")
RAY_BLOCKS = 1024  # blocks that Ray Data is given at once
SCHEMA = pa.schema(
    {
        "bundle_id": pa.string(),
        "item_ids": pa.list_(pa.string()),
        "completions": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float64()),
        "error": pa.string(),
    }
)


@dataclass(frozen=True, repr=False)
class CompletedFile(Result):
    """The answers to a file of carts: their file, how many carts there were, how many have no completions.

    ``errors`` is the file of those, None where there are none.
    """

    path: Path
    bundles: int
    failed: int
    errors: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        errors = None if self.errors is None else str(self.errors)
        return {"path": str(self.path), "bundles": self.bundles, "failed": self.failed, "errors": errors}


def complete_file(
    session: Session,
    source: Path | str,
    out: Path | str,
    k: int = 5,
    *,
    maps: Sequence[str] = (),
    run: str | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    device: str = "auto",
    cores: int = 1,
    **how: Any,
) -> CompletedFile:
    """Complete every cart of the file ``source`` with ``k`` items; the answers are written to ``out``, whole or not at all.

    After a kill, the same call goes on with the blocks that are not answered yet, and ends with the same file.

    Parameters
    ----------
    maps
        Which columns hold the carts and their items, see `bundlecache.catalogue.readers.carts.read`.
    engine, ray_address
        "local", or "ray": on every core (``cores`` of them a worker) or GPU of a cluster whose machines see the
        workspace at the same path. In processes of torchrun, "local" shares the blocks among them.
    how
        Options of `Run.complete`, for every cart.

    Raises
    ------
    BundlecacheError
        When the file cannot be read or written, the run is missing, or an option is none that is allowed. What is
        wrong with one cart stands in its row instead.
    """
    source, out = user_path(source, "The file of carts"), user_path(out, "--out")
    _check(source, out, engine, ray_address)
    notes: list[str] = []
    with session.say.bar("read") as bar:
        bar.step(0, 1, source.name)
        table = carts.read(source, maps, notes)
    for note in notes:
        session.say.note(f"note: {note}")
    name = session.folder.run(None if run in (None, "latest") else run).name
    with ExitStack() as held:
        group = held.enter_context(ProcessGroup())
        work = _Work(session, table, AnswerParts(out, -(-len(table) // BLOCK_BUNDLES)), group)
        # What is wrong with the run or the options is said before anything is written.
        answerer = _Answerer(session, name, k, group.device(device), how) if engine == "local" else None
        mine = work.begin(_request(session, name, table, k, how))
        answers: Iterable[pa.Table]
        if answerer is not None:
            answers = map(answerer, map(work.block, mine))
        else:
            from ...ray_cluster import RayCluster

            cluster = held.enter_context(RayCluster(ray_address))
            make = partial(_Answerer, session.folder.root.absolute(), name, k, device, how)
            shared = cluster.shared(cores, device)
            answers = cluster.map(make, map(work.block, mine), *shared, ordered=True, wave=RAY_BLOCKS)
        began = time.perf_counter()
        work.keep(mine, answers)
        group.wait()
        if not group.leads:
            return CompletedFile(out, len(table), 0)
    if answered := len(table) - work.answered:
        seconds = time.perf_counter() - began
        session.say.note(f"{counted(answered, 'cart')} in {duration(seconds)}: {answered / seconds:,.0f} a second")
    failed, errors = _joined(work.parts, out)
    return CompletedFile(out, len(table), failed, errors)


class _Work:
    """The blocks of a file of carts, the parts that keep their answers, and this process's share of them."""

    def __init__(self, session: Session, table: pa.Table, parts: AnswerParts, group: ProcessGroup) -> None:
        self.say, self.table, self.parts, self.group = session.say, table, parts, group
        self.answered = 0  # carts that were answered before

    def block(self, number: int) -> pa.Table:
        """The carts of a block."""
        return self.table.slice(number * BLOCK_BUNDLES, BLOCK_BUNDLES)

    def begin(self, request: str) -> list[int]:
        """The numbers of the blocks that this process answers."""
        todo: list[int] = []
        if self.group.leads:
            if self.parts.begin(request):
                self.say.note(f"what {self.parts.folder.name} held was of another request, and was thrown away")
            todo = self.parts.missing()
        todo = self.group.told(todo)
        self.answered = len(self.table) - sum(len(self.block(number)) for number in todo)
        if self.answered:
            self.say.note(f"{self.answered:,} of {len(self.table):,} carts were answered before; the others follow")
        return todo[self.group.rank :: self.group.size]

    def keep(self, mine: list[int], answers: Iterable[pa.Table]) -> None:
        """Write the answers to the blocks ``mine`` as they come."""
        total, done = len(self.table) - self.answered, 0
        with self.say.bar("complete") as bar:
            for number, answered in zip(mine, answers, strict=True):
                self.parts.write(number, answered)
                done += len(answered)
                told = min(done * self.group.size, total)  # the others are about as far
                bar.counted(self.answered + told, len(self.table), self.answered)


class _Answerer:
    """Answers blocks of carts, in whatever process; ``workspace`` is the folder of one that it opens itself."""

    def __init__(self, workspace: Session | Path, run: str, k: int, device: str, how: dict[str, Any]) -> None:
        session = Session(workspace, quiet=True) if isinstance(workspace, Path) else workspace
        self.k, self.ids = k, session.catalogue.item_ids
        self.complete = Run(session, run).many(device=device, **how)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = [{"completions": [], "probabilities": [], **row} for row in block.to_pylist()]
        able = [row for row in rows if row["error"] is None]
        for row, ranking in zip(able, self.complete([row["item_ids"] for row in able]), strict=True):
            if isinstance(ranking, BundlecacheError):
                row["error"] = ranking.message
                continue
            row["completions"] = [self.ids[item] for item in ranking.items[: self.k].tolist()]
            row["probabilities"] = ranking.probabilities[: self.k].round(4).tolist()
        return pa.Table.from_pylist(rows, SCHEMA)


def _joined(parts: AnswerParts, out: Path) -> tuple[int, Path | None]:
    """Write the parts as one file; the number of carts with an error, and the file that holds them, if there are any."""
    errors, failed = _errors_file(out), 0
    with replacing(errors) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in parts.join():
            for row in part.filter(part["error"].is_valid()).select(["bundle_id", "item_ids", "error"]).to_pylist():
                failed += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    parts.remove()
    if not failed:
        errors.unlink(missing_ok=True)
    return failed, errors if failed else None


def _errors_file(out: Path) -> Path:
    return out.with_suffix(".errors.jsonl")


def _request(session: Session, run: str, table: pa.Table, k: int, how: dict[str, Any]) -> str:
    """What the answers depend on, as a text: the carts, the catalogue, the run, its vectors and how it ranks, the options."""
    digest = hashlib.sha256()
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in (each for each in chunk.buffers() if each is not None):
                digest.update(buffer)
    folder = session.folder.run(run)
    choice = folder / "completion.json"
    tables = [path for path in map(session.folder.table, TABLES) if path is not None]
    asked = {
        "carts": digest.hexdigest(),
        "catalogue": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in tables],
        "block": BLOCK_BUNDLES,
        "run": read_manifest(folder),
        "ranked_by": choice.read_text("utf-8") if choice.is_file() else None,
        "vectors": [[info.table, info.version] for info in session.store.tables()],
        "k": k,
        "how": {name: value for name, value in sorted(how.items()) if value not in (None, (), [])},
    }
    return json.dumps(asked, indent=1, sort_keys=True, default=str)


def _check(source: Path, out: Path, engine: str, ray_address: str | None) -> None:
    """Refuse options that do not go together.

    Raises
    ------
    BundlecacheError
        Naming them.
    """
    if out.suffix.lower() in OTHER_FORMATS:
        raise BundlecacheError(
            f"The answers are a Parquet file, and {out} is named otherwise.", hint=f"--out {out.stem}.parquet"
        )
    if out.is_dir():
        raise BundlecacheError(f"{out} is a folder.", hint="--out completions.parquet")
    if source.resolve() in (out.resolve(), _errors_file(out).resolve()):
        raise BundlecacheError(
            f"{source} holds the carts, and the answers would replace it.", hint=f"--out {out.stem}-2.parquet"
        )
    if engine not in ENGINES:
        raise BundlecacheError(f"There is no engine {engine!r}; there are local and ray.", hint="--engine ray")
    if engine == "local" and ray_address is not None:
        raise BundlecacheError(
            "--ray-address was given without --engine ray.", hint=f"--engine ray --ray-address {ray_address}"
        )
    if engine == "ray" and PROCESSES > 1:
        raise BundlecacheError(
            f"{PROCESSES} processes were started, and --engine ray starts its own.", hint="leave --engine ray out"
        )
