"""Receipts of runs: one JSON file per run and table, which says when it began and ended and what it did.

A receipt without an end belongs to a run that goes on or was killed. The newest receipt of a table says when the table
was last written to or checked, which decides which table of a modality is the current one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..files import read_json, write_text
from .guards import storing

if TYPE_CHECKING:
    from pathlib import Path

    from .table_schema import Identity

STAMP = "%Y%m%dT%H%M%S.%fZ"  # time of the start, in the name of the file
KEEP_RECEIPTS = 50  # of a table


def begin(root: Path, identity: Identity) -> Path:
    """Write the receipt of a run that has started in the store ``root``, and give its path."""
    now = datetime.now(timezone.utc)
    path = root / "receipts" / f"{now.strftime(STAMP)}--{identity.table_name}.json"
    _write(root, path, identity, now, None, {})
    return path


def end(root: Path, path: Path, identity: Identity, figures: dict[str, Any]) -> None:
    """Complete the receipt of `begin` with the figures of the run, and delete the oldest of many."""
    started = _started(path) or datetime.now(timezone.utc)
    _write(root, path, identity, started, datetime.now(timezone.utc), figures)
    for old in _of_table(root, identity.table_name)[:-KEEP_RECEIPTS]:
        old.unlink(missing_ok=True)


def last_started(root: Path, table: str) -> datetime | None:
    """When the newest run of a table started; None where there is no receipt. Files with other names do not count."""
    paths = _of_table(root, table)
    return _started(paths[-1]) if paths else None


def newest(root: Path) -> list[dict[str, Any]]:
    """The newest finished run of every table, newest last; damaged files count nothing, the tables hold the facts."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((root / "receipts").glob("*.json")):
        if _started(path) is None:
            continue
        try:
            receipt = read_json(path)
            table, finished = receipt["table"], receipt["finished"]
            whole = isinstance(table, str) and all(
                isinstance(receipt.get(name, 0), int) for name in ("absent", "items")
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if finished and whole:
            found.pop(table, None)
            found[table] = receipt
    return list(found.values())


def _of_table(root: Path, table: str) -> list[Path]:
    """The receipts of a table, oldest first."""
    paths = (root / "receipts").glob(f"*Z--{table}.json")
    return sorted(path for path in paths if _started(path) is not None and path.name.endswith(f"Z--{table}.json"))


def _started(path: Path) -> datetime | None:
    """The time in a receipt's name; None when that is no receipt's name."""
    try:
        return datetime.strptime(path.name.partition("--")[0], STAMP).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _write(
    root: Path, path: Path, identity: Identity, started: datetime, finished: datetime | None, figures: dict[str, Any]
) -> None:
    receipt = {**asdict(identity), "table": identity.table_name, **figures}
    receipt |= {"started": started.isoformat(), "finished": finished.isoformat() if finished else None}
    with storing(root):
        write_text(path, json.dumps(receipt, indent=1))
