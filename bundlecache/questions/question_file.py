"""Reads and writes a file of frozen questions: written once, hashed, checked whole on every reading.

``questions/NAME.parquet`` holds question_id, bundle_id, partial list<string>, options list<string>, truth
int32 and the header as JSON in the schema's metadata; ``NAME.json`` beside it holds the header again and
is written last. What stands in every result is the SHA-256 of the canonical lines, one JSON object per
question with sorted keys and no spaces; ``Questions.export_jsonl`` writes exactly these lines, so that
``sha256sum`` of the export shows the same digits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogue.catalogue import SPLITS
from ..errors import Command, QuestionsError, first_line
from ..files import replacing, write_text
from ..rows import Result
from ..text import listed, quoted
from .checks import Fault, faults
from .question_rows import COLUMNS, QuestionRows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..errors import Hint
    from .question_rows import Located

FORMAT_VERSION = 1
PARTS_VERSION = 2
"""The version of sets whose hard options are from clusters that were found part by part (`clusters`)."""
SCHEMA = pa.schema(
    {
        "question_id": pa.string(),
        "bundle_id": pa.string(),
        "partial": pa.list_(pa.string()),
        "options": pa.list_(pa.string()),
        "truth": pa.int32(),
    }
)


@dataclass(frozen=True, repr=False)
class Questions(Result):
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

    def _frame(self) -> Any:
        """A row per question: bundle_id, partial and options (indices of items), truth: the column of the right option."""
        options = list(self.options)
        return {"bundle_id": self.bundle_ids, "partial": self.partial, "options": options, "truth": self.truth}

    def __len__(self) -> int:
        return len(self.bundle_ids)

    @property
    def n_options(self) -> int:
        """Options per question."""
        return int(self.options.shape[1])

    def take(self, rows: np.ndarray) -> Questions:
        """The questions of these ``rows`` [r]; their SHA-256 is another one, so that no answers are compared row by row."""
        return replace(
            self,
            bundle_ids=[self.bundle_ids[row] for row in rows],
            partial=[self.partial[row] for row in rows],
            options=self.options[rows],
            truth=self.truth[rows],
            sha256=hashlib.sha256(f"{self.sha256} rows {rows.tolist()}".encode()).hexdigest(),
        )

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
                hint="give the file of questions another name: the set is called after it"
                if "source" in self.header
                else [Command("questions", "--seed", 1), "draws others under another name"],
            )
        rows = self._rows(catalogue)
        numbers = pa.array(np.arange(len(self))).cast(pa.string())
        columns = [numbers, rows.bundle_ids, rows.partial, rows.options, pa.array(rows.truth)]
        table = pa.table([each.cast(kept.type) for each, kept in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
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
            When the file is missing, damaged, changed since it was frozen, or does not fit the catalogue;
            `sets.load` leaves out the questions that no longer fit.
        """
        rows, header = read(path)
        return build(rows, rows.locate(catalogue), header, catalogue, str(path), Command("questions"))

    def export_jsonl(self, path: Path, catalogue: Catalogue) -> None:
        """Write the canonical lines: one JSON object per question; the file's SHA-256 is ``sha256``."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            for block in self._rows(catalogue).lines():
                file.write(block)

    def _rows(self, catalogue: Catalogue) -> QuestionRows:
        return QuestionRows.of_indices(catalogue.item_ids, self.bundle_ids, self.partial, self.options, self.truth)


def assemble(
    catalogue: Catalogue,
    bundle_ids: list[str],
    partial: list[np.ndarray],
    options: np.ndarray,
    truth: np.ndarray,
    header: dict[str, Any],
) -> Questions:
    """Questions from indices, with their hash."""
    rows = QuestionRows.of_indices(catalogue.item_ids, bundle_ids, partial, options, truth)
    return _questions(bundle_ids, partial, options, truth, header, rows.sha256)


def _questions(
    bundle_ids: list[str],
    partial: list[np.ndarray],
    options: np.ndarray,
    truth: np.ndarray,
    header: dict[str, Any],
    sha256: str,
) -> Questions:
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


def read(path: Path) -> tuple[QuestionRows, dict[str, Any]]:
    """The questions of a file, with ids, and its header.

    Raises
    ------
    QuestionsError
        When the file is missing, damaged, or was changed since it was frozen.
    """
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        raise missing(path.parent, path.stem)
    header = _read_header(sidecar)
    try:
        table = pq.read_table(path)
        inner = json.loads((table.schema.metadata or {})[b"bundlecache"])
        table = table.select(COLUMNS).cast(pa.schema([SCHEMA.field(name) for name in COLUMNS]))
        rows = QuestionRows.of_table(table)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise QuestionsError(
            f"{path} is damaged or no question file ({first_line(error)}).", hint=restore_hint(path)
        ) from error
    sha256 = rows.sha256
    if sha256 == header["sha256"] and header != inner:
        raise QuestionsError(
            f"{sidecar} says something else than {path.name} of how its questions were drawn: one of them was changed.",
            hint=restore_hint(path),
        )
    if sha256 != header["sha256"]:
        raise QuestionsError(
            f"{path} was changed after it was frozen: it says {header['sha256'][:12]}, its content is {sha256[:12]}.",
            hint=restore_hint(path),
        )
    return rows, header


def bundle_ids(path: Path) -> tuple[pa.Array, dict[str, Any]]:
    """The bundles that a file asks about, and its header; the questions themselves are neither read nor checked.

    Raises
    ------
    QuestionsError
        When the file is missing or damaged.
    """
    header = _read_header(path.with_suffix(".json"))
    try:
        return pq.read_table(path, columns=["bundle_id"])["bundle_id"].combine_chunks(), header
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise QuestionsError(
            f"{path} is damaged or no question file ({first_line(error)}).", hint=restore_hint(path)
        ) from error


def build(
    rows: QuestionRows,
    located: Located,
    header: dict[str, Any],
    catalogue: Catalogue,
    source: str,
    hint: Hint,
    found: Sequence[Fault | None] | None = None,
) -> Questions:
    """Check every row, then turn ids into indices.

    ``located`` says where the ids are in the catalogue; ``found`` are the faults of the rows, where they were looked for
    already.

    Raises
    ------
    QuestionsError
        That names the first question that is wrong, what is wrong with it, and ``hint``.
    """
    if not len(rows):
        raise QuestionsError(f"{source} holds no question.", hint=hint)
    if found is None:
        found = faults(rows, located, header["split"], catalogue, imported="source" in header)
    for number, fault in enumerate(found, 1):
        if fault is not None:
            raise QuestionsError(f"{source}, question {number}: {fault.clause}.", hint=hint)
    return _questions(
        rows.bundle_ids.to_pylist(),
        [items.astype(np.int32) for items in located.partial],
        located.options.values.reshape(len(rows), -1),
        rows.truth,
        header,
        rows.sha256,
    )


def _read_header(sidecar: Path) -> dict[str, Any]:
    """The header of a question file, with the types that reading relies on."""
    try:
        header = json.loads(sidecar.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise QuestionsError(f"{sidecar} cannot be read ({first_line(error)}).", hint=restore_hint(sidecar)) from error
    if not isinstance(header, dict) or header.get("format_version") not in (FORMAT_VERSION, PARTS_VERSION):
        raise QuestionsError(
            f"{sidecar} is no header of format {FORMAT_VERSION} or {PARTS_VERSION}.", hint=restore_hint(sidecar)
        )
    texts = all(isinstance(header.get(name), str) for name in ("name", "negatives", "sha256"))
    seed = header.get("seed")
    if not texts or not isinstance(seed, int) or isinstance(seed, bool) or header.get("split") not in SPLITS:
        raise QuestionsError(
            f"{sidecar} lacks one of name, split, negatives, seed and sha256, or has it in another form.",
            hint=restore_hint(sidecar),
        )
    return header


def missing(folder: Path, name: str) -> QuestionsError:
    """The error that there is no complete question file of this name in a folder."""
    return QuestionsError(
        f"There are no questions {quoted(name)} in {folder}; there are: {listed(names_in(folder))}.",
        hint=Command("questions"),
    )


def restore_hint(path: Path) -> Hint:
    """What to do about a file of questions that is damaged or was changed."""
    return [
        f"restore {path.stem}.parquet and {path.stem}.json from a copy, or rename them;",
        Command("questions"),
        "then draws the set again, the same where catalogue and seed are the same",
    ]


def names_in(folder: Path) -> list[str]:
    """Names of the complete question files of a folder."""
    return sorted(p.stem for p in folder.glob("*.parquet") if p.with_suffix(".json").is_file())
