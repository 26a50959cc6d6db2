"""Small worlds that a hostile case is put into."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def rows() -> dict[str, list[dict[str, Any]]]:
    """Twelve items, four bundles, six interactions: all in order."""
    return {
        "items": [
            {"item_id": f"i{i}", "title": f"thing {i}", "price": i, "image": None, "category": "c"} for i in range(12)
        ],
        "bundles": [
            {"bundle_id": f"b{b}", "item_ids": [f"i{b}", f"i{b + 1}", f"i{b + 2}"], "split": None, "group": f"g{b}"}
            for b in range(4)
        ],
        "interactions": [{"user_id": f"u{k}", "item_id": f"i{k}", "timestamp": None} for k in range(6)],
    }


def write_jsonl(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """The tables as JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in tables.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in found) + "\n", "utf-8")


def write_csv(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """The tables as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]), escapechar="\\")
            writer.writeheader()
            writer.writerows(
                {
                    **row,
                    **(
                        {"item_ids": " ".join(row["item_ids"])}
                        if isinstance(row.get("item_ids"), list) and all(isinstance(i, str) for i in row["item_ids"])
                        else {}
                    ),
                }
                for row in found
            )


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder but those of its store, where a catalogue is cached when it is first read."""
    files = (path for path in folder.rglob("*") if path.is_file() and "store" not in path.relative_to(folder).parts)
    return {path: path.read_bytes() for path in files}
