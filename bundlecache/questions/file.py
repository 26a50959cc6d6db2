"""The file of frozen questions: written once, hashed, checked whole on every reading.

``questions/NAME.parquet`` holds question_id, bundle_id, partial list<string>, options list<string>, truth
int32 and the header as JSON in the schema's metadata; ``NAME.json`` beside it holds the header again and
is written last. What stands in every result is the SHA-256 of the canonical lines, one JSON object per
question with sorted keys and no spaces; ``Questions.export_jsonl`` writes exactly these lines, so that
``sha256sum`` of the export shows the same digits.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogue import splits
from ..errors import QuestionsError, first_line
from ..files import replacing, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ..catalogue.model import Catalogue

FORMAT_VERSION = 1
COLUMNS = ("bundle_id", "partial", "options", "truth")


@dataclass(frozen=True)
class Questions:
    """q questions over the items of one catalogue.

    ``partial`` holds int32 item indices in the order of the bundle, ``options`` is int32 [q, n],
    ``truth`` int64 [q] the column of the right option. ``header`` says how they were drawn.
    """

    name: str
    split: str
    negatives: str
    seed: int
    bundle_ids: list[str]
    partial: list[np.ndarray]
    options: np.ndarray
    truth: np.ndarray
    sha256: str
    header: dict[str, Any]

    def __len__(self) -> int:
        return len(self.bundle_ids)

    @property
    def n_options(self) -> int:
        """Options per question."""
        return int(self.options.shape[1])

    def save(self, path: Path, catalogue: Catalogue, *, overwrite: bool = False) -> None:
        """Write the file and its sidecar.

        Raises
        ------
        QuestionsError
            When ``path`` holds other questions already and ``overwrite`` is off: results may refer to them.
        """
        sidecar = path.with_suffix(".json")
        if path.exists() and sidecar.exists() and not overwrite:
            held = _read_header(sidecar).get("sha256")
            if held == self.sha256:
                return
            raise QuestionsError(
                f"{path} holds other questions already ({str(held)[:8]}, not {self.sha256[:8]}), and results may refer to them.",
                hint=f"delete {path.name} and run `bundlecache questions` again, or choose another seed",
            )
        rows = _rows(catalogue.item_ids, self.bundle_ids, self.partial, self.options, self.truth)
        ids = pa.array([str(i) for i in range(len(self))], pa.string())
        table = pa.table(
            {
                "question_id": ids,
                "bundle_id": pa.array([row["bundle_id"] for row in rows], pa.string()),
                "partial": pa.array([row["partial"] for row in rows], pa.list_(pa.string())),
                "options": pa.array([row["options"] for row in rows], pa.list_(pa.string())),
                "truth": pa.array([row["truth"] for row in rows], pa.int32()),
            }
        )
        header = json.dumps(self.header, indent=1, sort_keys=True)
        with replacing(path) as temporary:
            sidecar.unlink(missing_ok=True)  # its presence means complete
            pq.write_table(table.replace_schema_metadata({"bundlecache": header}), temporary)
        write_text(sidecar, header + "\n")

    @classmethod
    def load(cls, path: Path, catalogue: Catalogue) -> Questions:
        """Read a file and check all of it against the catalogue.

        Raises
        ------
        QuestionsError
            When the file is missing, damaged, changed since it was frozen, of another catalogue, or asks
            about bundles that are training bundles here.
        """
        sidecar = path.with_suffix(".json")
        if not path.is_file() or not sidecar.is_file():
            raise QuestionsError(
                f"There are no questions {path.stem!r} in {path.parent}; there are: {_listing(path.parent)}.",
                hint="bundlecache questions",
            )
        header = _read_header(sidecar)
        try:
            table = pq.read_table(path)
            inner = json.loads((table.schema.metadata or {})[b"bundlecache"])
            columns = [table.column(name).to_pylist() for name in COLUMNS]
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise QuestionsError(
                f"{path} is damaged or no question file ({first_line(error)}).", hint=_again(path)
            ) from error
        rows = [
            {"bundle_id": bundle_id, "partial": partial or [], "options": options or [], "truth": truth}
            for bundle_id, partial, options, truth in zip(*columns, strict=True)
        ]
        sha256 = digest(rows)
        if sha256 == header.get("sha256") and header != inner:
            raise QuestionsError(
                f"{sidecar} says something else than {path.name} of how its questions were drawn: one of them was changed.",
                hint=_again(path),
            )
        if sha256 != header.get("sha256"):
            raise QuestionsError(
                f"{path} was changed after it was frozen: it says {str(header.get('sha256'))[:12]}, its content is {sha256[:12]}.",
                hint=_again(path),
            )
        changed = f"if the catalogue has changed, delete {path.parent} and run `bundlecache questions`"
        return build(rows, header, catalogue, str(path), changed)

    def export_jsonl(self, path: Path, catalogue: Catalogue) -> None:
        """Write the canonical lines: one JSON object per question; the file's SHA-256 is ``sha256``."""
        rows = _rows(catalogue.item_ids, self.bundle_ids, self.partial, self.options, self.truth)
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(map(_line, rows)))


def digest(rows: Iterable[dict[str, Any]]) -> str:
    """SHA-256 (hex) of questions given as {bundle_id, partial, options, truth} with ids as text."""
    total = hashlib.sha256()
    for row in rows:
        total.update(_line(row))
    return total.hexdigest()


