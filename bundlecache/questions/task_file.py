"""Reads and writes a file of frozen task questions: written once, hashed, checked whole on every reading.

``questions/tasks/NAME.parquet`` has a row per question and the columns that its task needs (`EXTRA`); ``NAME.json`` beside it
says how they were drawn and is written last. The SHA-256 is that of the cells, column by column (`digest`); it stands in
every result.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..catalogue.columns import Lists, Strings
from ..errors import Command, QuestionsError, counted, first_line
from ..files import read_json, replacing, write_text
from ..text import listed, quoted

if TYPE_CHECKING:
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue

TaskName = Literal["recommend", "search", "select", "preference", "explain", "draw"]
TASKS: tuple[TaskName, ...] = ("recommend", "search", "select", "preference", "explain")
"""The tasks that questions are frozen of; ``draw`` asks those of ``search``."""
FORMAT_VERSION = 1
TEXT, TEXTS = pa.string(), pa.list_(pa.string())
COMMON = {"part": TEXT, "user_id": TEXT, "history": TEXTS, "target": TEXT}
EXTRA: dict[TaskName, dict[str, pa.DataType]] = {
    "recommend": {},
    "search": {"query": TEXT},
    "select": {"candidates": TEXTS, "right": pa.list_(pa.bool_())},
    "preference": {"rating": pa.float32(), "history_rating": pa.list_(pa.float32())},
    "explain": {
        "rating": pa.float32(),
        "explanation": TEXT,
        "history_rating": pa.list_(pa.float32()),
        "history_explanation": TEXTS,
    },
}
"""The columns of each task beside those of all (`COMMON`): part "valid" or "test", user, history (earliest first), target."""


@dataclass(frozen=True)
class TaskQuestions:
    """q questions of one task: what the user did (``history``, item indices, the earliest first), and what was next.

    What a task does not need is empty. ``history_rating`` and ``history_explanation`` go with the values of ``history``.
    """

    task: TaskName
    header: dict[str, Any]
    users: Strings[str]  # [q]
    test: np.ndarray  # bool [q], else validation
    history: Lists  # [q]
    target: np.ndarray  # int32 [q]
    query: Strings[str] = field(default_factory=Strings)  # [q]
    candidates: np.ndarray = field(
        default_factory=partial(np.zeros, 0, np.int32)
    )  # [q, 3]; of draw, what is shown [q, 2]
    right: np.ndarray = field(default_factory=partial(np.zeros, 0, bool))  # [q, 3]
    rating: np.ndarray = field(default_factory=partial(np.zeros, 0, np.float32))  # [q]
    explanation: Strings[str] = field(default_factory=Strings)  # [q]
    history_rating: np.ndarray = field(default_factory=partial(np.zeros, 0, np.float32))  # NaN where there is none
    history_explanation: Strings[Any] = field(default_factory=Strings)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def name(self) -> str:
        """The name of the file."""
        return str(self.header["name"])

    @property
    def split(self) -> str:
        """How histories were split, see `task_split`."""
        return str(self.header["split"])

    @property
    def sha256(self) -> str:
        """Of the whole file, also where this is a part of it; of a sample, its own."""
        return str(self.header["sha256"])

    def part(self, test: bool) -> TaskQuestions:
        """The test questions, or those of validation."""
        return self.take(np.flatnonzero(self.test == test))

    def take(self, rows: np.ndarray) -> TaskQuestions:
        """These questions, in this order."""
        made: dict[str, Any] = {name: getattr(self, name)[rows] for name in ("test", "target")}
        made |= {"users": self.users.take(rows), "history": self.history.take(rows)}
        for name in ("candidates", "right", "rating"):
            if len(whole := getattr(self, name)):
                made[name] = whole[rows]
        for name in ("query", "explanation"):
            if len(texts := getattr(self, name)):
                made[name] = texts.take(rows)
        places = Lists.of(self.history.offsets, np.arange(len(self.history.values))).take(rows).values
        if len(self.history_rating):
            made["history_rating"] = self.history_rating[places]
        if len(self.history_explanation):
            made["history_explanation"] = self.history_explanation.take(places)
        return replace(self, **made)

    def table(self, item_ids: Strings[str]) -> pa.Table:
        """The rows as they are written, items by their ids."""

        def lists(values: Any) -> pa.Array:
            return pa.LargeListArray.from_arrays(pa.array(self.history.offsets), pa.array(values))

        triples = pa.array(np.arange(len(self) + 1) * (self.candidates.shape[1] if self.candidates.ndim == 2 else 0))
        made: dict[str, Any] = {
            "part": pa.array(np.where(self.test, "test", "valid")),
            "user_id": self.users.arrow,
            "history": lists(item_ids.take(self.history.values).arrow),
            "target": item_ids.take(self.target).arrow,
        }
        for name in EXTRA[self.task]:
            if name == "candidates":
                made[name] = pa.LargeListArray.from_arrays(triples, item_ids.take(self.candidates.ravel()).arrow)
            elif name == "right":
                made[name] = pa.LargeListArray.from_arrays(triples, pa.array(self.right.ravel()))
            elif name == "history_rating":
                made[name] = lists(pa.array(self.history_rating, from_pandas=True))  # null instead of NaN
            elif name == "history_explanation":
                made[name] = lists(self.history_explanation.arrow)
            else:
                cells = getattr(self, name)
                made[name] = cells.arrow if isinstance(cells, Strings) else pa.array(cells)
        schema = COMMON | EXTRA[self.task]
        return pa.table({name: made[name].cast(kind) for name, kind in schema.items()})

    def save(self, path: Path, catalogue: Catalogue) -> TaskQuestions:
        """Write the file and its header; the questions with their hash."""
        table = self.table(catalogue.item_ids)
        header = {"format_version": FORMAT_VERSION, **self.header, "sha256": digest(table)}
        with replacing(path) as temporary:
            path.with_suffix(".json").unlink(missing_ok=True)  # its presence means complete
            pq.write_table(table, temporary, compression="zstd")
        write_text(path.with_suffix(".json"), json.dumps(header, indent=1, sort_keys=True) + "\n")
        return replace(self, header=header)


def load(path: Path, catalogue: Catalogue) -> TaskQuestions:
    """Read a file and check all of it.

    Raises
    ------
    QuestionsError
        When the file is missing, damaged, changed since it was frozen, or names items that the catalogue lacks.
    """
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        made = sorted(p.stem for p in path.parent.glob("*.parquet") if p.with_suffix(".json").is_file())
        raise QuestionsError(
            f"There are no task questions {quoted(path.stem)} in {path.parent}; there are: {listed(made)}.",
            hint=Command("questions", "--task", "all"),
        )
    try:
        header = read_json(sidecar)
        task: TaskName = header["task"]
        schema = COMMON | EXTRA[task]
        table = pa.table({name: cells.cast(schema[name]) for name, cells in _columns(pq.read_table(path)).items()})
        sound = header["format_version"] == FORMAT_VERSION and list(schema) == table.column_names
        sound = sound and header["sha256"] == digest(table)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise QuestionsError(f"{path} or its .json is damaged ({first_line(error)}).", hint=_again(path)) from error
    if not sound:
        raise QuestionsError(f"{path} was changed after it was frozen.", hint=_again(path))
    return _of_table(task, header, table, catalogue, path)


def _columns(table: pa.Table) -> dict[str, pa.Array]:
    return {name: table[name].combine_chunks() for name in table.column_names}


def _again(path: Path) -> list[str | Command]:
    return [
        f"move {path.stem}.parquet and {path.stem}.json elsewhere;",
        Command("questions", "--task", "all"),
        "draws them again",
    ]


def _of_table(
    task: TaskName, header: dict[str, Any], table: pa.Table, catalogue: Catalogue, path: Path
) -> TaskQuestions:
    cells = {name: _one(table[name]) for name in table.column_names}

    def items(ids: pa.Array) -> np.ndarray:
        found = catalogue.positions(ids)
        if (found < 0).any():
            unknown = ids[int(np.flatnonzero(found < 0)[0])].as_py()
            raise QuestionsError(
                f"{path.name} names {counted(int((found < 0).sum()), 'item')} that the catalogue no longer has, {quoted(unknown)} among them.",
                hint=_again(path),
            )
        return found.astype(np.int32)

    offsets = np.concatenate([[0], np.asarray(pc.list_value_length(cells["history"]), np.int64).cumsum()])
    made: dict[str, Any] = {
        "users": Strings(cells["user_id"]),
        "test": np.asarray(pc.equal(cells["part"], "test")),
        "history": Lists.of(offsets, items(cells["history"].flatten())),
        "target": items(cells["target"]),
    }
    for name in EXTRA[task]:
        column = cells[name].flatten() if pa.types.is_list(cells[name].type) else cells[name]
        if name == "candidates":
            made[name] = items(column).reshape(len(table), -1)
        elif name == "right":
            made[name] = np.asarray(column).reshape(len(table), -1)
        elif name in ("rating", "history_rating"):
            made[name] = np.asarray(pc.fill_null(column, float("nan")), np.float32)
        else:
            made[name] = Strings(column)
    return TaskQuestions(task=task, header=header, **made)


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found


def digest(table: pa.Table) -> str:
    """SHA-256 of the names and cells of a table's columns: lengths as int64, texts as UTF-8, numbers little-endian."""
    total = hashlib.sha256()
    for name in table.column_names:
        total.update(f"{name}\0".encode())
        _add(total, _one(table[name]))
    return total.hexdigest()


def _add(total: Any, cells: pa.Array) -> None:
    total.update(np.asarray(cells.is_valid(), np.uint8).tobytes())
    if pa.types.is_list(cells.type):
        total.update(np.asarray(pc.fill_null(pc.list_value_length(cells), 0), "<i8").tobytes())
        _add(total, cells.flatten())
    elif pa.types.is_string(cells.type):
        filled = pc.fill_null(cells, "").cast(pa.large_binary())
        total.update(np.asarray(pc.binary_length(filled), "<i8").tobytes())
        if len(filled):
            _, offsets, content = filled.buffers()
            ends = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
            total.update(memoryview(content or b"")[ends[0] : ends[-1]])
    else:
        total.update(np.asarray(pc.fill_null(cells.cast(pa.float32()), 0.0), "<f4").tobytes())
