"""Keeps the parsed input tables as mapped files, so that a command reads of a catalogue what it needs.

``store/catalogue/KEY/`` holds an Arrow file per table and ``made.json`` with KEY and their sizes and SHA-256. KEY is the
SHA-256 of the contents and names of the input tables, so a folder never becomes out of date: other tables have another folder.
A folder is written beside and renamed, whole or not at all, and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..files import process_lives, read_json
from .input_tables import TABLES, InputTables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FORMAT_VERSION = 1  # to be raised when tables are parsed in another way
MADE = "made.json"
BLOCK_BYTES = 1 << 20
CHECKSUM_BYTES = 32
LARGE_ITEMS = 100_000  # from here on, it is worth a note that a catalogue cannot be cached
UNFINISHED = ".unfinished-"
ABANDONED_SECONDS = (
    3600.0  # since the last change of an unfinished folder: another process may have got the id of its dead maker
)


def read_or_build(
    folder: Path, files: Sequence[Path], parse: Callable[[], InputTables]
) -> tuple[InputTables, Path | None]:
    """The tables of these files: mapped where they were cached, otherwise parsed and cached; and the folder of the mapped files.

    A cache that is damaged is made anew. Where it cannot be written the parsed tables are used, and the folder is None.
    """
    try:
        key = _key(files)
    except OSError:
        return parse(), None  # which says what cannot be read
    found = _read(folder / key)
    if found is not None:
        return found, folder / key
    parsed = parse()
    try:
        if _key(files) != key:  # the files changed while they were read
            return parsed, None
        _write(folder, key, parsed)
    except OSError as error:
        found = _read(folder / key)
        if found is not None:  # another process was faster
            return found, folder / key
        if parsed.columns["items"].num_rows >= LARGE_ITEMS:
            reason = error.strerror or str(error)
            parsed.notes.append(f"{folder} cannot be written ({reason}), so every command parses the tables again.")
        return parsed, None
    return _read(folder / key) or parsed, folder / key


def read_array(path: Path | None) -> np.ndarray | None:
    """What `write_array` wrote; None where there is nothing, or nothing of use."""
    try:
        content = b"" if path is None else path.read_bytes()
        array, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
        if path is None or checksum != _checksum(path, array):
            return None
        return np.load(io.BytesIO(array), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def write_array(path: Path | None, array: np.ndarray) -> None:
    """Keep an array that was computed from a cached catalogue beside it; where that fails it is computed again next time."""
    if path is None:
        return
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}")
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    try:
        temporary.write_bytes(content.getvalue() + _checksum(path, content.getvalue()))
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _checksum(path: Path, content: bytes) -> bytes:
    """Of an array's bytes and the place that it was written for: a copy from another catalogue has another one."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}\0".encode() + content).digest()


def _key(files: Sequence[Path]) -> str:
    total = hashlib.sha256(f"{FORMAT_VERSION}".encode())
    for path in files:
        total.update(f"\0{path.name}\0{_digest(path)}".encode())
    return total.hexdigest()[:32]


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            total.update(block)
    return total.hexdigest()


def _read(folder: Path) -> InputTables | None:
    """The tables of a cached folder; None where it is missing, incomplete or changed."""
    try:
        made: dict[str, Any] = read_json(folder / MADE)
        if made["key"] != folder.name or made["files"].keys() != set(TABLES):  # copied from elsewhere, or edited
            return None
        columns = {}
        for name, (size, modified, digest) in made["files"].items():
            path = folder / f"{name}.arrow"
            is_now = path.stat()
            if is_now.st_size != size or (is_now.st_mtime_ns != modified and _digest(path) != digest):
                return None
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                columns[name] = reader.get_batch(0)
        return InputTables(columns, [str(note) for note in made["notes"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException):
        return None


def _write(folder: Path, key: str, tables: InputTables) -> None:
    """Write the files of the tables into ``folder / key``; folders of other tables, and what dead processes left, are deleted."""
    unfinished = folder / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
    unfinished.mkdir(parents=True)
    try:
        files = {}
        for name, batch in tables.columns.items():
            path = unfinished / f"{name}.arrow"
            with path.open("wb") as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
            files[name] = (path.stat().st_size, path.stat().st_mtime_ns, _digest(path))
        (unfinished / MADE).write_text(json.dumps({"key": key, "files": files, "notes": tables.notes}), "utf-8")
        if (folder / key).exists():  # damaged, or another process was faster
            shutil.rmtree(folder / key, ignore_errors=True)
        unfinished.rename(folder / key)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for other in folder.iterdir():
        if other.name != key and not _being_made(other):
            shutil.rmtree(other, ignore_errors=True)


def _being_made(folder: Path) -> bool:
    """Whether the process that makes an unfinished folder lives, and has changed the folder not long ago."""
    pid, _, token = folder.name.removeprefix(UNFINISHED).partition("-")
    if not (folder.name.startswith(UNFINISHED) and token and pid.isdecimal() and process_lives(int(pid))):
        return False
    try:
        return time.time() - folder.stat().st_mtime < ABANDONED_SECONDS
    except OSError:  # it was finished, or deleted
        return False