def _line(row: dict[str, Any]) -> bytes:
    row = {name: row[name] for name in COLUMNS}
    return (json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n").encode()


def _rows(
    item_ids: Sequence[str],
    bundle_ids: Sequence[str],
    partial: Sequence[np.ndarray],
    options: np.ndarray,
    truth: np.ndarray,
) -> list[dict[str, Any]]:
    return [
        {
            "bundle_id": bundle_id,
            "partial": [item_ids[i] for i in given],
            "options": [item_ids[i] for i in shown],
            "truth": int(right),
        }
        for bundle_id, given, shown, right in zip(bundle_ids, partial, options, truth, strict=True)
    ]


def assemble(
    catalogue: Catalogue,
    bundle_ids: list[str],
    partial: list[np.ndarray],
    options: np.ndarray,
    truth: np.ndarray,
    header: dict[str, Any],
) -> Questions:
    """Questions from indices, with their hash."""
    sha256 = digest(_rows(catalogue.item_ids, bundle_ids, partial, options, truth))
    size = {"n_questions": len(bundle_ids), "n_options": int(options.shape[1])}
    header = {"format_version": FORMAT_VERSION, **header, **size, "sha256": sha256}
    return Questions(
        name=str(header["name"]),
        split=str(header["split"]),
        negatives=str(header["negatives"]),
        seed=int(header["seed"]),
        bundle_ids=bundle_ids,
        partial=partial,
        options=options.astype(np.int32),
        truth=truth.astype(np.int64),
        sha256=sha256,
        header=header,
    )


def build(
    rows: list[dict[str, Any]], header: dict[str, Any], catalogue: Catalogue, source: str, hint: str
) -> Questions:
    """Check every row, given as {bundle_id, partial, options, truth} with ids, then turn ids into indices.

    Raises
    ------
    QuestionsError
        That names the first question that is wrong, what is wrong with it, and ``hint``.
    """

    def wrong(row: int, what: str) -> QuestionsError:
        return QuestionsError(f"{source}, question {row + 1}: {what}.", hint=hint)

    if not rows:
        raise QuestionsError(f"{source} holds no question.", hint=hint)
    n_options = len(rows[0]["options"])
    split_of = splits_of(catalogue, [row["bundle_id"] for row in rows])
    for r, row in enumerate(rows):
        if what := wrong_with(row, n_options, catalogue):
            raise wrong(r, what)
        part = split_of.get(row["bundle_id"])
        if part is None:
            raise wrong(r, f"bundle {row['bundle_id']!r} is not in the catalogue")
        if part != header.get("split"):
            raise wrong(
                r, f"bundle {row['bundle_id']!r} is a {part} bundle in this catalogue, not {header.get('split')}"
            )
    return assemble(
        catalogue,
        [row["bundle_id"] for row in rows],
        [catalogue.indices(row["partial"]) for row in rows],
        np.stack([catalogue.indices(row["options"]) for row in rows]),
        np.array([row["truth"] for row in rows]),
        header,
    )


def wrong_with(row: dict[str, Any], n_options: int, catalogue: Catalogue) -> str | None:
    """What is wrong with one question, given as {bundle_id, partial, options, truth} with ids; None if nothing is."""
    shown, given, truth = row["options"], row["partial"], row["truth"]
    if len(shown) != n_options or len(shown) < 2:
        return f"it has {len(shown)} options, the first has {n_options}"
    if len(set(shown)) < len(shown):
        return f"option {Counter(shown).most_common(1)[0][0]!r} stands there twice"
    if not isinstance(truth, int) or isinstance(truth, bool) or not 0 <= truth < n_options:
        return f"the truth {truth!r} is none of its {n_options} options"
    if not given:
        return "its partial bundle is empty"
    if len(set(given)) < len(given):
        return f"item {Counter(given).most_common(1)[0][0]!r} stands twice in its partial bundle"
    if both := set(shown) & set(given):
        return f"option {min(both)!r} stands in the partial bundle"
    if unknown := [item for item in (*given, *shown) if item not in catalogue.index]:
        return f"item {unknown[0]!r} is not in the catalogue"
    return None


def splits_of(catalogue: Catalogue, bundle_ids: Iterable[str]) -> dict[str, str]:
    """The split of each of these bundles that the catalogue knows."""
    of = dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))
    return {bundle_id: of[bundle_id] for bundle_id in bundle_ids if bundle_id in of}


def _read_header(sidecar: Path) -> dict[str, Any]:
    try:
        header = json.loads(sidecar.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise QuestionsError(f"{sidecar} cannot be read ({first_line(error)}).", hint=_again(sidecar)) from error
    if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
        raise QuestionsError(f"{sidecar} is no header of format {FORMAT_VERSION}.", hint=_again(sidecar))
    return header


def _again(path: Path) -> str:
    return f"delete {path.stem}.parquet and {path.stem}.json, then run `bundlecache questions`"


def names_in(folder: Path) -> list[str]:
    """Names of the complete question files of a folder."""
    return sorted(p.stem for p in folder.glob("*.parquet") if p.with_suffix(".json").is_file())


def _listing(folder: Path) -> str:
    return ", ".join(names_in(folder)) or "none"
