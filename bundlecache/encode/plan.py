"""What has to be done with the items that were found, for one encoder and its table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .batcher import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..store.failures import Failure
    from ..store.tables import TableWriter
    from .scan import Survey


@dataclass
class Plan:
    """Items that have their vector, that failed before, that get a stored vector, and units to encode."""

    found: Survey
    cached: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    copies: list[tuple[str, str, str]] = field(default_factory=list)  # item, content hash, item that has its vector
    units: list[Unit] = field(default_factory=list)

    def settle(self, table: TableWriter, failed: Mapping[str, Failure]) -> None:
        """Rows whose item has other content now, or none, no longer hold; a file that cannot be read proves nothing."""
        failed = {**self.failed, **failed}
        outcome: dict[str, Failure | None] = dict.fromkeys([*self.found.present, *self.found.absent])
        dead = {item_id for item_id, failure in failed.items() if failure.content_hash}
        table.settle(outcome | failed, dead=dead | set(self.found.absent))


def plan(found: Survey, table: TableWriter, *, retry_failed: bool) -> Plan:
    """Sort items into cached, failed before, copies of a stored vector, and units of equal content to encode."""
    made = Plan(found)
    holder = {content_hash: item_id for item_id, content_hash in table.content.items()}
    units: dict[str, Unit] = {}
    for place, (item_id, source) in enumerate(found.present.items()):
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
            units[content_hash] = Unit(source, [item_id], place)
    made.units = list(units.values())
    return made
