"""The errors file of a table: which items have no vector, at which stage they failed, and why.

It also lists items that count as absent (stage `ABSENT`): only learning showed that a graph says too little of them, and
the next run must not learn again to find that out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import StoreError
from ..files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ABSENT = "absent"
SCHEMA = pa.schema([(name, pa.string()) for name in ("item_id", "stage", "reason", "content_hash")])


class Failure(NamedTuple):
    """Why an item has no vector: ``stage`` is read, decode, encode, check or `ABSENT`; ``content_hash`` "" if unread."""

    stage: str
    reason: str
    content_hash: str


def count_failed(found: Mapping[str, Failure]) -> int:
    """How many of these items failed; the others are absent."""
    return sum(failure.stage != ABSENT for failure in found.values())


def read(root: Path, table: str) -> pa.Table:
    """The failed items of a table, and those whose stage is `ABSENT`: item_id, stage, reason, content_hash.

    Raises
    ------
    StoreError
        When the file is damaged.
    """
    path = _path(root, table)
    if not path.is_file():
        return SCHEMA.empty_table()
    try:
        return pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} is damaged: {str(error).splitlines()[0]}.",
            hint=f"delete {path}; failed items are then tried again",
        ) from error


def by_item(root: Path, table: str) -> dict[str, Failure]:
    """item_id -> failure."""
    return {row.pop("item_id"): Failure(**row) for row in read(root, table).to_pylist()}


def save(root: Path, table: str, failures: Mapping[str, Failure]) -> None:
    """Replace the file."""
    rows = [{"item_id": item_id, **failure._asdict()} for item_id, failure in failures.items()]
    with replacing(_path(root, table)) as path:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def _path(root: Path, table: str) -> Path:
    return root / "errors" / f"{table}.parquet"
