"""What is to be done for one encoder and its table: which items are cached, copied, encoded, or failed before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .protocol import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..store.failures import Failure
    from ..store.tables import TableWriter
    from .scan import Scan


@dataclass
class Plan:
    """Items that are cached, that failed before, that get a copy of a stored vector, and units to encode."""

    scan: Scan
    cached: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    copies: list[tuple[str, str, str]] = field(default_factory=list)  # item, content hash, item that has its vector
    units: list[Unit] = field(default_factory=list)

    def update_status(self, table: TableWriter, failed: Mapping[str, Failure]) -> None:
        """Record the failures, and mark rows whose item has other content now, or none, as no longer valid.

        An item whose file cannot be read keeps its row: nothing is known about its content.
        """
        failed = {**self.failed, **failed}
        outcome: dict[str, Failure | None] = dict.fromkeys([*self.scan.present, *self.scan.absent])
        dead = {item_id for item_id, failure in failed.items() if failure.content_hash}
        table.update_status(outcome | failed, dead=dead | set(self.scan.absent))


def plan(scan: Scan, table: TableWriter, *, retry_failed: bool) -> Plan:
    """Sort items into cached, failed before, copies of a stored vector, and units of equal content to encode."""
    made = Plan(scan)
    holder = {content_hash: item_id for item_id, content_hash in table.content.items()}
    units: dict[str, Unit] = {}
    for position, (item_id, source) in enumerate(scan.present.items()):
        content_hash = source.content_hash
        failure = table.errors.get(item_id)
        if table.content.get(item_id) == content_hash:
            made.cached.append(item_id)
        elif failure is not None and failure.content_hash == content_hash and not retry_failed:
            made.failed[item_id] = failure
        elif content_hash in holder:
            made.copies.append((item_id, content_hash, holder[content_hash]))
        elif content_hash in units:
            units[content_hash].item_ids.append(item_id)
        else:
            units[content_hash] = Unit(source, [item_id], position)
    made.units = list(units.values())
    return made
